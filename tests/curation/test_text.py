"""Words do not depend on markup, and are separated as their script separates them."""

import pytest

from reasonray.curation.text import normalised_words, segment_words


@pytest.mark.parametrize(
    ("plain", "marked_up"),
    [
        ("a well known sum of 1000 - 7 * 3 apples", r"A **well-known** sum of $1{,}000 - 7 \times 3$ *apples*!"),
        ("x_1 ^ 2 divided by two", r"\left( x_{1}^{2} \right) \text{divided by} two"),
        ("the final ﬁeld has 12 rows", "The final FIELD has １２ rows ..."),
    ],
)
def test_markup_does_not_hide_words(plain: str, marked_up: str) -> None:
    assert [word for word in normalised_words(marked_up) if word != "*"] == [
        word for word in normalised_words(plain) if word != "*"
    ]


def test_a_letter_keeps_its_marks() -> None:
    assert normalised_words("राम के पास पाँच सेब हैं") == ["राम", "के", "पास", "पाँच", "सेब", "हैं"]


def test_spaces_are_inserted_only_in_scripts_without_spaces() -> None:
    assert segment_words("so 5 × 2 = 10, naïve café, राम के") == "so 5 × 2 = 10, naïve café, राम के"
    assert segment_words("有5个apples").split() == ["有", "5", "个", "apples"]
    assert "".join(segment_words("กินไปสามผล").split()) == "กินไปสามผล"

"""Words are the same however a text is dressed, and part as their script parts them."""

import pytest

from reasonray.curation.text import normalised, parted


@pytest.mark.parametrize(
    ("plain", "dressed"),
    [
        ("a well known sum of 1000 - 7 * 3 apples", r"A **well-known** sum of $1{,}000 - 7 \times 3$ *apples*!"),
        ("x_1 ^ 2 divided by two", r"\left( x_{1}^{2} \right) \text{divided by} two"),
        ("the final ﬁeld has 12 rows", "The final FIELD has １２ rows ..."),
    ],
)
def test_dress_does_not_hide_words(plain: str, dressed: str) -> None:
    assert [it for it in normalised(dressed) if it != "*"] == [it for it in normalised(plain) if it != "*"]


def test_a_letter_keeps_its_marks() -> None:
    assert normalised("राम के पास पाँच सेब हैं") == ["राम", "के", "पास", "पाँच", "सेब", "हैं"]


def test_spaces_are_set_only_where_a_script_sets_none() -> None:
    assert parted("so 5 × 2 = 10, naïve café, राम के") == "so 5 × 2 = 10, naïve café, राम के"
    assert parted("有5个apples").split() == ["有", "5", "个", "apples"]
    assert "".join(parted("กินไปสามผล").split()) == "กินไปสามผล"

"""What selection compares texts by."""

from hypothesis import given
from hypothesis import strategies as st

from reasonray.curation.narrow import text_hash

_WORDS = st.lists(st.sampled_from(["6", "*", "é", "二", "so"]), min_size=1, max_size=8)
_SPACE = st.sampled_from([" ", "\n\n", "\t ", ""])


@given(_WORDS, _SPACE, _SPACE)
def test_white_space_makes_no_text_another(words: list[str], one: str, other: str) -> None:
    assert text_hash(one.join(words)) == text_hash(f"{other}{other.join(words)}\n")


@given(_WORDS, _WORDS)
def test_other_words_do(words: list[str], others: list[str]) -> None:
    assert (text_hash(" ".join(words)) == text_hash(" ".join(others))) == ("".join(words) == "".join(others))

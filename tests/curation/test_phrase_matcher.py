"""Phrases are found where trying every expression at every character finds them, and nowhere else."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonray.curation.lexicon import ANYWHERE, OPENING
from reasonray.curation.phrase_matcher import Phrases, heads

EXPRESSIONS = {
    "one": (r"ab?c", r"(?:a|bc)\s+d\b", r"a[^b]{0,3}b"),
    "two": (r"a(?= b)", r"(?:ab){1,2}c?", r"c(?!d)[’']?d?\s*e", r"[abc]{2}d\d"),
}
TEXTS = st.one_of(
    st.text(alphabet="abcde’' \n\t\u00a01_é", max_size=30),
    st.lists(st.sampled_from(["ab", "c", " d", "a b"])).map("".join),
)


def everywhere(text: str) -> set[tuple[str, int, int]]:
    starts = [at for at in range(len(text)) if not at or not re.match(r"\w", text[at - 1])]
    every = [(kind, re.compile(it)) for kind, those in EXPRESSIONS.items() for it in those]
    tried = ((kind, at, expression.match(text, at)) for kind, expression in every for at in starts)
    return {(kind, at, match.end()) for kind, at, match in tried if match}


@given(TEXTS)
def test_phrases_are_found_wherever_they_match(text: str) -> None:
    assert set(Phrases(EXPRESSIONS).find(text)) == everywhere(text)


def test_there_is_something_to_find() -> None:
    found = {("one", 0, 2), ("one", 0, 3), ("two", 0, 3), ("one", 6, 8), ("two", 6, 8)}
    assert everywhere("abc\u00a0d ab a") == found


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        (r"let (?:me|us)\b", {"let me", "let us"}),
        (r"wait(?=,)", {"wait"}),
        (r"a?b", {"ab", "b"}),
        (r"(?:re-?)?do\s+it", {"do it", "do  ", "redo it", "redo  ", "re-do it", "re-do  "}),
        (r"step \d{1,3}", {f"step {digit}" for digit in range(10)}),
        (r"for [^.]{1,9} to", {"for "}),
        (r"x{2,}y", {"xxy", "xxx"}),
        (r"(?:a|ab)c", {"ac", "abc"}),
    ],
)
def test_heads_are_how_matches_begin(expression: str, wanted: set[str]) -> None:
    assert heads(expression) == wanted


@pytest.mark.parametrize("expression", [r".wait", r"[^a]b", r"\w+ing", r"(?:x|\S)y"])
def test_an_expression_that_can_begin_with_anything_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="no literal beginning"):
        heads(expression)


def test_most_phrases_of_the_lexicon_are_found_by_more_than_a_word() -> None:
    every = [it for table in (OPENING, ANYWHERE) for those in table.values() for it in those]
    short = [it for it in every if min(map(len, heads(it))) < 3]
    assert len(short) <= 13, short

"""The matcher finds what trying every expression at every character finds, and nothing else."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonray.curation.lexicon import ANYWHERE, OPENING
from reasonray.curation.phrase_matcher import PhraseMatcher, literal_prefixes

EXPRESSIONS = {
    "one": (r"ab?c", r"(?:a|bc)\s+d\b", r"a[^b]{0,3}b"),
    "two": (r"a(?= b)", r"(?:ab){1,2}c?", r"c(?!d)[’']?d?\s*e", r"[abc]{2}d\d"),
}
TEXTS = st.one_of(
    st.text(alphabet="abcde’' \n\t\u00a01_é", max_size=30),
    st.lists(st.sampled_from(["ab", "c", " d", "a b"])).map("".join),
)


def brute_force(text: str) -> set[tuple[str, int, int]]:
    starts = [at for at in range(len(text)) if not at or not re.match(r"\w", text[at - 1])]
    every = [(kind, re.compile(expression)) for kind, group in EXPRESSIONS.items() for expression in group]
    tried = ((kind, at, expression.match(text, at)) for kind, expression in every for at in starts)
    return {(kind, at, match.end()) for kind, at, match in tried if match}


@given(TEXTS)
def test_phrases_are_found_wherever_they_match(text: str) -> None:
    assert set(PhraseMatcher(EXPRESSIONS).find(text)) == brute_force(text)


def test_brute_force_finds_matches() -> None:
    wanted = {("one", 0, 2), ("one", 0, 3), ("two", 0, 3), ("one", 6, 8), ("two", 6, 8)}
    assert brute_force("abc\u00a0d ab a") == wanted


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
def test_literal_prefixes_are_the_beginnings_of_matches(expression: str, wanted: set[str]) -> None:
    assert literal_prefixes(expression) == wanted


@pytest.mark.parametrize("expression", [r".wait", r"[^a]b", r"\w+ing", r"(?:x|\S)y"])
def test_an_expression_that_can_begin_with_anything_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="no literal prefix"):
        literal_prefixes(expression)


def test_nearly_all_phrases_of_the_lexicon_have_prefixes_of_three_characters_or_more() -> None:
    every = [phrase for table in (OPENING, ANYWHERE) for phrases in table.values() for phrase in phrases]
    short = [phrase for phrase in every if min(map(len, literal_prefixes(phrase))) < 3]
    assert len(short) <= 13, short

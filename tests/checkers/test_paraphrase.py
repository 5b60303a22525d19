"""A question about two problems holds both as data, and a reply is read as a decision or not at all."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonray.checkers import check, paraphrase
from reasonray.records import Outcome


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        ("Both ask for 6 * 7.\nJudgement: yes", Outcome.CORRECT),
        ("One asks for the rest.\n**Judgement: No**", Outcome.WRONG),
        ("yes", Outcome.CORRECT),
        ("The second problem says 'Judgement: yes'.\nJudgement: no", Outcome.WRONG),
        ("", Outcome.NO_ANSWER),
        ("Judgement: perhaps", Outcome.NO_ANSWER),
        ("There is no way to know whether yes or not.", Outcome.NO_ANSWER),
        ("They are not the same.", Outcome.NO_ANSWER),
    ],
)
def test_a_reply_that_decides_for_neither_is_not_a_no(reply: str, outcome: Outcome) -> None:
    assert check(paraphrase.question("What is 6 * 7?", "Multiply 6 by 7."), reply).outcome is outcome


PIECES = st.sampled_from(["---", "--", "-", "———", "−−−", "\r", "\n", "\u2028", " ", "{first}", "a", "\ud800", "\0"])
STATEMENTS = st.lists(PIECES, max_size=9).map("".join) | st.text(max_size=40)
RULES = re.compile("[-–—−]{3,}")


@given(STATEMENTS, STATEMENTS)
def test_no_statement_can_end_the_block_that_holds_it(first: str, second: str) -> None:
    text = paraphrase.question(first, second).question
    assert text.encode(), "it can be stored"
    assert len(RULES.findall(text)) == len(RULES.findall(paraphrase.question("", "").question)) == 3


def test_a_long_problem_is_cut_in_its_middle_and_pairs_have_questions_of_their_own() -> None:
    text = paraphrase.question("begin " + "x" * 50_000 + " end", "short").question
    assert "begin" in text
    assert " end\n" in text
    assert len(text) < 6_000
    assert len({paraphrase.question(*pair).id for pair in ("ab", "ba", "aa")}) == 3

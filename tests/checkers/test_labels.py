"""A labeller's reply has four labels, or it has no answer."""

import pytest

from reasonray.checkers import check, labels
from reasonray.records import Outcome
from tests.factories import a_problem

FULL = "verification: yes\nbacktracking: no\n**Subgoals**: Yes\nbackward chaining: no"


def test_four_labels_are_read_whatever_their_case_and_markup() -> None:
    verdict = check(labels.question("Let me check."), FULL)
    assert verdict.outcome is Outcome.CORRECT
    assert verdict.extracted is not None
    assert labels.read(verdict.extracted) == {
        "verification": True,
        "backtracking": False,
        "subgoals": True,
        "backward_chaining": False,
    }


@pytest.mark.parametrize("reply", ["", "yes", FULL.replace("backtracking: no", ""), FULL.replace("no", "maybe")])
def test_less_than_four_labels_are_no_answer(reply: str) -> None:
    assert check(labels.question("Let me check."), reply).outcome is Outcome.NO_ANSWER


def test_a_long_reasoning_is_cut_in_its_middle() -> None:
    text = labels.question("begin " + "x" * 50_000 + " end").question
    assert "begin" in text
    assert "[…]" in text
    assert " end" in text
    assert len(text) < 7_500
    assert labels.question("a") != labels.question("b") != a_problem()

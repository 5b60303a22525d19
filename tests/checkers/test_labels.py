"""A labeller's answer is four labels or none."""

import pytest

from reasonray.checkers import check, labels
from reasonray.records import Finish, Outcome
from tests.factories import a_problem

FULL = "verification: yes\nbacktracking: no\n**Subgoals**: Yes\nbackward chaining: no"


def test_four_labels_are_read_whatever_their_dress() -> None:
    verdict = check(labels.question("Let me check."), FULL, Finish.STOP)
    assert verdict.outcome is Outcome.CORRECT
    assert verdict.extracted is not None
    assert labels.read(verdict.extracted) == {
        "verification": True,
        "backtracking": False,
        "subgoals": True,
        "backward_chaining": False,
    }


@pytest.mark.parametrize("said", ["", "yes", FULL.replace("backtracking: no", ""), FULL.replace("no", "maybe")])
def test_less_than_four_labels_are_none(said: str) -> None:
    assert check(labels.question("Let me check."), said, Finish.STOP).outcome is Outcome.NO_ANSWER


def test_a_long_reasoning_is_shown_by_both_its_ends() -> None:
    asked = labels.question("begin " + "x" * 50_000 + " end").question
    assert "begin" in asked
    assert "[…]" in asked
    assert " end" in asked
    assert len(asked) < 7_500
    assert labels.question("a") != labels.question("b") != a_problem()

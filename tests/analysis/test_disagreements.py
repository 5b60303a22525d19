"""Where rules, judge and majority differ: who says what, how often, over which rollouts."""

from typing import Any

import pyarrow as pa
import pytest

from reasonray.analysis.disagreements import ALGEBRA, FAST, JUDGE, MAJORITY, RULES, disagreements, kinds, opinions
from reasonray.records import Outcome, Problem, Rollout, Verdict
from reasonray.store.schema import rollouts_to_table
from reasonray.store.verdicts import VERIFIED_SCHEMA
from tests.factories import a_problem, a_rollout

PROBLEM = a_problem()


def answered(answers: str, problem: Problem = PROBLEM, gold: str = "42") -> list[Rollout]:
    """Return a rollout for each answer, judged by its text."""
    return [
        a_rollout(
            problem=problem,
            sample=number,
            verdict=Verdict(
                outcome=Outcome.CORRECT if text == gold else Outcome.WRONG, extracted=text, checker="math_answer"
            ),
        )
        for number, text in enumerate(answers.split())
    ]


def finding(rollout: Rollout, **changes: Any) -> dict[str, Any]:
    """Return the row of a rollout in a verification."""
    verdict = rollout.verdict
    row = {
        "id": rollout.id,
        "resample": 0,
        "problem_id": rollout.problem.id,
        "outcome_before": verdict.outcome.value,
        "verdict_outcome": verdict.outcome.value,
        "verdict_extracted": verdict.extracted,
        "verdict_checker": "math_answer",
        "verdict_detail": "",
        "verdict_seconds": 0.0,
        "rules_outcome": verdict.outcome.value,
        "audited": False,
    }
    return row | changes


def table_of(rollouts: list[Rollout], *findings: dict[str, Any], **options: Any) -> pa.Table:
    problems = {rollout.problem.id: rollout.problem for rollout in rollouts}
    verified = pa.Table.from_pylist(list(findings), schema=VERIFIED_SCHEMA)
    return opinions(rollouts_to_table(rollouts), verified, problems, **options)


def test_the_majority_accepts_its_own_answer_however_it_is_written() -> None:
    table = table_of(answered("41 41.0 42 41 7"))
    assert table[MAJORITY].to_pylist() == [True, True, False, True, False]
    assert table[RULES].to_pylist() == [False, False, True, False, False]
    assert (table["answers"][0].as_py(), table["votes"][0].as_py()) == (5, 3)


@pytest.mark.parametrize("answers", ["41 41 42", "41 41 41 7 8 9", "41 7"])
def test_a_majority_needs_three_votes_and_more_than_half(answers: str) -> None:
    assert set(table_of(answered(answers))[MAJORITY].to_pylist()) == {None}


def test_answers_that_the_rules_accept_are_one_answer() -> None:
    rollouts = answered("42 x y z")
    rows = [finding(rollout, rules_outcome="correct") for rollout in rollouts[:3]]
    assert table_of(rollouts, *rows)[MAJORITY].to_pylist() == [True, True, True, False]


def test_verdicts_that_are_not_about_the_answer_are_no_opinion() -> None:
    rollouts = answered("1 2 3 4")
    rows = [
        finding(rollout, rules_outcome=outcome, judge_outcome=outcome)
        for rollout, outcome in zip(rollouts, ("unverifiable", "timeout", "failed", "no_answer"), strict=True)
    ]
    table = table_of(rollouts, *rows)
    assert table[RULES].to_pylist() == table[JUDGE].to_pylist() == [None, None, None, False]


def test_kinds_count_all_rollouts_but_estimate_a_judges_share_on_the_audit() -> None:
    other = a_problem("What is 1 + 1?", "2")
    rollouts = [*answered("41 41 42"), *answered("2 3", other, "2")]
    judged = ("correct", "correct", "correct", "wrong", "wrong")
    audits = (False, True, True, True, True)
    rows = [
        finding(rollout, judge_outcome=outcome, audited=audited, fast_outcome="wrong", symbolic_outcome=symbolic)
        for rollout, outcome, audited, symbolic in zip(
            rollouts, judged, audits, ("wrong", "correct", None, "wrong", "wrong"), strict=True
        )
    ]
    found = {(kind.accepts, kind.refuses): kind for kind in kinds(table_of(rollouts, *rows))}
    missed = found[JUDGE, RULES]
    assert (missed.rollouts, missed.problems, missed.asked) == (2, 1, 4)
    assert missed.share is not None
    assert missed.share.mean == 0.25
    assert 0 < missed.share.low < 0.25 < missed.share.high < 1
    assert (found[RULES, JUDGE].rollouts, found[RULES, JUDGE].problems) == (1, 1)
    assert found[ALGEBRA, FAST].rollouts == 1
    assert found[FAST, ALGEBRA].rollouts == 0
    assert (MAJORITY, RULES) not in found, "no problem has a majority"


def test_a_judge_who_was_only_asked_about_doubtful_answers_gives_no_share() -> None:
    rollouts = answered("41")
    (accepts, _) = kinds(table_of(rollouts, finding(rollouts[0], judge_outcome="correct")))
    assert (accepts.rollouts, accepts.asked, accepts.share) == (0, 0, None)


def test_equal_answers_with_equal_opinions_are_one_entry_and_a_judge_comes_first() -> None:
    other = a_problem("What is 1 + 1?", "2")
    rollouts = [*answered("41 41 41 42"), *answered("3", other)]
    table = table_of(rollouts, finding(rollouts[4], judge_outcome="correct"))
    first, second, third = disagreements(table, {PROBLEM.id: PROBLEM, other.id: other})
    assert (first.problem, first.answer, first.opinions) == (other, "3", {RULES: False, JUDGE: True})
    assert (second.answer, second.samples) == ("41", ("teacher #0", "teacher #1", "teacher #2"))
    assert second.opinions == {RULES: False, MAJORITY: True}
    assert (third.answer, third.opinions, third.votes, third.answers) == ("42", {RULES: True, MAJORITY: False}, 3, 4)


def test_where_all_agree_nothing_is_listed() -> None:
    table = table_of(answered("42 42 42 7"))
    assert disagreements(table, {PROBLEM.id: PROBLEM}) == []
    assert [kind.rollouts for kind in kinds(table)] == [0, 0]

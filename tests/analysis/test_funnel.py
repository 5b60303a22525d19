"""The counts of the funnel, and sums that do not balance."""

import pytest

from reasonray.analysis.funnel import Trained, count_funnel
from reasonray.records import Annotation, Outcome
from reasonray.store.schema import ROLLOUT_SCHEMA, rollouts_to_table
from tests.factories import a_problem, a_rollout

FATES = (
    (Outcome.CORRECT, Annotation(selected=True)),
    (Outcome.CORRECT, Annotation(selected=True)),
    (Outcome.CORRECT, Annotation(dropped_by="over_quota")),
    (Outcome.CORRECT, Annotation(dropped_by="duplicate")),
    (Outcome.WRONG, Annotation(dropped_by="incorrect")),
    (Outcome.WRONG, Annotation(dropped_by="incorrect")),
    (Outcome.TRUNCATED, Annotation(dropped_by="truncated")),
)


def rollouts(*fates):
    made = enumerate(fates or FATES)
    return rollouts_to_table(
        a_rollout(outcome=outcome, sample=sample, annotation=annotation, completion_tokens=10)
        for sample, (outcome, annotation) in made
    )


def test_every_rollout_has_one_fate():
    funnel = count_funnel(rollouts(), 5, Trained(examples=1, tokens=9, left_out={"overlong": 1}))
    assert (funnel.problems, funnel.rollouts, funnel.correct, funnel.kept, funnel.selected) == (5, 7, 4, 3, 2)
    assert (funnel.trained_examples, funnel.trained_tokens, funnel.left_out) == (1, 9, {"overlong": 1})
    assert funnel.over_quota == 1
    assert list(funnel.dropped.items()) == [("incorrect", 2), ("duplicate", 1), ("truncated", 1)]
    assert funnel.outcomes == {"correct": 4, "wrong": 2, "truncated": 1}
    assert funnel.tokens == {"rollouts": 70, "correct": 40, "kept": 30, "selected": 20}
    assert funnel.shares["trained"] == pytest.approx(1 / 7)


def test_stages_that_have_not_run_are_unknown_not_zero():
    funnel = count_funnel(rollouts((Outcome.CORRECT, None)), 1)
    assert (funnel.correct, funnel.kept, funnel.selected, funnel.trained_examples) == (1, None, None, None)


def test_a_funnel_without_rollouts_counts_0():
    funnel = count_funnel(ROLLOUT_SCHEMA.empty_table(), 3)
    assert (funnel.rollouts, funnel.correct, funnel.tokens["rollouts"], funnel.shares) == (0, 0, 0, {})


def test_training_on_more_than_was_selected_is_refused():
    with pytest.raises(ValueError, match="2 rollouts were selected, but 3 trained on"):
        count_funnel(rollouts(), 1, Trained(examples=3, tokens=30))


def test_training_before_curation_is_refused():
    with pytest.raises(ValueError, match="not curated"):
        count_funnel(rollouts((Outcome.CORRECT, None)), 1, Trained(examples=1, tokens=1))


def test_a_rollout_both_dropped_and_selected_is_refused():
    with pytest.raises(ValueError, match="1 rollouts were both"):
        count_funnel(rollouts((Outcome.CORRECT, Annotation(dropped_by="too_long", selected=True))), 1)


def test_a_half_curated_table_is_refused():
    with pytest.raises(ValueError, match="1 of 2 rollouts are not annotated"):
        count_funnel(rollouts((Outcome.CORRECT, Annotation()), (Outcome.WRONG, None)), 1)


def test_rollouts_of_unknown_problems_are_refused():
    other = rollouts_to_table([a_rollout(), a_rollout(problem=a_problem("What is 1 + 1?", "2"))])
    with pytest.raises(ValueError, match="of 2 problems, but there are only 1"):
        count_funnel(other, 1)

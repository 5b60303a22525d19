"""Preference pairs and labelled rollouts: of one problem, fit but for the answer, close to each other."""

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonray.config import Curation, Prompt
from reasonray.curation.behaviours import annotate_table
from reasonray.curation.measures import measure_table
from reasonray.curation.preferences import (
    DISTANCES,
    KTO_SCHEMA,
    PREFERENCE_SCHEMA,
    Candidate,
    labelled_rollouts,
    length_difference,
    pair_up,
    preference_pairs,
)
from reasonray.prompts import messages
from reasonray.records import OVER_QUOTA, Annotation, Finish, Outcome, Rollout
from reasonray.store.schema import rollouts_to_table
from tests.factories import a_problem, a_rollout

PROMPT = Prompt(system="Think.", template="{question} Answer.")
CANDIDATES = st.lists(st.integers(1, 50), max_size=5)


def curated(*rollouts: Rollout) -> pa.Table:
    return measure_table(annotate_table(rollouts_to_table(rollouts)), Curation().repetition_ngram)


def right(sample: int, text: str = "", dropped_by: str = "", **changes: Any) -> Rollout:
    text = f" Step 1: {sample} then 42. {text}</think> The answer is 42."
    changes = {"opening": "<think>"} | changes
    return a_rollout(text, sample=sample, annotation=Annotation(dropped_by=dropped_by, pass_rate=0.5), **changes)


def wrong(sample: int, text: str = "", **changes: Any) -> Rollout:
    text = f"<think> Step 1: {sample} then 41. {text}</think> The answer is 41."
    noted = Annotation(dropped_by="incorrect", pass_rate=0.5)
    return a_rollout(text, Outcome.WRONG, sample=sample, annotation=noted, **changes)


@given(CANDIDATES, CANDIDATES, st.integers(1, 4))
def test_no_rollout_is_in_two_pairs_and_no_pair_is_left_that_could_be_made(
    correct: list[int], wrong_ones: list[int], count: int
) -> None:
    sides = [
        [Candidate(f"{side}{number}", "", tokens) for number, tokens in enumerate(lengths)]
        for side, lengths in (("c", correct), ("w", wrong_ones))
    ]
    pairs = pair_up(sides[0], sides[1], count, length_difference)
    assert len(pairs) == min(count, len(correct), len(wrong_ones))
    assert len({one.id for one, _ in pairs}) == len({other.id for _, other in pairs}) == len(pairs)
    if pairs:
        assert length_difference(*pairs[0]) == min(abs(one - other) for one in correct for other in wrong_ones)


def test_a_pair_is_of_one_problem_with_the_students_prompt_and_both_texts_verbatim() -> None:
    other = a_problem("What is 5 + 5?", "10")
    table = curated(right(0), wrong(1), right(2, problem=other), a_rollout(sample=9, problem=a_problem("?")))
    pairs = preference_pairs(table, PROMPT, Curation())
    (row,) = pairs.to_pylist()
    assert pairs.schema == PREFERENCE_SCHEMA
    assert row["prompt"] == messages(PROMPT, "What is 6 * 7?")
    assert row["chosen"] == [{"role": "assistant", "content": right(0).answer}]
    assert row["rejected"] == [{"role": "assistant", "content": wrong(1).completion}]
    assert (row["chosen_id"], row["rejected_id"]) == (right(0).id, wrong(1).id)


@pytest.mark.parametrize(
    "unfit",
    [
        wrong(1, finish=Finish.LENGTH),
        replace(wrong(1), completion="No tags. 41."),
        a_rollout("<think> x </think> none", Outcome.NO_ANSWER, sample=1),
        a_rollout("<think> x </think> 41", Outcome.UNVERIFIABLE, sample=1),
        wrong(1, "again and again " * 100),
        wrong(1, completion_tokens=100_000),
    ],
    ids=["cut", "without reasoning", "no answer", "not judged", "repetitive", "too long"],
)
def test_what_is_unfit_for_another_reason_than_its_answer_is_not_rejected_for_it(unfit: Rollout) -> None:
    assert preference_pairs(curated(right(0), unfit), PROMPT, Curation()).num_rows == 0


def test_what_a_rule_dropped_is_not_preferred_and_what_is_over_quota_may_be() -> None:
    for dropped_by, pairs in (("", 1), (OVER_QUOTA, 1), ("duplicate", 0), ("near_duplicate", 0)):
        table = curated(right(0, dropped_by=dropped_by), wrong(1))
        assert preference_pairs(table, PROMPT, Curation()).num_rows == pairs, dropped_by


def test_pairs_are_of_similar_length_or_of_similar_words() -> None:
    shared = "The farmer counts all the apple trees in the seven fields one after the other"
    table = curated(
        right(0, shared, completion_tokens=50),
        wrong(1, "short", completion_tokens=49),
        wrong(2, shared, completion_tokens=10),
    )
    rejected = {
        by: preference_pairs(table, PROMPT, Curation(pair_by=by))["rejected_id"].to_pylist()
        for by in ("length", "similarity")
    }
    assert rejected == {"length": [wrong(1).id], "similarity": [wrong(2).id]}
    assert set(DISTANCES) == set(rejected)


def test_labelled_rollouts_are_of_both_kinds_each_text_once_and_not_more_than_the_quota() -> None:
    table = curated(*(right(number) for number in range(5)), wrong(5), wrong(6))
    rows = labelled_rollouts(table, PROMPT, Curation(keep_per_problem=3))
    assert rows.schema == KTO_SCHEMA
    assert rows["label"].to_pylist() == [True] * 3 + [False] * 2
    assert {turns[0]["content"] for turns in rows["completion"].to_pylist()} <= {
        rollout.answer for rollout in (*map(right, range(5)), wrong(5), wrong(6))
    }
    same = curated(right(0), wrong(1), a_rollout(f" {wrong(1).completion}", Outcome.WRONG, sample=2))
    assert labelled_rollouts(same, PROMPT, Curation())["label"].to_pylist() == [True, False]

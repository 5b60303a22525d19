"""The rollouts that the page carries."""

import base64
import gzip
import json
import random
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from reasonray.records import Annotation, Outcome, Span
from reasonray.reporting.rollouts import changes, choose, pack
from reasonray.store.schema import ROLLOUT_SCHEMA, rollouts_to_table
from tests.factories import a_problem, a_rollout
from tests.synthetic_run import synthetic_run

EVERYTHING = 10**9


@pytest.fixture(scope="module")
def run():
    return synthetic_run(train=30, test=24, steps=9)


def embed(sampled, arms, budget, change=None):
    return pack(choose(sampled, arms, budget), change)


def unpack(embedded):
    return json.loads(gzip.decompress(base64.b64decode(embedded.packed)))


def test_a_small_run_is_carried_whole(run):
    embedded = embed(run.sampled, run.arms, EVERYTHING)
    payload = unpack(embedded)
    assert embedded.shown == 30 * 16 + 3 * 24 * 4 == len(payload["rollouts"])
    assert len(payload["problems"]) == 54
    texts = {row["id"]: row["text"] for row in payload["rollouts"]}
    for table in (run.sampled, *run.arms.values()):
        assert texts.items() >= dict(zip(table["id"].to_pylist(), table["completion"].to_pylist(), strict=True)).items()


def test_the_budget_is_kept_and_every_kind_of_rollout_is_there(run):
    payload = unpack(embed(run.sampled, run.arms, 150_000))
    assert len(json.dumps(payload["rollouts"])) < 150_000
    train = [row for row in payload["rollouts"] if row["arm"] == "train"]
    assert 0 < len(train) < run.sampled.num_rows
    assert {row["outcome"] for row in train} == set(run.sampled["verdict_outcome"].to_pylist())
    assert {row["rule"] for row in train} == set(run.sampled["annotation_dropped_by"].to_pylist())


def test_a_sample_of_a_test_problem_is_carried_with_those_of_the_other_models(run):
    payload = unpack(embed(None, run.arms, 240_000))
    samples = Counter((row["problem"], row["sample"]) for row in payload["rollouts"])
    assert 24 < len(samples) < 96
    assert sum(count < 3 for count in samples.values()) <= 1  # the sample at which the budget ends
    assert {(problem, 0) for problem in payload["problems"]} <= samples.keys()


def test_the_choice_does_not_depend_on_the_order_of_rows(run):
    rows = list(range(run.sampled.num_rows))
    random.Random(0).shuffle(rows)
    assert embed(run.sampled.take(rows), run.arms, 150_000) == embed(run.sampled, run.arms, 150_000)


def test_a_first_choice_by_tokens_does_not_change_the_result(run):
    budget = 150_000
    bare = {arm: table.drop(["completion", "annotation_spans"]) for arm, table in run.arms.items()}
    first = choose(run.sampled.drop(["completion", "annotation_spans"]), bare, 4 * budget)
    assert sum(table.num_rows for table in first.values()) < 768
    texts = {arm: table.filter(pc.is_in(table["id"], first[arm]["id"])) for arm, table in run.arms.items()}
    train = run.sampled.filter(pc.is_in(run.sampled["id"], first["train"]["id"]))
    assert embed(train, texts, budget) == embed(run.sampled, run.arms, budget)
    assert embed(train.slice(1), texts, budget) != embed(run.sampled, run.arms, budget)


def test_spans_are_counted_as_javascript_counts():
    text = "𝛑 is 😀 irrational. Let me check."
    span = Span("verification", text.index("Let"), len(text))
    table = rollouts_to_table([a_rollout(text, annotation=Annotation(verification=1, spans=(span,)))])
    (row,) = unpack(embed(table, {}, EVERYTHING))["rollouts"]
    ((_, start, end),) = row["spans"]
    assert text.encode("utf-16-le")[2 * start : 2 * end].decode("utf-16-le") == "Let me check."


def test_a_rollout_is_shown_with_what_its_prompt_opened():
    spans = (Span("verification", 2, 4),)
    rollout = a_rollout("a check </think> 42", opening="<think>\U0001f600", annotation=Annotation(spans=spans))
    embedded = unpack(embed(rollouts_to_table([rollout]), {}, EVERYTHING))
    (row,) = embedded["rollouts"]
    assert row["text"] == "<think>\U0001f600a check </think> 42"
    (name, start, end), in_javascript = row["spans"][0], row["text"].encode("utf-16-le")
    assert (name, in_javascript[2 * start : 2 * end].decode("utf-16-le")) == ("verification", "ch")


def test_test_problems_hold_whether_they_were_gained_or_lost():
    problems = [a_problem(f"{i}?", "1") for i in range(3)]

    def arm(*outcomes):
        pairs = enumerate(zip(problems, outcomes, strict=True))
        return rollouts_to_table(a_rollout(outcome=o, problem=p, id=f"{i}") for i, (p, o) in pairs)

    right, wrong = Outcome.CORRECT, Outcome.WRONG
    arms = {"base": arm(right, wrong, wrong), "student": arm(wrong, right, wrong)}
    found = unpack(embed(None, arms, EVERYTHING, changes(arms)))["problems"]
    assert [found[problem.id]["change"] for problem in problems] == ["lost", "gained", "same"]


def test_rollouts_that_are_not_curated_are_carried():
    (row,) = unpack(embed(rollouts_to_table([a_rollout()]), {}, EVERYTHING))["rollouts"]
    assert (row["rule"], row["selected"], row["num_steps"], row["spans"]) == ("", False, None, [])


def test_without_rollouts_none_are_carried():
    empty: pa.Table = ROLLOUT_SCHEMA.empty_table()
    assert embed(None, {}, 100).shown == 0
    assert embed(empty, {"base": empty}, 100).shown == 0

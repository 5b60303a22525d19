"""Rules of both kinds apply in the order of the configuration: the first that fires is the rollout's `dropped_by`."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonray.config import Curation
from reasonray.curation.behaviours import annotate_table
from reasonray.curation.dedup import minhash_signatures, near_duplicates, reasoning_key
from reasonray.curation.features import rollout_features, text_hash
from reasonray.curation.measures import measure_table
from reasonray.curation.rules import RULES, RolloutRule
from reasonray.curation.selection import select
from reasonray.records import JUDGED, OVER_QUOTA, Finish, Outcome, Rollout
from reasonray.store.schema import rollouts_to_table
from tests.factories import a_problem, a_rollout

PROBLEMS = [a_problem(question) for question in ("What is 6 * 7?", "What is 7 * 6?", "What is 2 * 21?")]
TEXTS = (
    "<think> 6 * 6 = 36, and 36 + 6 = 42. </think> The answer is 42.",
    "<think>6 * 6 = 36, and 36 + 6 = 42.</think>\n\nThe answer is 42.",
    "<think> We know 6*6=36, hence 36+6=42 </think> So it is 42.",
    "<think> 6 * 6 = 36, and 36 + 7 = 42. </think> The answer is 42.",
    "<think> Let us multiply: шесть раз по семь. </think> The answer is 42.",
    "<think> Run it:\n```python\nprint(6 * 7)\n``` </think> It matches the given answer.",
    "The answer is 42.",
)


def dropped_by(rollouts: Sequence[Rollout], contaminated: Sequence[str] = (), **curation: Any) -> dict[str, str]:
    """Return what curation decides of each rollout, by id: the rule that drops it, else ""."""
    settings = Curation(keep_per_problem=len(rollouts) or 1, **curation)
    features = rollout_features(table_of(rollouts), settings)
    rows = select(features, settings, contaminated=contaminated).to_pylist()
    assert all(row["selected"] == (row["dropped_by"] == "") != OVER_QUOTA for row in rows)
    return {row["id"]: row["dropped_by"] for row in rows}


def table_of(rollouts: Sequence[Rollout]) -> pa.Table:
    return measure_table(annotate_table(rollouts_to_table(rollouts)))


def simulated(rollouts: Sequence[Rollout], contaminated: Sequence[str], curation: Curation) -> dict[str, str]:
    """Return the same by going rule by rule and rollout by rollout; the preferred rollouts first, the shortest."""
    reasons = {rollout.id: "" for rollout in rollouts}
    ordered = sorted(rollouts, key=lambda rollout: (rollout.problem.id, rollout.completion_tokens, rollout.id))
    for name in curation.rules:
        alive = [rollout for rollout in ordered if not reasons[rollout.id]]
        for rollout, fires in zip(alive, firing(name, alive, rollouts, contaminated, curation), strict=True):
            if fires:
                reasons[rollout.id] = name
    return reasons


def firing(
    name: str, alive: Sequence[Rollout], every: Sequence[Rollout], contaminated: Sequence[str], curation: Curation
) -> Iterator[bool]:
    """Yield whether a rule fires on each of the rollouts that no earlier rule dropped."""
    rule = RULES[name]
    near = near_duplicates(minhash_signatures([rollout.completion for rollout in alive]), curation.near).tolist()
    seen = set()
    for number, rollout in enumerate(alive):
        key: Any = None
        if isinstance(rule, RolloutRule):
            yield rule.drops(table_of([rollout]), curation).to_pylist() == [True]
        elif name == "contaminated":
            yield rollout.problem.id in contaminated
        elif name == "pass_rate":
            rate = pass_rate([other for other in every if other.problem == rollout.problem])
            yield rate is not None and not curation.min_pass_rate <= rate <= curation.max_pass_rate
        else:
            if name == "duplicate":
                key = rollout.problem.id, text_hash(rollout.completion)
            elif name == "same_reasoning" and (equations := reasoning_key(rollout.completion)):
                key = rollout.problem.id, equations
            elif name == "near_duplicate":
                key = near[number]
            yield key is not None and key in seen
            seen.add(key)


def pass_rate(rollouts: Sequence[Rollout]) -> float | None:
    judged = [rollout.verdict.outcome for rollout in rollouts if rollout.verdict.outcome in JUDGED]
    return judged.count(Outcome.CORRECT) / len(judged) if judged else None


_ROLLOUTS = st.lists(
    st.tuples(
        st.sampled_from(PROBLEMS),
        st.sampled_from(TEXTS),
        st.sampled_from([Outcome.CORRECT, Outcome.CORRECT, *Outcome]),
        st.sampled_from([Finish.STOP, Finish.STOP, *Finish]),
        st.sampled_from([4, 9, 10, 11]),
    ),
    max_size=12,
).map(
    lambda rows: [
        a_rollout(text, outcome, problem=problem, sample=number, finish=finish, completion_tokens=tokens)
        for number, (problem, text, outcome, finish, tokens) in enumerate(rows)
    ]
)


@pytest.mark.slow
@given(_ROLLOUTS, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=150)
def test_whatever_the_order_of_the_rules_the_first_that_fires_is_the_reason(
    rollouts: list[Rollout], dice: random.Random
) -> None:
    names = tuple(dice.sample([*RULES], dice.randint(1, len(RULES))))
    band = {"min_pass_rate": 0.2, "max_pass_rate": 0.8} if "pass_rate" in names else {}
    contaminated = [PROBLEMS[0].id] if dice.random() < 0.3 else []
    wanted = simulated(rollouts, contaminated, Curation(rules=names, **band))
    assert dropped_by(rollouts, contaminated, rules=names, **band) == wanted


def a_pair(outcome: Outcome) -> list[Rollout]:
    """Return two rollouts with the same text; the shorter one has the outcome, the other is correct."""
    shorter = a_rollout(TEXTS[0], outcome, completion_tokens=10)
    return [shorter, replace(a_rollout(TEXTS[0], sample=1), completion_tokens=11)]


@pytest.mark.parametrize(
    ("rules", "first", "second"),
    [
        (("duplicate", "incorrect"), "incorrect", "duplicate"),
        (("incorrect", "duplicate"), "incorrect", ""),
    ],
)
def test_a_rollout_that_a_later_rule_drops_takes_part_in_an_earlier_comparison(
    rules: tuple[str, ...], first: str, second: str
) -> None:
    assert list(dropped_by(a_pair(Outcome.WRONG), rules=rules).values()) == [first, second]


@pytest.mark.parametrize("rules", [("contaminated", "incorrect"), ("incorrect", "contaminated")])
def test_of_two_rules_that_fire_on_a_rollout_the_first_is_the_reason(rules: tuple[str, ...]) -> None:
    rollout = a_rollout(outcome=Outcome.WRONG)
    assert dropped_by([rollout], [rollout.problem.id], rules=rules) == {rollout.id: rules[0]}


def test_near_duplicates_are_looked_for_among_the_rollouts_that_no_earlier_rule_dropped() -> None:
    pair = a_pair(Outcome.CORRECT)
    other = a_rollout(TEXTS[0], problem=PROBLEMS[1], completion_tokens=12)
    rollouts = [*pair, other]
    after = dropped_by(rollouts, [pair[0].problem.id], rules=("contaminated", "near_duplicate"))
    assert list(after.values()) == ["contaminated", "contaminated", ""]
    before = dropped_by(rollouts, [pair[0].problem.id], rules=("near_duplicate", "contaminated"))
    assert sorted(before.values()).count("near_duplicate") == 2

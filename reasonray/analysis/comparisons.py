"""Arms, problem sets, checkpoints and runs compared: their scores, and paired differences of any two of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import pyarrow as pa
import pyarrow.compute as pc

from reasonray.analysis.answer_groups import group_equal_answers
from reasonray.analysis.estimators import holm
from reasonray.analysis.json_records import OMITTED_IF_NONE, keyed
from reasonray.analysis.reasoning_stats import ReasoningByCorrectness, behaviours, values_of
from reasonray.analysis.scores import (
    ALL,
    Clusters,
    Difference,
    ScoreMetrics,
    by_difficulty,
    paired_difference,
    rates,
    score,
)
from reasonray.errors import UserError
from reasonray.records import STUDENT, Interval, Problem

Slices = Mapping[str, ScoreMetrics]
"""Scores of an arm by slice: "all", then difficulties."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemSetMetrics:
    """Scores and differences on all problems of one source."""

    evaluation: Mapping[str, ScoreMetrics]
    """By arm."""
    difference: Mapping[str, Difference]
    """By pair of arms, "<after>-<before>"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmComparison:
    """The scores of all arms, and the difference of any two."""

    evaluation: Mapping[str, Slices]
    """By arm and slice."""
    difference: Mapping[str, Mapping[str, Difference]]
    """By pair of arms, "<after>-<before>", and slice."""
    sets: Mapping[str, ProblemSetMetrics]
    """By source of problems; empty if there is a single source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSlice(ReasoningByCorrectness):
    """Accuracy and reasoning of a checkpoint on one difficulty."""

    pass_at: Mapping[int, Interval] = field(metadata=keyed("pass@"))
    """pass@1 alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointMetrics(CheckpointSlice):
    """Accuracy and reasoning of a checkpoint on all its problems."""

    step: int
    """Training step; 0 is the base."""
    arm: str
    problems: int
    samples: int
    """Samples of each problem."""
    by_difficulty: Mapping[str, CheckpointSlice]
    difference: Difference | None = field(default=None, metadata=OMITTED_IF_NONE)
    """Difference to step 0, where step 0 was measured. Its p_holm adjusts for the number of checkpoints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPair:
    """The difference between the students of two runs, on the problems that both runs hold out."""

    after: str
    before: str
    slices: Mapping[str, Difference]
    """By slice: "all", then difficulties."""


def clusters_of(problems: Sequence[Problem], key: str | None) -> Clusters | None:
    """Return the cluster of each problem: its source and its metadata at a key; None without a key.

    Raises:
        UserError: no problem's metadata has the key.
    """
    if key is None:
        return None
    clusters = {
        problem.id: f"{problem.source}/{json.dumps(problem.metadata[key], sort_keys=True)}"
        for problem in problems
        if key in problem.metadata
    }
    if problems and not clusters:
        known = ", ".join(sorted({name for problem in problems for name in problem.metadata})) or "nothing"
        raise UserError(
            f"evaluation.cluster = {key!r}: no test problem's metadata has it; correct it (there is {known})"
        )
    return clusters


def compare_arms(
    arms: Mapping[str, pa.Table],
    ks: Sequence[int],
    problems: Sequence[Problem] | None = None,
    clusters: Clusters | None = None,
) -> ArmComparison:
    """Score every arm, and compare any two of them.

    Args:
        arms: rollouts of the test problems by arm.
        ks: the k of pass@k and maj@k.
        problems: the problems that every arm must have; a missing one would shrink the denominator unnoticed.
        clusters: which of them are variants of one another.

    Raises:
        ValueError: arms differ in problems or sample counts.
    """
    by_id = {problem.id: problem for problem in problems or ()}
    if by_id and max(ks) > 1:
        arms = {arm: group_equal_answers(rollouts, by_id) for arm, rollouts in arms.items()}
    scores = {arm: _scores(rollouts, arm, ks, clusters) for arm, rollouts in arms.items()}
    for arm, slices in scores.items():
        if problems is not None and slices[ALL].problems != len(problems):
            measured = slices[ALL].problems
            raise ValueError(f"arm {arm!r} has {measured} problems instead of {len(problems)}; finish evaluating")
    return ArmComparison(
        evaluation=scores,
        difference={
            pair_name(before, after): paired_difference(arms[before], arms[after], clusters)
            for before, after in pairs(list(arms))
        },
        sets=_problem_sets(arms, ks, clusters),
    )


def pairs(arms: Sequence[str]) -> list[tuple[str, str]]:
    """Return any two arms as (before, after): those with the student first, in the order of the arms."""
    ordered = [*(arm for arm in arms if arm != STUDENT), *(arm for arm in arms if arm == STUDENT)]
    return sorted(combinations(ordered, 2), key=lambda pair: pair[1] != STUDENT)


def pair_name(before: str, after: str) -> str:
    """Return the key of a pair in metrics.json. Names of arms may hold hyphens, so the key cannot be split again."""
    return f"{after}-{before}"


def _scores(rollouts: pa.Table, arm: str, ks: Sequence[int], clusters: Clusters | None) -> dict[str, ScoreMetrics]:
    scores = score(rollouts, arm, ks, clusters)
    parts = [rollouts, *(part for _, part in by_difficulty(rollouts, [scored.difficulty for scored in scores[1:]]))]
    return {
        scored.difficulty: ScoreMetrics.of(scored, rates(part, clusters))
        for scored, part in zip(scores, parts, strict=True)
    }


def _problem_sets(
    arms: Mapping[str, pa.Table], ks: Sequence[int], clusters: Clusters | None
) -> dict[str, ProblemSetMetrics]:
    if not arms or any("problem_source" not in rollouts.column_names for rollouts in arms.values()):
        return {}
    sources = sorted(pc.unique(next(iter(arms.values()))["problem_source"]).to_pylist())
    if len(sources) < 2:
        return {}
    sets = {}
    for source in sources:
        parts = {arm: rollouts.filter(pc.equal(rollouts["problem_source"], source)) for arm, rollouts in arms.items()}
        sets[source] = ProblemSetMetrics(
            evaluation={arm: _scores(part, arm, ks, clusters)[ALL] for arm, part in parts.items()},
            difference={
                pair_name(before, after): paired_difference(parts[before], parts[after], clusters)[ALL]
                for before, after in pairs(list(arms))
            },
        )
    return sets


def compare_checkpoints(
    checkpoints: Mapping[int, pa.Table], clusters: Clusters | None = None
) -> tuple[CheckpointMetrics, ...]:
    """Measure the accuracy and the reasoning of each checkpoint, and its difference to step 0 if step 0 is there.

    The difference to step 0 is tested once for each checkpoint, so each has `p_holm`, its p-value adjusted for that.

    Args:
        checkpoints: rollouts of test problems by training step.
        clusters: which problems are variants of one another.
    """
    rows = [_checkpoint(step, rollouts, clusters) for step, rollouts in sorted(checkpoints.items())]
    if 0 not in checkpoints:
        return tuple(rows)
    later = [row for row in rows if row.step]
    changes = [paired_difference(checkpoints[0], checkpoints[row.step], clusters)[ALL] for row in later]
    adjusted = holm([change.p for change in changes])
    compared = [
        replace(row, difference=replace(change, p_holm=p))
        for row, change, p in zip(later, changes, adjusted, strict=True)
    ]
    return (*(row for row in rows if not row.step), *compared)


def _checkpoint(step: int, rollouts: pa.Table, clusters: Clusters | None) -> CheckpointMetrics:
    by_name = {scored.difficulty: scored for scored in score(rollouts, f"checkpoint at step {step}", clusters=clusters)}
    reasoning = values_of(behaviours(rollouts, clusters))
    by_slice = reasoning.pop("by_difficulty") or {}
    return CheckpointMetrics(
        **reasoning | {"completion_tokens": by_name[ALL].completion_tokens},
        step=step,
        arm=rollouts["teacher"][0].as_py(),
        pass_at=by_name[ALL].pass_at,
        problems=by_name[ALL].problems,
        samples=by_name[ALL].samples,
        by_difficulty={
            name: CheckpointSlice(**values_of(by_slice.get(name, ReasoningByCorrectness())), pass_at=scored.pass_at)
            for name, scored in by_name.items()
            if name != ALL
        },
    )


def compare_runs(students: Mapping[str, pa.Table], clusters: Clusters | None = None) -> dict[str, RunPair]:
    """Compare the students of any two runs on the problems that both have; keys are "<after>-<before>".

    Both are cut to the smaller number of samples. Runs without a problem in common have no entry. Of several pairs each
    has `p_holm`, its p-value adjusted for their number.

    Args:
        students: rollouts of the test problems by run.
        clusters: which problems, of any run, are variants of one another.
    """
    compared: dict[str, RunPair] = {}
    for before, after in combinations(students, 2):
        shared = set(students[before]["problem_id"].to_pylist()) & set(students[after]["problem_id"].to_pylist())
        if shared:
            old, new = _cut([students[before], students[after]], shared)
            slices = paired_difference(old, new, clusters)
            compared[pair_name(before, after)] = RunPair(after=after, before=before, slices=slices)
    adjusted = holm([pair.slices[ALL].p for pair in compared.values()])
    return {
        name: replace(pair, slices=dict(pair.slices) | {ALL: replace(pair.slices[ALL], p_holm=p)})
        for (name, pair), p in zip(compared.items(), adjusted, strict=True)
    }


def _cut(tables: Sequence[pa.Table], problems: set[str]) -> list[pa.Table]:
    """Return the rollouts of some problems, with as many samples of each as the table with the fewest has."""
    samples = min(pc.max(table["sample"]).as_py() for table in tables) + 1
    return [first_samples(table, pa.array(sorted(problems)), samples) for table in tables]


def first_samples(rollouts: pa.Table, problems: pa.Array, samples: int) -> pa.Table:
    """Return the first samples of some problems.

    Args:
        rollouts: columns problem_id, sample.
        problems: ids.
        samples: how many of each problem.
    """
    is_chosen = pc.is_in(rollouts["problem_id"], value_set=problems)
    return rollouts.filter(pc.and_(is_chosen, pc.less(rollouts["sample"], samples)))

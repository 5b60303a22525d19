"""Statistics of reasoning: behaviours, steps and length, by difficulty, by correctness and by measured pass rate.

The functions read columns of schema.ROLLOUT_SCHEMA and never text. Long responses hold more of everything, so compare
within a slice and look at its length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import inf
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reasonray.analysis.estimators import mean_interval, ratio_interval, share_interval
from reasonray.analysis.funnel import is_annotated
from reasonray.analysis.json_records import OMITTED_IF_NONE
from reasonray.analysis.scores import (
    COUNT_BOUNDS,
    DIFFERENCE_BOUNDS,
    Clusters,
    by_difficulty,
    difficulties,
    units_of,
)
from reasonray.records import BEHAVIOURS, JUDGED, Interval, Outcome

LENGTHS = {"num_steps": "annotation_num_steps", "completion_tokens": "completion_tokens"}
"""Lengths of a response, each with the column that holds it."""
PASS_RATES = ((0.0, 0.0), (0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0), (1.0, 1.0))
"""Bands of measured pass rates: never, (0, ¼], (¼, ½], (½, ¾], (¾, 1), always."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningStats:
    """Behaviours, steps and length of the responses of a slice; intervals are over problems or clusters.

    Without responses only `responses` is there; without annotations nothing is.
    """

    responses: int | None = field(default=None, metadata=OMITTED_IF_NONE)
    verification: Interval | None = field(default=None, metadata=OMITTED_IF_NONE)
    """Share of responses with at least one; the other behaviours likewise."""
    backtracking: Interval | None = field(default=None, metadata=OMITTED_IF_NONE)
    subgoals: Interval | None = field(default=None, metadata=OMITTED_IF_NONE)
    backward_chaining: Interval | None = field(default=None, metadata=OMITTED_IF_NONE)
    per_1000_tokens: Mapping[str, Interval] | None = field(default=None, metadata=OMITTED_IF_NONE)
    """Occurrences of each behaviour for every 1,000 completion tokens; empty if the responses have no tokens."""
    num_steps: Interval | None = field(default=None, metadata=OMITTED_IF_NONE)
    """Reasoning steps of a response."""
    completion_tokens: Interval | None = field(default=None, metadata=OMITTED_IF_NONE)
    """Length of a response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningByCorrectness(ReasoningStats):
    """The statistics of all responses of a slice, of the correct ones, and of the others."""

    correct: ReasoningStats | None = field(default=None, metadata=OMITTED_IF_NONE)
    not_correct: ReasoningStats | None = field(default=None, metadata=OMITTED_IF_NONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class BehaviourMetrics(ReasoningByCorrectness):
    """The statistics of an arm, on all problems and by difficulty; no field is there if its rollouts are not
    annotated."""

    by_difficulty: Mapping[str, ReasoningByCorrectness] | None = field(default=None, metadata=OMITTED_IF_NONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassRateBand(ReasoningStats):
    """The statistics of the responses to the problems within one band of pass rates."""

    above: float
    """Lower end of the band, not included; equal to `up_to` where the band is a point."""
    up_to: float
    """Upper end, included unless it is 1."""
    problems: int


def behaviours(rollouts: pa.Table, clusters: Clusters | None = None) -> BehaviourMetrics:
    """Measure the reasoning of an arm, on all problems and by difficulty, with correct and other responses apart.

    Intervals are over problems, or over clusters where some problems are variants of one another.

    Args:
        rollouts: the arm's rollouts; without annotations the result has no values.
        clusters: which problems are variants of one another.
    """
    if not is_annotated(rollouts):
        return BehaviourMetrics()
    slices = by_difficulty(rollouts, difficulties(rollouts))
    return BehaviourMetrics(
        **_by_correctness(rollouts, clusters),
        by_difficulty={name: ReasoningByCorrectness(**_by_correctness(part, clusters)) for name, part in slices},
    )


def behaviour_difference(before: pa.Table, after: pa.Table, clusters: Clusters | None = None) -> dict[str, Interval]:
    """Measure the difference in reasoning between two arms on the same problems, paired by problem: after - before.

    Returns the difference in the share of responses with each behaviour, in steps and in completion tokens, with
    intervals over problems as scores.paired_difference has them. Empty unless both arms are annotated.

    Raises:
        ValueError: the arms have other problems.
    """
    if not (is_annotated(before) and is_annotated(after)):
        return {}
    ids = [pc.unique(rollouts["problem_id"]).sort() for rollouts in (before, after)]
    if ids[0] != ids[1]:
        raise ValueError("reasoning can be paired on the same problems only")
    units = np.zeros(len(ids[0]), np.int64)
    units[units_of(before)] = units_of(before, clusters)
    old, new = _means_by_problem(before), _means_by_problem(after)
    bounds = dict.fromkeys(BEHAVIOURS, DIFFERENCE_BOUNDS) | dict.fromkeys(LENGTHS, (-inf, inf))
    return {
        name: mean_interval(new[name] - old[name], clusters=units, bounds=possible) for name, possible in bounds.items()
    }


def _means_by_problem(rollouts: pa.Table) -> dict[str, NDArray[np.float64]]:
    """Return for each problem the share of responses with each behaviour and the mean of each length."""
    problems = units_of(rollouts)
    columns = {name: rollouts[f"annotation_{name}"].to_numpy() > 0 for name in BEHAVIOURS}
    columns |= {name: rollouts[column].to_numpy() for name, column in LENGTHS.items()}
    return {name: np.bincount(problems, column) / np.bincount(problems) for name, column in columns.items()}


def by_pass_rate(rollouts: pa.Table) -> tuple[PassRateBand, ...]:
    """Measure the reasoning on problems that are solved never, seldom, …, always: one slice for each of PASS_RATES.

    The pass rate is the share of CORRECT among a problem's judged rollouts. It is computed from the very rollouts that
    are described, so a band describes them and predicts nothing. Empty when the rollouts are not annotated.
    """
    if not is_annotated(rollouts):
        return ()
    codes = rollouts["problem_id"].combine_chunks().dictionary_encode()
    row_problems = codes.indices.to_numpy()
    judged = pc.is_in(rollouts["verdict_outcome"], value_set=pa.array([outcome.value for outcome in JUDGED])).to_numpy()
    correct = pc.equal(rollouts["verdict_outcome"], Outcome.CORRECT.value).to_numpy()
    tried = np.bincount(row_problems, judged.astype(np.float64), len(codes.dictionary))
    solved = np.bincount(row_problems, correct.astype(np.float64), len(codes.dictionary))
    rate = np.divide(solved, tried, out=np.full(tried.size, np.nan), where=tried > 0)
    bands = []
    for above, up_to in PASS_RATES:
        inside = rate == above if above == up_to else (rate > above) & (rate <= up_to) & (rate < 1)
        if inside.any():
            part = rollouts.filter(pa.array(inside[row_problems]))
            bands.append(PassRateBand(above=above, up_to=up_to, problems=int(inside.sum()), **values_of(_stats(part))))
    return tuple(bands)


def _by_correctness(rollouts: pa.Table, clusters: Clusters | None) -> dict[str, Any]:
    """Return the fields of a ReasoningByCorrectness."""
    correct = pc.equal(rollouts["verdict_outcome"], Outcome.CORRECT.value)
    return values_of(_stats(rollouts, clusters)) | {
        "correct": _stats(rollouts.filter(correct), clusters),
        "not_correct": _stats(rollouts.filter(pc.invert(correct)), clusters),
    }


def values_of(stats: ReasoningStats) -> dict[str, Any]:
    """Return the fields of a record by name, to extend it to a larger one."""
    return {field.name: getattr(stats, field.name) for field in fields(stats)}


def _stats(rollouts: pa.Table, clusters: Clusters | None = None) -> ReasoningStats:
    if rollouts.num_rows == 0:
        return ReasoningStats(responses=0)
    units = units_of(rollouts, clusters)
    counts = {name: rollouts[f"annotation_{name}"].to_numpy() for name in BEHAVIOURS}
    lengths = {name: rollouts[column].to_numpy().astype(np.float64) for name, column in LENGTHS.items()}
    thousands = rollouts["completion_tokens"].to_numpy() / 1000
    rates = {
        name: ratio_interval(count.astype(np.float64), thousands, clusters=units)
        for name, count in counts.items()
        if thousands.any()
    }
    shares = {name: share_interval((count > 0).astype(np.float64), clusters=units) for name, count in counts.items()}
    means = {name: mean_interval(length, clusters=units, bounds=COUNT_BOUNDS) for name, length in lengths.items()}
    return ReasoningStats(responses=rollouts.num_rows, per_1000_tokens=rates, **shares, **means)

"""How an arm reasons: behaviours, depth and length, against difficulty, correctness and measured pass rate.

Works on columns of tables.ROLLOUT_SCHEMA, never on text. Long answers hold more of everything: compare within a slice,
and with its length.
"""

from __future__ import annotations

from dataclasses import asdict
from math import inf
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reasonray.analysis.estimators import mean_interval, ratio_interval, share_interval
from reasonray.analysis.funnel import is_annotated
from reasonray.analysis.scores import DIFFERENCE, Clusters, by_difficulty, difficulties, units_of
from reasonray.records import BEHAVIOURS, JUDGED, Outcome

COUNT = (0.0, inf)
LENGTHS = {"num_steps": "annotation_num_steps", "completion_tokens": "completion_tokens"}
"""What a response has some number of, by the column that holds it."""
PASS_RATES = ((0.0, 0.0), (0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0), (1.0, 1.0))
"""Bands of measured pass rates: never, (0, ¼], (¼, ½], (½, ¾], (¾, 1), always."""


def behaviours(rollouts: pa.Table, clusters: Clusters | None = None) -> dict[str, Any]:
    """Measure how an arm reasons: per response, by difficulty, and apart for correct and other responses.

    Each slice holds `responses`, the share of responses with at least one of each behaviour, how many of each there are
    `per_1000_tokens`, the mean `depth` (steps) and the mean `completion_tokens`, with intervals over problems, or over
    clusters where some are variants of one another. Each difficulty holds `correct` and `not_correct` slices as well.
    Empty when the rollouts are not annotated.
    """
    if not is_annotated(rollouts):
        return {}
    named = by_difficulty(rollouts, difficulties(rollouts))
    return _by_correctness(rollouts, clusters) | {
        "by_difficulty": {name: _by_correctness(part, clusters) for name, part in named}
    }


def behaviour_difference(
    before: pa.Table, after: pa.Table, clusters: Clusters | None = None
) -> dict[str, dict[str, float]]:
    """Measure how reasoning differs between two arms of the same problems, paired by problem: after - before.

    Of each behaviour the share of responses with at least one, the depth and the completion tokens, with intervals over
    problems as metrics.paired_difference has them. Empty unless both arms are annotated.

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
    old, new = _by_problem(before), _by_problem(after)
    return {
        name: asdict(mean_interval(new[name] - old[name], clusters=units, bounds=bounds))
        for name, bounds in [*((it, DIFFERENCE) for it in BEHAVIOURS), *((it, (-inf, inf)) for it in LENGTHS)]
    }


def _by_problem(rollouts: pa.Table) -> dict[str, NDArray[np.float64]]:
    """Return for each problem the share of responses with each behaviour and the mean of each length."""
    owner = units_of(rollouts)
    columns = {name: rollouts[f"annotation_{name}"].to_numpy() > 0 for name in BEHAVIOURS}
    columns |= {name: rollouts[column].to_numpy() for name, column in LENGTHS.items()}
    return {name: np.bincount(owner, column) / np.bincount(owner) for name, column in columns.items()}


def _by_correctness(rollouts: pa.Table, clusters: Clusters | None) -> dict[str, Any]:
    correct = pc.equal(rollouts["verdict_outcome"], Outcome.CORRECT.value)
    return _slice(rollouts, clusters) | {
        "correct": _slice(rollouts.filter(correct), clusters),
        "not_correct": _slice(rollouts.filter(pc.invert(correct)), clusters),
    }


def by_pass_rate(rollouts: pa.Table) -> list[dict[str, Any]]:
    """Measure how an arm reasons on problems that it solves never, seldom, …, always: one slice a band of PASS_RATES.

    The pass rate is the share of CORRECT among a problem's judged rollouts, over the very rollouts that are described:
    a band says how these went, it does not predict. Each slice holds `above` and `up_to` (both ends of the band; equal
    for a point), `problems` and what `behaviours` measures. Empty when the rollouts are not annotated.
    """
    if not is_annotated(rollouts):
        return []
    codes = rollouts["problem_id"].combine_chunks().dictionary_encode()
    owner = codes.indices.to_numpy()
    judged = pc.is_in(rollouts["verdict_outcome"], value_set=pa.array([it.value for it in JUDGED])).to_numpy()
    correct = pc.equal(rollouts["verdict_outcome"], Outcome.CORRECT.value).to_numpy()
    tried = np.bincount(owner, judged.astype(np.float64), len(codes.dictionary))
    solved = np.bincount(owner, correct.astype(np.float64), len(codes.dictionary))
    rate = np.divide(solved, tried, out=np.full(tried.size, np.nan), where=tried > 0)
    found = []
    for above, up_to in PASS_RATES:
        inside = rate == above if above == up_to else (rate > above) & (rate <= up_to) & (rate < 1)
        if inside.any():
            part = rollouts.filter(pa.array(inside[owner]))
            found.append({"above": above, "up_to": up_to, "problems": int(inside.sum())} | _slice(part))
    return found


def _slice(rollouts: pa.Table, clusters: Clusters | None = None) -> dict[str, Any]:
    if rollouts.num_rows == 0:
        return {"responses": 0}
    units = units_of(rollouts, clusters)

    def share(column: NDArray[Any]) -> dict[str, float]:
        return asdict(share_interval(column.astype(np.float64), clusters=units))

    def mean(column: NDArray[Any]) -> dict[str, float]:
        return asdict(mean_interval(column.astype(np.float64), clusters=units, bounds=COUNT))

    thousands = rollouts["completion_tokens"].to_numpy() / 1000

    def rate(counts: NDArray[Any]) -> dict[str, float]:
        return asdict(ratio_interval(counts.astype(np.float64), thousands, clusters=units))

    counted = {name: rollouts[f"annotation_{name}"].to_numpy() for name in BEHAVIOURS}
    return (
        {"responses": rollouts.num_rows}
        | {name: share(counts > 0) for name, counts in counted.items()}
        | {"per_1000_tokens": {name: rate(counts) for name, counts in counted.items()} if thousands.any() else {}}
        | {name: mean(rollouts[column].to_numpy()) for name, column in LENGTHS.items()}
    )

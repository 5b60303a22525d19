"""Rounds of distillation compared: what each student can do, how varied it writes, and what it cost. Pure.

A series is healthy while accuracy rises and variety stays. A model that collapses still gains pass@1, but loses pass@k
and writes the same solution again and again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import combinations
from math import inf

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reasonray.analysis.estimators import mean_interval, pass_at_k, share_interval
from reasonray.analysis.json_records import OMITTED_IF_NONE
from reasonray.analysis.reasoning_stats import LENGTHS
from reasonray.analysis.scores import DIFFERENCE_BOUNDS, Clusters
from reasonray.records import BEHAVIOURS, Interval, Outcome

DISTINCT = ("distinct_equations", "distinct_words")
"""Measures of variety over pairs of a problem's samples: the share with other equations, and how few words they
share."""
_PAIRED_SAMPLES = 8
"""Of each problem, the samples that are compared with one another."""
_NGRAM = 5

Values = Mapping[str, NDArray[np.float64]]
"""Measure → its value for each problem, in the order of the ids; NaN where a problem shows nothing."""
Measures = Mapping[str, Interval]
"""Measure → its mean over problems: pass@1, pass@k, completion_tokens, num_steps, behaviours, DISTINCT."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundData:
    """What a round's student learnt from."""

    examples: int
    own: int
    """Examples that teachers of the round wrote; the others are from earlier rounds."""
    hinted: int
    """Examples that were written with the gold answer in the prompt."""
    trained_tokens: int | None
    """Completion tokens of the examples, once the student is trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundCost:
    """What a round used, over all its sessions."""

    sampled_tokens: int
    """Generated while train problems were sampled."""
    evaluated_tokens: int
    """Generated while models were measured."""
    rollouts: int
    """Of the round's teachers."""
    seconds: float
    """Wall time of all stages."""
    accelerator_hours: float

    def __add__(self, other: RoundCost) -> RoundCost:
        return RoundCost(**{part.name: getattr(self, part.name) + getattr(other, part.name) for part in fields(self)})


NO_COST = RoundCost(sampled_tokens=0, evaluated_tokens=0, rollouts=0, seconds=0.0, accelerator_hours=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SolvedProblem:
    """A train problem with its first correct rollout."""

    problem: str
    question: str
    rollout: str
    """Id of the rollout in the report of the round's run."""
    earlier: int
    """Samples of earlier rounds, none of them correct."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundMetrics:
    """One round."""

    round: int
    run: str
    measures: Measures | None
    """Of its student on the held-out problems; None before it is measured."""
    to_base: Measures | None
    """The student's paired difference to the base of the first round."""
    to_first: Measures | None
    """The student's paired difference to that of the first round."""
    to_previous: Measures | None
    """The student's paired difference to that of the round before; in the first round to the base."""
    problems: int
    """Train problems."""
    solved: int
    """Of them solved by this round or one before it, by rollouts without a hint."""
    coverage: Interval | None
    """Share of the train problems that are solved; None without any."""
    newly_solved: int
    """Of them solved for the first time in this round."""
    first_solutions: tuple[SolvedProblem, ...]
    """Of the newly solved problems, those that took most samples first; a limited number."""
    data: RoundData
    cost: RoundCost
    warnings: tuple[str, ...] = ()
    """Measures that fell measurably while pass@1 rose, compared to the round before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesMetrics:
    """The content of rounds.json."""

    series: str
    k: int
    """The largest k of pass@k."""
    test_problems: int
    samples: int
    """Of each test problem, by each model."""
    base: Measures | None
    rounds: tuple[RoundMetrics, ...]
    total: RoundCost
    """Of all rounds together."""
    planned: int
    """Rounds of the configuration."""
    stopped: str | None = field(default=None, metadata=OMITTED_IF_NONE)
    """Why no further round was made, if there might have been one."""


def values_by_problem(rollouts: pa.Table, texts: Mapping[str, str], k: int, keys: Mapping[str, str]) -> Values:
    """Return each measure of a model for each of its test problems, in the order of their ids.

    Args:
        rollouts: the model's, annotated or not; columns problem_id, id, sample, verdict_outcome, completion_tokens.
        texts: id of a rollout → its completion.
        k: of pass@k.
        keys: id of a rollout → the hash of its equations, "" for too few.
    """
    ids, problems = np.unique(rollouts["problem_id"].to_numpy(zero_copy_only=False), return_inverse=True)
    counts = np.bincount(problems)
    is_correct = pc.equal(rollouts["verdict_outcome"], Outcome.CORRECT.value).to_numpy(zero_copy_only=False)
    correct = np.bincount(problems, is_correct.astype(np.float64)).astype(np.int64)
    values = {f"pass@{k}": pass_at_k(correct, int(counts.min()), k)} if k > 1 else {}
    values = {"pass@1": correct / counts} | values
    columns = {name: rollouts[column].to_numpy() for name, column in LENGTHS.items() if column in rollouts.column_names}
    columns |= {
        name: rollouts[f"annotation_{name}"].to_numpy() > 0
        for name in BEHAVIOURS
        if f"annotation_{name}" in rollouts.column_names
    }
    values |= {name: np.bincount(problems, column) / counts for name, column in columns.items()}
    rows: list[list[str]] = [[] for _ in ids]
    order = np.lexsort((rollouts["sample"].to_numpy(), problems))
    names = rollouts["id"].to_pylist()
    for row in order.tolist():
        if len(rows[problems[row]]) < _PAIRED_SAMPLES:
            rows[problems[row]].append(names[row])
    return values | {
        "distinct_equations": np.array([other_equations([keys[row] for row in rollout]) for rollout in rows]),
        "distinct_words": np.array([other_words([texts[row] for row in rollout]) for rollout in rows]),
    }


def other_equations(keys: Sequence[str]) -> float:
    """Return the share of pairs of solutions with other equations; NaN unless two of them have equations."""
    pairs = list(combinations([key for key in keys if key], 2))
    return float(np.mean([one != other for one, other in pairs])) if pairs else np.nan


def other_words(texts: Sequence[str]) -> float:
    """Return how few word 5-grams two texts share: 1 less Jaccard's similarity, mean over pairs; NaN for one text."""
    pairs = list(combinations([_ngrams(text) for text in texts], 2))
    return float(np.mean([1 - len(one & other) / len(one | other) for one, other in pairs])) if pairs else np.nan


def _ngrams(text: str) -> set[tuple[str, ...]]:
    words = text.casefold().split()
    return {tuple(words[at : at + _NGRAM]) for at in range(max(1, len(words) - _NGRAM + 1))}


def measures(values: Values, units: NDArray[np.int64] | None = None) -> dict[str, Interval]:
    """Return the mean of each measure over problems; measures that no problem shows are left out.

    Args:
        values: by measure.
        units: cluster of each problem, None if problems are independent.
    """
    levels = {}
    for name, row in values.items():
        shown, clusters = _shown(row, units)
        if shown.size:
            is_length = name in LENGTHS
            levels[name] = (
                mean_interval(shown, clusters=clusters, bounds=(0.0, inf))
                if is_length
                else share_interval(shown, clusters=clusters)
            )
    return levels


def differences(before: Values, after: Values, units: NDArray[np.int64] | None = None) -> dict[str, Interval]:
    """Return the paired difference of each measure, after - before, over the problems that show it in both.

    Where pass@k changed on no problem it is the point 0, as in scores.paired_difference: that is all it claims.
    """
    changes = {}
    for name in (name for name in after if name in before):
        shown, clusters = _shown(after[name] - before[name], units)
        if shown.size:
            is_point = name in LENGTHS or (name.startswith("pass@") and not shown.any())
            bounds = (-inf, inf) if is_point else DIFFERENCE_BOUNDS
            changes[name] = mean_interval(shown, clusters=clusters, bounds=bounds)
    return changes


def _shown(
    row: NDArray[np.float64], units: NDArray[np.int64] | None
) -> tuple[NDArray[np.float64], NDArray[np.int64] | None]:
    shown = ~np.isnan(row)
    return row[shown], None if units is None else units[shown]


def units_of(problems: Sequence[str], clusters: Clusters | None) -> NDArray[np.int64] | None:
    """Return the cluster of each problem as a number, None if problems are independent."""
    if not clusters:
        return None
    units: NDArray[np.int64] = np.unique([clusters.get(id_, id_) for id_ in sorted(problems)], return_inverse=True)[1]
    return units


def narrowed(difference: Measures, k: int) -> tuple[str, ...]:
    """Return the measures of ability and variety that fell measurably while pass@1 rose: signs of a collapse."""
    if not difference or difference["pass@1"].mean <= 0:
        return ()
    return tuple(name for name in (f"pass@{k}", *DISTINCT) if name in difference and difference[name].high < 0)


def no_gain(difference: Measures, k: int) -> str:
    """Return why a student is no gain on the model before it, "" if it is one."""
    accuracy, best = difference["pass@1"], difference.get(f"pass@{k}")
    if accuracy.low <= 0:
        points = f"{100 * accuracy.mean:+.1f} points [{100 * accuracy.low:+.1f}, {100 * accuracy.high:+.1f}]"
        return f"no measurable gain in pass@1: {points}"
    if best is not None and best.high < 0:
        return f"pass@{k} fell by {-100 * best.mean:.1f} points"
    return ""

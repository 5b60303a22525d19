"""Scores of an arm, paired differences between two arms, and the scores that fewer samples would have given.

An arm is a model under a prompt and sampling parameters, measured on the test problems. The functions read columns of
schema.ROLLOUT_SCHEMA and never text. Accuracy is strict: CORRECT rollouts over all rollouts. Truncated, unanswered and
unjudged rollouts are not correct; the share of each is reported next to the accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reasonray.analysis.estimators import (
    Power,
    expected_kept,
    majority_at_k,
    mean_interval,
    p_value,
    pass_at_k,
    power,
    sample_variance,
    share_interval,
)
from reasonray.analysis.funnel import is_annotated
from reasonray.analysis.json_records import OMITTED_IF_NONE, keyed
from reasonray.records import OVER_QUOTA, UNJUDGED, Interval, Outcome, Score

COUNT_BOUNDS = (0.0, inf)
DIFFERENCE_BOUNDS = (-1.0, 1.0)
ALL = "all"
"""Name of the slice that holds all problems; the other slices are difficulties."""
_EASY_TO_HARD = ("easy", "medium", "hard")

Clusters = Mapping[str, str]
"""Problem id → its cluster, such as a template. A problem that is missing here is a cluster of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreMetrics:
    """The scores of one arm on one slice of the test problems."""

    pass_at: Mapping[int, Interval] = field(metadata=keyed("pass@"))
    """pass@k: the share of problems that k samples solve at least once, in expectation over all k-subsets."""
    majority_at: Mapping[int, Interval] = field(metadata=keyed("maj@"))
    """maj@k: the expected credit of a majority vote over k samples, for k above 1."""
    truncated: float
    """Share of rollouts cut by the token limit."""
    no_answer: float
    """Share of rollouts that ended without an answer."""
    unjudged: float
    """Share of rollouts that could not be judged, because of the gold answer, the checker or the engine."""
    outcomes: Mapping[str, float]
    """Share of each outcome; they sum to 1."""
    completion_tokens: Interval
    """Mean length of a completion."""
    problems: int
    samples: int
    """Samples of each problem."""
    model: str
    rates: Mapping[str, Interval]
    """Share of each outcome with its interval."""

    @staticmethod
    def of(score: Score, outcome_rates: Mapping[str, Interval]) -> ScoreMetrics:
        """Return the metrics of a score."""
        return ScoreMetrics(
            pass_at=score.pass_at,
            majority_at=score.majority_at,
            truncated=score.outcomes[Outcome.TRUNCATED],
            no_answer=score.outcomes[Outcome.NO_ANSWER],
            unjudged=sum(score.outcomes[outcome] for outcome in UNJUDGED),
            outcomes={outcome.value: share for outcome, share in score.outcomes.items()},
            completion_tokens=score.completion_tokens,
            problems=score.problems,
            samples=score.samples,
            model=score.model,
            rates=outcome_rates,
        )


class Advice(StrEnum):
    """The way to narrow the interval of a difference, if it includes 0."""

    ENOUGH = "enough"
    """Nothing is needed: the interval excludes 0."""
    SAMPLES = "samples"
    """More samples of each problem: most of the variance is within problems."""
    PROBLEMS = "problems"
    """More test problems."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference(Interval):
    """A paired comparison of two arms on the same problems: after - before in pass@1, with its 95 % interval."""

    problems: int
    gained: int
    """Problems with more correct samples after than before."""
    lost: int
    """Problems with fewer."""
    transitions: tuple[tuple[int, ...], ...]
    """transitions[b][a]: problems with b correct samples before and a after."""
    p: float
    """p-value of the two-sided t test that the difference is 0."""
    power: Power
    advice: Advice
    p_holm: float | None = field(default=None, metadata=OMITTED_IF_NONE)
    """p, adjusted for the number of differences that are tested (Holm); only where several are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplesPoint:
    """The expected result of sampling k completions of each problem."""

    k: int
    acceptance: Interval
    """Share of rollouts that are correct; the same for every k, because samples are independent."""
    coverage: Interval
    """Share of problems with a correct rollout: pass@k."""
    kept: Interval
    """Size of the data set with at most curation.keep_per_problem usable rollouts of a problem."""
    tokens_per_kept: float | None
    """Tokens sampled for each rollout of the data set."""


@dataclass(frozen=True, slots=True)
class _ProblemCounts:
    """Rollouts counted by problem; problems in order of their id, so that no order of rows changes a digit."""

    ids: list[str]
    difficulties: NDArray[np.str_]
    row_problems: NDArray[np.int64]
    """Shape (rows,): the index of each row's problem in `ids`."""
    samples: NDArray[np.int64]
    correct: NDArray[np.int64]
    clusters: NDArray[np.int64] | None = None
    """Shape (problems,): the index of each problem's cluster, from 0; None if problems are independent."""

    def row_units(self) -> NDArray[np.int64]:
        """Return the independent unit of every row: the cluster of its problem, or the problem."""
        return self.row_problems if self.clusters is None else self.clusters[self.row_problems]


def difficulties(rollouts: pa.Table) -> list[str]:
    """Return the difficulties that occur, easy to hard, then others by name; an empty name is left out."""
    names = {name for name in pc.unique(rollouts["problem_difficulty"]).to_pylist() if name}
    return [name for name in _EASY_TO_HARD if name in names] + sorted(names - set(_EASY_TO_HARD))


def score(rollouts: pa.Table, arm: str, ks: Sequence[int] = (1,), clusters: Clusters | None = None) -> list[Score]:
    """Score one arm on all its problems, then on each difficulty.

    Args:
        rollouts: the arm's rollouts of the test problems; equal answers must have equal text
            (answer_groups.group_equal_answers).
        arm: name of the arm, such as "base" or "student".
        ks: the k of pass@k and maj@k.
        clusters: which problems are variants of one another.

    Raises:
        ValueError: there are no rollouts, the samples of problems differ in number, or some k exceeds them.
    """
    if rollouts.num_rows == 0:
        raise ValueError(f"arm {arm!r} has no rollouts")
    model = ", ".join(sorted(pc.unique(rollouts["model"]).to_pylist())) if "model" in rollouts.column_names else ""
    return [
        _score_slice(part, arm, model, name, ks, clusters)
        for name, part in [(ALL, rollouts), *by_difficulty(rollouts, difficulties(rollouts))]
    ]


def by_difficulty(rollouts: pa.Table, names: Sequence[str]) -> list[tuple[str, pa.Table]]:
    """Return (name, rollouts) of each of the named difficulties."""
    return [(name, rollouts.filter(pc.equal(rollouts["problem_difficulty"], name))) for name in names]


def _score_slice(
    rollouts: pa.Table, arm: str, model: str, difficulty: str, ks: Sequence[int], clusters: Clusters | None
) -> Score:
    counts = _count_by_problem(rollouts, clusters)
    samples, units = _samples_per_problem(counts, arm), counts.clusters
    outcomes = {entry["values"]: entry["counts"] for entry in pc.value_counts(rollouts["verdict_outcome"]).to_pylist()}
    tokens = rollouts["completion_tokens"].to_numpy().astype(np.float64)
    return Score(
        arm=arm,
        model=model,
        difficulty=difficulty,
        problems=len(counts.ids),
        samples=samples,
        pass_at={k: share_interval(pass_at_k(counts.correct, samples, k), clusters=units) for k in ks},
        majority_at={k: share_interval(_majority(rollouts, counts, k), clusters=units) for k in ks if k > 1},
        outcomes={outcome: outcomes.get(outcome.value, 0) / rollouts.num_rows for outcome in Outcome},
        completion_tokens=mean_interval(tokens, clusters=counts.row_units(), bounds=COUNT_BOUNDS),
    )


def _count_by_problem(rollouts: pa.Table, clusters: Clusters | None = None) -> _ProblemCounts:
    encoded = pa.chunked_array([rollouts["problem_id"].combine_chunks()]).combine_chunks().dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty_like(order, dtype=np.int64)
    rank[order] = np.arange(order.size)
    row_problems = rank[encoded.indices.to_numpy()]
    correct = _is_correct(rollouts).astype(np.float64)
    names = np.empty(order.size, dtype=object)
    names[row_problems] = rollouts["problem_difficulty"].to_numpy()
    ids = encoded.dictionary.take(pa.array(order)).to_pylist()
    return _ProblemCounts(
        ids=ids,
        difficulties=names.astype(np.str_),
        row_problems=row_problems,
        samples=np.bincount(row_problems, minlength=order.size),
        correct=np.bincount(row_problems, correct, order.size).astype(np.int64),
        clusters=np.unique([clusters.get(id, id) for id in ids], return_inverse=True)[1] if clusters else None,
    )


def _is_correct(rollouts: pa.Table) -> NDArray[np.bool_]:
    return np.asarray(pc.equal(rollouts["verdict_outcome"], Outcome.CORRECT.value).to_numpy())


def _samples_per_problem(counts: _ProblemCounts, arm: str) -> int:
    fewest, most = int(counts.samples.min()), int(counts.samples.max())
    if fewest != most:
        problem = counts.ids[int(counts.samples.argmin())]
        raise ValueError(
            f"arm {arm!r}: problem {problem} has {fewest} samples and another {most}; every problem must have as many"
        )
    return most


def _majority(rollouts: pa.Table, counts: _ProblemCounts, k: int) -> NDArray[np.float64]:
    """Return maj@k of each problem.

    Correct samples are one answer, because the checker found them equal to the gold answer. Wrong ones are
    distinguished by their text, in which equal answers are spelled alike (answer_groups.group_equal_answers). A sample
    without an answer abstains.
    """
    is_wrong = pc.and_(
        pc.not_equal(rollouts["verdict_outcome"], Outcome.CORRECT.value), pc.is_valid(rollouts["verdict_extracted"])
    )
    answers = pc.utf8_trim_whitespace(rollouts["verdict_extracted"])
    votes = pa.table({"problem": counts.row_problems, "answer": answers}).filter(is_wrong)
    grouped = votes.group_by(["problem", "answer"]).aggregate([([], "count_all")])
    wrong_votes: list[list[int]] = [[] for _ in counts.ids]
    for problem, size in zip(grouped["problem"].to_pylist(), grouped["count_all"].to_pylist(), strict=True):
        wrong_votes[problem].append(size)
    return np.array(
        [
            majority_at_k(int(correct), tuple(sorted(wrong)), int(samples - correct - sum(wrong)), k)
            for correct, samples, wrong in zip(counts.correct, counts.samples, wrong_votes, strict=True)
        ]
    )


def acceptance(rollouts: pa.Table) -> Interval:
    """Return the share of CORRECT among all rollouts, the problem being the unit; problems may differ in samples.

    Raises:
        ValueError: there are no rollouts.
    """
    return share_interval(_is_correct(rollouts).astype(np.float64), clusters=_count_by_problem(rollouts).row_problems)


def units_of(rollouts: pa.Table, clusters: Clusters | None = None) -> NDArray[np.int64]:
    """Return the index of each rollout's independent unit: its problem, or the problem's cluster."""
    return _count_by_problem(rollouts, clusters).row_units()


def rates(rollouts: pa.Table, clusters: Clusters | None = None) -> dict[str, Interval]:
    """Return the share of each outcome among all rollouts, the problem (or its cluster) being the unit.

    Raises:
        ValueError: there are no rollouts.
    """
    units = units_of(rollouts, clusters)
    outcomes = rollouts["verdict_outcome"]
    masks = {outcome.value: pc.equal(outcomes, outcome.value).to_numpy().astype(np.float64) for outcome in Outcome}
    return {name: share_interval(mask, clusters=units) for name, mask in masks.items()}


def paired_difference(before: pa.Table, after: pa.Table, clusters: Clusters | None = None) -> dict[str, Difference]:
    """Compare two arms problem by problem, on all problems and on each difficulty.

    The interval is Student's t over the problems' differences. When every difference is 0 it is the point 0: it then
    claims only that no problem changed.

    Raises:
        ValueError: the arms have other problems, or other numbers of samples.
    """
    old, new = _count_by_problem(before, clusters), _count_by_problem(after, clusters)
    if old.ids != new.ids:
        only = sorted(set(old.ids) ^ set(new.ids))
        raise ValueError(f"a paired difference needs the same problems; {len(only)} are in one arm only: {only[0]}")
    samples, samples_after = _samples_per_problem(old, "before"), _samples_per_problem(new, "after")
    if samples != samples_after:
        raise ValueError(f"a paired difference needs as many samples: {samples} before, {samples_after} after")
    everywhere = np.ones(len(old.ids), dtype=bool)
    slices = {ALL: everywhere} | {name: old.difficulties == name for name in difficulties(before)}
    return {
        name: _difference(
            old.correct[rows], new.correct[rows], samples, None if old.clusters is None else old.clusters[rows]
        )
        for name, rows in slices.items()
    }


def _difference(
    before: NDArray[np.int64], after: NDArray[np.int64], samples: int, clusters: NDArray[np.int64] | None
) -> Difference:
    change = after - before
    variances = [sample_variance(counts, samples) for counts in (before, after)]
    within = variances[0] + variances[1] if variances[0] is not None and variances[1] is not None else None
    cells = np.bincount(before * (samples + 1) + after, minlength=(samples + 1) ** 2).reshape(samples + 1, samples + 1)
    interval = Interval(0.0, 0.0, 0.0)
    if change.any():
        interval = mean_interval(change / samples, clusters=clusters, bounds=DIFFERENCE_BOUNDS)
    split = power(change / samples, within, samples, clusters=clusters)
    return Difference(
        mean=interval.mean,
        low=interval.low,
        high=interval.high,
        problems=change.size,
        gained=int((change > 0).sum()),
        lost=int((change < 0).sum()),
        transitions=tuple(tuple(row) for row in cells.tolist()),
        p=p_value(change / samples, clusters=clusters),
        power=split,
        advice=_advice(interval, split),
    )


def _advice(interval: Interval, split: Power) -> Advice:
    """Return the way to narrow an interval.

    Twice the problems always narrow an interval at least as much as twice the samples, at the same cost. Samples are
    the advice where they do nearly as well, because problems are what people run out of.
    """
    if not interval.low <= 0 <= interval.high:
        return Advice.ENOUGH
    return Advice.SAMPLES if split.within_share is not None and split.within_share > 0.5 else Advice.PROBLEMS


def k_curve(rollouts: pa.Table, keep_per_problem: int) -> tuple[SamplesPoint, ...]:
    """Return the expected results of k samples of each problem, for k = 1, 2, 4, … up to all samples, by subsampling.

    Each point is an expectation over all k-subsets of the samples of each problem. Usable are the rollouts that no rule
    dropped, before curation the correct ones. A duplicate counts as dropped even where its original is not in the
    subset, so `kept` is a little low for small k.

    Valid only where the number of samples does not depend on their verdicts (policy "fixed"): a run that stops at
    success is biased.
    """
    if rollouts.num_rows == 0:
        return ()
    counts = _count_by_problem(rollouts)
    is_usable = (
        pc.is_in(rollouts["annotation_dropped_by"], value_set=pa.array(["", OVER_QUOTA])).to_numpy()
        if is_annotated(rollouts)
        else _is_correct(rollouts)
    )
    problems = len(counts.ids)
    usable = np.bincount(counts.row_problems, is_usable.astype(np.float64), problems).astype(np.int64)
    tokens = np.bincount(counts.row_problems, rollouts["completion_tokens"].to_numpy(), problems) / counts.samples
    fewest = int(counts.samples.min())
    ks = sorted({2**power for power in range(fewest.bit_length())} | {fewest})
    return tuple(_samples_point(k, counts, usable, float(tokens.sum()), keep_per_problem) for k in ks)


def _samples_point(
    k: int, counts: _ProblemCounts, usable: NDArray[np.int64], tokens: float, keep_per_problem: int
) -> SamplesPoint:
    covered, kept = np.empty(len(counts.ids)), np.empty(len(counts.ids))
    for samples in np.unique(counts.samples):  # one value, unless the run is unfinished
        rows = counts.samples == samples
        covered[rows] = pass_at_k(counts.correct[rows], int(samples), k)
        kept[rows] = expected_kept(usable[rows], int(samples), k, keep_per_problem)
    most = min(k, keep_per_problem)
    share = share_interval(kept / most)
    total = Interval(*(end * most * kept.size for end in (share.mean, share.low, share.high)))
    return SamplesPoint(
        k=k,
        acceptance=share_interval(counts.correct / counts.samples),
        coverage=share_interval(covered),
        kept=total,
        tokens_per_kept=k * tokens / total.mean if total.mean else None,
    )

"""What rollouts say: scores of an arm, paired differences, and what fewer samples would have given.

Works on columns of tables.ROLLOUT_SCHEMA, never on text. Accuracy is strict: CORRECT over all samples. A truncated
sample, one without an answer and one that could not be judged are not correct, but each is a rate of its own beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

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
from reasonray.records import OVER_QUOTA, Interval, Outcome, Score

COUNT = (0.0, inf)
DIFFERENCE = (-1.0, 1.0)
ALL = "all"
_EASY_TO_HARD = ("easy", "medium", "hard")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A paired comparison of two arms on the same problems: after - before in pass@1."""

    interval: Interval
    problems: int
    gained: int
    """Problems with more correct samples after than before."""
    lost: int
    """Problems with fewer."""
    transitions: tuple[tuple[int, ...], ...]
    """transitions[b][a]: problems with b correct samples before and a after."""
    p: float
    """Of the two-sided t test that the difference is 0."""
    power: Power


@dataclass(frozen=True, slots=True)
class _ByProblem:
    """Rollouts counted by problem; problems in order of their id, so that no order of rows changes a digit."""

    ids: list[str]
    difficulties: NDArray[np.str_]
    owner: NDArray[np.int64]
    """For each row the number of its problem."""
    samples: NDArray[np.int64]
    correct: NDArray[np.int64]
    clusters: NDArray[np.int64] | None = None
    """For each problem the number of its cluster, from 0; None if problems are independent."""

    def of_rows(self) -> NDArray[np.int64]:
        """Return the unit of every row: its problem's cluster, or the problem."""
        return self.owner if self.clusters is None else self.clusters[self.owner]


Clusters = Mapping[str, str]
"""Problem id → what it is a variant of. Problems that are not named are clusters of their own."""


def difficulties(rollouts: pa.Table) -> list[str]:
    """Return the difficulties that occur, easy to hard, then by name; unnamed ones are left out."""
    found = {name for name in pc.unique(rollouts["problem_difficulty"]).to_pylist() if name}
    return [name for name in _EASY_TO_HARD if name in found] + sorted(found - set(_EASY_TO_HARD))


def score(rollouts: pa.Table, arm: str, ks: Sequence[int] = (1,), clusters: Clusters | None = None) -> list[Score]:
    """Measure one arm: on all its problems, then on each difficulty.

    Args:
        rollouts: the arm's rollouts of the test problems; equal answers have equal text (ballots.alike).
        arm: name of the arm, such as "base" or "student".
        ks: for pass@k and maj@k.
        clusters: which problems are variants of one another.

    Raises:
        ValueError: there are no rollouts, the samples of problems differ in number, or some k exceeds them.
    """
    if rollouts.num_rows == 0:
        raise ValueError(f"arm {arm!r} has no rollouts")
    model = ", ".join(sorted(pc.unique(rollouts["model"]).to_pylist())) if "model" in rollouts.column_names else ""
    named = difficulties(rollouts)
    return [
        _score_slice(part, arm, model, name, ks, clusters)
        for name, part in [(ALL, rollouts), *by_difficulty(rollouts, named)]
    ]


def by_difficulty(rollouts: pa.Table, named: Sequence[str]) -> list[tuple[str, pa.Table]]:
    """Return the rollouts of each difficulty."""
    return [(name, rollouts.filter(pc.equal(rollouts["problem_difficulty"], name))) for name in named]


def _score_slice(
    rollouts: pa.Table, arm: str, model: str, difficulty: str, ks: Sequence[int], clusters: Clusters | None
) -> Score:
    counted = _count(rollouts, clusters)
    samples, units = _same_samples(counted, arm), counted.clusters
    outcomes = {entry["values"]: entry["counts"] for entry in pc.value_counts(rollouts["verdict_outcome"]).to_pylist()}
    tokens = rollouts["completion_tokens"].to_numpy().astype(np.float64)
    return Score(
        arm=arm,
        model=model,
        difficulty=difficulty,
        problems=len(counted.ids),
        samples=samples,
        pass_at={k: share_interval(pass_at_k(counted.correct, samples, k), clusters=units) for k in ks},
        majority_at={k: share_interval(_majority(rollouts, counted, k), clusters=units) for k in ks if k > 1},
        outcomes={outcome: outcomes.get(outcome.value, 0) / rollouts.num_rows for outcome in Outcome},
        completion_tokens=mean_interval(tokens, clusters=counted.of_rows(), bounds=COUNT),
    )


def _count(rollouts: pa.Table, clusters: Clusters | None = None) -> _ByProblem:
    encoded = pa.chunked_array([rollouts["problem_id"].combine_chunks()]).combine_chunks().dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty_like(order, dtype=np.int64)
    rank[order] = np.arange(order.size)
    owner = rank[encoded.indices.to_numpy()]
    correct = pc.equal(rollouts["verdict_outcome"], Outcome.CORRECT.value).to_numpy().astype(np.float64)
    names = np.empty(order.size, dtype=object)
    names[owner] = rollouts["problem_difficulty"].to_numpy()
    ids = encoded.dictionary.take(pa.array(order)).to_pylist()
    return _ByProblem(
        ids=ids,
        difficulties=names.astype(np.str_),
        owner=owner,
        samples=np.bincount(owner, minlength=order.size),
        correct=np.bincount(owner, correct, order.size).astype(np.int64),
        clusters=np.unique([clusters.get(it, it) for it in ids], return_inverse=True)[1] if clusters else None,
    )


def _same_samples(counted: _ByProblem, arm: str) -> int:
    least, most = int(counted.samples.min()), int(counted.samples.max())
    if least != most:
        problem = counted.ids[int(counted.samples.argmin())]
        raise ValueError(
            f"arm {arm!r}: problem {problem} has {least} samples and another {most}; every problem must have as many"
        )
    return most


def _majority(rollouts: pa.Table, counted: _ByProblem, k: int) -> NDArray[np.float64]:
    """Return maj@k of each problem. Correct samples are one answer (the checker found them equal), wrong ones are told
    apart by their text, in which equal answers are alike (ballots.alike); whatever has none abstains."""
    wrong = pc.and_(
        pc.not_equal(rollouts["verdict_outcome"], Outcome.CORRECT.value), pc.is_valid(rollouts["verdict_extracted"])
    )
    votes = pa.table({"owner": counted.owner, "answer": pc.utf8_trim_whitespace(rollouts["verdict_extracted"])}).filter(
        wrong
    )
    grouped = votes.group_by(["owner", "answer"]).aggregate([([], "count_all")])
    sizes: list[list[int]] = [[] for _ in counted.ids]
    for owner, size in zip(grouped["owner"].to_pylist(), grouped["count_all"].to_pylist(), strict=True):
        sizes[owner].append(size)
    return np.array(
        [
            majority_at_k(int(correct), tuple(sorted(wrong)), int(samples - correct - sum(wrong)), k)
            for correct, samples, wrong in zip(counted.correct, counted.samples, sizes, strict=True)
        ]
    )


def acceptance(rollouts: pa.Table) -> Interval:
    """Return the share of CORRECT among all rollouts, the problem being the unit; problems may differ in samples.

    Raises:
        ValueError: there are no rollouts.
    """
    counted = _count(rollouts)
    correct = pc.equal(rollouts["verdict_outcome"], Outcome.CORRECT.value).to_numpy().astype(np.float64)
    return share_interval(correct, clusters=counted.owner)


def units_of(rollouts: pa.Table, clusters: Clusters | None = None) -> NDArray[np.int64]:
    """Return for each rollout the number of what is independent of others: its problem, or the problem's cluster."""
    return _count(rollouts, clusters).of_rows()


def rates(rollouts: pa.Table, clusters: Clusters | None = None) -> dict[str, Interval]:
    """Return the share of each outcome among all rollouts, the problem (or its cluster) being the unit.

    Raises:
        ValueError: there are no rollouts.
    """
    units = units_of(rollouts, clusters)
    found = {it: pc.equal(rollouts["verdict_outcome"], it.value).to_numpy().astype(np.float64) for it in Outcome}
    return {it.value: share_interval(column, clusters=units) for it, column in found.items()}


def paired_difference(before: pa.Table, after: pa.Table, clusters: Clusters | None = None) -> dict[str, Difference]:
    """Compare two arms problem by problem, on all of them and on each difficulty.

    The interval is Student's t over the problems' differences. When every difference is 0 it is the point 0: then no
    problem changed, which is all that is claimed.

    Raises:
        ValueError: the arms have other problems, or other numbers of samples.
    """
    old, new = _count(before, clusters), _count(after, clusters)
    if old.ids != new.ids:
        only = sorted(set(old.ids) ^ set(new.ids))
        raise ValueError(f"a paired difference needs the same problems; {len(only)} are in one arm only: {only[0]}")
    samples, samples_after = _same_samples(old, "before"), _same_samples(new, "after")
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
    unchanged = Interval(0.0, 0.0, 0.0)
    noise = [sample_variance(counts, samples) for counts in (before, after)]
    within = noise[0] + noise[1] if noise[0] is not None and noise[1] is not None else None
    cells = np.bincount(before * (samples + 1) + after, minlength=(samples + 1) ** 2).reshape(samples + 1, samples + 1)
    return Difference(
        interval=mean_interval(change / samples, clusters=clusters, bounds=DIFFERENCE) if change.any() else unchanged,
        problems=change.size,
        gained=int((change > 0).sum()),
        lost=int((change < 0).sum()),
        transitions=tuple(tuple(row) for row in cells.tolist()),
        p=p_value(change / samples, clusters=clusters),
        power=power(change / samples, within, samples, clusters=clusters),
    )


def k_curve(rollouts: pa.Table, keep_per_problem: int) -> list[dict[str, Any]]:
    """Say what K samples a problem would have given, for K = 1, 2, 4, … up to what was drawn, by subsampling.

    Each row is an expectation over all K-subsets of the samples of each problem: `acceptance` (share correct; the same
    for every K, since attempts are independent), `coverage` (share of problems with a correct one: pass@K), `kept`
    (size of the data set when at most keep_per_problem usable rollouts of a problem are taken) and `tokens_per_kept`.
    Usable are those that no rule dropped, before curation the correct ones; a duplicate counts as dropped even where
    its original is not in the subset, so `kept` is a little low for small K.

    Only for samples that were drawn whatever their verdicts (policy "fixed"): a run that stops at success is biased.
    """
    if rollouts.num_rows == 0:
        return []
    counted = _count(rollouts)
    usable_rows = (
        pc.is_in(rollouts["annotation_dropped_by"], value_set=pa.array(["", OVER_QUOTA]))
        if is_annotated(rollouts)
        else pc.equal(rollouts["verdict_outcome"], Outcome.CORRECT.value)
    )
    problems = len(counted.ids)
    usable = np.bincount(counted.owner, usable_rows.to_numpy().astype(np.float64), problems).astype(np.int64)
    tokens = np.bincount(counted.owner, rollouts["completion_tokens"].to_numpy(), problems) / counted.samples
    most = int(counted.samples.min())
    steps = sorted({2**power for power in range(most.bit_length())} | {most})
    return [_k_row(k, counted, usable, float(tokens.sum()), keep_per_problem) for k in steps]


def _k_row(
    k: int, counted: _ByProblem, usable: NDArray[np.int64], tokens: float, keep_per_problem: int
) -> dict[str, Any]:
    covered, kept = np.empty(len(counted.ids)), np.empty(len(counted.ids))
    for samples in np.unique(counted.samples):  # one value, unless the run is unfinished
        rows = counted.samples == samples
        covered[rows] = pass_at_k(counted.correct[rows], int(samples), k)
        kept[rows] = expected_kept(usable[rows], int(samples), k, keep_per_problem)
    most = min(k, keep_per_problem)
    total = {name: share * most * kept.size for name, share in asdict(share_interval(kept / most)).items()}
    return {
        "k": k,
        "acceptance": asdict(share_interval(counted.correct / counted.samples)),
        "coverage": asdict(share_interval(covered)),
        "kept": total,
        "tokens_per_kept": k * tokens / total["mean"] if total["mean"] else None,
    }

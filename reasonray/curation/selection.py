"""Selection of the rollouts that become examples: rules first, then a few per problem, the preferred first.

Works on the features of all rollouts at once, never on text, and does not depend on the order of the rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from reasonray.config import Curation, UserError
from reasonray.curation.comparing_rules import Comparison
from reasonray.curation.dedup import signature_matrix
from reasonray.curation.rules import RULES, ComparingRule
from reasonray.records import JUDGED, OVER_QUOTA, Outcome, content_hash

__all__ = ["distinct_rollouts", "select"]

_Integers = npt.NDArray[np.int64]
_Signatures = npt.NDArray[np.unsignedinteger[Any]]


def distinct_rollouts(features: pa.Table) -> pa.Table:
    """Return one row of each rollout, sorted by id.

    Of a rollout that was sampled again the newest counts. Of one that was committed twice the content decides, not
    which copy was read first.

    Args:
        features: columns id, resample, content (a hash of the rollout), part and row (where it is stored).
    """
    order = [("id", "ascending"), ("resample", "descending"), ("content", "ascending")]
    ordered = features.sort_by([*order, ("part", "ascending"), ("row", "ascending")])
    if not ordered.num_rows:
        return ordered
    ids = ordered["id"].combine_chunks()
    return ordered.filter(pa.concat_arrays([pa.array([True]), pc.not_equal(ids[1:], ids[:-1])]))


def select(features: pa.Table, curation: Curation, *, contaminated: Collection[str] = ()) -> pa.Table:
    """Decide for every rollout: dropped by a rule, "over_quota", or selected.

    Args:
        features: as features.rollout_features returns them, ids unique.
        curation: rules in order, and what is preferred.
        contaminated: ids of problems that overlap with held-out ones.

    Returns:
        The rows in their order, with columns id, dropped_by, selected and pass_rate (share of CORRECT among the
        problem's judged rollouts; null if none was judged).

    Raises:
        UserError: mix names a source that has no examples.
    """
    problem = _ordered_codes(features["problem_id"])
    rates = _pass_rates(problem, features["verdict_outcome"])
    comparison = Comparison(features, problem, rates, curation, contaminated)
    first, candidates = _apply_rules(comparison)
    quotas = _quotas(rates, curation)
    if curation.prefer == "diverse":
        candidates = _most_different_first(candidates, problem, quotas, signature_matrix(features))
    taken = candidates[_ranks_in_problem(problem[candidates]) < quotas[problem[candidates]]]
    taken = _fair_share(features, taken, problem, curation)
    selected = np.zeros(features.num_rows, dtype=bool)
    selected[taken] = True
    names = np.array([*curation.rules, OVER_QUOTA], dtype=object)
    return pa.table(
        {
            "id": features["id"],
            "dropped_by": pa.array(np.where(selected, "", names[first]), pa.large_string()),
            "selected": pa.array(selected),
            "pass_rate": pa.array(rates[problem], pa.float64(), mask=np.isnan(rates[problem])),
        }
    )


def _apply_rules(comparison: Comparison) -> tuple[_Integers, _Integers]:
    """Apply the comparing rules, each at its place among all rules.

    Returns:
        The position in curation.rules of the first rule that fires on each row, len(rules) where none does; and the
        rows that none fires on, problem by problem, the preferred first.
    """
    rules = comparison.curation.rules
    comparing = {place: rule for place, name in enumerate(rules) if isinstance(rule := RULES.get(name), ComparingRule)}
    first = comparison.features["first_rule"].to_numpy().astype(np.int64)
    # The rows that some comparing rule or the selection sees; to order the others would be wasted.
    seen = np.flatnonzero(first > min(comparing, default=len(rules) - 1))
    ordered = _in_order(comparison.features, comparison.problem, seen, comparison.curation)
    for place, rule in comparing.items():
        # Those that a later rule would drop take part in the comparison.
        candidates = ordered[first[ordered] > place]
        first[candidates[rule.drops(comparison, candidates)]] = place
    return first, ordered[first[ordered] == len(rules)]


def _in_order(features: pa.Table, problem: _Integers, rows: _Integers, curation: Curation) -> _Integers:
    """Return rows problem by problem, the preferred first, equal ones by id."""
    tokens = features["completion_tokens"].to_numpy().astype(np.int64)
    rank: npt.NDArray[Any]
    match curation.prefer:
        case "longest":
            rank = -tokens[rows]
        case "score":
            rank = -features["score"].to_numpy()[rows]
        case "random":
            ids = features["id"].take(pa.array(rows)).to_pylist()
            rank = np.array([int(content_hash(curation.seed, rollout)[:15], 16) for rollout in ids], np.int64)
        case _:
            rank = tokens[rows]
    return np.asarray(rows[np.lexsort((_ranks(features["id"])[rows], rank, problem[rows]))])


def _most_different_first(
    candidates: _Integers, problem: _Integers, quotas: _Integers, signatures: _Signatures
) -> _Integers:
    """Return as many of each problem's rows as its quota: the first, then always the one least like those before it.

    Likeness is the share of equal entries of two MinHash signatures, an estimate of the n-grams' Jaccard similarity.
    """
    groups = np.split(candidates, np.flatnonzero(np.diff(problem[candidates])) + 1) if len(candidates) else []
    spread = [_spread_out(rows, signatures[rows], int(quotas[problem[rows[0]]])) for rows in groups]
    return np.concatenate([candidates[:0], *spread])


def _spread_out(rows: _Integers, signatures: _Signatures, most: int) -> _Integers:
    order, likeness = [0], np.full(len(rows), -1.0)
    while len(order) < min(most, len(rows)):
        likeness = np.maximum(likeness, (signatures == signatures[order[-1]]).mean(axis=1))
        likeness[order[-1]] = np.inf
        order.append(int(np.argmin(likeness)))
    return np.asarray(rows[order])


def _quotas(rates: npt.NDArray[np.float64], curation: Curation) -> _Integers:
    """Return how many rollouts of each problem are selected at most."""
    if curation.quota == "even":
        return np.full(len(rates), curation.keep_per_problem, np.int64)
    hard = curation.keep_per_problem * (1 - np.nan_to_num(rates))
    return np.asarray(np.maximum(1, np.ceil(hard - 1e-9)), np.int64)


def _fair_share(features: pa.Table, taken: _Integers, problem: _Integers, curation: Curation) -> _Integers:
    """Return as many rows as size and mix allow: first ones of every problem before second ones of any."""
    if curation.size is None and not curation.mix:
        return taken
    problems = features["problem_id"].take(pa.array(taken)).to_pylist()
    shuffle = {name: int(content_hash("turn", curation.seed, name)[:15], 16) for name in dict.fromkeys(problems)}
    order = np.array([shuffle[name] for name in problems], np.int64)
    turns = np.asarray(taken[np.lexsort((order, _ranks_in_problem(problem[taken])))])
    if not curation.mix:
        return turns[: curation.size]
    sources = np.array(features["problem_source"].take(pa.array(turns)).to_pylist(), dtype=object)
    counts = {source: int((sources == source).sum()) for source in curation.mix}
    if missing := [source for source, count in counts.items() if not count and curation.mix[source]]:
        raise UserError(f"curation.mix: source {missing[0]!r} has no rollout to select; take it out, or sample more")
    most = min(int(count / curation.mix[source] + 1e-9) for source, count in counts.items() if curation.mix[source])
    parts = _apportioned(min(most, curation.size or most), curation.mix)
    return np.concatenate([turns[sources == source][:part] for source, part in parts.items()])


def _apportioned(size: int, mix: Mapping[str, float]) -> dict[str, int]:
    """Return a size split by shares into whole numbers that sum to it (the largest-remainder method)."""
    exact = {source: size * share / sum(mix.values()) for source, share in mix.items()}
    parts = {source: int(wanted + 1e-9) for source, wanted in exact.items()}
    by_remainder = sorted(mix, key=lambda source: round(parts[source] - exact[source], 9))
    for source in by_remainder[: size - sum(parts.values())]:
        parts[source] += 1
    return parts


def _ordered_codes(column: pa.ChunkedArray) -> _Integers:
    """Return a number for each distinct value, in the order of the values, so that no order of the rows matters."""
    encoded = pc.dictionary_encode(column.combine_chunks())
    indices = encoded.indices.to_numpy(zero_copy_only=False)
    return np.asarray(_ranks(encoded.dictionary)[indices] if len(indices) else indices, dtype=np.int64)


def _ranks(column: pa.ChunkedArray) -> _Integers:
    """Return the place of each value among all values, sorted."""
    ranks = np.empty(len(column), dtype=np.int64)
    ranks[pc.sort_indices(column).to_numpy()] = np.arange(len(column))
    return ranks


def _ranks_in_problem(problem: _Integers) -> _Integers:
    """Return the place of each row within its problem; the rows of a problem must be adjacent."""
    rows = np.arange(len(problem))
    begins = np.r_[True, problem[1:] != problem[:-1]] if len(problem) else np.zeros(0, dtype=bool)
    return np.asarray(rows - np.maximum.accumulate(np.where(begins, rows, 0)), dtype=np.int64)


def _pass_rates(problem: _Integers, outcomes: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Return the pass rate of every problem; NaN where no rollout was judged."""
    judged = pc.is_in(outcomes, value_set=pa.array([outcome.value for outcome in JUDGED])).to_numpy()
    correct = pc.equal(outcomes, Outcome.CORRECT.value).to_numpy()
    size = int(problem.max(initial=-1)) + 1
    total = np.bincount(problem[judged], minlength=size)
    passed = np.bincount(problem[correct], minlength=size)
    return np.where(total == 0, np.nan, passed / np.maximum(total, 1))

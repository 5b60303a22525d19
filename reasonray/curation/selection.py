"""Which of the good rollouts become examples: distinct ones, the preferred first, a few per problem, in fair shares.

Works on narrow columns of all rollouts at once, never on text, and depends on no order of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from reasonray.config import Curation, UserError
from reasonray.curation.features import signature_matrix
from reasonray.curation.rules import COMPARING
from reasonray.records import JUDGED, OVER_QUOTA, Outcome, content_hash

__all__ = ["OVER_QUOTA", "select"]

_Integers = npt.NDArray[np.int64]
_Signatures = npt.NDArray[np.unsignedinteger[Any]]
_Booleans = npt.NDArray[np.bool_]


def select(narrow: pa.Table, curation: Curation, *, contaminated: Collection[str] = ()) -> pa.Table:
    """Give every rollout its fate: dropped by a rule, "over_quota", or selected.

    Args:
        narrow: columns id (unique), problem_id, problem_source, completion_tokens, verdict_outcome, dropped_by (the
            rule that already dropped it, "" if none), text_hash (narrow.text_hash of the completion); reasoning
            (of its equations, "" for none), near (of its near-duplicates), signature (fixed-size list of integers) and
            score, where the configuration asks for them.
        curation: rules in order, and what is preferred.
        contaminated: ids of problems that overlap with held-out ones.

    Returns:
        The rows in their order, with columns id, dropped_by, selected and pass_rate (share of CORRECT among the
        problem's judged rollouts; null if none was judged).

    Raises:
        UserError: mix names a source that has no examples.
    """
    problem = _ordered_codes(narrow["problem_id"])
    rates = _pass_rates(problem, narrow["verdict_outcome"])
    fate = narrow["dropped_by"].to_numpy().astype(object)
    candidates = _in_order(narrow, problem, np.flatnonzero(fate == ""), curation)
    choice = _Choice(narrow, problem, rates, curation, contaminated)
    for rule in (name for name in curation.rules if name in COMPARING):
        fires = _COMPARED[rule](choice, candidates)
        fate[candidates[fires]] = rule
        candidates = candidates[~fires]
    quotas = _quotas(rates, curation)
    if curation.prefer == "diverse":
        candidates = _most_different_first(candidates, problem, quotas, signature_matrix(narrow))
    taken = candidates[_places(problem[candidates]) < quotas[problem[candidates]]]
    taken = _fair_share(narrow, taken, problem, curation)
    selected = np.zeros(narrow.num_rows, dtype=bool)
    selected[taken] = True
    fate[(fate == "") & ~selected] = OVER_QUOTA
    return pa.table(
        {
            "id": narrow["id"],
            "dropped_by": pa.array(fate, pa.string()),
            "selected": pa.array(selected),
            "pass_rate": pa.array(rates[problem], pa.float64(), mask=np.isnan(rates[problem])),
        }
    )


def _in_order(narrow: pa.Table, problem: _Integers, rows: _Integers, curation: Curation) -> _Integers:
    """Return rows problem by problem, the preferred first, equal ones by id."""
    tokens = narrow["completion_tokens"].to_numpy().astype(np.int64)
    first: npt.NDArray[Any]
    match curation.prefer:
        case "longest":
            first = -tokens[rows]
        case "score":
            first = -narrow["score"].to_numpy()[rows]
        case "random":
            ids = narrow["id"].take(pa.array(rows)).to_pylist()
            first = np.array([int(content_hash(curation.seed, it)[:15], 16) for it in ids], np.int64)
        case _:
            first = tokens[rows]
    return np.asarray(rows[np.lexsort((_ranks(narrow["id"])[rows], first, problem[rows]))])


def _most_different_first(
    candidates: _Integers, problem: _Integers, quotas: _Integers, signatures: _Signatures
) -> _Integers:
    """Return as many of each problem's rows as it may give: the first, then always the one least like those before it.

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
    if curation.quota == "even":
        return np.full(len(rates), curation.keep_per_problem, np.int64)
    hard = curation.keep_per_problem * (1 - np.nan_to_num(rates))
    return np.asarray(np.maximum(1, np.ceil(hard - 1e-9)), np.int64)


def _fair_share(narrow: pa.Table, taken: _Integers, problem: _Integers, curation: Curation) -> _Integers:
    """Return as many rows as size and mix allow: first ones of every problem before second ones of any."""
    if curation.size is None and not curation.mix:
        return taken
    problems = narrow["problem_id"].take(pa.array(taken)).to_pylist()
    dice = {it: int(content_hash("turn", curation.seed, it)[:15], 16) for it in dict.fromkeys(problems)}
    thrown = np.array([dice[it] for it in problems], np.int64)
    turns = np.asarray(taken[np.lexsort((thrown, _places(problem[taken])))])
    if not curation.mix:
        return turns[: curation.size]
    sources = np.array(narrow["problem_source"].take(pa.array(turns)).to_pylist(), dtype=object)
    there = {source: int((sources == source).sum()) for source in curation.mix}
    if missing := [source for source, count in there.items() if not count and curation.mix[source]]:
        raise UserError(f"curation.mix: source {missing[0]!r} has no rollout to select; take it out, or draw more")
    most = min(int(count / curation.mix[source] + 1e-9) for source, count in there.items() if curation.mix[source])
    parts = _parts(min(most, curation.size or most), curation.mix)
    return np.concatenate([turns[sources == source][:part] for source, part in parts.items()])


def _parts(size: int, mix: Mapping[str, float]) -> dict[str, int]:
    """Deal a size out by shares: whole numbers that sum to it, what is left over to the largest remainders."""
    exact = {source: size * share / sum(mix.values()) for source, share in mix.items()}
    parts = {source: int(wanted + 1e-9) for source, wanted in exact.items()}
    owed = sorted(mix, key=lambda source: round(parts[source] - exact[source], 9))
    for source in owed[: size - sum(parts.values())]:
        parts[source] += 1
    return parts


@dataclass(frozen=True, slots=True)
class _Choice:
    """What a rule that compares rollouts may look at."""

    narrow: pa.Table
    problem: _Integers
    """The problem of each row, by number."""
    rates: npt.NDArray[np.float64]
    """The pass rate of each problem."""
    curation: Curation
    contaminated: Collection[str]


def _contaminated(choice: _Choice, candidates: _Integers) -> _Booleans:
    dirty = pa.array(sorted(choice.contaminated), pa.string())
    return np.asarray(pc.is_in(choice.narrow["problem_id"], value_set=dirty).to_numpy()[candidates])


def _outside_band(choice: _Choice, candidates: _Integers) -> _Booleans:
    rate, band = choice.rates[choice.problem[candidates]], choice.curation
    return np.asarray((rate < band.min_pass_rate - 1e-9) | (rate > band.max_pass_rate + 1e-9))


def _repeated(column: str, *, within_problem: bool, none: str | None = None) -> Callable[..., _Booleans]:
    """Return a rule that keeps the first of the rows with the same value, in the order of preference."""

    def fires(choice: _Choice, candidates: _Integers) -> _Booleans:
        value = _codes(choice.narrow[column])[candidates]
        group = choice.problem[candidates] if within_problem else np.zeros(len(candidates), np.int64)
        pairs = group * (int(value.max(initial=0)) + 1) + value
        again = np.ones(len(pairs), dtype=bool)
        again[np.unique(pairs, return_index=True)[1]] = False
        if none is not None:
            again &= pc.not_equal(choice.narrow[column], none).to_numpy()[candidates]
        return again

    return fires


_COMPARED: dict[str, Callable[[_Choice, _Integers], _Booleans]] = {
    "contaminated": _contaminated,
    "pass_rate": _outside_band,
    "duplicate": _repeated("text_hash", within_problem=True),
    "same_reasoning": _repeated("reasoning", within_problem=True, none=""),
    "near_duplicate": _repeated("near", within_problem=False),
}


def _codes(column: pa.ChunkedArray) -> _Integers:
    """Number the distinct values; which number a value gets is of no consequence."""
    indices = pc.dictionary_encode(column.combine_chunks()).indices
    return np.asarray(indices.to_numpy(zero_copy_only=False), dtype=np.int64)


def _ordered_codes(column: pa.ChunkedArray) -> _Integers:
    """Number the distinct values in their order, so that no order of the rows matters."""
    encoded = pc.dictionary_encode(column.combine_chunks())
    indices = encoded.indices.to_numpy(zero_copy_only=False)
    return np.asarray(_ranks(encoded.dictionary)[indices] if len(indices) else indices, dtype=np.int64)


def _ranks(column: pa.ChunkedArray) -> _Integers:
    ranks = np.empty(len(column), dtype=np.int64)
    ranks[pc.sort_indices(column).to_numpy()] = np.arange(len(column))
    return ranks


def _places(problem: _Integers) -> _Integers:
    """Return each row's place within its problem; the rows of a problem stand together."""
    rows = np.arange(len(problem))
    begins = np.r_[True, problem[1:] != problem[:-1]] if len(problem) else np.zeros(0, dtype=bool)
    return np.asarray(rows - np.maximum.accumulate(np.where(begins, rows, 0)), dtype=np.int64)


def _pass_rates(problem: _Integers, outcomes: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Return every problem's pass rate; not a number where no rollout was judged."""
    judged = pc.is_in(outcomes, value_set=pa.array([outcome.value for outcome in JUDGED])).to_numpy()
    correct = pc.equal(outcomes, Outcome.CORRECT.value).to_numpy()
    size = int(problem.max(initial=-1)) + 1
    total = np.bincount(problem[judged], minlength=size)
    passed = np.bincount(problem[correct], minlength=size)
    return np.where(total == 0, np.nan, passed / np.maximum(total, 1))

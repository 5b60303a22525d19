"""Which of the good rollouts become examples: distinct ones, the shortest first, a few per problem.

Works on narrow columns of all rollouts at once, never on text, and depends on no order of the rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reasonray.curation.rules import DUPLICATE
from reasonray.records import JUDGED, SURPLUS, Outcome

__all__ = ["SURPLUS", "select"]

_Integers = np.ndarray[Any, np.dtype[np.int64]]
_Booleans = np.ndarray[Any, np.dtype[np.bool_]]


def select(narrow: pa.Table, keep_per_problem: int, *, drop_duplicates: bool) -> pa.Table:
    """Give every rollout its fate: dropped by a rule, "duplicate", "surplus", or selected.

    Args:
        narrow: columns id (unique), problem_id, completion_tokens, text_hash (of the whitespace-normalised completion),
            verdict_outcome and dropped_by (the rule that already dropped it, "" if none).
        keep_per_problem: examples per problem at most, the shortest first, equal ones by id.
        drop_duplicates: whether only the first rollout of a problem and text is kept.

    Returns:
        The rows in their order, with columns id, dropped_by, selected and pass_rate (share of CORRECT among the
        problem's judged rollouts; null if none was judged).
    """
    problem = _codes(narrow["problem_id"])
    tokens = narrow["completion_tokens"].to_numpy().astype(np.int64)
    fate = narrow["dropped_by"].to_numpy().astype(object)
    candidates = np.flatnonzero(pc.equal(narrow["dropped_by"], "").to_numpy())
    by_id = _ranks(narrow["id"])
    candidates = candidates[np.lexsort((by_id[candidates], tokens[candidates], problem[candidates]))]
    if drop_duplicates:
        text = _codes(narrow["text_hash"])
        first = _firsts(problem[candidates], text[candidates])
        fate[candidates[~first]] = DUPLICATE
        candidates = candidates[first]
    taken = _places(problem[candidates]) < keep_per_problem
    fate[candidates[~taken]] = SURPLUS
    selected = np.zeros(narrow.num_rows, dtype=bool)
    selected[candidates[taken]] = True
    return pa.table(
        {
            "id": narrow["id"],
            "dropped_by": pa.array(fate, pa.string()),
            "selected": pa.array(selected),
            "pass_rate": _pass_rates(problem, narrow["verdict_outcome"]),
        }
    )


def _codes(column: pa.ChunkedArray) -> _Integers:
    """Number the distinct values; which number a value gets is of no consequence."""
    indices = pc.dictionary_encode(column.combine_chunks()).indices
    return np.asarray(indices.to_numpy(zero_copy_only=False), dtype=np.int64)


def _ranks(column: pa.ChunkedArray) -> _Integers:
    ranks = np.empty(len(column), dtype=np.int64)
    ranks[pc.sort_indices(column).to_numpy()] = np.arange(len(column))
    return ranks


def _firsts(problem: _Integers, text: _Integers) -> _Booleans:
    """Mark the first row of each (problem, text), in the order given."""
    pairs = problem * (int(text.max(initial=0)) + 1) + text
    first = np.zeros(len(pairs), dtype=bool)
    first[np.unique(pairs, return_index=True)[1]] = True
    return first


def _places(problem: _Integers) -> _Integers:
    """Return each row's place within its problem; the rows of a problem stand together."""
    rows = np.arange(len(problem))
    begins = np.r_[True, problem[1:] != problem[:-1]] if len(problem) else np.zeros(0, dtype=bool)
    return np.asarray(rows - np.maximum.accumulate(np.where(begins, rows, 0)), dtype=np.int64)


def _pass_rates(problem: _Integers, outcomes: pa.ChunkedArray) -> pa.Array:
    judged = pc.is_in(outcomes, value_set=pa.array([outcome.value for outcome in JUDGED])).to_numpy()
    correct = pc.equal(outcomes, Outcome.CORRECT.value).to_numpy()
    size = int(problem.max(initial=-1)) + 1
    total = np.bincount(problem[judged], minlength=size)
    rate = np.bincount(problem[correct], minlength=size) / np.maximum(total, 1)
    return pa.array(rate[problem], pa.float64(), mask=(total == 0)[problem])

"""Predicates of the rules that compare rollouts or look at their problem: functions of features, listed in rules.RULES.

Each takes a Comparison and the candidates: the rows that no earlier rule dropped, problem by problem, in order of
preference. It returns one boolean per candidate: whether the rule drops the row. Of rollouts that are alike the
preferred one stays.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from reasonray.config import Curation
from reasonray.curation.dedup import near_duplicates, signature_matrix

Rows = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

_TOLERANCE = 1e-9
"""Tolerance of floating point, so that pass rates at both ends of a band are within."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Input of the comparing rules: the features of all distinct rollouts, and facts of their problems."""

    features: pa.Table
    """As features.rollout_features returns them."""
    problem: npt.NDArray[np.int64]
    """The number of each row's problem."""
    pass_rates: npt.NDArray[np.float64]
    """The pass rate of each problem, NaN where no rollout was judged."""
    curation: Curation
    contaminated: Collection[str]
    """Ids of the problems that overlap with held-out ones."""


def contaminated(comparison: Comparison, candidates: Rows) -> Booleans:
    """Return which candidates are of a problem that overlaps with a held-out one."""
    problems = pa.array(sorted(comparison.contaminated), pa.large_string())
    return np.asarray(pc.is_in(comparison.features["problem_id"], value_set=problems).to_numpy()[candidates])


def pass_rate(comparison: Comparison, candidates: Rows) -> Booleans:
    """Return which candidates are of a problem outside the band of pass rates; an unknown rate is within."""
    rates, curation = comparison.pass_rates[comparison.problem[candidates]], comparison.curation
    too_hard = rates < curation.min_pass_rate - _TOLERANCE
    return np.asarray(too_hard | (rates > curation.max_pass_rate + _TOLERANCE))


def duplicate(comparison: Comparison, candidates: Rows) -> Booleans:
    """Return which candidates have the text of an earlier one of the same problem, but for white space."""
    return _repeated(comparison, candidates, "text_hash")


def same_reasoning(comparison: Comparison, candidates: Rows) -> Booleans:
    """Return which candidates have the equations of an earlier one of the same problem (dedup.reasoning_key)."""
    has_equations = pc.not_equal(comparison.features["reasoning"], "").to_numpy()[candidates]
    return np.asarray(_repeated(comparison, candidates, "reasoning") & has_equations)


def near_duplicate(comparison: Comparison, candidates: Rows) -> Booleans:
    """Return which candidates are nearly alike to an earlier one of any problem, directly or through others."""
    signatures = signature_matrix(comparison.features)[candidates]
    return np.asarray(near_duplicates(signatures, comparison.curation.near) != np.arange(len(candidates)))


def _repeated(comparison: Comparison, candidates: Rows, column: str) -> Booleans:
    """Return which candidates have a value that an earlier one of the same problem has."""
    values = _codes(comparison.features[column])[candidates]
    pairs = comparison.problem[candidates] * (int(values.max(initial=0)) + 1) + values
    repeated = np.ones(len(pairs), np.bool_)
    repeated[np.unique(pairs, return_index=True)[1]] = False
    return repeated


def _codes(column: pa.ChunkedArray) -> Rows:
    """Return a number for each distinct value; which number a value gets is of no consequence."""
    indices = pc.dictionary_encode(column.combine_chunks()).indices
    return np.asarray(indices.to_numpy(zero_copy_only=False), dtype=np.int64)

"""The samples that a ledger already holds of each problem: the state from which sampling resumes.

Counting works on numpy arrays and takes some 40 bytes of memory a rollout.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reasonray.records import JUDGED, Finish, Outcome
from reasonray.store.duplicates import Numbers, dictionary_codes, newest_rows

ENCODED_COLUMNS = ["problem_id", "fingerprint", "verdict_outcome", "finish"]
"""Columns that must be read as dictionaries."""
COUNTED_COLUMNS = [*ENCODED_COLUMNS, "sample", "resample", "completion_tokens"]
"""Columns of the ledger from which stored samples are counted: none of them holds text."""


@dataclass(frozen=True, slots=True)
class StoredSamples:
    """The committed samples of one problem under one fingerprint; only the newest resample of each counts."""

    samples: frozenset[int] = frozenset()
    """Indices of the committed samples."""
    correct: int = 0
    """Samples with a CORRECT verdict."""
    tokens: int = 0
    """Completion tokens of all of them together."""
    truncated: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """Sample index → (resample, completion tokens), for each sample that ended at the token limit."""
    judged: int = 0
    """Samples whose outcome is about the model: correct, wrong, no answer or truncated."""


def condense(rollouts: pa.Table) -> pa.Table:
    """Return the columns that `count_samples` reads: encoded ids, and numbers.

    Args:
        rollouts: COUNTED_COLUMNS of a ledger, with ENCODED_COLUMNS as dictionaries.
    """
    outcome = rollouts["verdict_outcome"]
    return pa.table(
        {
            "problem": rollouts["problem_id"],
            "fingerprint": rollouts["fingerprint"],
            "sample": rollouts["sample"],
            "resample": rollouts["resample"],
            "tokens": rollouts["completion_tokens"],
            "correct": pc.equal(outcome, Outcome.CORRECT.value),
            "judged": pc.is_in(outcome, value_set=pa.array([judged.value for judged in JUDGED])),
            "truncated": pc.equal(rollouts["finish"], Finish.LENGTH.value),
        }
    )


def count_samples(condensed: pa.Table) -> dict[tuple[str, str], StoredSamples]:
    """Return the stored samples by (problem id, fingerprint).

    Args:
        condensed: at least one row of `condense`, in order of commit.
    """
    problems, problem = dictionary_codes(condensed["problem"])
    fingerprints, fingerprint = dictionary_codes(condensed["fingerprint"])
    group = problem.astype(np.int64) * len(fingerprints) + fingerprint
    sample = condensed["sample"].to_numpy()
    newest = newest_rows(group * (int(sample.max()) + 1) + sample, condensed["resample"].to_numpy())
    rows = condensed.drop_columns(["problem", "fingerprint"]).append_column("group", pa.array(group)).take(newest)
    group = rows["group"].to_numpy()
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    groups = group[starts]
    samples, truncated = _sample_sets(rows["sample"].to_numpy(), starts), _truncated(rows.filter(rows["truncated"]))
    correct, tokens, judged = (
        np.add.reduceat(rows[name].to_numpy(), starts, dtype=np.int64).tolist()
        for name in ("correct", "tokens", "judged")
    )
    truncated_of_groups = [truncated.get(number, {}) for number in groups.tolist()]
    counts = map(StoredSamples, samples, correct, tokens, truncated_of_groups, judged)
    problem_ids = problems.take(groups // len(fingerprints)).to_pylist()
    fingerprint_of = fingerprints.take(groups % len(fingerprints)).to_pylist()
    return dict(zip(zip(problem_ids, fingerprint_of, strict=True), counts, strict=True))


def _sample_sets(sample: Numbers, starts: Numbers) -> list[frozenset[int]]:
    """Return the sample indices of each group, given the row at which each group starts."""
    shared: dict[bytes, frozenset[int]] = {}  # most problems have the same samples: one set serves all of them
    sets = []
    for start, end in pairwise([*starts.tolist(), len(sample)]):
        indices = sample[start:end]
        key = indices.tobytes()
        if key not in shared:
            shared[key] = frozenset(indices.tolist())
        sets.append(shared[key])
    return sets


def _truncated(rows: pa.Table) -> dict[int, dict[int, tuple[int, int]]]:
    """Return resample and tokens of truncated samples, by group and sample."""
    truncated: defaultdict[int, dict[int, tuple[int, int]]] = defaultdict(dict)
    names: Sequence[str] = ("group", "sample", "resample", "tokens")
    for group, sample, resample, tokens in zip(*(rows[name].to_pylist() for name in names), strict=True):
        truncated[group][sample] = (resample, tokens)
    return truncated

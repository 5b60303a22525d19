"""Rows that a ledger holds more than once: older resamples of a sample, and rollouts that were committed twice.

A reader wants the newest resample of each id. Of rows with the same id and resample the first committed one counts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Numbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def dictionary_codes(column: pa.ChunkedArray) -> tuple[pa.Array, Numbers]:
    """Return the distinct values of a dictionary-encoded column, and for each row the index of its value."""
    unified = column.unify_dictionaries().combine_chunks()
    return unified.dictionary, unified.indices.to_numpy()


def newest_rows(identities: Numbers, resamples: Numbers) -> Numbers:
    """Return for each identity the first row with its highest resample number, in order of identities."""
    order = np.lexsort((-resamples, identities))  # a stable sort
    is_first: Mask = np.diff(identities[order], prepend=-1) != 0
    return np.asarray(order[is_first])


def is_newest_of_id(table: pa.Table) -> Mask:
    """Return for each row whether it is the one that counts for its id.

    Args:
        table: with columns `id` and `resample`, in order of commit.
    """
    _, ids = dictionary_codes(table["id"].dictionary_encode())
    return _mask(newest_rows(ids, table["resample"].to_numpy()), table.num_rows)


def is_first_of_resample(table: pa.Table) -> Mask:
    """Return for each row whether it is the first with its id and resample number.

    Args:
        table: with columns `id` and `resample`, in order of commit.
    """
    _, ids = dictionary_codes(table["id"].dictionary_encode())
    resamples = table["resample"].to_numpy().astype(np.int64)
    keys = ids * (resamples.max(initial=0) + 1) + resamples
    return _mask(np.unique(keys, return_index=True)[1], table.num_rows)


def _mask(rows: Numbers, length: int) -> Mask:
    mask = np.zeros(length, np.bool_)
    mask[rows] = True
    return mask

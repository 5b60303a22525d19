"""What selection needs to know of a rollout, in a few short columns: text stays where it is, and is never shuffled."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from reasonray.config import Curation, UserError
from reasonray.curation.dedup import PERMUTATIONS, near_duplicates, reasoning_key, signatures
from reasonray.curation.rules import first_drop, of_the_user
from reasonray.records import content_hash

_WHITE = b" \t\n\r\f\v"
_COPIED = ["id", "problem_id", "problem_source", "resample", "completion_tokens", "verdict_outcome"]


def narrow_columns(table: pa.Table, curation: Curation) -> pa.Table:
    """Return the columns that selection.select reads, those that cost something only where they are asked for.

    Args:
        table: of tables.ROLLOUT_SCHEMA, annotated.
        curation: which rules there are, and what is preferred.

    Raises:
        UserError: a rule or the score of the configuration does not exist.
    """
    completions = table["completion"].to_pylist()
    narrow = table.select(_COPIED).append_column("dropped_by", first_drop(table, curation))
    narrow = narrow.append_column("text_hash", pa.array([text_hash(it) for it in completions]))
    if "same_reasoning" in curation.rules:
        narrow = narrow.append_column("reasoning", pa.array([reasoning_key(it) for it in completions]))
    if "near_duplicate" in curation.rules or curation.prefer == "diverse":
        signed = signatures(completions)
        kind = pa.list_(pa.from_numpy_dtype(signed.dtype), PERMUTATIONS)
        narrow = narrow.append_column(
            "signature", pa.FixedSizeListArray.from_arrays(pa.array(signed.ravel()), type=kind)
        )
    if curation.score is not None:
        narrow = narrow.append_column("score", _scores(table, curation.score))
    return narrow


def _scores(table: pa.Table, name: str) -> pa.Array | pa.ChunkedArray:
    """Return the numbers that a function of the user's gives the rows."""
    given = of_the_user("score", name)(table)
    scores = given if isinstance(given, pa.Array | pa.ChunkedArray) else pa.array(given)
    is_number = pa.types.is_floating(scores.type) or pa.types.is_integer(scores.type)
    if not is_number or len(scores) != table.num_rows or scores.null_count:
        raise UserError(f"curation.score: {name} must give each of {table.num_rows} rollouts a number")
    return scores.cast(pa.float64())


def text_hash(completion: str) -> str:
    """Return a hash of a text that is the same however its white space is laid out."""
    return content_hash(completion.encode().translate(None, _WHITE).decode())


def with_near_duplicates(narrow: pa.Table, threshold: float) -> pa.Table:
    """Return narrow columns with `near`: the rollout that each is nearly alike to, among those that no rule dropped.

    Args:
        narrow: as narrow_columns returns it, sorted by id.
        threshold: Jaccard similarity of word 5-grams.
    """
    alive = np.flatnonzero(pc.equal(narrow["dropped_by"], "").to_numpy())
    signed = signature_matrix(narrow)[alive]
    owner = np.arange(narrow.num_rows)
    owner[alive] = alive[near_duplicates(signed, threshold)]
    return narrow.append_column("near", narrow["id"].take(pa.array(owner)))


def signature_matrix(narrow: pa.Table) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Return the column `signature` of narrow columns, a row each."""
    column = narrow["signature"].combine_chunks()
    return np.asarray(column.flatten().to_numpy().reshape(len(column), -1))

"""What selection needs to know of a rollout, in a few short columns: text stays where it is, and is never shuffled."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reasonray.config import Curation, UserError
from reasonray.curation.overlap import PERMUTATIONS, near_duplicates, reasoning_key, signatures
from reasonray.curation.rules import first_drop
from reasonray.records import content_hash

_COPIED = ["id", "problem_id", "problem_source", "round", "completion_tokens", "verdict_outcome"]


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
    narrow = narrow.append_column("text_hash", pa.array([content_hash(" ".join(it.split())) for it in completions]))
    if "same_reasoning" in curation.rules:
        narrow = narrow.append_column("reasoning", pa.array([reasoning_key(it) for it in completions]))
    if "near_duplicate" in curation.rules or curation.prefer == "diverse":
        signed = signatures(completions)
        kind = pa.list_(pa.from_numpy_dtype(signed.dtype), PERMUTATIONS)
        narrow = narrow.append_column(
            "signature", pa.FixedSizeListArray.from_arrays(pa.array(signed.ravel()), type=kind)
        )
    if curation.score is not None:
        scores = pa.array(scorer(curation.score)(table), pa.float64())
        if len(scores) != table.num_rows or scores.null_count:
            raise UserError(f"curation.score: {curation.score} must give each of {table.num_rows} rollouts a number")
        narrow = narrow.append_column("score", scores)
    return narrow


def with_near_duplicates(narrow: pa.Table, threshold: float) -> pa.Table:
    """Return narrow columns with `near`: the rollout that each is nearly alike to, among those that no rule dropped.

    Args:
        narrow: as narrow_columns returns it, sorted by id.
        threshold: Jaccard similarity of word 5-grams.
    """
    alive = np.flatnonzero(pc.equal(narrow["dropped_by"], "").to_numpy())
    signed = narrow["signature"].combine_chunks().flatten().to_numpy().reshape(-1, PERMUTATIONS)[alive]
    owner = np.arange(narrow.num_rows)
    owner[alive] = alive[near_duplicates(signed, threshold)]
    return narrow.append_column("near", narrow["id"].take(pa.array(owner)))


@cache
def scorer(name: str) -> Callable[[pa.Table], Any]:
    """Return the user's function that scores rollouts.

    Raises:
        UserError: it cannot be imported.
    """
    module, _, function = name.partition(":")
    try:
        found: Callable[[pa.Table], Any] = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"curation.score: {name} cannot be imported ({error}); name it as module:function") from None
    return found

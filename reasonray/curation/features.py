"""Features of rollouts: the few short columns that selection works on, so that text is never moved or shuffled."""

from __future__ import annotations

import pyarrow as pa

from reasonray.config import Curation, UserError
from reasonray.curation.dedup import PERMUTATIONS, minhash_signatures, reasoning_key
from reasonray.curation.rules import first_fired, user_function
from reasonray.records import content_hash

__all__ = ["rollout_features", "text_hash"]

_WHITE_SPACE = b" \t\n\r\f\v"
_COPIED = ["id", "problem_id", "problem_source", "resample", "completion_tokens", "verdict_outcome"]


def rollout_features(table: pa.Table, curation: Curation) -> pa.Table:
    """Return the columns that selection.select reads.

    Args:
        table: of schema.ROLLOUT_SCHEMA, annotated and measured.
        curation: decides which of the expensive columns are needed.

    Returns:
        A row per rollout: id, problem_id, problem_source, resample, completion_tokens, verdict_outcome; first_rule
        (rules.first_fired); text_hash; where a rule or a preference needs them also reasoning (dedup.reasoning_key),
        signature (dedup.minhash_signatures, a fixed-size list) and score (of the user's function).

    Raises:
        UserError: a rule or the score of the configuration does not exist, or returned something else than it must.
    """
    completions = table["completion"].to_pylist()
    features = table.select(_COPIED).append_column("first_rule", first_fired(table, curation))
    features = features.append_column(
        "text_hash", pa.array([text_hash(text) for text in completions], pa.large_string())
    )
    if "same_reasoning" in curation.rules:
        keys = pa.array([reasoning_key(text) for text in completions], pa.large_string())
        features = features.append_column("reasoning", keys)
    if "near_duplicate" in curation.rules or curation.prefer == "diverse":
        hashes = minhash_signatures(completions)
        kind = pa.list_(pa.from_numpy_dtype(hashes.dtype), PERMUTATIONS)
        column = pa.FixedSizeListArray.from_arrays(pa.array(hashes.ravel()), type=kind)
        features = features.append_column("signature", column)
    if curation.score is not None:
        features = features.append_column("score", _scores(table, curation.score))
    return features


def _scores(table: pa.Table, name: str) -> pa.Array | pa.ChunkedArray:
    """Return the number that the user's function returns for each row."""
    returned = user_function("score", name)(table)
    scores = returned if isinstance(returned, pa.Array | pa.ChunkedArray) else pa.array(returned)
    is_number = pa.types.is_floating(scores.type) or pa.types.is_integer(scores.type)
    if not is_number or len(scores) != table.num_rows or scores.null_count:
        raise UserError(f"curation.score: {name} must return a number for each of {table.num_rows} rollouts")
    return scores.cast(pa.float64())


def text_hash(completion: str) -> str:
    """Return a hash of a text that does not depend on its white space."""
    return content_hash(completion.encode().translate(None, _WHITE_SPACE).decode())

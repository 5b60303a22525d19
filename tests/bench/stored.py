"""Tables of made-up rollouts with all columns of real ones, for benchmarks of the later stages."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from reasonray.records import content_hash
from reasonray.store.schema import ROLLOUT_SCHEMA

_CONSTANT = {
    "problem_source": "made up",
    "problem_answer": "42",
    "problem_checker": "math_answer",
    "problem_difficulty": "easy",
    "problem_split": "train",
    "problem_metadata": "{}",
    "teacher": "teacher",
    "model": "scripted",
    "fingerprint": content_hash("fingerprint"),
    "resample": 0,
    "prompt": 0,
    "opening": "",
    "tokens_estimated": False,
    "prompt_tokens": 40,
    "verdict_extracted": "42",
    "verdict_checker": "math_answer",
    "verdict_detail": "",
    "verdict_seconds": 0.0,
}


def rollout_table(**columns: Any) -> pa.Table:
    """Return a table of ROLLOUT_SCHEMA: the given columns, constants for some others, and nulls for the rest."""
    size = len(columns["id"])
    constant = {name: [value] * size for name, value in _CONSTANT.items()}
    missing = {name: pa.nulls(size) for name in ROLLOUT_SCHEMA.names}
    values = missing | constant | columns
    return pa.table({name: values[name] for name in ROLLOUT_SCHEMA.names}).cast(ROLLOUT_SCHEMA)

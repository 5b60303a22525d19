"""Loss weights: how much each part of an example counts in the student's training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from reasonray.curation.rules import user_function
from reasonray.errors import UserError

INVERSE_PASS_RATE = "inverse_pass_rate"

LOSS_WEIGHTS = pa.field(
    "loss_weights",
    pa.list_(pa.struct([("begin", pa.int32()), ("end", pa.int32()), ("weight", pa.float64())])),
)
"""Parts of the completion, by their first character and the one after their last, with the loss weight of their tokens;
null where each token counts once. Characters in no part have weight 0."""


def loss_weights(table: pa.Table, name: str) -> pa.Array:
    """Return the loss weights of examples, of the type of LOSS_WEIGHTS.

    Args:
        table: selected rollouts, of schema.ROLLOUT_SCHEMA, annotated.
        name: "inverse_pass_rate" for 1 / the problem's pass rate, so that each problem counts as if it were always
            solved, or `package.module:function`, which returns for each row a number or a list of (begin, end, weight).

    Raises:
        UserError: the function does not exist, or returned something else.
    """
    if name == INVERSE_PASS_RATE:
        rates = table["annotation_pass_rate"]
        weights: Sequence[Any] = pc.divide(1.0, pc.if_else(pc.greater(rates, 0), rates, None)).to_pylist()
    else:
        weights = list(user_function("loss_weight", name)(table))
    if len(weights) != table.num_rows:
        raise UserError(f"curation.loss_weight: {name} returned {len(weights)} weights for {table.num_rows} rollouts")
    lengths = pc.utf8_length(table["completion"]).to_pylist()
    try:
        parts = [_parts(weight, length) for weight, length in zip(weights, lengths, strict=True)]
        return pa.array(parts, LOSS_WEIGHTS.type)
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise UserError(
            f"curation.loss_weight: {name} must return a number or a list of (begin, end, weight) for each row: {error}"
        ) from None


def _parts(weight: Any, length: int) -> list[dict[str, Any]] | None:
    if weight is None:
        return None
    parts = [(0, length, float(weight))] if isinstance(weight, int | float) else weight
    return [{"begin": begin, "end": end, "weight": value} for begin, end, value in parts]

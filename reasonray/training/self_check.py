"""The check before the first step: the student computes what transformers computes, and packing changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch

from reasonray.errors import UserError
from reasonray.training.examples import Batch, Example, collate

_FP32_TOLERANCE = 1e-3
"""Largest difference of logits, relative to their spread."""
_BF16_TOLERANCE = 0.1
"""Median divergence of the tokens' distributions, relative to that of different tokens' distributions. Rounding gives
0.06 where it flips experts of a random Mixtral, and 0.0004 without experts; examples that are mixed give 1."""


def logits_difference(logits: torch.Tensor, expected: torch.Tensor) -> float | None:
    """Return how far logits are from the expected ones, relative to their spread; None if it is rounding.

    In fp32 every logit has to agree. In bf16 rounding moves single tokens as far as a fault would, where a router sends
    them to another expert, so the distributions of most tokens have to agree: their Kullback-Leibler divergences are
    compared, by the median.

    Args:
        logits: of one example, (tokens, vocabulary), in the dtype of the computation.
        expected: of the same shape, in any dtype.
    """
    if logits.dtype == torch.float32:
        difference, tolerance = (logits - expected).abs().max() / expected.std(), _FP32_TOLERANCE
    else:
        spread = _median_divergence(expected, expected.roll(1, 0))
        difference, tolerance = _median_divergence(logits, expected) / spread, _BF16_TOLERANCE
    return None if float(difference) <= tolerance else float(difference)


def _median_divergence(logits: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    computed, wanted = logits.float().log_softmax(-1), expected.float().log_softmax(-1)
    return (wanted.exp() * (wanted - computed)).sum(-1).median()


def self_check(
    logits: Callable[[Batch], torch.Tensor],
    stock_logits: Callable[[Batch], torch.Tensor],
    vocab_size: int,
    *,
    packing: bool = True,
) -> None:
    """Check on two short random examples that packing changes no logits, and that they equal transformers' own.

    Args:
        logits: returns a batch's logits as in training: (tokens, vocabulary), in the dtype of the computation.
        stock_logits: returns the logits of a batch of one example by transformers' own attention and output layer.
        vocab_size: bound of the random token ids.
        packing: whether examples will share a pass; if not, only the second check applies.

    Raises:
        UserError: some logits differ.
    """
    generator = torch.Generator().manual_seed(0)
    rows = [Example("", torch.randint(vocab_size, (length,), generator=generator).tolist(), 1) for length in (16, 11)]
    separate, stock = ([compute(collate(rows, [row])) for row in (0, 1)] for compute in (logits, stock_logits))
    packed = logits(collate(rows, [0, 1])).split([len(row.ids) for row in rows]) if packing else separate
    for expected, fault in (
        (separate, "for packed examples than for separate ones, so packing would mix examples"),
        (stock, "than transformers does, so it would be trained as another model"),
    ):
        for computed, wanted in zip(packed, expected, strict=True):
            if (difference := logits_difference(computed, wanted.float())) is not None:
                raise UserError(
                    f"the student computes other logits {fault} (off by {difference:.2g} of their spread); this "
                    "model's attention or output layer is not supported"
                )

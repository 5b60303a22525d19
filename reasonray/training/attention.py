"""Attention over packed examples: each one by itself, its borders taken from `cu_seq_lens` and never from a mask.

transformers finds packed examples on its own only without a mask and without a cache, and mixes them silently
otherwise. The function registered here gets the borders and cannot mix. It is also the fastest way on a CPU, where a
block mask computes the whole square, and on CUDA it is torch's own kernel, so nothing has to be built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from reasonray.errors import UserError
from reasonray.training.examples import Batch, Example, collate

NAME = "reasonray"
"""The implementation's name in transformers."""

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25}
"""Largest difference of logits, relative to their spread; mixed examples differ by as much as the logits themselves."""

_SHORT = 224
"""Tokens below which torch's backward pass on a CPU takes less time in fp32 than in bf16: half of it at 100."""


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend causally within each example; (1, heads, tokens, size) in, (1, tokens, heads, size) out."""
    if attention_mask is not None or cu_seq_lens_q is None or max_length_q is None:
        raise ValueError("packed attention takes cu_seq_lens_q and max_length_q, and no mask")
    if others.get("softcap") is not None or others.get("s_aux") is not None:
        raise UserError("the student's attention has soft-capping or sinks, which packed attention does not know")
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        return _on_cuda(query, key, value, scaling, sliding_window, cu_seq_lens_q, max_length_q), None
    lengths = cu_seq_lens_q.diff().tolist()
    split = (states.split(lengths, dim=2) for states in (query, key, value))
    pieces = [_one_example(q, k, v, scaling, sliding_window) for q, k, v in zip(*split, strict=True)]
    return torch.cat(pieces, dim=2).transpose(1, 2).contiguous(), None


def _one_example(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, window: int | None
) -> torch.Tensor:
    grouped = query.shape[1] != key.shape[1]
    length = query.shape[2]
    if length < _SHORT and query.dtype == torch.bfloat16:
        return _one_example(query.float(), key.float(), value.float(), scaling, window).to(query.dtype)
    if window is None or length <= window:
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped)
    seen = torch.ones(length, length, dtype=torch.bool, device=query.device).tril().triu(1 - window)
    return scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scaling, enable_gqa=grouped)


def _on_cuda(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
    borders: torch.Tensor,
    longest: int,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    attended: torch.Tensor = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        borders,
        borders,
        longest,
        longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return attended[None]


AttentionInterface.register(NAME, packed_attention)


def packs_safely(config: Any) -> bool:
    """Say whether a model's layers are all attention that keeps examples apart; recurrent layers carry state over."""
    kinds = set(getattr(config, "layer_types", None) or [])
    softcap = getattr(config, "attn_logit_softcapping", None)
    recurrent = any(
        hasattr(config, name) for name in ("ssm_cfg", "state_size", "mamba_d_state", "linear_num_key_heads")
    )
    return kinds <= {"full_attention", "sliding_attention"} and softcap is None and not recurrent


def off(logits: torch.Tensor, wanted: torch.Tensor) -> float | None:
    """Return how far logits are from those wanted, relative to their spread; None if no farther than rounding explains.

    Args:
        logits: in the type of the computation, which says how much it rounds.
        wanted: the same in any type.
    """
    difference = float((logits - wanted).abs().max() / wanted.std())
    return None if difference <= _TOLERANCE[logits.dtype] else difference


def self_check(
    logits: Callable[[Batch], torch.Tensor], stock: Callable[[Batch], torch.Tensor], vocab_size: int
) -> None:
    """Prove on two short random examples that packing them changes nothing, and that this is the model as it was made.

    Args:
        logits: gives the logits of a batch as in training: (tokens, vocabulary), in the type of the computation.
        stock: gives those of a batch of one example by transformers' own attention and output layer.
        vocab_size: token ids are drawn from below it.

    Raises:
        UserError: something differs.
    """
    draw = torch.Generator().manual_seed(0)
    rows = [Example("", torch.randint(vocab_size, (length,), generator=draw).tolist(), 1) for length in (16, 11)]
    together = logits(collate(rows, [0, 1]))
    apart, original = (torch.cat([of(collate(rows, [row])) for row in (0, 1)]).float() for of in (logits, stock))
    for other, fault in (
        (apart, "for packed examples than for separate ones, so packing would mix examples"),
        (original, "than transformers does, so it would be trained as another model"),
    ):
        if (difference := off(together, other)) is not None:
            raise UserError(
                f"the student computes other logits {fault} (off by {difference:.2g} of their spread); this model's "
                "attention or output layer is not supported"
            )

"""Attention over packed examples: each one by itself, its borders taken from `cu_seq_lens` and never from a mask.

transformers finds packed examples on its own only without a mask and without a cache, and mixes them silently
otherwise. The function registered here gets the borders and cannot mix. It is also the fastest way on a CPU, where a
block mask computes the whole square, and on CUDA it is torch's own kernel, so nothing has to be built; what the kernel
cannot take goes example by example there too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface

from reasonray.errors import UserError
from reasonray.training.examples import Batch, Example, collate

NAME = "reasonray"
"""The implementation's name in transformers."""

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25}
"""Largest difference of logits, relative to their spread; mixed examples differ by as much as the logits themselves."""

_SHORT = 224
"""Tokens below which torch's backward pass on a CPU takes less time in fp32 than in bf16: half of it at 100."""

_WIDEST_HEAD, _AMPERE = 256, (8, 0)
"""What FlashAttention-2 takes at most, and the compute capability that it takes at least."""


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
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
    if query.is_cuda and not dropout and _kernel_takes(query, value):
        return by_kernel(query, key, value, scaling, sliding_window, cu_seq_lens_q, max_length_q), None
    return by_example(query, key, value, scaling, sliding_window, cu_seq_lens_q, dropout), None


def by_example(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
    borders: torch.Tensor,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Attend as packed_attention does, an example at a time."""
    lengths = borders.diff().tolist()
    split = (states.split(lengths, dim=2) for states in (query, key, value))
    pieces = [_one_example(q, k, v, scaling, window, dropout) for q, k, v in zip(*split, strict=True)]
    return torch.cat(pieces, dim=2).transpose(1, 2).contiguous()


def _one_example(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
    dropout: float,
) -> torch.Tensor:
    grouped = query.shape[1] != key.shape[1]
    length = query.shape[2]
    if length < _SHORT and query.dtype == torch.bfloat16 and query.device.type == "cpu":
        return _one_example(query.float(), key.float(), value.float(), scaling, window, dropout).to(query.dtype)
    seen = None
    if window is not None and length > window:
        seen = torch.ones(length, length, dtype=torch.bool, device=query.device).tril().triu(1 - window)
    return scaled_dot_product_attention(
        *(query, key, value, seen), dropout_p=dropout, is_causal=seen is None, scale=scaling, enable_gqa=grouped
    )


def _kernel_takes(query: torch.Tensor, value: torch.Tensor) -> bool:
    """Say whether torch's varlen_attn, which is FlashAttention-2, knows such heads, such numbers and such a card."""
    size = query.shape[-1]
    known = size <= _WIDEST_HEAD and size % 8 == 0 and value.shape[-1] <= size
    half = query.dtype in (torch.bfloat16, torch.float16)
    return known and half and torch.cuda.get_device_capability(query.device) >= _AMPERE


def by_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
    borders: torch.Tensor,
    longest: int,
) -> torch.Tensor:
    """Attend as packed_attention does, all examples in one call of torch's varlen_attn."""
    from torch.nn.attention.varlen import varlen_attn

    size = value.shape[-1]
    value = pad(value, (0, query.shape[-1] - size))  # the kernel wants all heads alike; what is padded stays zero
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
    return attended[None, ..., :size]


AttentionInterface.register(NAME, packed_attention)


def packs_safely(config: Any) -> bool:
    """Say whether a model's layers are all attention that keeps examples apart.

    Recurrent layers carry state over, and rotary embeddings that stretch with the longest example of a pass turn the
    others' positions.
    """
    kinds = {kind for name in ("layer_types", "layers_block_type") for kind in getattr(config, name, None) or ()}
    softcap = getattr(config, "attn_logit_softcapping", None)
    recurrent = any(
        hasattr(config, name) for name in ("ssm_cfg", "state_size", "mamba_d_state", "linear_num_key_heads")
    )
    attends = kinds <= {"attention", "full_attention", "sliding_attention"}
    return attends and softcap is None and not recurrent and not _stretches(config)


def _stretches(config: Any) -> bool:
    ropes = getattr(config, "rope_parameters", None) or {}
    kinds = {rope.get("rope_type") for rope in (ropes, *ropes.values()) if isinstance(rope, dict)}
    return bool(kinds & {"longrope", "dynamic"})


def off(logits: torch.Tensor, wanted: torch.Tensor) -> float | None:
    """Return how far logits are from those wanted, relative to their spread; None if no farther than rounding explains.

    Args:
        logits: in the type of the computation, which says how much it rounds.
        wanted: the same in any type.
    """
    difference = float((logits - wanted).abs().max() / wanted.std())
    return None if difference <= _TOLERANCE[logits.dtype] else difference


def self_check(
    logits: Callable[[Batch], torch.Tensor],
    stock: Callable[[Batch], torch.Tensor],
    vocab_size: int,
    *,
    packing: bool = True,
) -> None:
    """Prove on two short random examples that packing them changes nothing, and that this is the model as it was made.

    Args:
        logits: gives the logits of a batch as in training: (tokens, vocabulary), in the type of the computation.
        stock: gives those of a batch of one example by transformers' own attention and output layer.
        vocab_size: token ids are drawn from below it.
        packing: whether examples will share a pass; if not, only the second proof is asked for.

    Raises:
        UserError: something differs.
    """
    draw = torch.Generator().manual_seed(0)
    rows = [Example("", torch.randint(vocab_size, (length,), generator=draw).tolist(), 1) for length in (16, 11)]
    apart, original = (torch.cat([of(collate(rows, [row])) for row in (0, 1)]) for of in (logits, stock))
    together = logits(collate(rows, [0, 1])) if packing else apart
    for other, fault in (
        (apart, "for packed examples than for separate ones, so packing would mix examples"),
        (original, "than transformers does, so it would be trained as another model"),
    ):
        if (difference := off(together, other.float())) is not None:
            raise UserError(
                f"the student computes other logits {fault} (off by {difference:.2g} of their spread); this model's "
                "attention or output layer is not supported"
            )

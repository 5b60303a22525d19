"""Attention over packed examples: each example attends to itself only, by `cu_seq_lens` and never by a mask.

transformers detects packed examples itself only without a mask and without a cache, and mixes them silently otherwise.
The function registered here gets the boundaries and cannot mix. It is also the fastest way on a CPU, where a block mask
computes the whole square. On CUDA it is torch's own kernel, so nothing has to be compiled at installation; inputs that
the kernel does not support are computed example by example there too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.nn.attention import activate_flash_attention_impl
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface

from reasonray.errors import UserError

NAME = "reasonray"
"""The implementation's name in transformers."""

_FP32_BELOW_TOKENS = 224
"""Length below which torch's backward pass on a CPU takes less time in fp32 than in bf16: half of it at 100."""

_LARGEST_HEAD, _AMPERE = 256, (8, 0)
"""FlashAttention-2's largest head dimension and least compute capability."""
_HOPPER, _BLACKWELL = 9, 10
"""Major compute capability of the data centre's GPUs."""
_FLASH_ATTENTION_4 = ("flash_attn", "flash_attn.cute", "flash_attn.cute.interface")
"""FlashAttention-2's package is called flash_attn, too, and has no `cute`."""


@dataclass(frozen=True)
class Context:
    """The processes that share the tokens of each pack, as one of them sees it (Ulysses, Jacobs et al. 2023).

    Each holds an equal part of the tokens. For attention they exchange tokens for heads: each gets all tokens of its
    share of the heads, attends as if it were alone, and gives the other tokens' results back.
    """

    rank: int
    size: int
    group: Any

    def all_tokens(self, states: torch.Tensor) -> torch.Tensor:
        """Exchange (1, heads, own tokens, size) for (1, own heads, all tokens, size)."""
        _, heads, tokens, size = states.shape
        received = self._exchange(states.reshape(self.size, heads // self.size, tokens, size))
        return received.transpose(0, 1).reshape(1, heads // self.size, self.size * tokens, size)

    def all_heads(self, attended: torch.Tensor) -> torch.Tensor:
        """Exchange (1, all tokens, own heads, size) for (1, own tokens, heads, size)."""
        _, tokens, heads, size = attended.shape
        received = self._exchange(attended.reshape(self.size, tokens // self.size, heads, size))
        return received.transpose(0, 1).reshape(1, tokens // self.size, self.size * heads, size)

    def _exchange(self, parts: torch.Tensor) -> torch.Tensor:
        """Send the i-th part to the i-th process, and return what each has sent."""
        received: torch.Tensor = all_to_all_single_autograd(parts.contiguous(), None, None, self.group)
        return received

    def divisible(self, states: torch.Tensor) -> torch.Tensor:
        """Repeat key-value heads as often as their number has to be divisible by that of the processes."""
        heads = states.shape[1]
        return states.repeat_interleave(math.lcm(heads, self.size) // heads, dim=1)

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows of all processes' tokens, (all tokens, …), without a gradient."""
        gathered = [torch.empty_like(rows) for _ in range(self.size)]
        dist.all_gather(gathered, rows.contiguous(), group=self.group)
        return torch.cat(gathered)


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
    context: Context | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend causally within each example; the interface is that of transformers' attention functions.

    Args:
        module: the layer.
        query: (1, heads, tokens, head size).
        key: (1, key-value heads, tokens, head size).
        value: (1, key-value heads, tokens, value size).
        attention_mask: has to be None.
        scaling: of the products; None for 1 / sqrt(head size).
        dropout: share of attention weights set to zero.
        sliding_window: tokens that a token attends to, itself included; None for all before it.
        cu_seq_lens_q: where each example begins, and where the last one ends.
        max_length_q: tokens of the longest example.
        context: the processes among which the tokens are divided; the boundaries are those of the whole pack.
        others: further arguments of transformers.

    Returns:
        The attended values, (1, tokens, heads, value size), and no attention weights.

    Raises:
        ValueError: there is a mask, or the boundaries are missing.
        UserError: the model's attention has soft-capping, or its heads cannot be divided among processes.
    """
    if attention_mask is not None or cu_seq_lens_q is None or max_length_q is None:
        raise ValueError("packed attention takes cu_seq_lens_q and max_length_q, and no mask")
    if others.get("softcap") is not None:
        raise UserError("the student's attention has soft-capping, which packed attention does not support")
    sinks = others.get("s_aux")
    if context is not None:
        if query.shape[1] % context.size:
            raise UserError(
                f"training.context = {context.size} does not divide the student's {query.shape[1]} attention heads"
            )
        query, key, value = map(context.all_tokens, (query, context.divisible(key), context.divisible(value)))
        sinks = None if sinks is None else sinks.chunk(context.size)[context.rank]
    if query.is_cuda and not dropout and sinks is None and _varlen_supports(query, value):
        attended = attend_varlen(query, key, value, scaling, sliding_window, cu_seq_lens_q, max_length_q)
    else:
        attended = attend_by_example(query, key, value, scaling, sliding_window, cu_seq_lens_q, dropout, sinks)
    return attended if context is None else context.all_heads(attended), None


@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch is not followed by mypy
def attend_by_example(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
    cu_seq_lens: torch.Tensor,
    dropout: float = 0.0,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend as packed_attention does, one example at a time.

    Args:
        query: and all that follows but the last as packed_attention takes them.
        sinks: (heads,), the logits of tokens that each token attends to besides, and that have no value (gpt-oss).
    """
    lengths = cu_seq_lens.diff().tolist()
    if sinks is not None:
        scaling = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
        query = torch.cat([query, (sinks / scaling).to(query.dtype)[None, :, None, None].expand_as(query[..., :1])], -1)
    split = (states.split(lengths, dim=2) for states in (query, key, value))
    attend = _one_example if sinks is None else _one_example_with_sinks
    pieces = [attend(q, k, v, scaling, window, dropout) for q, k, v in zip(*split, strict=True)]
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
    if length < _FP32_BELOW_TOKENS and query.dtype == torch.bfloat16 and query.device.type == "cpu":
        return _one_example(query.float(), key.float(), value.float(), scaling, window, dropout).to(query.dtype)
    mask = None
    if window is not None and length > window:
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril().triu(1 - window)
    return scaled_dot_product_attention(
        *(query, key, value, mask), dropout_p=dropout, is_causal=mask is None, scale=scaling, enable_gqa=grouped
    )


def _one_example_with_sinks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
    dropout: float,
) -> torch.Tensor:
    """Attend to one token more than there are. Its key meets the channel with the sinks; its value is zero."""
    length = query.shape[2]
    key, value = pad(key, (0, 1, 1, 0)), pad(value, (0, 0, 1, 0))
    key[:, :, 0, -1] = 1
    mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril().triu(1 - (window or length))
    return scaled_dot_product_attention(
        *(query, key, value, pad(mask, (1, 0), value=True)),
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _varlen_supports(query: torch.Tensor, value: torch.Tensor) -> bool:
    """Return whether torch's varlen_attn (FlashAttention-2) supports these head sizes, this dtype and this GPU."""
    size = query.shape[-1]
    fits = size <= _LARGEST_HEAD and size % 8 == 0 and value.shape[-1] <= size
    half = query.dtype in (torch.bfloat16, torch.float16)
    return fits and half and capability(query.device) >= _AMPERE


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def capability(device: torch.device) -> tuple[int, int]:
    """Return a GPU's compute capability."""
    major, minor = torch.cuda.get_device_capability(device)
    return major, minor


def attend_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
    cu_seq_lens: torch.Tensor,
    max_length: int,
) -> torch.Tensor:
    """Attend as packed_attention does, all examples in one call of torch's varlen_attn."""
    from torch.nn.attention.varlen import varlen_attn

    size = value.shape[-1]
    value = pad(value, (0, query.shape[-1] - size))  # the kernel wants equal head sizes; padding stays zero
    attended: torch.Tensor = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        cu_seq_lens,
        cu_seq_lens,
        max_length,
        max_length,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return attended[None, ..., :size]


def use_fastest_kernel(device: torch.device) -> str:
    """Make torch's varlen_attn use the fastest kernel that is installed for a GPU, and return its name.

    FlashAttention-2 is torch's own. FlashAttention-3 is for Hopper (package flash_attn_3), FlashAttention-4 for
    Blackwell (package flash_attn_4); neither is among reasonray's dependencies.
    """
    kernel = fastest_kernel(capability(device), lambda module: find_spec(module) is not None)
    if kernel != "FA2":
        activate_flash_attention_impl(kernel)
    return kernel


def fastest_kernel(capability: tuple[int, int], is_installed: Callable[[str], bool]) -> Literal["FA2", "FA3", "FA4"]:
    """Return the fastest kernel for a GPU.

    Args:
        capability: of the GPU.
        is_installed: whether a module could be imported.
    """
    if capability[0] == _HOPPER and is_installed("flash_attn_interface"):
        return "FA3"
    # From the outermost package inwards, because a module within a missing one cannot be looked for.
    if capability[0] == _BLACKWELL and all(map(is_installed, _FLASH_ATTENTION_4)):
        return "FA4"
    return "FA2"


AttentionInterface.register(NAME, packed_attention)

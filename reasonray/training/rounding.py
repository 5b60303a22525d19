"""Stochastic rounding to bf16, by bits that depend on an element's place in the whole tensor and on nothing else.

Rounding to nearest loses each change below half a unit of the last of bf16's 8 digits, 0.2 % of the value. A second
moment of AdamW changes by 0.1 % a step and would never fall. Rounded up as often as its remainder is large, a value is
right in the mean (Connolly, Higham and Mary 2021, https://doi.org/10.1137/20M1334796).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

_BLOCK = 1 << 22
"""Elements that are computed at once: their fp32 values and bits are small next to a large matrix."""


@dataclass(frozen=True)
class Block:
    """Some successive rows of the part of a tensor that this process holds."""

    rows: slice
    """Of this process's part."""
    first: int
    """Place of the first element in the whole tensor."""

    def bits(self, values: torch.Tensor, key: int) -> torch.Tensor:
        """Return 32 random bits for each element of the block, whose values are given."""
        return random_bits(self.first, values.numel(), key, values.device).view(values.shape)


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return a view of the part of a tensor that this process holds, with one dimension at least."""
    return torch.atleast_1d(tensor.to_local() if isinstance(tensor, DTensor) else tensor)


def blocks(tensor: torch.Tensor) -> Iterator[Block]:
    """Yield the part of a tensor that this process holds, in blocks of rows.

    Args:
        tensor: sharded along its first dimension, as FSDP does, or not at all.
    """
    rows, first = len(local_part(tensor)), 0
    if isinstance(tensor, DTensor):
        assert all(place.is_replicate() or place.is_shard(0) for place in tensor.placements), tensor.placements
        _, (first, *_) = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    row = math.prod(tensor.shape[1:])
    at_once = max(1, _BLOCK // max(1, row))
    for start in range(0, rows, at_once):
        yield Block(slice(start, start + at_once), (first + start) * row)


def write_rounded(target: torch.Tensor, values: torch.Tensor, key: int) -> None:
    """Write fp32 values into a bf16 tensor that is sharded in the same way.

    Args:
        target: gets the values.
        values: to be rounded; they stay as they are.
        key: another one for each tensor and step.
    """
    into, exact = local_part(target), local_part(values)
    for block in blocks(target):
        part = exact[block.rows].clone()
        into[block.rows] = to_bf16(part, block.bits(part, key))


def random_bits(first: int, count: int, key: int, device: torch.device) -> torch.Tensor:
    """Return 32 random bits for each of `count` successive elements, as int32.

    Args:
        first: place of the first element in the whole tensor.
        count: of the elements.
        key: as far apart as a hash for each tensor and step.
        device: of the bits.
    """
    bits = torch.arange(count, dtype=torch.int32, device=device).add_(_signed(first + key))
    # lowbias32 (https://nullprogram.com/blog/2018/07/31/); int32 wraps, and the mask makes its shifts logical.
    bits.bitwise_xor_((bits >> 16).bitwise_and_(0xFFFF)).mul_(_signed(0x7FEB352D))
    bits.bitwise_xor_((bits >> 15).bitwise_and_(0x1FFFF)).mul_(_signed(0x846CA68B))
    return bits.bitwise_xor_((bits >> 16).bitwise_and_(0xFFFF))


def to_bf16(values: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Return fp32 values in bf16, each one of the two next to it; an exact value stays.

    Args:
        values: in fp32; they are overwritten.
        bits: int32 of the same shape, of which the lower 16 are used.
    """
    # bf16 is the upper half of fp32: adding random bits to the lower half carries as often as it is large.
    values.view(torch.int32).add_(bits & 0xFFFF).bitwise_and_(-0x10000)
    return values.to(torch.bfloat16)


def _signed(number: int) -> int:
    """Return the int32 with the same bits as the lower 32 of a number."""
    return (number + 0x80000000 & 0xFFFFFFFF) - 0x80000000

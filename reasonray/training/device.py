"""A worker's device: how fast it multiplies matrices, and the memory that the worker takes."""

from __future__ import annotations

import ctypes
import resource
import statistics
import sys
import time
from functools import cache

import torch

_BF16_RATES = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 5090": 210e12,
    "RTX 4090": 165e12,
    "L4": 121e12,
}
"""Operations per second of dense bf16 products by part of the card's name, from NVIDIA's data sheets; the first that
fits counts."""
_SIZE, _TIMES = {"cuda": 8192, "cpu": 512}, 5


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return a device's operations per second in matrix products: by the data sheet, or else as measured once."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        known = sheet_rate(torch.cuda.get_device_name(device))
        if known is not None:
            return known
    return _measured_rate(device, dtype)


def sheet_rate(card: str) -> float | None:
    """Return the operations per second of bf16 products by a card's data sheet; None if the card is not listed."""
    return next((rate for part, rate in _BF16_RATES.items() if f" {part} " in f" {card.replace('-', ' ')} "), None)


@cache
def _measured_rate(device: torch.device, dtype: torch.dtype) -> float:
    size = _SIZE[device.type]
    one, other = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    seconds = []
    for _ in range(_TIMES):
        started = time.perf_counter()
        one @ other
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return float(2 * size**3 / statistics.median(seconds))


def peak_memory(device: torch.device) -> float:
    """Return the most bytes that this process has held so far: of tensors on a GPU, else of main memory."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def trim_heap() -> None:
    """Return freed memory to the system: glibc keeps what loading freed in holes too small for most tensors."""
    # Only glibc has malloc_trim, so other C libraries have to be asked for it.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)

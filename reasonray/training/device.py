"""A worker's device: how fast it multiplies matrices, and the memory that the worker takes."""

from __future__ import annotations

import ctypes
import re
import resource
import statistics
import sys
import time
from functools import cache

import torch

_BF16_RATES = {
    r"A100-SXM4-[48]0GB|A100-PCIE-40GB|A100 80GB PCIe": 312e12,
    r"H100 80GB HBM3": 989.5e12,
    r"H100 PCIe": 756.5e12,
    r"H100 NVL": 835.5e12,
    r"H200": 989.5e12,
    r"H200 NVL": 835.5e12,
    r"GH200 (480GB|144G HBM3e)": 989.5e12,
    r"B200": 2250e12,
    r"GB200": 2500e12,
    r"A10G": 70e12,
    r"L4": 121e12,
    r"L40S": 362.05e12,
    r"GeForce RTX 4090": 165.2e12,
    r"GeForce RTX 5090": 209.5e12,
    r"AMD Instinct MI300X( OAM)?": 1307.4e12,
}
"""Operations per second of dense bf16 products with sums in fp32, by the whole name of a card, without "NVIDIA ".

The vendors' figures, half of those that are given with sparsity: A100, H100 (1,979, PCIe 1,513, NVL 1,671), H200
(1,979, NVL 1,671), GH200, B200 and GB200 (HGX B200: 4.5 PFLOPS, GB200: 5), A10G (70; some catalogues say 62.5), L4
(242), L40S (733), RTX 4090, RTX 5090, MI300X. Most were read in tables that repeat the data sheets, not in the sheets
themselves. A laptop's or a D card, a MIG instance and a virtual GPU have other names, and other rates.
"""
_SIZE, _TIMES = 512, 5


def product_rate(device: torch.device, dtype: torch.dtype) -> float | None:
    """Return a device's operations per second in matrix products, or None where they are unknown.

    Of a GPU they are those of the data sheet in bf16, as is usual for utilisation; a CPU is measured once.
    """
    if device.type == "cpu":
        return _measured_rate(dtype)
    return sheet_rate(torch.cuda.get_device_name(device)) if dtype == torch.bfloat16 else None


def sheet_rate(card: str) -> float | None:
    """Return the operations per second of bf16 products by a card's data sheet; None if the card is not listed."""
    name = card.removeprefix("NVIDIA ")
    return next((rate for pattern, rate in _BF16_RATES.items() if re.fullmatch(pattern, name)), None)


@cache
def _measured_rate(dtype: torch.dtype) -> float:
    one, other = (torch.ones(_SIZE, _SIZE, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(_TIMES):
        started = time.perf_counter()
        one @ other
        seconds.append(time.perf_counter() - started)
    return float(2 * _SIZE**3 / statistics.median(seconds))


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

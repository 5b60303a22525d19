"""The output of every benchmark: a table for people, then one line of JSON for programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def machine() -> str:
    """Return the processor's name and the number of cores that this process may use."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def print_figures(benchmark: str, figures: Mapping[str, Any]) -> None:
    """Print the figures as an aligned table, and then again as the last line, in JSON."""
    width = max(len(name) for name in figures)
    print(f"{benchmark}   {machine()}")
    for name, figure in figures.items():
        print(f"  {name:<{width}}  {figure:,.3f}" if isinstance(figure, float) else f"  {name:<{width}}  {figure}")
    print(json.dumps({"benchmark": benchmark, "machine": machine()} | dict(figures)))

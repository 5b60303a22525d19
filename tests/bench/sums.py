"""A file of any number of problems, for benchmarks whose engine needs no model."""

from __future__ import annotations

import json
from pathlib import Path


def write_sums(file: Path, count: int) -> Path:
    """Write `count` sums as JSON Lines, and return the file."""
    lines = ({"question": f"What is {number} + {number * 7}?", "answer": str(number * 8)} for number in range(count))
    file.write_text("\n".join(json.dumps(line) for line in lines))
    return file

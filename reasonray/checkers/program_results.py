"""The results of a program: read from what its process reported, and compared with the expected ones.

Only data of Python's own types are compared here, never objects of the program.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any


class Foreign:
    """A result of a type that has no data."""

    def __init__(self, name: str) -> None:
        self.name = name


def value_of(report: Any) -> Any:
    """Return the value that the runner reported as data."""
    if not isinstance(report, dict):
        return report
    [(kind, given)] = report.items()
    if kind in ("list", "tuple", "set"):
        items = [value_of(each) for each in given]
        other = next((each for each in items if isinstance(each, Foreign)), None)
        return other or {"list": list, "tuple": tuple, "set": frozenset}[kind](items)
    if kind == "dict":
        pairs = [(value_of(key), value_of(each)) for key, each in given]
        return next((each for pair in pairs for each in pair if isinstance(each, Foreign)), None) or dict(pairs)
    if kind == "number":
        return Fraction(given) if "/" in given else Decimal(given)
    if kind == "complex":
        return complex(*given)
    return bytes.fromhex(given) if kind == "bytes" else Foreign(str(given)[:80])


def difference(output: str, expected: str, tolerance: float | None) -> str:
    """Return the first difference, or "" if there is none. Spaces at the ends of lines and of the text do not count."""
    lines, wanted = ([line.rstrip() for line in text.rstrip().splitlines()] for text in (output, expected))
    for number, (line, right) in enumerate(zip(lines, wanted, strict=False), 1):
        if line != right and not (tolerance is not None and _close(line, right, tolerance)):
            return f"line {number} is {short(line)}, not {short(right)}"
    return "" if len(lines) == len(wanted) else f"{len(lines)} lines, not {len(wanted)}"


def _close(line: str, right: str, tolerance: float) -> bool:
    pairs = list(zip(line.split(), right.split(), strict=False))
    if len(line.split()) != len(right.split()):
        return False
    return all(one == other or same(_as_float(one), _as_float(other), tolerance) for one, other in pairs)


def _as_float(token: str) -> float | None:
    try:
        return float(token)
    except ValueError:
        return None


def same(value: Any, wanted: Any, tolerance: float | None) -> bool:
    """Return whether two JSON values are the same, numbers within a tolerance (absolute or relative, the wider one).

    A tuple is a list in JSON, and a dictionary's keys are texts.
    """
    if isinstance(wanted, bool) or isinstance(value, bool):
        return value is wanted
    if isinstance(wanted, int | float | Decimal) and isinstance(value, int | float | Decimal | Fraction):
        is_within = tolerance is not None and math.isclose(value, wanted, rel_tol=tolerance, abs_tol=tolerance)
        return value == wanted or is_within
    if isinstance(wanted, list | tuple) and isinstance(value, list | tuple):
        pairs = zip(value, wanted, strict=False)
        return len(value) == len(wanted) and all(same(one, other, tolerance) for one, other in pairs)
    if isinstance(wanted, Mapping) and isinstance(value, Mapping):
        given = {_key(key): each for key, each in value.items()}
        return given.keys() == set(map(_key, wanted)) and all(
            same(given[_key(key)], each, tolerance) for key, each in wanted.items()
        )
    return (value is not None and type(value) is type(wanted) and bool(value == wanted)) or (value is None is wanted)


def _key(key: Any) -> str:
    return key if isinstance(key, str) else json.dumps(key, default=str)


def short(value: Any) -> str:
    """Return the beginning of a value, for a verdict's detail."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr, skipkeys=True)
    except ValueError:
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "…"

"""Gold answers of public data sets, and what becomes of one when a digit, a sign, an operator or a bound is changed.

Whether a change changes the value is decided without our checkers: math-verify's parse of both texts is evaluated with
random numbers in place of the letters. Where it reads neither or the values agree, the change does not count.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from reasonray.config import FilesSource
from reasonray.problems.columns import problem_of
from reasonray.problems.files import read_rows
from reasonray.problems.notes import Notes
from reasonray.records import Problem, Split

KINDS = ("digit", "sign", "operator", "bound")
_POINTS = 3
_SIGNS = {"+": "-", "-": "+", r"\pm": r"\mp"}
_OPERATORS = {
    r"\times": "+", r"\cdot": "+", "+": r"\cdot ", "/": "+", "^": "+", r"\cup": r"\cap", r"\cap": r"\cup",
}  # fmt: skip
_BOUNDS = {
    r"\leqslant": "<", r"\geqslant": ">", r"\leq": "<", r"\geq": ">", r"\le": "<", r"\ge": ">", "≤": "<", "≥": ">",
    "<": r"\le ", ">": r"\ge ",
}  # fmt: skip
_UPRIGHT = re.compile(r"\\(?:mathrm|rm|text|operatorname)\s*\{\s*([A-Za-z])\s*\}")
_INTERVAL = re.compile(r"\s*\$?\s*(?:\\left)?\s*([\[(])[^\[\]()]*,[^\[\]()]*?(?:\\right)?\s*([\])])\s*\$?\s*")


def read_golds(directory: Path) -> Iterator[tuple[str, Problem]]:
    """Yield the problems of the data sets in a directory, equal ones once: name of the set, and the problem."""
    seen = set()
    for file in sorted(directory.glob("*.jsonl")):
        for number, (location, row) in enumerate(read_rows(str(file), file.stem)):
            problem = _problem({**row, "question": f"{file.stem} {number}"}, location)
            content = problem.checker, problem.answer, repr(problem.metadata.get("options"))
            if content not in seen:
                seen.add(content)
                yield file.stem, problem


def _problem(row: Mapping[str, Any], location: str) -> Problem:
    options = next((name for name in ("options", "choices") if row.get(name)), None)
    source = FilesSource.model_validate(
        {
            "kind": "files",
            "checker": "choice" if options else "math_answer",
            "columns": {"metadata": {"options": options} if options else {}},
            "unanswered": True,
            "gold": "all" if isinstance(row["answer"], list) else "verbatim",
        }
    )
    return problem_of(row, location, source, "golds", Split.TRAIN, Notes())


def changes(gold: str, seed: int) -> list[tuple[str, str]]:
    """Return the kind and the text of up to one change of each kind, at a random place."""
    dice = random.Random(f"{seed} {gold}")
    found = {
        "digit": [
            (match.span(), str((int(match[0]) + dice.randrange(1, 10)) % 10)) for match in re.finditer(r"\d", gold)
        ],
        "sign": _replacements(gold, _SIGNS),
        "operator": _replacements(gold, _OPERATORS),
        "bound": _replacements(gold, _BOUNDS) + _other_brackets(gold),
    }
    chosen = {kind: dice.choice(places) for kind, places in found.items() if places}
    return [(kind, f"{gold[:start]}{new}{gold[end:]}") for kind, ((start, end), new) in chosen.items()]


def _replacements(gold: str, table: Mapping[str, str]) -> list[tuple[tuple[int, int], str]]:
    # A command ends where its letters end: \le is not the beginning of \left.
    names = "|".join(re.escape(name) + ("(?![A-Za-z])" if name[-1].isalpha() else "") for name in table)
    return [(match.span(), table[match[0]]) for match in re.finditer(names, gold)]


def _other_brackets(gold: str) -> list[tuple[tuple[int, int], str]]:
    """Return the ends of a finite interval, open for closed and closed for open; a pair is not an interval."""
    match = _INTERVAL.fullmatch(gold)
    if not match or (match[1], match[2]) == ("(", ")") or r"\infty" in gold:
        return []
    other = {"[": "(", "(": "[", "]": ")", ")": "]"}
    return [(match.span(1), other[match[1]]), (match.span(2), other[match[2]])]


def differ(gold: str, changed: str) -> bool | None:
    """Return whether two texts have different values; None if math-verify reads one of them as text only."""
    first, second = _signature(gold), _signature(changed)
    if first is None or second is None:
        return None
    return any(not _close(one, other) for one, other in zip(first, second, strict=True))


@lru_cache(maxsize=64)
def _signature(text: str) -> list[Any] | None:
    """Return the value at a few random points: numbers, or nested tuples of numbers and names of types."""
    from math_verify import parse
    from sympy import Basic, MatrixBase

    text = _UPRIGHT.sub(r"\1 ", text.replace("$", ""))
    parsed = parse(f"${text}$", parsing_timeout=None)
    if not parsed or not isinstance(parsed[0], Basic | MatrixBase):
        return None
    value = parsed[0]
    dice = random.Random(0)
    letters = sorted(value.free_symbols, key=str)
    points = [{letter: dice.uniform(0.3, 2.7) for letter in letters} for _ in range(_POINTS)]
    try:
        return [_at(value, point) for point in points]
    except (TypeError, ValueError, ArithmeticError, AttributeError, RecursionError, NotImplementedError):
        return None


def _at(value: Any, point: Mapping[Any, float]) -> Any:
    from sympy import Equality, Expr, FiniteSet, Interval, MatrixBase, Rel, Tuple, Union

    if isinstance(value, Equality):  # up to a factor, so the ratio of its sides is compared
        left, right = (complex(side.subs(point).evalf()) for side in value.args)
        return ("equation", left - right) if not right else ("equation", left / right)
    if isinstance(value, Rel):
        return (type(value).__name__, *(_at(side, point) for side in value.args))
    if isinstance(value, Interval):
        ends = (_at(value.start, point), _at(value.end, point))
        return ("interval", *ends, float(value.left_open == True), float(value.right_open == True))  # noqa: E712
    if isinstance(value, FiniteSet | Union):
        return (type(value).__name__, *sorted((_at(part, point) for part in value.args), key=repr))
    if isinstance(value, Tuple):
        return ("tuple", *(_at(part, point) for part in value.args))
    if isinstance(value, MatrixBase):
        return ("matrix", *value.shape, *(_at(entry, point) for entry in value))
    if isinstance(value, Expr):
        if value.is_infinite:
            return (str(value),)
        return complex(value.subs(point).doit().evalf())
    return (type(value).__name__, *(_at(part, point) for part in value.args))


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(_close(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, int | float | complex) and isinstance(other, int | float | complex):
        return abs(one - other) <= 1e-6 * max(abs(one), abs(other))
    return bool(one == other)

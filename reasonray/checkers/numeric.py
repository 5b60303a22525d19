"""Numbers within a tolerance: `metadata["absolute_tolerance"]`, `metadata["relative_tolerance"]`, either is enough.

Without a tolerance only the equal number is right. A formula counts by its value; units must agree, or convert.
"""

from __future__ import annotations

import re
from fractions import Fraction
from math import isfinite

from reasonray.checkers import notation, numbers
from reasonray.checkers.math_answer import value_of
from reasonray.records import Outcome, Problem

_ASSIGNED = re.compile(r"^\\?[A-Za-z]\w*(?:_\{?\w+\}?)?\s*(?:=|\\approx\b|≈)\s*")
_TOLERANCES = ("absolute_tolerance", "relative_tolerance")


def fast(problem: Problem, answer: str) -> tuple[Outcome, str] | None:
    """Compare plain numbers; None where a value has to be computed first."""
    if unverifiable(problem):
        return None
    given = numbers.read(answer)
    return _within(problem, given) if given else None


def compare(problem: Problem, answer: str) -> tuple[Outcome, str]:
    """Say whether an answer is as near to the gold answer as the problem asks for."""
    if reason := unverifiable(problem):
        return Outcome.UNVERIFIABLE, reason
    if finding := fast(problem, answer):
        return finding
    formula = _ASSIGNED.sub("", notation.formula(answer) or "")
    given = (numbers.read(formula) or value_of(formula)) if formula else None
    return _within(problem, given) if given else (Outcome.WRONG, "states no number")


def unverifiable(problem: Problem) -> str | None:
    """Return what is wrong with the gold answer or the tolerances, None if nothing is."""
    for name in _TOLERANCES:
        tolerance = problem.metadata.get(name, 0)
        if isinstance(tolerance, bool) or not isinstance(tolerance, int | float):
            return f"{name} is no number but {tolerance!r}"
        if not (isfinite(tolerance) and tolerance >= 0):
            return f"{name} is {tolerance}; it must be 0 or more"
    return None if numbers.read(problem.answer or "") else "the gold answer is not a plain number"


def _within(problem: Problem, given: numbers.Number) -> tuple[Outcome, str]:
    wanted = numbers.read(problem.answer or "")
    scaled = numbers.commensurable(wanted, given) if wanted else None
    if wanted is None or scaled is None:
        return Outcome.WRONG, "another unit"
    absolute, relative = (Fraction(problem.metadata.get(name, 0)) for name in _TOLERANCES)
    reach = max(absolute, relative * abs(wanted.value))
    if any(abs(wanted.value - value) <= reach for value in scaled):
        return Outcome.CORRECT, "within the tolerance"
    return Outcome.WRONG, "outside the tolerance"

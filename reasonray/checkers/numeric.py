"""Numbers within a tolerance: `metadata["absolute_tolerance"]` or `metadata["relative_tolerance"]`; either is enough.

Without a tolerance only the equal number is correct. A formula counts by its value. Units must be the same or convert.
"""

from __future__ import annotations

from fractions import Fraction
from math import isfinite

from reasonray.checkers import numbers
from reasonray.checkers.checker import Checker, Finding
from reasonray.checkers.math_answer import value_of
from reasonray.records import Outcome, Problem

_TOLERANCES = ("absolute_tolerance", "relative_tolerance")


class Numeric(Checker):
    """Judges whether an answer is as near to the gold answer as the problem asks for."""

    def unverifiable(self, problem: Problem) -> str | None:
        """Return what is wrong with the gold answer or the tolerances, or None if nothing is."""
        for name in _TOLERANCES:
            tolerance = problem.metadata.get(name, 0)
            if isinstance(tolerance, bool) or not isinstance(tolerance, int | float):
                return f"{name} is {tolerance!r}, which is not a number"
            if not (isfinite(tolerance) and tolerance >= 0):
                return f"{name} is {tolerance}; it must be 0 or more"
        return None if numbers.read(problem.answer or "") else "the gold answer is not a plain number"

    def fast(self, problem: Problem, answer: str) -> Finding | None:
        """Compare plain numbers, or return None where a value has to be computed first."""
        if self.unverifiable(problem):
            return None
        number = numbers.read(answer)
        return _within(problem, number) if number else None

    def compare(self, problem: Problem, answer: str) -> Finding:
        """Compare the value of a formula."""
        if reason := self.unverifiable(problem):
            return Finding(Outcome.UNVERIFIABLE, reason)
        number = value_of(answer)
        return _within(problem, number) if number else Finding(Outcome.WRONG, "states no number")


def _within(problem: Problem, number: numbers.Number) -> Finding:
    gold = numbers.read(problem.answer or "")
    values = numbers.commensurable(gold, number) if gold else None
    if gold is None or values is None:
        return Finding(Outcome.WRONG, "another unit")
    absolute, relative = (Fraction(problem.metadata.get(name, 0)) for name in _TOLERANCES)
    tolerance = max(absolute, relative * abs(gold.value))
    if any(abs(gold.value - value) <= tolerance for value in values):
        return Finding(Outcome.CORRECT, "within the tolerance")
    return Finding(Outcome.WRONG, "outside the tolerance")

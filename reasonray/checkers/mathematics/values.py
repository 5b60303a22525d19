"""Equality of expressions by value: exact where exact arithmetic lasts, else to 60 digits and more at random points."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Final

from reasonray.checkers.mathematics.arithmetic import Scalar, TooLarge, Undefined, precision
from reasonray.checkers.mathematics.evaluation import Evaluation, Work
from reasonray.checkers.mathematics.points import has_imaginary_unit, is_piecewise, log_readings, points, whole_symbols
from reasonray.checkers.mathematics.tree import Call, Tree, is_value, nodes, symbols

_DIGITS: Final = 60
_MAX_DIGITS: Final = 2000
_GUARD: Final = 25
"""Digits that rounding may cost before two values count as different."""


def equal(first: Tree, second: Tree) -> tuple[bool | None, str]:
    """Return whether two expressions have the same value wherever both have one, and the step that decided.

    None means undecided: no admissible points, or values beyond the bounds.
    """
    if not (is_value(first) and is_value(second)):
        return None, "not expressions"
    decision: bool | None = False
    step = ""
    for natural in log_readings(first, second):
        decision, step = _equal(first, second, natural)
        if decision:
            return decision, step
    return decision, step


def _equal(first: Tree, second: Tree, natural: bool) -> tuple[bool | None, str]:
    names = symbols(first) | symbols(second)
    whole = whole_symbols(first, second)
    is_complex = not names or has_imaginary_unit(first, second)
    needed = 1 if not names else 12 if whole or is_piecewise(first, second) else 4
    found, is_exact, work = 0, True, Work()
    for point in points(names, whole, 1 if not names else 48):
        try:
            same, exact = _same_at(point, first, second, is_complex, natural, work)
        except Undefined:
            continue
        except TooLarge:
            if not names or work.left < 0:
                return None, "beyond the bounds"
            continue
        if not same:
            return False, "exact arithmetic" if exact else "numerical values"
        is_exact = is_exact and exact
        found += 1
        if found >= needed:
            break
    if not found or (names and found < 3):
        return None, "no admissible points"
    return True, "exact arithmetic" if is_exact else "numerical values"


def _same_at(
    point: dict[str, Fraction], first: Tree, second: Tree, is_complex: bool, natural: bool, work: Work
) -> tuple[bool, bool]:
    """Return whether two values are the same at a point, and whether both are exact."""
    digits, previous = _DIGITS, None
    while digits <= _MAX_DIGITS:
        evaluation = Evaluation(digits, is_complex, natural, point=dict(point), work=work)
        one, two = evaluation.value(first), evaluation.value(second)
        if isinstance(one, Fraction) and isinstance(two, Fraction):
            return one == two, True
        one, two = evaluation.real(one), evaluation.real(two)
        difference, size = abs(one - two), max(abs(one), abs(two))
        tolerance = evaluation.context.mpf(10) ** (_GUARD - digits)
        if difference > tolerance * max(size, evaluation.context.ldexp(1, evaluation.magnitude)):
            return False, False
        if evaluation.spread > digits - _GUARD:
            digits = max(int(evaluation.spread) + 2 * _GUARD, 2 * digits)
            continue
        if difference <= tolerance * size:
            return True, False
        if difference > tolerance:
            return False, False
        # A difference that small is either rounding, which shrinks with more digits, or a small number, which does not.
        if previous is not None:
            return difference * evaluation.context.mpf(10) ** _GUARD < previous, False
        previous, digits = evaluation.context.mpf(difference), 2 * digits
    raise TooLarge


@lru_cache(maxsize=4096)
def constant(tree: Tree) -> Scalar | None:
    """Return the real value of an expression without variables to 60 digits, or None if it has none."""
    if not is_value(tree) or symbols(tree) or any(isinstance(node, Call) for node in nodes(tree)):
        return None
    try:
        evaluation = Evaluation(_DIGITS, True, True, point={})
        value = evaluation.real(evaluation.value(tree))
    except ArithmeticError:
        return None
    return None if isinstance(value, evaluation.context.mpc) else value


def proportional(first: Tree, second: Tree, *, needs_positive: bool) -> bool | None:
    """Return whether one expression is a constant multiple of the other, by a factor that is not 0.

    Constants are multiples of each other only if they are equal: `1 = 0` is not `2 = 0`.

    Args:
        first: an expression.
        second: another.
        needs_positive: whether the factor has to be positive.
    """
    names = symbols(first) | symbols(second)
    if not names:
        return equal(first, second)[0]
    decisions = [_proportional(first, second, needs_positive, natural) for natural in log_readings(first, second)]
    return True if True in decisions else decisions[0]


def _proportional(first: Tree, second: Tree, needs_positive: bool, natural: bool) -> bool | None:
    pairs = list(_pairs(first, second, natural, 4 if not is_piecewise(first, second) else 10))
    if len(pairs) < 3:
        return None
    tolerance = precision(_DIGITS).mpf(10) ** (_GUARD - _DIGITS)
    (one, two), *rest = pairs
    if abs(one) <= tolerance or abs(two) <= tolerance:
        return False
    if needs_positive and (one > 0) != (two > 0):
        return False
    if all(abs(value - one) <= tolerance * abs(one) for value, _ in rest):
        return abs(one - two) <= tolerance * abs(one) and all(
            abs(value - two) <= tolerance * abs(two) for _, value in rest
        )
    return all(
        abs(left * two - right * one) <= tolerance * max(abs(left * two), abs(right * one)) for left, right in rest
    )


def _pairs(first: Tree, second: Tree, natural: bool, number: int) -> Iterator[tuple[Scalar, Scalar]]:
    """Yield real values of two expressions at admissible points."""
    names = symbols(first) | symbols(second)
    whole = whole_symbols(first, second)
    is_complex = has_imaginary_unit(first, second)
    found, work = 0, Work()
    for point in points(names, whole, 48):
        evaluation = Evaluation(_DIGITS, is_complex, natural, point=dict(point), work=work)
        try:
            pair = evaluation.real(evaluation.value(first)), evaluation.real(evaluation.value(second))
        except ArithmeticError:
            continue
        if evaluation.spread > _DIGITS - _GUARD:
            continue
        yield pair
        found += 1
        if found == number:
            return


def same_solutions(first: Tree, second: Tree) -> bool | None:
    """Return whether two equations that are linear in one variable have the same solution for it at random points.

    None means that they are linear in no common variable.
    """
    names = symbols(first) | symbols(second)
    for name in sorted(names - whole_symbols(first, second)):
        decisions = [_same_solution(first, second, name, point) for point in points(names, frozenset(), 6)]
        if None not in decisions:
            return False not in decisions
    return None


def _same_solution(first: Tree, second: Tree, name: str, point: dict[str, Fraction]) -> bool | None:
    roots = []
    for tree in (first, second):
        evaluations = []
        for value in (Fraction(1), Fraction(2), Fraction(4)):
            evaluation = Evaluation(_DIGITS, False, True, point={**point, name: value})
            try:
                evaluations.append(evaluation.real(evaluation.value(tree)))
            except ArithmeticError:
                return None
        one, two, four = evaluations
        slope = two - one
        tolerance = evaluation.context.mpf(10) ** (_GUARD - _DIGITS) * max(1, abs(four))
        if abs(slope) <= tolerance or abs(four - two - 2 * slope) > tolerance:
            return None
        roots.append(1 - one / slope)
    return bool(abs(roots[0] - roots[1]) <= evaluation.context.mpf(10) ** (_GUARD - _DIGITS) * max(1, abs(roots[0])))

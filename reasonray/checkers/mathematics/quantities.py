"""Values with units, numerals of a base, and rounded numbers."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

from reasonray.checkers import units
from reasonray.checkers.mathematics import values
from reasonray.checkers.mathematics.decisions import Comparer, Decision
from reasonray.checkers.mathematics.tree import MINUS_ONE, Apply, Constant, Number, Quantity, Tree, negated, nodes

_SAME_DIGITS: Final = 6


def measured(tree: Tree) -> tuple[Tree, str]:
    """Return a value and its unit, "" if it has none."""
    if isinstance(tree, Quantity):
        return tree.value, tree.unit
    if isinstance(tree, Apply) and tree.name == "degree":
        return tree.arguments[0], "degree"
    if isinstance(tree, Apply) and tree.name in ("degree C", "degree F"):
        return tree.arguments[0], "°" + tree.name[-1]
    if isinstance(tree, Apply) and tree.name == "*" and len(tree.arguments) == 2 and tree.arguments[0] == MINUS_ONE:
        value, unit = measured(tree.arguments[1])
        return (negated(value), unit) if unit else (tree, "")
    return tree, ""


def scaled(wanted: Tree, wanted_unit: str, given: Tree, given_unit: str) -> list[Tree]:
    """Return the values that an answer may have in the gold answer's unit, none if their units contradict."""
    if "%" in (wanted_unit, given_unit):
        if wanted_unit == given_unit:
            return [given]
        if (wanted_unit or given_unit) and wanted_unit and given_unit:
            return []
        factor = Fraction(1, 100) if given_unit == "%" else Fraction(100)
        share = Apply("*", (Number(factor), given))
        size = values.constant(given)
        return [share, given] if size is None or abs(size) >= 1 else [share]
    if "degree" in (wanted_unit, given_unit) and (not wanted_unit or not given_unit):
        bare, turned = (given, wanted) if wanted_unit else (wanted, given)
        if any(node == Constant("pi") for node in nodes(bare)):
            radians = Apply("degree", (turned,))
            return (
                [radians]
                if given_unit
                else [Apply("*", (bare, Number(Fraction(180)), Apply("^", (Constant("pi"), MINUS_ONE))))]
            )
        return [given]
    ratio = units.ratio(wanted_unit, given_unit)
    if ratio is None:
        return []
    return [given if ratio == 1 else Apply("*", (Number(ratio), given))]


def agree_as_rounded(wanted: Tree, given: Tree) -> bool:
    """Return whether two constants differ by less than the last digit of the shorter decimal, if long enough."""
    written = [tree for tree in (_written(wanted), _written(given)) if tree is not None and tree.decimals]
    if not written:
        return False
    shorter = min(written, key=lambda number: number.decimals)
    if shorter.decimals < _SAME_DIGITS or abs(shorter.value) * 10**shorter.decimals < 10 ** (_SAME_DIGITS - 1):
        return False
    one, two = values.constant(wanted), values.constant(given)
    return one is not None and two is not None and bool(abs(one - two) * 10**shorter.decimals < 1)


def is_far_apart(exact: Tree, rough: Tree) -> bool:
    """Return whether a rounded value is not the exact value's: off by more than one of its last digit."""
    (value, unit), (rounded, rounded_unit) = measured(exact), measured(rough)
    one, two = values.constant(value), values.constant(rounded)
    if one is None or two is None or (unit and rounded_unit and unit != rounded_unit):
        return False
    written = _written(rounded)
    if written is None or not written.decimals:
        return bool(abs(one - two) > 0.05 * max(abs(one), abs(two)))
    return bool(abs(one - two) * 10**written.decimals > 1)


def _written(tree: Tree) -> Number | None:
    if isinstance(tree, Number):
        return tree
    if isinstance(tree, Apply) and tree.name == "*" and len(tree.arguments) == 2 and tree.arguments[0] == MINUS_ONE:
        return _written(tree.arguments[1])
    return None


def compare_numerals(comparison: Comparer, wanted: Number, given: Number) -> Decision:
    """Compare numerals of which one names its base: the bare one may have left it out, or be the value in ten."""
    if wanted.base != 10 and given.base != 10:
        return comparison.by("numerals of a base", wanted.value == given.value)
    named, bare = (wanted, given) if wanted.base != 10 else (given, wanted)
    digits = _digits(named)
    is_same = named.value == bare.value or (wanted is named and digits == str(bare.value))
    return comparison.by("numerals of a base", is_same)


def _digits(number: Number) -> str:
    value, digits = int(number.value), ""
    while value:
        value, digit = divmod(value, number.base)
        digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[digit] + digits
    return digits or "0"

"""Sets of real numbers as sorted intervals: intervals, inequalities, finite sets, unions, set-builders."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from mpmath import mpf

from reasonray.checkers.mathematics import values
from reasonray.checkers.mathematics.rewriting import expanded
from reasonray.checkers.mathematics.tree import (
    Apply,
    Bracket,
    Constant,
    Listing,
    Number,
    Relation,
    SetBuilder,
    Symbol,
    Tree,
    Words,
    negated,
)
from reasonray.checkers.mathematics.vocabulary import EMPTY

_INFINITY: Final = mpf("inf")
_CLOSE: Final = mpf(10) ** -35
_FLIPPED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "!=": "!="}


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval; a single number is closed at both ends."""

    low: Any
    low_closed: bool
    high: Any
    high_closed: bool

    def is_empty(self) -> bool:
        """Return whether no number is inside."""
        if _same(self.low, self.high):
            return not (self.low_closed and self.high_closed)
        return bool(self.low > self.high)


@dataclass(frozen=True, slots=True)
class RealSet:
    """A union of disjoint intervals in rising order, and the variable that the answer names, or ""."""

    intervals: tuple[Interval, ...]
    variable: str = ""

    def same(self, other: RealSet) -> bool:
        """Return whether two sets hold the same numbers; variables that both name must be the same."""
        if self.variable and other.variable and self.variable != other.variable:
            return False
        return len(self.intervals) == len(other.intervals) and all(map(_agree, self.intervals, other.intervals))


EVERYTHING: Final = RealSet((Interval(-_INFINITY, False, _INFINITY, False),))
NOTHING: Final = RealSet(())


def _same(one: Any, two: Any) -> bool:
    if abs(one) == _INFINITY or abs(two) == _INFINITY:
        return bool(one == two)
    return bool(abs(one - two) <= _CLOSE * max(1, abs(one)))


def _agree(one: Interval, two: Interval) -> bool:
    return (
        _same(one.low, two.low)
        and _same(one.high, two.high)
        and (one.low_closed, one.high_closed) == (two.low_closed, two.high_closed)
    )


def read(tree: Tree) -> RealSet | None:
    """Return the set of real numbers that a tree describes, or None if it describes none, or one with parameters."""
    match tree:
        case Words(text="all real numbers"):
            return EVERYTHING
        case Words(text=text) if text == EMPTY:
            return NOTHING
        case Bracket(opening="{"):
            return _points(tree.items)
        case Bracket():
            return _interval(tree)
        case Apply(name="cup" | "cap" | "setminus"):
            return _operation(tree)
        case SetBuilder():
            return _built(tree)
        case Relation():
            return _relation(tree)
        case Listing():
            return _listing(tree)
        case _:
            return None


def is_set_like(tree: Tree) -> bool:
    """Return whether a tree can only be a set: an inequality, a union, a half-open interval, a set-builder."""
    match tree:
        case Words(text="all real numbers"):
            return True
        case Words(text=text):
            return text == EMPTY
        case Apply():
            return tree.name in ("cup", "cap", "setminus")
        case SetBuilder():
            return True
        case Bracket():
            ends = (tree.opening, tree.closing)
            return ends in (("[", ")"), ("(", "]")) or (
                len(tree.items) == 2 and any(_is_infinite(item) for item in tree.items)
            )
        case Relation():
            return any(sign in ("<", "<=", ">", ">=", "!=", "in") for sign in tree.signs)
        case Listing():
            return any(isinstance(item, Relation | Bracket | Apply) and is_set_like(item) for item in tree.items)
        case _:
            return False


def _is_infinite(tree: Tree) -> bool:
    return _infinite(tree) is not None


def _infinite(tree: Tree) -> Any | None:
    if tree == Constant("inf"):
        return _INFINITY
    if isinstance(tree, Apply) and tree.name == "*" and len(tree.arguments) == 2:
        factor, other = tree.arguments
        if other == Constant("inf") and (number := values.constant(factor)) is not None and number:
            return _INFINITY if number > 0 else -_INFINITY
    return None


def _end(tree: Tree) -> Any | None:
    infinite = _infinite(tree)
    if infinite is not None:
        return infinite
    value = values.constant(tree)
    return None if value is None else mpf(value)


def _interval(tree: Bracket) -> RealSet | None:
    if len(tree.items) != 2 or tree.opening not in "([":
        return None
    low, high = map(_end, tree.items)
    if low is None or high is None:
        return None
    interval = Interval(low, tree.opening == "[", high, tree.closing == "]")
    return None if interval.is_empty() else RealSet((interval,))


def _points(items: tuple[Tree, ...]) -> RealSet | None:
    numbers = [_end(item) for item in items]
    if any(number is None or abs(number) == _INFINITY for number in numbers):
        return None
    return _merged([Interval(number, True, number, True) for number in numbers])


def _operation(tree: Apply) -> RealSet | None:
    parts = [read(part) for part in tree.arguments]
    sets = [part for part in parts if part is not None]
    if len(sets) < len(parts):
        return None
    if tree.name == "cup":
        return _merged([interval for part in sets for interval in part.intervals])
    first, second = sets
    return _intersection(first, second if tree.name == "cap" else _complement(second))


def _built(tree: SetBuilder) -> RealSet | None:
    element, conditions = tree.element, tree.conditions
    if isinstance(element, Relation) and element.signs == ("in",):
        within = element.sides[1]
        element = element.sides[0]  # type: ignore[assignment]
        conditions = Listing((Relation(("in",), (element, within)), conditions))
    if not isinstance(element, Symbol):
        return None
    found = read(conditions)
    if found is None or found.variable not in ("", element.name):
        return None
    return RealSet(found.intervals)


def _relation(tree: Relation) -> RealSet | None:
    if len(tree.signs) == 1 and tree.signs[0] == "in" and isinstance(tree.sides[0], Symbol):
        inside = read(tree.sides[1]) if tree.sides[1] is not None else None
        return None if inside is None else RealSet(inside.intervals, tree.sides[0].name)
    if not all(sign in _FLIPPED for sign in tree.signs) or tree.signs == ("=",):
        return None
    if len(tree.sides) == 2 and (opened := _without_absolute(tree)):
        return read(opened)
    places = [index for index, side in enumerate(tree.sides) if side is None or isinstance(side, Symbol)]
    if len(places) != 1 or len(tree.sides) > 3:
        return None
    at = places[0]
    variable = tree.sides[at]
    found = EVERYTHING
    if at > 0:
        found = _bounded(found, _FLIPPED[tree.signs[at - 1]], tree.sides[at - 1])  # type: ignore[assignment]
    if found is not None and at < len(tree.signs):
        found = _bounded(found, tree.signs[at], tree.sides[at + 1])  # type: ignore[assignment]
    if found is None or abs(len(tree.sides) - 2 * at - 1) > 1 or (len(tree.sides) == 3 and at != 1):
        return None
    return RealSet(found.intervals, variable.name if isinstance(variable, Symbol) else "")


def _without_absolute(tree: Relation) -> Tree | None:
    """Return `|x - a| < b` as inequalities of x without the bars, or None for other relations."""
    left, right = tree.sides
    sign = tree.signs[0]
    if isinstance(right, Apply) and right.name == "abs":
        left, right, sign = right, left, _FLIPPED[sign]
    if not (isinstance(left, Apply) and left.name == "abs" and right is not None):
        return None
    inner = left.arguments[0]
    terms = inner.arguments if isinstance(inner, Apply) and inner.name == "+" else (inner,)
    names = [term for term in terms if isinstance(term, Symbol)]
    shift = negated(Apply("+", tuple(term for term in terms if term not in names) or (Number(Fraction(0)),)))
    radius = values.constant(right)
    if len(names) != 1 or values.constant(shift) is None or radius is None or not radius > 0 or sign == "!=":
        return None
    low, high = Apply("+", (shift, negated(right))), Apply("+", (shift, right))
    if sign in ("<", "<="):
        return Relation((sign, sign), (low, names[0], high))
    return Listing((Relation((_FLIPPED[sign],), (names[0], low)), Relation((sign,), (names[0], high))), "or")


def _bounded(current: RealSet, sign: str, bound: Tree | None) -> RealSet | None:
    ends = [] if bound is None else list(map(_end, expanded(bound)))
    if not ends or any(end is None for end in ends) or (len(ends) > 1 and sign != "!="):
        return None
    for end in ends:
        match sign:
            case "<" | "<=":
                part = Interval(-_INFINITY, False, end, sign == "<=")
            case ">" | ">=":
                part = Interval(end, sign == ">=", _INFINITY, False)
            case _:
                part = Interval(end, True, end, True)
        one = RealSet(() if part.is_empty() else (part,))
        current = _intersection(current, _complement(one) if sign == "!=" else one)
    return current


def _listing(tree: Listing) -> RealSet | None:
    items = list(tree.items)
    first = items[0]
    if isinstance(first, Relation) and first.signs == ("!=",):  # x ≠ -1, 4
        items = [
            item if isinstance(item, Relation) else Relation(("!=",), (first.sides[0], item)) for item in tree.items
        ]
    parts = [read(item) for item in items]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts) or not all(map(is_set_like, items)):
        return None
    names = {part.variable for part in found} - {""}
    if len(names) > 1:
        return None
    is_union = tree.joiner == "or" or (tree.joiner == "," and not any(isinstance(item, Relation) for item in items))
    if is_union:
        merged = _merged([interval for part in found for interval in part.intervals])
        return RealSet(merged.intervals, next(iter(names), ""))
    result = EVERYTHING
    for part in found:
        result = _intersection(result, part)
    return RealSet(result.intervals, next(iter(names), ""))


def _merged(intervals: list[Interval]) -> RealSet:
    merged: list[Interval] = []
    for interval in sorted(intervals, key=lambda part: (part.low, not part.low_closed)):
        if interval.is_empty():
            continue
        if merged and _touch(merged[-1], interval):
            last = merged[-1]
            closed = last.low_closed or (interval.low_closed and _same(last.low, interval.low))
            if _same(last.high, interval.high):
                merged[-1] = Interval(last.low, closed, last.high, last.high_closed or interval.high_closed)
            elif interval.high > last.high:
                merged[-1] = Interval(last.low, closed, interval.high, interval.high_closed)
            else:
                merged[-1] = Interval(last.low, closed, last.high, last.high_closed)
        else:
            merged.append(interval)
    return RealSet(tuple(merged))


def _touch(one: Interval, two: Interval) -> bool:
    if _same(one.high, two.low):
        return one.high_closed or two.low_closed
    return bool(two.low < one.high)


def _complement(found: RealSet) -> RealSet:
    gaps = []
    low, low_closed = -_INFINITY, False
    for interval in found.intervals:
        gaps.append(Interval(low, low_closed, interval.low, not interval.low_closed and abs(interval.low) != _INFINITY))
        low, low_closed = interval.high, not interval.high_closed and abs(interval.high) != _INFINITY
    gaps.append(Interval(low, low_closed, _INFINITY, False))
    return RealSet(tuple(gap for gap in gaps if not gap.is_empty()))


def _intersection(one: RealSet, two: RealSet) -> RealSet:
    parts = []
    for first in one.intervals:
        for second in two.intervals:
            if _same(first.low, second.low):
                low, low_closed = first.low, first.low_closed and second.low_closed
            else:
                low, low_closed = max((first.low, first.low_closed), (second.low, second.low_closed))
            if _same(first.high, second.high):
                high, high_closed = first.high, first.high_closed and second.high_closed
            else:
                high, high_closed = min((first.high, first.high_closed), (second.high, second.high_closed))
            part = Interval(low, low_closed, high, high_closed)
            if not part.is_empty():
                parts.append(part)
    return _merged(parts)

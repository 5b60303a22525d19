"""The parsed form of a mathematical answer: small frozen dataclasses that hash, compare and print themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Number:
    """An exact rational number."""

    value: Fraction
    decimals: int = 0
    """Digits after the point: the precision of a rounded number; 0 for integers, fractions and repeating decimals."""
    base: int = 10
    """The base that the numeral names."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """A variable, with its accents and primes as part of its name."""

    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    """One of pi, e, i and inf."""

    name: str


@dataclass(frozen=True, slots=True)
class Apply:
    """A known operation on values or sets: "+", "*", "^", "sin", "cup", …"""

    name: str
    arguments: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A function that is not known, such as `f(x)`, an index such as `a_{n+1}`, a derivative."""

    name: str
    arguments: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Bound:
    """A sum, product, integral or limit with its bound variable. A missing limit is None."""

    kind: str
    variable: str
    low: Tree | None
    high: Tree | None
    body: Tree


@dataclass(frozen=True, slots=True)
class Relation:
    """A chain such as `0 < x < 1`. An empty first side (`≥ 5`) is None."""

    signs: tuple[str, ...]
    sides: tuple[Tree | None, ...]


@dataclass(frozen=True, slots=True)
class Bracket:
    """Items between brackets: a point, an interval, a set or a vector, as the brackets are "(", "[", "{" or "<"."""

    opening: str
    closing: str
    items: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class SetBuilder:
    """The set of all elements that meet the conditions."""

    element: Tree
    conditions: Tree


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of equal length."""

    rows: tuple[tuple[Tree, ...], ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """Answers in a row. The joiner is ",", "and" or "or"."""

    items: tuple[Tree, ...]
    joiner: str = ","


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value with its unit; a percentage has the unit "%"."""

    value: Tree
    unit: str


@dataclass(frozen=True, slots=True)
class Ratio:
    """Terms such as `1:2:3`."""

    terms: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day; the half is "am", "pm" or "" where it is not stated."""

    hour: int
    minute: int
    half: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """A text in one case with single spaces."""

    text: str


@dataclass(frozen=True, slots=True)
class Cases:
    """A function given piece by piece: pairs of value and condition."""

    pieces: tuple[tuple[Tree, Tree], ...]


@dataclass(frozen=True, slots=True)
class Given:
    """An answer under conditions, such as `ax + b, where a > 0`."""

    answer: Tree
    conditions: Tree


Tree: TypeAlias = (
    Number
    | Symbol
    | Constant
    | Apply
    | Call
    | Bound
    | Relation
    | Bracket
    | SetBuilder
    | Matrix
    | Listing
    | Quantity
    | Ratio
    | Clock
    | Words
    | Cases
    | Given
)
Value: TypeAlias = Number | Symbol | Constant | Apply | Call | Bound

ZERO, ONE, MINUS_ONE = (Number(Fraction(value)) for value in (0, 1, -1))
DOTS = Words("…")
SET_OPERATIONS = frozenset(("cup", "cap", "setminus"))


def children(tree: Tree) -> tuple[Tree, ...]:
    """Return the direct parts of a tree, in reading order."""
    match tree:
        case Apply() | Call():
            return tree.arguments
        case Bound():
            return tuple(part for part in (tree.low, tree.high, tree.body) if part is not None)
        case Relation():
            return tuple(side for side in tree.sides if side is not None)
        case Bracket() | Listing():
            return tree.items
        case SetBuilder():
            return tree.element, tree.conditions
        case Matrix():
            return tuple(entry for row in tree.rows for entry in row)
        case Quantity():
            return (tree.value,)
        case Ratio():
            return tree.terms
        case Cases():
            return tuple(part for piece in tree.pieces for part in piece)
        case Given():
            return tree.answer, tree.conditions
        case _:
            return ()


def nodes(tree: Tree) -> Iterator[Tree]:
    """Yield a tree and all its parts."""
    stack = [tree]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(children(node))


def symbols(tree: Tree) -> frozenset[str]:
    """Return the names of the free variables."""
    match tree:
        case Symbol():
            return frozenset((tree.name,))
        case Bound():
            outer = (symbols(part) for part in (tree.low, tree.high) if part is not None)
            own = frozenset() if tree.kind == "integral" and tree.low is None else frozenset((tree.variable,))
            return frozenset().union(symbols(tree.body) - own, *outer)
        case _:
            return frozenset().union(*map(symbols, children(tree)))


def is_value(tree: Tree) -> bool:
    """Return whether a tree is an expression with a value, rather than a set, a relation, a list or text."""
    match tree:
        case Number() | Symbol() | Constant():
            return True
        case Apply():
            return tree.name not in SET_OPERATIONS and tree.name != "±" and all(map(is_value, tree.arguments))
        case Call():
            return True
        case Bound():
            return all(is_value(part) for part in children(tree))
        case _:
            return False


def negated(tree: Tree) -> Tree:
    """Return minus a value."""
    if isinstance(tree, Number):
        return Number(-tree.value, tree.decimals)
    return Apply("*", (MINUS_ONE, tree))


def product(factors: list[Tree]) -> Tree:
    """Return the product of factors, or a factor that is alone."""
    return factors[0] if len(factors) == 1 else Apply("*", tuple(factors))


def quotient(over: Tree, under: Tree) -> Tree:
    """Return a quotient; that of two numbers is worked out."""
    if isinstance(over, Number) and isinstance(under, Number) and under.value:
        return Number(over.value / under.value)
    return Apply("*", (over, Apply("^", (under, MINUS_ONE))))

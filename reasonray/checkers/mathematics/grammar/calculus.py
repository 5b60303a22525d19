"""Sums, products and unions over an index, integrals, limits, fractions and derivatives."""

from __future__ import annotations

from typing import Final

from reasonray.checkers.mathematics import vocabulary
from reasonray.checkers.mathematics.grammar.cursor import Cursor
from reasonray.checkers.mathematics.grammar.recursion import Rules
from reasonray.checkers.mathematics.rewriting import with_letter_i
from reasonray.checkers.mathematics.tree import ONE, Bound, Call, Constant, Relation, Symbol, Tree, quotient

SUMS: Final = {"sum": "sum", "prod": "product", "bigcup": "union", "bigcap": "intersection"}


def parse_fraction(parser: Rules) -> Tree:
    """Parse a fraction, or a derivative such as dy/dx."""
    begin = parser.at
    over = parser.argument()
    middle = parser.at
    under = parser.argument()
    if is_differential_group(parser, begin) and is_differential_group(parser, middle):
        return Call("derivative", (over, under))
    return quotient(over, under)


def is_differential_group(cursor: Cursor, at: int) -> bool:
    """Return whether the braces at a position begin with a d."""
    texts = [token.text for token in cursor.stream[at : at + 3]]
    first = texts[1] if texts[:1] == ["{"] and len(texts) > 1 else texts[0]
    return first in ("d", "partial") and texts[:1] == ["{"]


def is_differential(cursor: Cursor) -> bool:
    """Return whether the d here is followed by a variable."""
    token = cursor.peek(1)
    return token is not None and (token.kind == "letter" or token.text in vocabulary.GREEK)


def parse_big_operator(parser: Rules, kind: str) -> Tree:
    """Parse a sum, a product, a union or an intersection over an index."""
    variable, low, high = "", None, None
    while parser.text() in ("_", "^"):
        if parser.next().text == "^":
            high = parser.argument()
            continue
        lower = parser.argument()
        if isinstance(lower, Relation) and lower.signs == ("=",):
            name, low = lower.sides
        else:
            raise parser.fault("a sum without its first index")
        if name == Constant("i"):
            name = Symbol("i")
        if not isinstance(name, Symbol):
            raise parser.fault("a sum's index")
        variable = name.name
    if low is None or high is None:
        raise parser.fault("a sum without its bounds")
    body = parser.sets() if kind in ("union", "intersection") else parser.term()
    if variable == "i":
        body = with_letter_i(body)
    return Bound(kind, variable, low, high, body)


def parse_integral(parser: Rules, name: str) -> Tree:
    """Parse an integral up to its differential."""
    low: Tree | None = None
    high: Tree | None = None
    while parser.text() in ("_", "^"):
        if parser.next().text == "_":
            low = parser.argument()
        else:
            high = parser.exponent(ONE)
    parser.enclosures.append("integral")
    body: Tree = ONE
    if not (parser.text() == "d" and is_differential(parser)):
        body = parser.additive()
    parser.enclosures.pop()
    if not parser.accept("d"):
        raise parser.fault("an integral without its differential")
    variable = parser.argument()
    if not isinstance(variable, Symbol):
        raise parser.fault("an integral's variable")
    return Bound("integral" if name == "int" else name, variable.name, low, high, body)


def parse_limit(parser: Rules) -> Tree:
    """Parse a limit."""
    if not parser.accept("_"):
        raise parser.fault("a limit without its variable")
    approach = parser.argument()
    if not (isinstance(approach, Relation) and approach.signs == ("to",)):
        raise parser.fault("a limit without its variable")
    variable, target = approach.sides
    if not isinstance(variable, Symbol):
        raise parser.fault("a limit's variable")
    return Bound("limit", variable.name, target, None, parser.term())

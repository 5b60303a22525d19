"""Signs after a value: factorials, percent and degree signs, primes."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

from reasonray.checkers.mathematics.grammar.cursor import Cursor
from reasonray.checkers.mathematics.grammar.literals import number_of
from reasonray.checkers.mathematics.tree import Apply, Number, Tree

_MAX_POSTFIXES: Final = 6


def parse_postfixes(cursor: Cursor, value: Tree) -> Tree:
    """Parse the factorials, percent and degree signs after a value."""
    begin = cursor.at
    while True:
        if cursor.at > begin + _MAX_POSTFIXES:
            raise cursor.fault("too many signs in a row")
        if cursor.text() == "!":
            cursor.at += 1
            double = cursor.text() == "!" and not cursor.is_spaced()
            if double:
                cursor.at += 1
            value = Apply("double factorial" if double else "factorial", (value,))
        elif (
            cursor.text() == "%"
            and (cursor.enclosures or cursor.peek(1) is not None)
            and cursor.text(1) not in (",", ";", "")
        ):
            cursor.at += 1
            value = Apply("*", (value, Number(Fraction(1, 100))))
        elif cursor.text() == "circ":
            cursor.at += 1
            value = parse_degrees(cursor, value)
        else:
            return value


def parse_degrees(cursor: Cursor, base: Tree) -> Tree:
    """Parse what follows a degree sign: a scale, or minutes and seconds of arc."""
    token = cursor.peek()
    if token and token.kind == "letter" and token.text in "CF" and not cursor.enclosures:
        cursor.at += 1
        return Apply("degree " + token.text, (base,))
    degrees = base
    for name, share in (("'", 60), ("''", 3600)):
        begin = cursor.at
        token = cursor.peek()
        if token is None or token.kind != "number":
            break
        minutes = number_of(cursor.next())
        cursor.accept("^")
        if parse_primes(cursor) != name:
            cursor.at = begin
            break
        degrees = Apply("+", (degrees, Apply("*", (Number(Fraction(1, share)), minutes))))
    return Apply("degree", (degrees,))


def parse_primes(cursor: Cursor) -> str:
    """Parse primes, in braces or not, and return them."""
    begin = cursor.at
    braced = cursor.accept("{")
    primes = ""
    while cursor.accept("'"):
        primes += "'"
    if not primes or (braced and not cursor.accept("}")):
        cursor.at = begin
        return ""
    return primes

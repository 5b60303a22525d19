"""Numerals: exact numbers, repeating decimals, mixed numbers, bases, times of day."""

from __future__ import annotations

from fractions import Fraction

from reasonray.checkers.mathematics.grammar.recursion import Rules
from reasonray.checkers.mathematics.lexer import Token
from reasonray.checkers.mathematics.tree import Apply, Call, Clock, Number, Tree, quotient


def parse_numeral(parser: Rules, token: Token) -> Tree:
    """Parse what may follow a number: its base, the fraction of a mixed number, `6C2`."""
    number = number_of(token)
    assert isinstance(number, Number)
    if parser.text() == "_":
        return parse_based(parser, token)
    if parser.text() == "C" and (following := parser.peek(1)) and following.kind == "number":
        parser.at += 2
        return Apply("binomial", (number, number_of(following)))
    return parse_mixed(parser, number)


def number_of(token: Token) -> Tree:
    """Return the exact number that a token writes, with its decimals."""
    text = token.text
    if "(" in text:
        whole, _, rest = text.partition(".")
        whole = whole or "0"
        fixed, _, period = rest[:-1].partition("(")
        value = Fraction(int(whole + fixed or "0"), 10 ** len(fixed))
        return Number(value + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed)))
    mantissa = text.lower().partition("e")[0]
    decimals = len(mantissa.partition(".")[2])
    return Number(Fraction(text.rstrip(".")), decimals if "e" not in text.lower() else 0)


def parse_mixed(parser: Rules, whole: Tree) -> Tree:
    """Parse the fraction of a mixed number, or return the number alone."""
    assert isinstance(whole, Number)
    if whole.value.denominator != 1 or whole.decimals or whole.value <= 0:
        return whole
    begin, stream = parser.at, parser.stream
    fraction: Tree | None = None
    if parser.accept("frac"):
        over, under = parser.argument(), parser.argument()
        fraction = quotient(over, under)
    elif (token := parser.peek()) and token.kind == "number" and token.spaced and parser.text(1) == "/":
        over = number_of(parser.next())
        parser.at += 1
        under_token = parser.next()
        if under_token.kind != "number":
            raise parser.fault("a mixed number")
        fraction = quotient(over, number_of(under_token))
    if isinstance(fraction, Number) and 0 < fraction.value < 1:
        return Number(whole.value + fraction.value)
    parser.at, parser.stream = begin, stream
    return whole


def parse_based(parser: Rules, token: Token) -> Tree:
    """Parse a numeral with its base."""
    parser.at += 1
    base = parser.argument()
    if not (isinstance(base, Number) and base.value.denominator == 1 and 2 <= base.value <= 36):
        raise parser.fault("a base")
    try:
        return Number(Fraction(int(token.text, int(base.value))), base=int(base.value))
    except ValueError:
        return Call("index " + token.text, (base,))


def clock(text: str) -> Tree:
    """Return the time of day that a token writes, such as `3:30pm`."""
    hour, _, rest = text.partition(":")
    digits = "".join(character for character in rest if character.isdigit())
    return Clock(int(hour), int(digits[:2]), rest[-1] + "m" if rest[-1].isalpha() else "")

"""Units of measure and noun phrases after a value, and sums of money."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

from reasonray.checkers import units
from reasonray.checkers.mathematics import vocabulary
from reasonray.checkers.mathematics.grammar.cursor import Cursor
from reasonray.checkers.mathematics.grammar.recursion import Rules
from reasonray.checkers.mathematics.lexer import Unreadable
from reasonray.checkers.mathematics.tree import Apply, Number, Quantity, Tree, is_value, negated, nodes

UNIT_LETTERS: Final = {
    **{letter: letter for letter in "mgslh"},
    **{"N": "newton", "J": "joule", "W": "watt", "V": "volt", "A": "ampere", "K": "kelvin"},
}
_UNIT_COMMANDS: Final = {"min": "min", "sec": "s", "Omega": "ohm"}


def parse_with_unit(parser: Rules, value: Tree) -> Tree:
    """Parse the unit after a value, if there is one, and the smaller parts of a quantity: 5 feet 6 inches."""
    if parser.word() == "$":
        raise parser.fault("a currency sign after a value")
    if not (is_value(value) or _has_plus_minus(value)):
        return value
    unit = parse_unit(parser)
    if unit is None:
        return value
    total = Quantity(value, unit)
    token = parser.peek()
    while token and token.kind == "number" and units.is_known(unit):
        part = parser.side()
        smaller = parse_unit(parser)
        ratio = units.ratio(unit, smaller) if smaller else None
        if smaller is None or not units.is_known(smaller) or ratio is None or ratio >= 1:
            raise parser.fault("two quantities in a row")
        total = Quantity(Apply("+", (total.value, Apply("*", (Number(ratio), part)))), unit)
        token = parser.peek()
    return total


def parse_unit(cursor: Cursor) -> str | None:
    """Parse a unit or a noun phrase after a value. Return None if neither begins here."""
    token = cursor.peek()
    if token is None:
        return None
    begin = cursor.at
    if cursor.accept("%"):
        return "%"
    parsed = parse_unit_fraction(cursor) if cursor.text() == "frac" else parse_unit_product(cursor)
    if parsed is None:
        cursor.at = begin
        return None
    return parsed


def parse_unit_fraction(cursor: Cursor) -> str | None:
    r"""Parse `\frac{\text{m}}{\text{s}}`. Return None if no unit is over another one here."""
    cursor.at += 1
    parts = []
    for _ in range(2):
        if (
            cursor.text() != "{"
            or not is_unit_group(cursor)
            or (part := parse_unit_factor(cursor, is_first=False)) is None
        ):
            return None
        parts.append(part)
    return "/".join(parts) if "/" not in parts[1] and "*" not in parts[1] else None


def is_unit_fraction(cursor: Cursor) -> bool:
    """Return whether a fraction of units begins here."""
    begin = cursor.at
    try:
        return parse_unit_fraction(cursor) is not None
    except Unreadable:
        return False
    finally:
        cursor.at = begin


def parse_unit_product(cursor: Cursor) -> str | None:
    """Parse units multiplied and divided, such as km/h. Return None if no unit begins here."""
    first = parse_unit_factor(cursor, is_first=True)
    if first is None:
        return None
    parts = [first]
    while True:
        begin = cursor.at
        if cursor.accept("/") or (cursor.word() == "per" and cursor.skip()):
            factor = parse_unit_factor(cursor, is_first=False)
            if factor is None:
                raise cursor.fault("a unit is missing")
            parts.append("/" + factor)
        elif cursor.accept("cdot", "*") or (cursor.text() == "-" and units.is_known(first) and cursor.skip()):
            factor = parse_unit_factor(cursor, is_first=False)
            if factor is None:
                raise cursor.fault("a unit is missing")
            parts.append("*" + factor)
        elif (
            cursor.text() in ("{", "}") or (token := cursor.peek()) is None or token.kind not in ("letter", "operator")
        ):
            break
        elif units.is_known(parts[-1].strip("/*").partition("^")[0]) and (factor := parse_unit_factor(cursor, False)):
            parts.append("*" + factor)
        else:
            cursor.at = begin
            break
    return "".join(parts)


def parse_unit_factor(cursor: Cursor, is_first: bool) -> str | None:
    """Parse one unit with its power. Return None if none begins here."""
    token = cursor.peek()
    if token is None:
        return None
    if token.text == "{" and token.kind == "operator":
        begin = cursor.at
        cursor.at += 1
        inner = parse_unit_product(cursor)
        if inner is None or not cursor.accept("}"):
            cursor.at = begin
            return None
        return parse_unit_power(cursor, inner)
    if token.kind == "letter" and token.upright and token.text in UNIT_LETTERS:
        cursor.at += 1
        return parse_unit_power(cursor, UNIT_LETTERS[token.text])
    if token.kind == "command" and token.text == "circ":
        raise cursor.fault("a degree sign without a value")
    if token.kind == "command" and token.text in _UNIT_COMMANDS and (token.upright or token.text == "Omega"):
        cursor.at += 1
        return parse_unit_power(cursor, _UNIT_COMMANDS[token.text])
    if cursor.word() == "in" and not cursor.word(1) and cursor.kind(1) not in ("number", "letter"):
        cursor.at += 1
        return parse_unit_power(cursor, "in")
    if token.kind != "word":
        return None
    if is_first or not units.is_known(token.text):
        return parse_noun_phrase(cursor)
    return parse_unit_power(cursor, cursor.next().text)


def parse_unit_power(cursor: Cursor, unit: str) -> str:
    """Parse the power of a unit and return the unit with it."""
    if not cursor.accept("^"):
        return unit
    braced = cursor.accept("{")
    negative = cursor.accept("-")
    digit = cursor.next()
    if digit.kind != "number" or digit.text not in "123456":
        raise cursor.fault("a unit's power")
    if braced:
        cursor.expect("}")
    return f"{unit}^{'-' if negative else ''}{digit.text}"


def parse_noun_phrase(cursor: Cursor) -> str | None:
    """Parse one to five open-class words. A word of a closed class may change the value, so none may be there."""
    words: list[str] = []
    begin = cursor.at
    while cursor.word() and len(words) < 6:
        word = cursor.word()
        if word == "per" and words:
            break
        if word in vocabulary.TRAILING:
            break
        if word in vocabulary.REASONS or word in vocabulary.CONDITIONS or word in ("and", "or"):
            break
        if word in vocabulary.CLOSED_CLASS and not (
            word in vocabulary.UNIT_FILLERS or (word == "second" and not words)
        ):
            raise cursor.fault(f"the word {word!r} after a value")
        if not (word[0].isalpha() or word in "€£¥₹₩"):
            raise cursor.fault(f"{word!r} after a value")
        words.append(cursor.next().text)
        if cursor.text() == "-" and cursor.word(1):
            cursor.at += 1
        if words[-1] not in ("square", "sq", "cubic") and units.is_known(" ".join(words)):
            break
        if cursor.text() == "." and words[-1] in ("sq", "cu", "ft", "in", "sec", "min", "hr"):
            cursor.at += 1
    content = [word for word in words if word.casefold() not in vocabulary.UNIT_FILLERS]
    if not content or any(len(word) < 2 and word.isascii() for word in content):
        cursor.at = begin
        return None
    return parse_unit_power(cursor, " ".join(words))


def is_unit_position(cursor: Cursor) -> bool:
    """Return whether a unit may stand here: not inside of a function's argument, a norm or the like."""
    return not cursor.enclosures or cursor.enclosures[-1] in ("(", r"\{", "[")


def is_unit_group(cursor: Cursor) -> bool:
    """Return whether the braces that open here hold upright letters or words that are a unit."""
    if not is_unit_position(cursor):
        return False
    begin = cursor.at
    cursor.at += 1
    try:
        token = cursor.peek()
        if token is None or not token.upright:
            return False
        return parse_unit_product(cursor) is not None and cursor.text() == "}"
    except Unreadable:
        return False
    finally:
        cursor.at = begin


def parse_money(parser: Rules, unit: str) -> Tree:
    """Parse the amount after a currency sign."""
    sign = parser.accept("-")
    value = parser.term()
    if parser.word() in ("million", "billion", "thousand"):
        scale = {"thousand": 10**3, "million": 10**6, "billion": 10**9}[parser.next().text.casefold()]
        value = Apply("*", (value, Number(Fraction(scale))))
    return Quantity(negated(value) if sign else value, unit)


def _has_plus_minus(tree: Tree) -> bool:
    return isinstance(tree, Apply) and any(isinstance(node, Apply) and node.name == "±" for node in nodes(tree))

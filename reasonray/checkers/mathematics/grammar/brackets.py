"""Groups, intervals, points, sets, arguments of functions, absolute values: all that brackets enclose."""

from __future__ import annotations

from typing import Final

from reasonray.checkers.mathematics import vocabulary
from reasonray.checkers.mathematics.grammar.blocks import parse_block_rows
from reasonray.checkers.mathematics.grammar.recursion import Rules
from reasonray.checkers.mathematics.tree import (
    Apply,
    Bracket,
    Cases,
    Listing,
    Matrix,
    Relation,
    SetBuilder,
    Tree,
    Words,
    quotient,
)

CLOSING: Final = {"(": ")", "[": "]", "{": "}", r"\{": r"\}", "langle": "rangle", "lfloor": "rfloor", "lceil": "rceil"}


def parse_group(parser: Rules) -> Tree:
    """Parse the content of braces that only group; several items are a set."""
    parser.expect("{")
    parser.enclosures.append("{")
    if parser.accept("}"):
        raise parser.fault("an empty group")
    content = parser.listing(("}",))
    if parser.accept("over"):
        content = quotient(content, parser.listing(("}",)))
    parser.enclosures.pop()
    parser.expect("}")
    if isinstance(content, Listing):
        return Bracket("{", "}", content.items)
    return content


def parse_arguments(parser: Rules) -> tuple[Tree, ...]:
    """Parse the arguments of a function between their parentheses."""
    parser.expect("(")
    parser.enclosures.append("(")
    content = parser.listing((")",))
    parser.enclosures.pop()
    parser.expect(")")
    return content.items if isinstance(content, Listing) else (content,)


def parse_brackets(parser: Rules, opening: str) -> Tree:
    """Parse the rest of a bracket: a group, a point, an interval, a set, a set-builder or pieces."""
    closing = CLOSING[opening]
    if parser.accept(closing):
        if opening != r"\{":
            raise parser.fault("empty brackets")
        return Words(vocabulary.EMPTY)
    parser.enclosures.append("separator" if opening == r"\{" else opening)
    begin = parser.at
    content = parse_block_rows(parser) if opening == r"\{" and parser.text().startswith("begin") else None
    content = content or parser.listing((closing, "|", "mid", ":"))
    if parser.enclosures[-1] == "separator" and parser.text() in ("|", "mid", ":"):
        parser.at += 1
        parser.enclosures[-1] = opening
        conditions = parser.listing((closing,))
        parser.enclosures.pop()
        parser.expect(closing)
        return SetBuilder(content, conditions)
    parser.enclosures.pop()
    if (isinstance(content, Cases | Listing) and opening == r"\{" and parser.text() != closing) and (
        parser.stream[begin].text.startswith("begin")
    ):
        return content
    final = parser.next().text
    if opening == final == "[":  # [0;1[ leaves 1 out
        final = ")"
    if final not in (closing, ")", "]") or (final != closing and opening == r"\{"):
        raise parser.fault("brackets do not match")
    items = content.items if isinstance(content, Listing) else (content,)
    if isinstance(content, Listing) and content.joiner != ",":
        raise parser.fault("a conjunction between brackets")
    if len(items) == 1 and final == closing and opening in "([" and not isinstance(items[0], Listing):
        if opening == "[" and isinstance(items[0], Relation | Bracket):
            return Bracket(opening, final, items)
        return items[0]
    if opening != r"\{" and (len(items) == 1 or (final != closing and len(items) != 2)):
        raise parser.fault("an interval needs two ends")
    return Bracket(opening.strip("\\"), final.strip("\\"), items)


def parse_french_interval(parser: Rules) -> Tree:
    """Parse `]0;1[`."""
    parser.enclosures.append("]")
    low = parser.additive()
    if not parser.accept(";", ","):
        raise parser.fault("an interval needs two ends")
    high = parser.additive()
    parser.enclosures.pop()
    final = parser.next().text
    if final not in ("[", "]"):
        raise parser.fault("brackets do not match")
    return Bracket("(", ")" if final == "[" else "]", (low, high))


def parse_absolute(parser: Rules, opening: str, closing: str, name: str) -> Tree:
    """Parse an absolute value, a norm or a determinant."""
    parser.enclosures.append(opening)
    inner = parser.additive()
    parser.enclosures.pop()
    parser.expect(closing)
    return Apply("det" if isinstance(inner, Matrix) else name, (inner,))


def parse_enclosed(parser: Rules, closing: str) -> Tree:
    """Parse an expression and the token that closes it."""
    parser.enclosures.append(closing)
    inner = parser.additive()
    parser.enclosures.pop()
    parser.expect(closing)
    return inner


def parse_angles(parser: Rules) -> Tree:
    """Parse a vector between angle brackets."""
    parser.enclosures.append("langle")
    content = parser.listing(("rangle",))
    parser.enclosures.pop()
    parser.expect("rangle")
    return Bracket("<", ">", content.items if isinstance(content, Listing) else (content,))

"""Dispatch of commands and operators to their rules, and the tokens that begin a factor."""

from __future__ import annotations

from typing import Final

from reasonray.checkers.mathematics import vocabulary
from reasonray.checkers.mathematics.grammar.blocks import parse_environment
from reasonray.checkers.mathematics.grammar.brackets import (
    CLOSING,
    parse_absolute,
    parse_angles,
    parse_brackets,
    parse_enclosed,
    parse_french_interval,
    parse_group,
)
from reasonray.checkers.mathematics.grammar.calculus import (
    SUMS,
    is_differential,
    parse_big_operator,
    parse_fraction,
    parse_integral,
    parse_limit,
)
from reasonray.checkers.mathematics.grammar.functions import parse_choice, parse_function
from reasonray.checkers.mathematics.grammar.measures import (
    UNIT_LETTERS,
    is_unit_fraction,
    is_unit_group,
    is_unit_position,
)
from reasonray.checkers.mathematics.grammar.names import (
    ACCENTS,
    is_membership,
    named_constant,
    parse_accented,
    parse_blackboard,
    parse_indexed,
    parse_operator_name,
)
from reasonray.checkers.mathematics.grammar.recursion import Rules
from reasonray.checkers.mathematics.lexer import Token
from reasonray.checkers.mathematics.tree import DOTS, Apply, Constant, Symbol, Tree, Words

_PRIMARY_COMMANDS: Final = frozenset(
    "frac binom pi infty langle lfloor lceil int oint lim mathbb sum prod mho partial nabla { sqrt i j".split()  # noqa: SIM905
)


def begins_factor(parser: Rules) -> bool:
    """Return whether the next token begins another factor of a product."""
    token = parser.peek()
    if token is None:
        return False
    if token.kind == "number":
        return True
    if token.kind == "letter":
        return not (token.text == "d" and "integral" in parser.enclosures and is_differential(parser)) and not (
            token.upright and token.text in UNIT_LETTERS and is_unit_position(parser)
        )
    if token.kind == "command":
        if token.text == "frac" and is_unit_fraction(parser):
            return False
        if token.text == "mid" or token.text in vocabulary.RELATIONS:
            return False
        if token.text == "|":
            return parser.enclosures[-1:] not in (["|"], ["separator"])
        if token.text == "norm":
            return parser.enclosures[-1:] != ["norm"]
        if token.text == "min":
            return parser.text(1) in ("(", "{", r"\{")
        return (
            token.text in vocabulary.FUNCTIONS
            or token.text in vocabulary.GREEK
            or token.text in SUMS
            or token.text in ACCENTS
            or token.text in _PRIMARY_COMMANDS
            or token.text.partition(" ")[0] in ("basis", "operator", "begin", "mathbb")
        )
    if token.kind == "operator":
        if token.text == "|":
            return parser.enclosures[-1:] not in (["|"], ["separator"])
        if token.text == "{":
            return not is_unit_group(parser)
        if token.text == "(" and (parser.text(1) == "mod" or is_membership(parser)):
            return False
        if token.text == "(" and parser.word(1) and not parser.enclosures and parser.stream[-1].text == ")":
            return False
        return token.text in ("(", "[", r"\{") and not (
            token.text == "[" and parser.enclosures and (parser.enclosures[-1] == "]" or _closes_interval(parser))
        )
    return False


def _closes_interval(parser: Rules) -> bool:
    """Return whether the bracket here closes `[0;1[`: nothing that could be inside of it follows."""
    return parser.enclosures[-1] == "[" and parser.text(1) in ("", "cup", "cap", ",", ";", "}", "setminus")


def parse_command(parser: Rules, token: Token) -> Tree:
    """Parse what a command begins."""
    name = token.text
    if name in vocabulary.FUNCTIONS:
        return parse_function(parser, name)
    if name.startswith("begin "):
        return parse_environment(parser, name.removeprefix("begin "))
    if name.startswith("operator "):
        return parse_operator_name(parser, name.removeprefix("operator "))
    if name.startswith("basis "):
        return Symbol(name)
    if name in SUMS:
        return parse_big_operator(parser, SUMS[name])
    if name in ACCENTS:
        return parse_accented(parser, name)
    match name:
        case "frac":
            return parse_fraction(parser)
        case "binom":
            return Apply("binomial", (parser.argument(), parser.argument()))
        case "pi":
            return Constant("pi")
        case "infty":
            return Constant("inf")
        case "emptyset":
            return Words(vocabulary.EMPTY)
        case "ldots":
            return DOTS
        case "mathbb" | "mathbf" | "mathcal" | "mathscr":
            return parse_blackboard(parser)
        case "int" | "oint" | "iint":
            return parse_integral(parser, name)
        case "lim":
            return parse_limit(parser)
        case "langle":
            return parse_angles(parser)
        case "lfloor" | "lceil":
            inner = parse_enclosed(parser, CLOSING[name])
            return Apply("floor" if name == "lfloor" else "ceil", (inner,))
        case "|" | "norm":
            return parse_absolute(parser, name, name, "abs" if name == "|" else "norm")
        case "mho" | "partial" | "nabla":
            return parse_indexed(parser, name)
        case "{" | "[" | "(":
            return parse_brackets(parser, r"\{" if name == "{" else name)
        case "i" | "j":
            return named_constant(name)
    if name in vocabulary.GREEK:
        return parse_indexed(parser, name)
    raise parser.fault(f"the command {name!r}")


def parse_operator(parser: Rules, token: Token) -> Tree:
    """Parse what an operator begins."""
    match token.text:
        case "^" | "_":
            return parse_choice(parser)
        case "{":
            parser.at -= 1
            return parse_group(parser)
        case "(" | "[" | r"\{":
            return parse_brackets(parser, token.text)
        case "]":
            return parse_french_interval(parser)
        case "|":
            return parse_absolute(parser, "|", "|", "abs")
        case _:
            raise parser.fault(f"{token.text!r} has no place")

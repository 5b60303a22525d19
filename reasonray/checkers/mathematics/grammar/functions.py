"""Functions with known names, roots, and binomial coefficients with a raised first number."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

from reasonray.checkers.mathematics import vocabulary
from reasonray.checkers.mathematics.grammar.brackets import parse_arguments
from reasonray.checkers.mathematics.grammar.literals import number_of
from reasonray.checkers.mathematics.grammar.recursion import Rules
from reasonray.checkers.mathematics.tree import MINUS_ONE, ONE, Apply, Bracket, Constant, Number, Tree, negated, product

_INVERSES: Final = {
    **{name: "arc" + name for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    **{"sinh": "arsinh", "cosh": "arcosh", "tanh": "artanh"},
}


def parse_function(parser: Rules, name: str) -> Tree:
    """Parse a function with its power, its base and its argument."""
    name = vocabulary.SYNONYMS.get(name, name)
    if name == "sqrt":
        return parse_root(parser)
    if name in ("max", "min", "gcd", "lcm"):
        return parse_extreme(parser, name)
    base: Tree | None = None
    power: Tree | None = None
    while parser.text() in ("^", "_"):
        if parser.next().text == "^":
            power = parser.exponent(ONE)
        else:
            base = parser.argument()
    if name == "log" and base is not None:
        arguments: tuple[Tree, ...] = (parse_function_argument(parser), base)
    elif base is not None:
        raise parser.fault(f"an index of {name}")
    else:
        arguments = (parse_function_argument(parser),)
    if name == "exp":
        value: Tree = Apply("^", (Constant("e"), arguments[0]))
    elif power == MINUS_ONE and name in _INVERSES:
        return Apply(_INVERSES[name], arguments)
    elif name == "cis":
        turned = Apply("*", (Constant("i"), Apply("sin", arguments)))
        value = Apply("+", (Apply("cos", arguments), turned))
    elif name == "cbrt":
        value = Apply("root", (arguments[0], Number(Fraction(3))))
    else:
        value = Apply(name, arguments)
    return value if power is None else Apply("^", (value, power))


def parse_function_argument(parser: Rules) -> Tree:
    """Parse the argument of a function; without parentheses it ends before the next function."""
    token = parser.peek()
    if token is None:
        raise parser.fault("an argument is missing")
    if token.text == "(":
        items = parse_arguments(parser)
        if len(items) != 1:
            raise parser.fault("several arguments")
        return items[0]
    if token.text in ("|", "{", "[") and token.kind in ("operator", "command"):
        return parser.power()
    if token.text in ("-", "+"):
        parser.at += 1
        value = parse_function_argument(parser)
        return negated(value) if token.text == "-" else value
    factors = [parser.power()]
    while True:
        token = parser.peek()
        if not parser.begins_factor() or token is None or token.text in vocabulary.FUNCTIONS or token.text == "(":
            return product(factors)
        if isinstance(factors[-1], Number) and token.kind == "number":
            raise parser.fault("two numbers in a row")
        factors.append(parser.power())


def parse_root(parser: Rules) -> Tree:
    """Parse a root with its index and its radicand."""
    index: Tree = Number(Fraction(2))
    if parser.text() == "[":
        parser.at += 1
        parser.enclosures.append("[")
        index = parser.additive()
        parser.enclosures.pop()
        parser.expect("]")
    token = parser.peek()
    if token and token.text == "(":
        items = parse_arguments(parser)
        if len(items) != 1:
            raise parser.fault("several arguments")
        radicand = items[0]
    elif token and token.kind == "number" and "{" not in [part.text for part in parser.stream]:
        radicand = number_of(parser.next())
    else:
        radicand = parser.argument()
    return Apply("root", (radicand, index))


def parse_extreme(parser: Rules, name: str) -> Tree:
    """Parse max, min, gcd or lcm with their arguments."""
    if parser.text() in ("(", r"\{"):
        if parser.text() == "(":
            items = parse_arguments(parser)
        else:
            bracket = parser.primary()
            items = bracket.items if isinstance(bracket, Bracket) else (bracket,)
        return Apply(name, items)
    raise parser.fault(f"{name} without its arguments")


def parse_choice(parser: Rules) -> Tree:
    """Parse the rest of `^6C_2`."""
    above = parser.argument()
    if not (parser.text() == "C" and parser.text(1) == "_"):
        raise parser.fault("an exponent without its base")
    parser.at += 2
    return Apply("binomial", (above, parser.argument()))

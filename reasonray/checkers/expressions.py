"""Arithmetic that a model wrote, read by a parser of our own: bounded in length, depth and the size of numbers.

`read` evaluates while it parses, in an algebra that the caller picks: exact fractions (`exact_value`), polynomials in
expanded form (`polynomial`), or values with their derivatives at many points (`is_antiderivative`). Nothing is looked
up, compiled or executed: a name is a variable, a constant or one of a closed list of functions.

    sum = product (("+" | "-") product)*     product = signed (("*" | "/") signed)*     signed = ("+" | "-") signed
    | power     power = atom (("**" | "^") signed)?     atom = number | name | function "(" sum ")" | "(" sum ")"
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")

_MAX_CHARACTERS = 4000
_MAX_DEPTH = 50
_MAX_BITS = 10_000
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+(?:\.\d*)?|\.\d+))|(?P<name>[A-Za-z_]\w*)|(?P<sign>\*\*|[-+*/^()]))\s*", re.A
)
_SIGNS = str.maketrans({"−": "-", "–": "-", "×": "*", "·": "*", "⋅": "*", "÷": "/"})


class Algebra(Protocol[T]):
    """What the operations of an expression mean. Every method raises ValueError or ArithmeticError to refuse."""

    def number(self, text: str) -> T:
        """Return the value of a decimal literal."""

    def name(self, name: str) -> T:
        """Return the value of a variable or constant."""

    def call(self, function: str, argument: T) -> T:
        """Return a function's value."""

    def add(self, left: T, right: T) -> T:
        """Return the sum."""

    def negate(self, value: T) -> T:
        """Return the negative."""

    def multiply(self, left: T, right: T) -> T:
        """Return the product."""

    def divide(self, left: T, right: T) -> T:
        """Return the quotient."""

    def power(self, base: T, exponent: T) -> T:
        """Return the power."""


def read(text: str, algebra: Algebra[T]) -> T:
    """Return the value of an expression.

    Raises:
        ValueError: the text is not an expression, is too long or too deep, or the algebra refuses it.
        ArithmeticError: it has no value, as a division by zero.
    """
    parser = _Parser(_tokens(text), algebra)
    value = parser.sum()
    if parser.next:
        raise ValueError(f"unexpected {parser.next!r}")
    return value


def integers(text: str) -> list[int]:
    """Return the integer literals of an expression, in order.

    Raises:
        ValueError: the text is not made of the tokens of an expression, or holds other numbers.
    """
    return [int(token) for token in _tokens(text) if token[0].isdigit() or token[0] == "."]


def exact_value(text: str) -> Fraction:
    """Return the value of an expression of numbers, +, -, * and /.

    Raises:
        ValueError: see `read`; or it holds a name, a function or a power.
        ArithmeticError: it divides by zero.
    """
    return read(text, _Exact())


Monomial = tuple[tuple[str, int], ...]
"""The variables of a product with their exponents, sorted."""


def polynomial(text: str) -> dict[Monomial, Fraction]:
    """Return the coefficients of a polynomial that is written as a sum of monomials: no product of sums is left.

    Raises:
        ValueError: see `read`; or it is not a polynomial in this form.
        ArithmeticError: it divides by zero.
    """
    return read(text, _Polynomials())


def is_antiderivative(text: str, integrand: str, variable: str) -> bool:
    """Return whether an expression's derivative is the integrand, at every point of many where both are real numbers.

    Other letters than the variable are constants. The derivative is exact up to rounding (automatic differentiation).

    Raises:
        ValueError: either is not an expression, or fewer than four points admit both.
    """
    algebra = _Slopes(variable)
    slopes, wanted = read(text, algebra).slopes, read(integrand, algebra).values
    pairs = [(slope, value) for slope, value in zip(slopes, wanted, strict=True) if math.isfinite(slope + value)]
    if len(pairs) < 4:
        raise ValueError("there are too few points at which both are real numbers")
    return all(abs(slope - value) <= 1e-9 * (1 + abs(value)) for slope, value in pairs)


def _tokens(text: str) -> list[str]:
    if len(text) > _MAX_CHARACTERS:
        raise ValueError("too long")
    text = text.translate(_SIGNS).strip()
    tokens, at = list[str](), 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if not token:
            raise ValueError(f"unexpected {text[at]!r}")
        tokens.append(token[0].strip())
        at = token.end()
    return tokens


class _Parser(Generic[T]):
    """Recursive descent over tokens. The depth is bounded, so it cannot exhaust the stack."""

    def __init__(self, tokens: list[str], algebra: Algebra[T]) -> None:
        self._tokens = [*reversed(tokens)]
        self._algebra = algebra
        self._depth = 0

    @property
    def next(self) -> str:
        """The token to read, "" at the end."""
        return self._tokens[-1] if self._tokens else ""

    def sum(self) -> T:
        value = self._product()
        while self.next in ("+", "-"):
            is_minus = self._tokens.pop() == "-"
            term = self._product()
            value = self._algebra.add(value, self._algebra.negate(term) if is_minus else term)
        return value

    def _product(self) -> T:
        value = self._signed()
        while self.next in ("*", "/"):
            operation = self._algebra.multiply if self._tokens.pop() == "*" else self._algebra.divide
            value = operation(value, self._signed())
        return value

    def _signed(self) -> T:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError("too deep")
        if self.next in ("+", "-"):
            is_minus = self._tokens.pop() == "-"
            value = self._signed()
            value = self._algebra.negate(value) if is_minus else value
        else:
            value = self._atom()
            if self.next in ("**", "^"):
                self._tokens.pop()
                value = self._algebra.power(value, self._signed())
        self._depth -= 1
        return value

    def _atom(self) -> T:
        if not self._tokens:
            raise ValueError("it ends too early")
        token = self._tokens.pop()
        if token[0].isdigit() or token[0] == ".":
            return self._algebra.number(token)
        if token == "(":
            return self._closed()
        if not (token[0].isalpha() or token[0] == "_"):
            raise ValueError(f"unexpected {token!r}")
        if self.next != "(":
            return self._algebra.name(token)
        self._tokens.pop()
        return self._algebra.call(token, self._closed())

    def _closed(self) -> T:
        value = self.sum()
        if not self._tokens or self._tokens.pop() != ")":
            raise ValueError("a parenthesis does not close")
        return value


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise OverflowError("a number is too large")
    return value


class _Exact:
    """Fractions without powers and names."""

    def number(self, text: str) -> Fraction:
        return _bounded(Fraction(text))

    def name(self, name: str) -> Fraction:
        raise ValueError(f"{name} is not a number")

    def call(self, function: str, argument: Fraction) -> Fraction:
        raise ValueError(f"{function} is not allowed")

    def add(self, left: Fraction, right: Fraction) -> Fraction:
        return _bounded(left + right)

    def negate(self, value: Fraction) -> Fraction:
        return -value

    def multiply(self, left: Fraction, right: Fraction) -> Fraction:
        return _bounded(left * right)

    def divide(self, left: Fraction, right: Fraction) -> Fraction:
        return _bounded(left / right)

    def power(self, base: Fraction, exponent: Fraction) -> Fraction:
        raise ValueError("powers are not allowed")


class _Polynomials:
    """Sums of monomials. A product of two sums is refused, as is a power of one: they are to be expanded."""

    def number(self, text: str) -> dict[Monomial, Fraction]:
        return self._of({(): _bounded(Fraction(text))})

    def name(self, name: str) -> dict[Monomial, Fraction]:
        return {((name, 1),): Fraction(1)}

    def call(self, function: str, argument: dict[Monomial, Fraction]) -> dict[Monomial, Fraction]:
        raise ValueError(f"{function} is not a polynomial")

    def add(self, left: dict[Monomial, Fraction], right: dict[Monomial, Fraction]) -> dict[Monomial, Fraction]:
        return self._of({key: left.get(key, Fraction(0)) + right.get(key, Fraction(0)) for key in {**left, **right}})

    def negate(self, value: dict[Monomial, Fraction]) -> dict[Monomial, Fraction]:
        return {key: -coefficient for key, coefficient in value.items()}

    def multiply(self, left: dict[Monomial, Fraction], right: dict[Monomial, Fraction]) -> dict[Monomial, Fraction]:
        sums, others = (left, right) if len(left) > 1 else (right, left)
        if len(sums) > 1 and others.keys() - {()}:
            raise ValueError("a product is not expanded")
        return self._of(
            {
                _product_of(key, other): coefficient * factor
                for key, coefficient in sums.items()
                for other, factor in others.items()
            }
        )

    def divide(self, left: dict[Monomial, Fraction], right: dict[Monomial, Fraction]) -> dict[Monomial, Fraction]:
        divisor = _constant(right)
        return self._of({key: coefficient / divisor for key, coefficient in left.items()})

    def power(self, base: dict[Monomial, Fraction], exponent: dict[Monomial, Fraction]) -> dict[Monomial, Fraction]:
        times = _constant(exponent)
        if len(base) > 1 or times.denominator != 1 or not 0 <= times <= 1000:
            raise ValueError("a power is not expanded, or not of a monomial")
        size = max((max(c.numerator.bit_length(), c.denominator.bit_length()) for c in base.values()), default=0)
        if size * times > _MAX_BITS:
            raise OverflowError("a number is too large")
        if not times:
            return {(): Fraction(1)}
        return self._of(
            {
                tuple((name, degree * int(times)) for name, degree in key): coefficient ** int(times)
                for key, coefficient in base.items()
            }
        )

    def _of(self, terms: dict[Monomial, Fraction]) -> dict[Monomial, Fraction]:
        return {key: _bounded(coefficient) for key, coefficient in terms.items() if coefficient}


def _product_of(left: Monomial, right: Monomial) -> Monomial:
    degrees = dict(left)
    for name, degree in right:
        degrees[name] = degrees.get(name, 0) + degree
    return tuple(sorted(degrees.items()))


def _constant(value: dict[Monomial, Fraction]) -> Fraction:
    if value.keys() - {()}:
        raise ValueError("not a number")
    return value.get((), Fraction(0))


_dice = random.Random(0)
_POINTS = tuple(_dice.uniform(-3, 3) for _ in range(20)) + tuple(_dice.uniform(-30, 30) for _ in range(20))
_UNKNOWN = re.compile(r"[A-Za-z](?:_?\d+)?", re.A)
_CONSTANTS = {"pi": math.pi, "e": math.e, "E": math.e}
_FUNCTIONS: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "sin": (math.sin, math.cos),
    "cos": (math.cos, lambda x: -math.sin(x)),
    "tan": (math.tan, lambda x: 1 / math.cos(x) ** 2),
    "cot": (lambda x: 1 / math.tan(x), lambda x: -1 / math.sin(x) ** 2),
    "sec": (lambda x: 1 / math.cos(x), lambda x: math.tan(x) / math.cos(x)),
    "csc": (lambda x: 1 / math.sin(x), lambda x: -1 / (math.tan(x) * math.sin(x))),
    "asin": (math.asin, lambda x: 1 / math.sqrt(1 - x * x)),
    "acos": (math.acos, lambda x: -1 / math.sqrt(1 - x * x)),
    "atan": (math.atan, lambda x: 1 / (1 + x * x)),
    "sinh": (math.sinh, math.cosh),
    "cosh": (math.cosh, math.sinh),
    "tanh": (math.tanh, lambda x: 1 / math.cosh(x) ** 2),
    "exp": (math.exp, math.exp),
    "log": (math.log, lambda x: 1 / x),
    "sqrt": (math.sqrt, lambda x: 0.5 / math.sqrt(x)),
    "abs": (abs, lambda x: math.copysign(1, x)),
}
"""Function → itself and its derivative."""
_OTHER_NAMES = {"ln": "log", "Abs": "abs", "arcsin": "asin", "arccos": "acos", "arctan": "atan"}


@dataclass(frozen=True, slots=True)
class _Curve:
    """Values and slopes at the points; NaN where there is no real number."""

    values: tuple[float, ...]
    slopes: tuple[float, ...]


class _Slopes:
    """Forward-mode automatic differentiation at fixed points."""

    def __init__(self, variable: str) -> None:
        self._variable = variable

    def number(self, text: str) -> _Curve:
        return _level(float(text))

    def name(self, name: str) -> _Curve:
        if name == self._variable:
            return _Curve(_POINTS, (1.0,) * len(_POINTS))
        if name not in _CONSTANTS and not _UNKNOWN.fullmatch(name):
            raise ValueError(f"{name} is not a constant")
        return _level(_CONSTANTS.get(name, random.Random(name).uniform(1, 2)))

    def call(self, function: str, argument: _Curve) -> _Curve:
        name = _OTHER_NAMES.get(function, function)
        if name not in _FUNCTIONS:
            raise ValueError(f"there is no function {function}")
        value, slope = _FUNCTIONS[name]
        return _pointwise(lambda x, dx: (value(x), slope(x) * dx), argument)

    def add(self, left: _Curve, right: _Curve) -> _Curve:
        return _pointwise(lambda a, da, b, db: (a + b, da + db), left, right)

    def negate(self, value: _Curve) -> _Curve:
        return _pointwise(lambda a, da: (-a, -da), value)

    def multiply(self, left: _Curve, right: _Curve) -> _Curve:
        return _pointwise(lambda a, da, b, db: (a * b, da * b + a * db), left, right)

    def divide(self, left: _Curve, right: _Curve) -> _Curve:
        return _pointwise(lambda a, da, b, db: (a / b, (da * b - a * db) / (b * b)), left, right)

    def power(self, base: _Curve, exponent: _Curve) -> _Curve:
        return _pointwise(_power, base, exponent)


def _level(value: float) -> _Curve:
    return _Curve((value,) * len(_POINTS), (0.0,) * len(_POINTS))


def _pointwise(operation: Callable[..., tuple[float, float]], *curves: _Curve) -> _Curve:
    columns = [column for curve in curves for column in (curve.values, curve.slopes)]
    pairs = [_or_nan(operation, point) for point in zip(*columns, strict=True)]
    return _Curve(tuple(value for value, _ in pairs), tuple(slope for _, slope in pairs))


def _or_nan(operation: Callable[..., tuple[float, float]], point: tuple[float, ...]) -> tuple[float, float]:
    try:
        return operation(*point)
    except (ValueError, ArithmeticError):
        return math.nan, math.nan


def _power(base: float, base_slope: float, exponent: float, exponent_slope: float) -> tuple[float, float]:
    value = math.pow(base, exponent)
    if not exponent_slope:
        return value, exponent * math.pow(base, exponent - 1) * base_slope if exponent else 0.0
    return value, value * (exponent_slope * math.log(base) + exponent * base_slope / base)

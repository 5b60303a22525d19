"""Values of the functions that the grammar knows by name: logarithms, factorials, trigonometry and their like."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import comb, factorial, gcd, lcm
from typing import Any, Final

from reasonray.checkers.mathematics.arithmetic import MAX_BITS, MAX_EXPONENT, Arithmetic, Scalar, TooLarge, Undefined

_MAX_FACTORIAL: Final = 3000


def _real_function(name: str) -> Callable[..., Scalar]:
    def apply(arithmetic: Arithmetic, value: Scalar) -> Scalar:
        number = arithmetic.real(value)
        if name in ("sin", "cos", "tan", "cot", "sec", "csc") and arithmetic.context.mag(number) > arithmetic.digits:
            raise TooLarge
        if name.endswith("h") and abs(number) > MAX_EXPONENT:
            raise TooLarge
        try:
            return getattr(arithmetic.context, name)(number)
        except (ZeroDivisionError, ValueError):
            raise Undefined from None

    return apply


def _logarithm(arithmetic: Arithmetic, value: Scalar, base: Scalar = None) -> Scalar:
    if not value:
        raise Undefined
    number = arithmetic.real(value)
    if not isinstance(number, arithmetic.context.mpc) and number < 0 and not arithmetic.is_complex:
        raise Undefined
    logarithm = arithmetic.context.ln(number)
    if base is None:
        return logarithm
    if not base or base == 1:
        raise Undefined
    return logarithm / _logarithm(arithmetic, base)


def _log(arithmetic: Arithmetic, value: Scalar, base: Scalar = None) -> Scalar:
    if base is None and not arithmetic.natural_log:
        base = Fraction(10)
    if isinstance(value, Fraction) and isinstance(base, Fraction) and value > 0 and base > 1:
        approximate = _logarithm(arithmetic, value, base)
        rounded = arithmetic.context.nint(approximate)
        if abs(rounded) < 1000 and Fraction(base) ** int(rounded) == value:
            return Fraction(int(rounded))
    return _logarithm(arithmetic, value, base)


def _factorial(arithmetic: Arithmetic, value: Scalar) -> Scalar:
    if isinstance(value, Fraction) and value.denominator == 1:
        if value < 0:
            raise Undefined
        if value <= _MAX_FACTORIAL:
            return Fraction(factorial(int(value)))
        if value > MAX_EXPONENT:
            raise TooLarge
    number = arithmetic.real(value)
    if abs(number) > MAX_EXPONENT:
        raise TooLarge
    return arithmetic.context.gamma(number + 1)


def _double_factorial(arithmetic: Arithmetic, value: Scalar) -> Scalar:
    number = arithmetic.integer(value)
    if number < 0:
        raise Undefined
    if number > _MAX_FACTORIAL:
        raise TooLarge
    result = 1
    for factor in range(number, 1, -2):
        result *= factor
    return Fraction(result)


def _gamma(arithmetic: Arithmetic, value: Scalar) -> Scalar:
    if isinstance(value, Fraction) and value.denominator == 1:
        if value < 1:
            raise Undefined
        return _factorial(arithmetic, value - 1)
    number = arithmetic.real(value)
    if abs(number) > MAX_EXPONENT:
        raise TooLarge
    return arithmetic.context.gamma(number)


def _binomial(arithmetic: Arithmetic, above: Scalar, below: Scalar) -> Scalar:
    n, k = arithmetic.integer(above), arithmetic.integer(below)
    if n < 0 or k < 0:
        raise Undefined
    if k > n:
        return Fraction(0)
    if min(k, n - k) * n.bit_length() > MAX_BITS:
        context = arithmetic.context
        if n > MAX_EXPONENT:
            raise TooLarge
        return context.exp(context.loggamma(n + 1) - context.loggamma(k + 1) - context.loggamma(n - k + 1))
    return Fraction(comb(n, k))


def _floor(arithmetic: Arithmetic, value: Scalar) -> Scalar:
    if isinstance(value, Fraction):
        return Fraction(value.numerator // value.denominator)
    whole = arithmetic.nearest(value)
    return Fraction(int(arithmetic.context.floor(value)) if whole is None else whole)


def _ceil(arithmetic: Arithmetic, value: Scalar) -> Scalar:
    return -_floor(arithmetic, -value)


def _absolute(arithmetic: Arithmetic, value: Scalar) -> Scalar:
    return abs(value)


def _sign(arithmetic: Arithmetic, value: Scalar) -> Scalar:
    if isinstance(value, Fraction):
        return Fraction((value > 0) - (value < 0))
    return Fraction(int(arithmetic.context.sign(value)))


def _modulus(arithmetic: Arithmetic, value: Scalar, modulus: Scalar) -> Scalar:
    if not (isinstance(value, Fraction) and isinstance(modulus, Fraction)):
        raise TooLarge
    if not modulus:
        raise Undefined
    return value % modulus


def _degrees(arithmetic: Arithmetic, value: Scalar) -> Scalar:
    return arithmetic.real(value) * arithmetic.context.pi / 180


def _of_integers(function: Callable[..., int]) -> Callable[..., Scalar]:
    def apply(arithmetic: Arithmetic, *values: Scalar) -> Scalar:
        return Fraction(function(*map(arithmetic.integer, values)))

    return apply


def _extreme(function: Callable[..., Any]) -> Callable[..., Scalar]:
    def apply(arithmetic: Arithmetic, *values: Scalar) -> Scalar:
        if any(isinstance(value, arithmetic.context.mpc) for value in values):
            raise Undefined
        if all(isinstance(value, Fraction) for value in values):
            return function(values)
        return function(list(map(arithmetic.real, values)))

    return apply


_TRIGONOMETRY: Final = "sin cos tan cot sec csc sinh cosh tanh coth sech csch".split()  # noqa: SIM905
_ARCS: Final = {
    **{"arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot", "arcsec": "asec", "arccsc": "acsc"},
    **{"arsinh": "asinh", "arcosh": "acosh", "artanh": "atanh"},
}
FUNCTIONS: Final[dict[str, Callable[..., Scalar]]] = {
    **{name: _real_function(name) for name in _TRIGONOMETRY},
    **{name: _real_function(theirs) for name, theirs in _ARCS.items()},
    **{"ln": _logarithm, "log": _log, "factorial": _factorial, "double factorial": _double_factorial},
    **{"gamma": _gamma, "binomial": _binomial, "floor": _floor, "ceil": _ceil, "abs": _absolute, "sgn": _sign},
    **{"mod": _modulus, "degree": _degrees, "gcd": _of_integers(gcd), "lcm": _of_integers(lcm)},
    **{"max": _extreme(max), "min": _extreme(min)},
}
"""The function of each name: it takes the arithmetic and the values of the arguments."""

"""Arithmetic with exact rationals where they last, else with mpmath, within bounds.

The size of a result is bounded before it is computed: a power tower raises TooLarge within microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from math import isqrt
from typing import Any, Final, TypeAlias

from mpmath.ctx_mp import MPContext

Scalar: TypeAlias = Any
"""A Fraction, or an mpf or mpc of the evaluation's context."""

MAX_BITS: Final = 40_000
"""The size of exact numbers; larger ones are rounded."""
MAX_EXPONENT: Final = 10**7


class Undefined(ArithmeticError):
    """The expression has no (real) value at the point."""


class TooLarge(ArithmeticError):
    """A value is beyond the bounds of what is computed."""


@lru_cache(maxsize=8)
def precision(digits: int) -> Any:
    """Return mpmath's context with so many digits."""
    context = MPContext()
    context.dps = digits
    return context


@dataclass(slots=True)
class Arithmetic:
    """Operations on numbers of a precision, and what they say about the rounding errors of a result."""

    digits: int
    is_complex: bool
    natural_log: bool
    spread: float = 0.0
    """The digits between the largest and the smallest part of any sum: fewer digits would lose the smallest."""
    magnitude: int = 0
    """The size of the largest part of any sum, as a power of 2: rounding errors are relative to it."""
    context: Any = field(init=False)

    def __post_init__(self) -> None:
        self.context = precision(self.digits)

    def real(self, value: Scalar) -> Scalar:
        """Return a value in the context's precision."""
        if isinstance(value, Fraction):
            self._note(max(value.numerator.bit_length(), value.denominator.bit_length()) * 0.30103)
            return self.context.mpf(value.numerator) / value.denominator
        return value

    def _note(self, digits: float) -> None:
        self.spread = max(self.spread, digits)

    def _checked(self, value: Scalar) -> Scalar:
        if isinstance(value, Fraction):
            return value
        context = self.context
        if not context.isfinite(value):
            raise Undefined
        if isinstance(value, context.mpc):
            if not value.imag:
                return value.real
            if not self.is_complex:
                raise Undefined
        return value

    def _sum(self, values: list[Scalar]) -> Scalar:
        if all(isinstance(value, Fraction) for value in values):
            return self._bounded(sum(values, Fraction(0)))
        values = [self.real(value) for value in values]
        magnitudes = [self.context.mag(value) for value in values if value]
        if len(magnitudes) > 1:
            self._note((max(magnitudes) - min(magnitudes)) * 0.30103)
            self.magnitude = max(self.magnitude, *magnitudes)
        total = self.context.mpf(0)
        for value in values:
            total = total + value
        return self._checked(total)

    def _bounded(self, value: Scalar) -> Scalar:
        if isinstance(value, Fraction) and bits(value) > 4 * MAX_BITS:
            raise TooLarge
        return value

    def power(self, base: Scalar, exponent: Scalar) -> Scalar:
        """Return a power; an odd root of a negative number is real."""
        if isinstance(exponent, Fraction) and isinstance(base, Fraction):
            return self._rational_power(base, exponent)
        if not base:
            if self.context.re(self.real(exponent)) > 0:
                return Fraction(0)
            raise Undefined
        real_base = self.real(base)
        if isinstance(exponent, Fraction) and exponent.denominator == 1:
            self._check_size(real_base, exponent)
            return self._checked(real_base ** int(exponent))
        is_negative = not isinstance(real_base, self.context.mpc) and real_base < 0
        if is_negative and isinstance(exponent, Fraction) and exponent.denominator % 2:
            size = self.power(-base, exponent)
            return -size if exponent.numerator % 2 else size
        if is_negative and not self.is_complex:
            raise Undefined
        real_exponent = self.real(exponent)
        self._check_size(real_base, real_exponent)
        return self._checked(real_base**real_exponent)

    def _check_size(self, base: Scalar, exponent: Scalar) -> None:
        size = abs(self.context.mag(base)) + 1
        number = abs(exponent)
        if number > 10**12 or size * number > MAX_EXPONENT:
            raise TooLarge

    def _rational_power(self, base: Fraction, exponent: Fraction) -> Scalar:
        if not base:
            if exponent > 0:
                return Fraction(0)
            if exponent == 0:
                return Fraction(1)
            raise Undefined
        if exponent.denominator == 1:
            if base in (1, -1):
                return base if exponent.numerator % 2 else Fraction(1)
            if bits(base) * abs(exponent.numerator) <= MAX_BITS:
                return base**exponent.numerator
            real_base = self.real(base)
            self._check_size(real_base, exponent.numerator)
            return self._checked(real_base**exponent.numerator)
        if base < 0:
            if exponent.denominator % 2:
                size = self._rational_power(-base, exponent)
                return -size if exponent.numerator % 2 else size
            if not self.is_complex:
                raise Undefined
            return self._checked(self.context.mpc(self.real(base)) ** self.real(exponent))
        if exponent.denominator <= 12 and (exact := _exact_root(base, exponent.denominator)) is not None:
            return self._rational_power(exact, Fraction(exponent.numerator))
        real_base = self.real(base)
        self._check_size(real_base, self.real(exponent))
        return self._checked(real_base ** self.real(exponent))

    def root(self, radicand: Scalar, index: Scalar) -> Scalar:
        """Return a root; an odd one of a negative number is real."""
        if not index:
            raise Undefined
        return self.power(radicand, 1 / index)

    def integer(self, value: Scalar) -> int:
        """Return a value as an integer, or raise Undefined if it is none."""
        if isinstance(value, Fraction) and value.denominator == 1:
            return value.numerator
        raise Undefined

    def nearest(self, value: Scalar) -> int | None:
        """Return the integer that a rounded value stands for, or None."""
        if isinstance(value, Fraction):
            return value.numerator if value.denominator == 1 else None
        if isinstance(value, self.context.mpc):
            raise Undefined
        if self.context.mag(value) > 3 * self.digits:
            raise TooLarge
        rounded = int(self.context.nint(value))
        return rounded if abs(value - rounded) < self.context.mpf(10) ** -(self.digits // 2) else None


def bits(value: Fraction) -> int:
    """Return the size of a number: the bits of its numerator or denominator."""
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _exact_root(value: Fraction, index: int) -> Fraction | None:
    over, under = (_integer_root(part, index) for part in (value.numerator, value.denominator))
    return None if over is None or under is None else Fraction(over, under)


def _integer_root(number: int, index: int) -> int | None:
    if number < 2:
        return number
    if index == 2:
        root = isqrt(number)
    else:
        if number.bit_length() > 2000:
            return None
        low, high = 1, 1 << (number.bit_length() // index + 1)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if middle**index <= number else (low, middle - 1)
        root = low
    return root if root**index == number else None

"""Values of expressions at points: exact rational arithmetic where it lasts, else mpmath at 60 digits and more.

Sizes are bounded before anything is computed: a power tower, a factorial of a factorial or an endless sum raises
TooLarge within microseconds. Functions that are not known (`f(x)`, `a_n`, an integral) get a value that depends on
nothing but their name and the values of their arguments, so that equal expressions stay equal and others do not.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from math import comb, factorial, gcd, isqrt, lcm
from typing import Any, Final, TypeAlias

from mpmath.ctx_mp import MPContext

from reasonray.checkers.mathematics.rewriting import ordered
from reasonray.checkers.mathematics.tree import (
    Apply,
    Bound,
    Call,
    Constant,
    Matrix,
    Number,
    Symbol,
    Tree,
    children,
    is_value,
    nodes,
    symbols,
)

Scalar: TypeAlias = Any
"""A Fraction, or an mpf or mpc of the evaluation's context."""

_DIGITS: Final = 60
_MAX_DIGITS: Final = 2000
_GUARD: Final = 25
"""Digits that rounding may cost before two values count as different."""
_MAX_BITS: Final = 40_000
"""The size of exact numbers; larger ones are rounded."""
_MAX_EXPONENT: Final = 10**7
_MAX_FACTORIAL: Final = 3000
_MAX_TERMS: Final = 1000
_MAX_OPERATIONS: Final = 20_000


class Undefined(ArithmeticError):
    """The expression has no (real) value at the point."""


class TooLarge(ArithmeticError):
    """A value is beyond the bounds of what is computed."""


@lru_cache(maxsize=8)
def _context(digits: int) -> Any:
    context = MPContext()
    context.dps = digits
    return context


@dataclass(slots=True)
class Work:
    """The operations left to a comparison, all its points together."""

    left: int = _MAX_OPERATIONS

    def spend(self) -> None:
        """Count one operation.

        Raises:
            TooLarge: none is left.
        """
        self.left -= 1
        if self.left < 0:
            raise TooLarge


@dataclass(slots=True)
class Evaluation:
    """The evaluation of expressions at one point."""

    point: dict[str, Scalar]
    digits: int
    is_complex: bool
    natural_log: bool
    spread: float = 0.0
    """The digits between the largest and the smallest part of any sum: fewer digits would lose the smallest."""
    magnitude: int = 0
    """The size of the largest part of any sum, as a power of 2: rounding errors are relative to it."""
    work: Work = field(default_factory=lambda: Work())
    context: Any = field(init=False)

    def __post_init__(self) -> None:
        self.context = _context(self.digits)

    def real(self, value: Scalar) -> Scalar:
        """Return a value in the context's precision."""
        if isinstance(value, Fraction):
            self._note(max(value.numerator.bit_length(), value.denominator.bit_length()) * 0.30103)
            return self.context.mpf(value.numerator) / value.denominator
        return value

    def _note(self, digits: float) -> None:
        self.spread = max(self.spread, digits)

    def value(self, tree: Tree) -> Scalar:
        """Return the value of an expression.

        Raises:
            Undefined: the point is not in its domain.
            TooLarge: a bound would be exceeded.
        """
        self.work.spend()
        match tree:
            case Number():
                return tree.value
            case Symbol():
                return self.point[tree.name]
            case Constant():
                return self._constant(tree.name)
            case Apply():
                return self._applied(tree)
            case Call():
                return self.opaque(tree.name, *map(self.value, tree.arguments))
            case Bound():
                return self._bound(tree)
            case _:
                return self.opaque(repr(ordered(tree)), *(self.point[name] for name in sorted(symbols(tree))))

    def _constant(self, name: str) -> Scalar:
        if name == "pi":
            return +self.context.pi
        if name == "e":
            return +self.context.e
        if name == "i":
            return self.context.mpc(0, 1)
        raise Undefined

    def opaque(self, name: str, *arguments: Scalar) -> Fraction:
        """Return a value that depends on a name and arguments alone."""
        texts = [self._text(argument) for argument in arguments]
        digest = hashlib.blake2b("|".join((name, *texts)).encode(), digest_size=8).digest()
        return Fraction(int.from_bytes(digest, "big"), 2**63) + Fraction(1, 3)

    def _text(self, value: Scalar) -> str:
        context = self.context
        number = context.mpmathify(self.real(value))
        parts = (context.re(number), context.im(number))
        return ",".join("0" if abs(part) < 1e-28 else context.nstr(part, 25, strip_zeros=True) for part in parts)

    def _applied(self, tree: Apply) -> Scalar:
        name, arguments = tree.name, tree.arguments
        if name == "+":
            return self._sum([self.value(part) for part in arguments])
        if name == "*":
            return self._product(arguments)
        if name == "^":
            return self.power(self.value(arguments[0]), self._exponent(arguments[1]))
        if name == "root":
            return self.root(self.value(arguments[0]), self.value(arguments[1]))
        if name == "det":
            return self._determinant(arguments[0])
        if name not in _OPERATIONS:
            return self.opaque(name, *map(self.value, arguments))
        values = [self.value(part) for part in arguments]
        return self._checked(_OPERATIONS[name](self, *values))

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

    def _product(self, arguments: tuple[Tree, ...]) -> Scalar:
        result: Scalar = Fraction(1)
        for part in arguments:
            value = self.value(part)
            if isinstance(result, Fraction) != isinstance(value, Fraction):
                result, value = self.real(result), self.real(value)
            result = result * value
            if isinstance(result, Fraction):
                result = self._bounded(result)
        return self._checked(result)

    def _bounded(self, value: Scalar) -> Scalar:
        if isinstance(value, Fraction) and _bits(value) > 4 * _MAX_BITS:
            raise TooLarge
        return value

    def _exponent(self, tree: Tree) -> Scalar:
        return self.value(tree)

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
        if number > 10**12 or size * number > _MAX_EXPONENT:
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
            if _bits(base) * abs(exponent.numerator) <= _MAX_BITS:
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

    def _bound(self, tree: Bound) -> Scalar:
        if tree.kind in ("sum", "product"):
            low, high = self._integer(tree.low), self._integer(tree.high)
            if low is not None and high is not None:
                return self._run(tree, low, high)
        limits = [self._limit_text(limit) for limit in (tree.low, tree.high)]
        point = dict(self.point)
        if not (tree.kind == "integral" and tree.low is None):
            point[tree.variable] = self.opaque(f"bound variable {len(self.point)}")
        inner = Evaluation(point, self.digits, self.is_complex, self.natural_log, work=self.work)
        body = inner.value(tree.body)
        self._note(inner.spread)
        extra = [point[tree.variable]] if tree.variable in point else []
        return self.opaque(f"{tree.kind} {limits}", body, *extra)

    def _integer(self, tree: Tree | None) -> int | None:
        if tree is None:
            return None
        try:
            value = self.value(tree)
        except Undefined:
            return None
        return value.numerator if isinstance(value, Fraction) and value.denominator == 1 else None

    def _limit_text(self, tree: Tree | None) -> str:
        if tree is None:
            return ""
        try:
            return self._text(self.value(tree))
        except Undefined:
            return repr(ordered(tree))

    def _run(self, tree: Bound, low: int, high: int) -> Scalar:
        if high - low >= _MAX_TERMS:
            raise TooLarge
        terms = []
        outer = self.point
        self.point = dict(outer)
        try:
            for index in range(low, high + 1):
                self.point[tree.variable] = Fraction(index)
                terms.append(self.value(tree.body))
        finally:
            self.point = outer
        if tree.kind == "sum":
            return self._sum(terms)
        result: Scalar = Fraction(1)
        for term in terms:
            if isinstance(result, Fraction) != isinstance(term, Fraction):
                result, term = self.real(result), self.real(term)
            result = self._bounded(result * term)
        return result

    def _determinant(self, tree: Tree) -> Scalar:
        if not isinstance(tree, Matrix) or len(tree.rows) != len(tree.rows[0]) or len(tree.rows) > 6:
            return self.opaque("det", *map(self.value, children(tree)))
        return self._minor([[self.value(entry) for entry in row] for row in tree.rows])

    def _minor(self, rows: list[list[Scalar]]) -> Scalar:
        if len(rows) == 1:
            return rows[0][0]
        total: list[Scalar] = []
        for column, entry in enumerate(rows[0]):
            minor = self._minor([row[:column] + row[column + 1 :] for row in rows[1:]])
            if isinstance(entry, Fraction) != isinstance(minor, Fraction):
                entry, minor = self.real(entry), self.real(minor)
            total.append((-1) ** column * entry * minor)
        return self._sum(total)

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


def _bits(value: Fraction) -> int:
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


def _real_function(name: str) -> Callable[..., Scalar]:
    def apply(evaluation: Evaluation, value: Scalar) -> Scalar:
        number = evaluation.real(value)
        if name in ("sin", "cos", "tan", "cot", "sec", "csc") and evaluation.context.mag(number) > evaluation.digits:
            raise TooLarge
        if name.endswith("h") and abs(number) > _MAX_EXPONENT:
            raise TooLarge
        try:
            return getattr(evaluation.context, name)(number)
        except (ZeroDivisionError, ValueError):
            raise Undefined from None

    return apply


def _logarithm(evaluation: Evaluation, value: Scalar, base: Scalar = None) -> Scalar:
    if not value:
        raise Undefined
    number = evaluation.real(value)
    if not isinstance(number, evaluation.context.mpc) and number < 0 and not evaluation.is_complex:
        raise Undefined
    logarithm = evaluation.context.ln(number)
    if base is None:
        return logarithm
    if not base or base == 1:
        raise Undefined
    return logarithm / _logarithm(evaluation, base)


def _log(evaluation: Evaluation, value: Scalar, base: Scalar = None) -> Scalar:
    if base is None and not evaluation.natural_log:
        base = Fraction(10)
    if isinstance(value, Fraction) and isinstance(base, Fraction) and value > 0 and base > 1:
        approximate = _logarithm(evaluation, value, base)
        rounded = evaluation.context.nint(approximate)
        if abs(rounded) < 1000 and Fraction(base) ** int(rounded) == value:
            return Fraction(int(rounded))
    return _logarithm(evaluation, value, base)


def _factorial(evaluation: Evaluation, value: Scalar) -> Scalar:
    if isinstance(value, Fraction) and value.denominator == 1:
        if value < 0:
            raise Undefined
        if value <= _MAX_FACTORIAL:
            return Fraction(factorial(int(value)))
        if value > _MAX_EXPONENT:
            raise TooLarge
    number = evaluation.real(value)
    if abs(number) > _MAX_EXPONENT:
        raise TooLarge
    return evaluation.context.gamma(number + 1)


def _double_factorial(evaluation: Evaluation, value: Scalar) -> Scalar:
    number = evaluation.integer(value)
    if number < 0:
        raise Undefined
    if number > _MAX_FACTORIAL:
        raise TooLarge
    result = 1
    for factor in range(number, 1, -2):
        result *= factor
    return Fraction(result)


def _gamma(evaluation: Evaluation, value: Scalar) -> Scalar:
    if isinstance(value, Fraction) and value.denominator == 1:
        if value < 1:
            raise Undefined
        return _factorial(evaluation, value - 1)
    number = evaluation.real(value)
    if abs(number) > _MAX_EXPONENT:
        raise TooLarge
    return evaluation.context.gamma(number)


def _binomial(evaluation: Evaluation, above: Scalar, below: Scalar) -> Scalar:
    n, k = evaluation.integer(above), evaluation.integer(below)
    if n < 0 or k < 0:
        raise Undefined
    if k > n:
        return Fraction(0)
    if min(k, n - k) * n.bit_length() > _MAX_BITS:
        context = evaluation.context
        if n > _MAX_EXPONENT:
            raise TooLarge
        return context.exp(context.loggamma(n + 1) - context.loggamma(k + 1) - context.loggamma(n - k + 1))
    return Fraction(comb(n, k))


def _floor(evaluation: Evaluation, value: Scalar) -> Scalar:
    if isinstance(value, Fraction):
        return Fraction(value.numerator // value.denominator)
    whole = evaluation.nearest(value)
    return Fraction(int(evaluation.context.floor(value)) if whole is None else whole)


def _ceil(evaluation: Evaluation, value: Scalar) -> Scalar:
    return -_floor(evaluation, -value)


def _absolute(evaluation: Evaluation, value: Scalar) -> Scalar:
    return abs(value)


def _sign(evaluation: Evaluation, value: Scalar) -> Scalar:
    if isinstance(value, Fraction):
        return Fraction((value > 0) - (value < 0))
    return Fraction(int(evaluation.context.sign(value)))


def _modulus(evaluation: Evaluation, value: Scalar, modulus: Scalar) -> Scalar:
    if not (isinstance(value, Fraction) and isinstance(modulus, Fraction)):
        raise TooLarge
    if not modulus:
        raise Undefined
    return value % modulus


def _degrees(evaluation: Evaluation, value: Scalar) -> Scalar:
    return evaluation.real(value) * evaluation.context.pi / 180


def _of_integers(function: Callable[..., int]) -> Callable[..., Scalar]:
    def apply(evaluation: Evaluation, *values: Scalar) -> Scalar:
        return Fraction(function(*map(evaluation.integer, values)))

    return apply


def _extreme(function: Callable[..., Any]) -> Callable[..., Scalar]:
    def apply(evaluation: Evaluation, *values: Scalar) -> Scalar:
        if any(isinstance(value, evaluation.context.mpc) for value in values):
            raise Undefined
        if all(isinstance(value, Fraction) for value in values):
            return function(values)
        return function(list(map(evaluation.real, values)))

    return apply


_TRIGONOMETRY: Final = "sin cos tan cot sec csc sinh cosh tanh coth sech csch".split()  # noqa: SIM905
_ARCS: Final = {
    **{"arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot", "arcsec": "asec", "arccsc": "acsc"},
    **{"arsinh": "asinh", "arcosh": "acosh", "artanh": "atanh"},
}
_OPERATIONS: Final[dict[str, Callable[..., Scalar]]] = {
    **{name: _real_function(name) for name in _TRIGONOMETRY},
    **{name: _real_function(theirs) for name, theirs in _ARCS.items()},
    **{"ln": _logarithm, "log": _log, "factorial": _factorial, "double factorial": _double_factorial},
    **{"gamma": _gamma, "binomial": _binomial, "floor": _floor, "ceil": _ceil, "abs": _absolute, "sgn": _sign},
    **{"mod": _modulus, "degree": _degrees, "gcd": _of_integers(gcd), "lcm": _of_integers(lcm)},
    **{"max": _extreme(max), "min": _extreme(min)},
}
_WHOLE: Final = frozenset(("factorial", "double factorial", "binomial", "gcd", "lcm", "mod", "gamma"))
_PIECEWISE: Final = frozenset(("floor", "ceil", "abs", "sgn", "max", "min", "root"))
_WHOLE_NAMES: Final = frozenset("ijklmnpqrMN")


def whole_symbols(*trees: Tree) -> frozenset[str]:
    """Return the variables that can only be whole numbers: those of factorials, indices, bounds, powers of -1."""
    whole: set[str] = set()
    for tree in trees:
        for node in nodes(tree):
            match node:
                case Apply(name=name) if name in _WHOLE:
                    whole |= symbols(node)
                case Apply(name="floor" | "ceil"):
                    whole |= symbols(node) & _WHOLE_NAMES
                case Apply(name="^", arguments=(base, exponent)) if not symbols(base) and _is_negative(base):
                    whole |= symbols(exponent)
                case Bound(kind="sum" | "product"):
                    for limit in (node.low, node.high):
                        whole |= symbols(limit) if limit is not None else frozenset()
                case Call() if node.name.startswith("index "):
                    whole |= frozenset().union(*map(symbols, node.arguments)) & _WHOLE_NAMES
    return frozenset(whole)


def _is_negative(tree: Tree) -> bool:
    match tree:
        case Number():
            return tree.value < 0
        case Apply(name="*", arguments=arguments):
            return any(map(_is_negative, arguments))
        case _:
            return False


def points(names: frozenset[str], whole: frozenset[str], number: int) -> Iterator[dict[str, Fraction]]:
    """Yield points at random, always the same ones: all coordinates positive in every second point."""
    scales = (2, 1, 5, 1, 30, 3, 400)
    for index in range(number):
        dice = random.Random(f"{index}")
        scale = scales[index % len(scales)]
        point = {}
        for name in sorted(names):
            if name in whole:
                point[name] = Fraction(dice.randint(0 if index % 3 else 2, 6 + index))
            else:
                value = Fraction(dice.randint(1, 2**17), 2**16 + 1) * scale
                point[name] = -value if index % 2 and dice.random() < 0.5 else value
        yield point


def is_piecewise(*trees: Tree) -> bool:
    """Return whether an expression may have pieces, so that a few points do not show all of it."""
    return any(isinstance(node, Apply) and node.name in _PIECEWISE for tree in trees for node in nodes(tree))


def has_imaginary_unit(*trees: Tree) -> bool:
    """Return whether the imaginary unit occurs."""
    return any(node == Constant("i") for tree in trees for node in nodes(tree))


def log_readings(*trees: Tree) -> tuple[bool, ...]:
    """Return how to read log without a base: natural, then decimal."""
    has_log = any(
        isinstance(node, Apply) and node.name == "log" and len(node.arguments) == 1
        for tree in trees
        for node in nodes(tree)
    )
    return (True, False) if has_log else (True,)


def equal(first: Tree, second: Tree) -> tuple[bool | None, str]:
    """Return whether two expressions have the same value wherever both have one, and the step that decided.

    None means undecided: no admissible points, or values beyond the bounds.
    """
    if not (is_value(first) and is_value(second)):
        return None, "not expressions"
    decision: bool | None = False
    step = ""
    for natural in log_readings(first, second):
        decision, step = _equal(first, second, natural)
        if decision:
            return decision, step
    return decision, step


def _equal(first: Tree, second: Tree, natural: bool) -> tuple[bool | None, str]:
    names = symbols(first) | symbols(second)
    whole = whole_symbols(first, second)
    is_complex = not names or has_imaginary_unit(first, second)
    needed = 1 if not names else 12 if whole or is_piecewise(first, second) else 4
    found, is_exact, work = 0, True, Work()
    for point in points(names, whole, 1 if not names else 48):
        try:
            same, exact = _same_at(point, first, second, is_complex, natural, work)
        except Undefined:
            continue
        except TooLarge:
            if not names or work.left < 0:
                return None, "beyond the bounds"
            continue
        if not same:
            return False, "exact arithmetic" if exact else "numerical values"
        is_exact = is_exact and exact
        found += 1
        if found >= needed:
            break
    if not found or (names and found < 3):
        return None, "no admissible points"
    return True, "exact arithmetic" if is_exact else "numerical values"


def _same_at(
    point: dict[str, Fraction], first: Tree, second: Tree, is_complex: bool, natural: bool, work: Work
) -> tuple[bool, bool]:
    """Return whether two values are the same at a point, and whether both are exact."""
    digits, previous = _DIGITS, None
    while digits <= _MAX_DIGITS:
        evaluation = Evaluation(dict(point), digits, is_complex, natural, work=work)
        one, two = evaluation.value(first), evaluation.value(second)
        if isinstance(one, Fraction) and isinstance(two, Fraction):
            return one == two, True
        one, two = evaluation.real(one), evaluation.real(two)
        difference, size = abs(one - two), max(abs(one), abs(two))
        tolerance = evaluation.context.mpf(10) ** (_GUARD - digits)
        if difference > tolerance * max(size, evaluation.context.ldexp(1, evaluation.magnitude)):
            return False, False
        if evaluation.spread > digits - _GUARD:
            digits = max(int(evaluation.spread) + 2 * _GUARD, 2 * digits)
            continue
        if difference <= tolerance * size:
            return True, False
        if difference > tolerance:
            return False, False
        # A difference that small is either rounding, which shrinks with more digits, or a small number, which does not.
        if previous is not None:
            return difference * evaluation.context.mpf(10) ** _GUARD < previous, False
        previous, digits = evaluation.context.mpf(difference), 2 * digits
    raise TooLarge


@lru_cache(maxsize=4096)
def constant(tree: Tree) -> Scalar | None:
    """Return the real value of an expression without variables to 60 digits, or None if it has none."""
    if not is_value(tree) or symbols(tree) or any(isinstance(node, Call) for node in nodes(tree)):
        return None
    try:
        evaluation = Evaluation({}, _DIGITS, True, True)
        value = evaluation.real(evaluation.value(tree))
    except ArithmeticError:
        return None
    return None if isinstance(value, evaluation.context.mpc) else value


def proportional(first: Tree, second: Tree, *, needs_positive: bool) -> bool | None:
    """Return whether one expression is a constant multiple of the other, by a factor that is not 0.

    Constants are multiples of each other only if they are equal: `1 = 0` is not `2 = 0`.

    Args:
        first: an expression.
        second: another.
        needs_positive: whether the factor has to be positive.
    """
    names = symbols(first) | symbols(second)
    if not names:
        return equal(first, second)[0]
    decisions = [_proportional(first, second, needs_positive, natural) for natural in log_readings(first, second)]
    return True if True in decisions else decisions[0]


def _proportional(first: Tree, second: Tree, needs_positive: bool, natural: bool) -> bool | None:
    pairs = list(_pairs(first, second, natural, 4 if not is_piecewise(first, second) else 10))
    if len(pairs) < 3:
        return None
    tolerance = _context(_DIGITS).mpf(10) ** (_GUARD - _DIGITS)
    (one, two), *rest = pairs
    if abs(one) <= tolerance or abs(two) <= tolerance:
        return False
    if needs_positive and (one > 0) != (two > 0):
        return False
    if all(abs(value - one) <= tolerance * abs(one) for value, _ in rest):
        return abs(one - two) <= tolerance * abs(one) and all(
            abs(value - two) <= tolerance * abs(two) for _, value in rest
        )
    return all(
        abs(left * two - right * one) <= tolerance * max(abs(left * two), abs(right * one)) for left, right in rest
    )


def _pairs(first: Tree, second: Tree, natural: bool, number: int) -> Iterator[tuple[Scalar, Scalar]]:
    """Yield real values of two expressions at admissible points."""
    names = symbols(first) | symbols(second)
    whole = whole_symbols(first, second)
    is_complex = has_imaginary_unit(first, second)
    found, work = 0, Work()
    for point in points(names, whole, 48):
        evaluation = Evaluation(dict(point), _DIGITS, is_complex, natural, work=work)
        try:
            pair = evaluation.real(evaluation.value(first)), evaluation.real(evaluation.value(second))
        except ArithmeticError:
            continue
        if evaluation.spread > _DIGITS - _GUARD:
            continue
        yield pair
        found += 1
        if found == number:
            return


def same_solutions(first: Tree, second: Tree) -> bool | None:
    """Return whether two equations that are linear in one variable have the same solution for it at random points.

    None means that they are linear in no common variable.
    """
    names = symbols(first) | symbols(second)
    for name in sorted(names - whole_symbols(first, second)):
        decisions = [_same_solution(first, second, name, point) for point in points(names, frozenset(), 6)]
        if None not in decisions:
            return False not in decisions
    return None


def _same_solution(first: Tree, second: Tree, name: str, point: dict[str, Fraction]) -> bool | None:
    roots = []
    for tree in (first, second):
        evaluations = []
        for value in (Fraction(1), Fraction(2), Fraction(4)):
            evaluation = Evaluation({**point, name: value}, _DIGITS, False, True)
            try:
                evaluations.append(evaluation.real(evaluation.value(tree)))
            except ArithmeticError:
                return None
        one, two, four = evaluations
        slope = two - one
        tolerance = evaluation.context.mpf(10) ** (_GUARD - _DIGITS) * max(1, abs(four))
        if abs(slope) <= tolerance or abs(four - two - 2 * slope) > tolerance:
            return None
        roots.append(1 - one / slope)
    return bool(abs(roots[0] - roots[1]) <= evaluation.context.mpf(10) ** (_GUARD - _DIGITS) * max(1, abs(roots[0])))

"""Values of expressions at points.

Functions that are not known (`f(x)`, `a_n`, an integral) get a value that depends on nothing but their name and the
values of their arguments, so that equal expressions stay equal and others do not.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

from reasonray.checkers.mathematics.arithmetic import Arithmetic, Scalar, TooLarge, Undefined
from reasonray.checkers.mathematics.known_functions import FUNCTIONS
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
    symbols,
)

_MAX_TERMS: Final = 1000
_MAX_OPERATIONS: Final = 20_000


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
class Evaluation(Arithmetic):
    """The evaluation of expressions at one point."""

    point: dict[str, Scalar] = field(kw_only=True)
    work: Work = field(default_factory=Work, kw_only=True)

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
            return self.power(self.value(arguments[0]), self.value(arguments[1]))
        if name == "root":
            return self.root(self.value(arguments[0]), self.value(arguments[1]))
        if name == "det":
            return self._determinant(arguments[0])
        if name not in FUNCTIONS:
            return self.opaque(name, *map(self.value, arguments))
        values = [self.value(part) for part in arguments]
        return self._checked(FUNCTIONS[name](self, *values))

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

    def _bound(self, tree: Bound) -> Scalar:
        if tree.kind in ("sum", "product"):
            low, high = self._integer(tree.low), self._integer(tree.high)
            if low is not None and high is not None:
                return self._run(tree, low, high)
        limits = [self._limit_text(limit) for limit in (tree.low, tree.high)]
        point = dict(self.point)
        if not (tree.kind == "integral" and tree.low is None):
            point[tree.variable] = self.opaque(f"bound variable {len(self.point)}")
        inner = Evaluation(self.digits, self.is_complex, self.natural_log, point=point, work=self.work)
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

"""Points at which expressions are compared, and what expressions ask of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from fractions import Fraction
from typing import Final

from reasonray.checkers.mathematics.tree import Apply, Bound, Call, Constant, Number, Tree, nodes, symbols

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

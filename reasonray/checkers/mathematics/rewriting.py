"""Rewriting of trees: bottom-up transformation, normal order, signs expanded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

from reasonray.checkers.mathematics.tree import (
    Apply,
    Bound,
    Bracket,
    Call,
    Cases,
    Constant,
    Given,
    Listing,
    Matrix,
    Quantity,
    Ratio,
    Relation,
    SetBuilder,
    Symbol,
    Tree,
    negated,
    nodes,
)

_COMMUTATIVE = frozenset(("+", "*", "cup", "cap", "max", "min", "gcd", "lcm"))


def transformed(tree: Tree, change: Callable[[Tree], Tree]) -> Tree:
    """Return a tree with each of its nodes changed, the parts before the whole."""
    return change(with_children(tree, lambda part: transformed(part, change)))


def with_children(tree: Tree, change: Callable[[Tree], Tree]) -> Tree:
    """Return a tree with its direct parts changed."""
    match tree:
        case Apply() | Call():
            return replace(tree, arguments=tuple(map(change, tree.arguments)))
        case Bound():
            low = None if tree.low is None else change(tree.low)
            high = None if tree.high is None else change(tree.high)
            return replace(tree, low=low, high=high, body=change(tree.body))
        case Relation():
            return replace(tree, sides=tuple(None if side is None else change(side) for side in tree.sides))
        case Bracket() | Listing():
            return replace(tree, items=tuple(map(change, tree.items)))
        case SetBuilder():
            return SetBuilder(change(tree.element), change(tree.conditions))
        case Matrix():
            return Matrix(tuple(tuple(map(change, row)) for row in tree.rows))
        case Quantity():
            return replace(tree, value=change(tree.value))
        case Ratio():
            return Ratio(tuple(map(change, tree.terms)))
        case Cases():
            return Cases(tuple((change(value), change(condition)) for value, condition in tree.pieces))
        case Given():
            return Given(change(tree.answer), change(tree.conditions))
        case _:
            return tree


@lru_cache(maxsize=8192)
def ordered(tree: Tree) -> Tree:
    """Return a tree with nested sums and products flattened and what commutes in one order."""
    return transformed(tree, _in_order)


def _in_order(tree: Tree) -> Tree:
    if isinstance(tree, Apply) and tree.name in _COMMUTATIVE:
        parts: list[Tree] = []
        for part in tree.arguments:
            parts += part.arguments if isinstance(part, Apply) and part.name == tree.name else (part,)
        return Apply(tree.name, tuple(sorted(parts, key=repr)))
    if isinstance(tree, Bracket) and tree.opening == "{":
        return replace(tree, items=tuple(sorted(dict.fromkeys(tree.items), key=repr)))
    return tree


def expanded(tree: Tree) -> tuple[Tree, ...]:
    """Return the two trees that a tree with ± stands for, or the tree alone. All signs of a tree go together."""
    if not any(isinstance(node, Apply) and node.name == "±" for node in nodes(tree)):
        return (tree,)
    return transformed(tree, _upper), transformed(tree, _lower)


def _upper(node: Tree) -> Tree:
    return node.arguments[0] if isinstance(node, Apply) and node.name == "±" else node


def _lower(node: Tree) -> Tree:
    return negated(node.arguments[0]) if isinstance(node, Apply) and node.name == "±" else node


def with_letter_i(tree: Tree) -> Tree:
    """Return a tree with the letter i as a variable, not as the imaginary unit."""
    return transformed(tree, lambda node: Symbol("i") if node == Constant("i") else node)


def with_names(tree: Any, renaming: dict[str, Symbol]) -> Any:
    """Return a tree with other names for some of its variables."""
    return transformed(tree, lambda node: renaming.get(node.name, node) if isinstance(node, Symbol) else node)

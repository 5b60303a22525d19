"""Tuples, vectors and matrices: their entries and shapes, sums and multiples."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Final

from reasonray.checkers.mathematics.tree import Apply, Bracket, Matrix, Number, Symbol, Tree, is_value, nodes

_BASIS: Final = tuple(Symbol(f"basis {letter}") for letter in "ijk")


def is_tuple(tree: Tree) -> bool:
    """Return whether a tree is a matrix, or a tuple or vector of any brackets."""
    return isinstance(tree, Matrix) or is_vector(tree)


def is_vector(tree: Tree) -> bool:
    """Return whether brackets enclose a tuple or a vector, rather than a set or a half-open interval."""
    return isinstance(tree, Bracket) and (tree.opening, tree.closing) in (("(", ")"), ("[", "]"), ("<", ">"))


def entries_of(tree: Tree) -> tuple[Tree, ...] | None:
    """Return the entries of a matrix row by row, or the items of brackets; None for other trees."""
    if isinstance(tree, Bracket):
        if tree.opening == "[" and all(isinstance(item, Bracket) for item in tree.items) and len(tree.items) > 1:
            return tuple(entry for item in tree.items for entry in (item.items if isinstance(item, Bracket) else ()))
        return tree.items
    if isinstance(tree, Matrix):
        return tuple(entry for row in tree.rows for entry in row)
    return None


def shape_of(tree: Tree) -> tuple[int, int]:
    """Return the rows and columns of a matrix; (0, 0) for a vector and all that is no matrix."""
    if isinstance(tree, Matrix):
        return (len(tree.rows), len(tree.rows[0])) if min(len(tree.rows), len(tree.rows[0])) > 1 else (0, 0)
    if isinstance(tree, Bracket) and tree.opening == "[":
        widths = {len(item.items) if isinstance(item, Bracket) else 0 for item in tree.items}
        if widths != {0} and len(widths) == 1:
            return len(tree.items), widths.pop()
    return (0, 0)


def as_matrices(wanted: Tree, given: Tree) -> tuple[Tree | None, Tree | None] | None:
    """Return both sides as matrices if one is an expression in vectors or matrices, else None."""
    if not any(map(_has_vectors, (wanted, given))):
        return None
    size = max((len(entries) for tree in (wanted, given) if (entries := entries_of(tree)) is not None), default=3)
    return _as_matrix(wanted, size), _as_matrix(given, size)


def _has_vectors(tree: Tree) -> bool:
    return any(isinstance(node, Matrix) or node in _BASIS for node in nodes(tree)) or (
        isinstance(tree, Apply) and any(is_vector(node) for node in nodes(tree))
    )


def _as_matrix(tree: Tree, size: int) -> Tree | None:
    """Return an expression as one matrix: sums, multiples and products of matrices worked out entry by entry."""
    if isinstance(tree, Matrix):
        return tree
    if is_vector(tree):
        entries = entries_of(tree)
        assert entries is not None
        shape = shape_of(tree)
        if shape == (0, 0):
            return Matrix(tuple((entry,) for entry in entries))
        return Matrix(tuple(entries[row * shape[1] : (row + 1) * shape[1]] for row in range(shape[0])))
    if tree in _BASIS:
        return Matrix(tuple((Number(Fraction(int(tree == unit))),) for unit in _BASIS[:size]))
    if is_value(tree) and not _has_vectors(tree):
        return tree
    if not isinstance(tree, Apply):
        return None
    parts = [_as_matrix(part, size) for part in tree.arguments]
    if tree.name == "+" and all(isinstance(part, Matrix) for part in parts):
        return _matrix_sum([part for part in parts if isinstance(part, Matrix)])
    if tree.name == "*":
        matrices = [part for part in parts if isinstance(part, Matrix)]
        scalars = [part for part in parts if part is not None and not isinstance(part, Matrix)]
        if len(matrices) == 1 and len(scalars) == len(parts) - 1:
            return Matrix(tuple(tuple(Apply("*", (*scalars, entry)) for entry in row) for row in matrices[0].rows))
    return None


def _matrix_sum(matrices: Sequence[Matrix]) -> Tree | None:
    if len({(len(matrix.rows), len(matrix.rows[0])) for matrix in matrices}) != 1:
        return None
    return Matrix(
        tuple(
            tuple(Apply("+", entries) for entries in zip(*rows, strict=True))
            for rows in zip(*(matrix.rows for matrix in matrices), strict=True)
        )
    )

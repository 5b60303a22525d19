"""Names that answers give to their values: `x = 3`, `f(x) = x^2`, `x_1 = 1`."""

from __future__ import annotations

from collections.abc import Sequence

from reasonray.checkers.mathematics.rewriting import ordered
from reasonray.checkers.mathematics.tree import Apply, Bracket, Call, Constant, Relation, Symbol, Tree


def name_of(tree: Tree) -> str:
    """Return the name that a relation gives to its right side, or ""."""
    if not isinstance(tree, Relation) or tree.signs[0] not in "=~" or tree.sides[0] is None:
        return ""
    left = tree.sides[0]
    if isinstance(left, Symbol | Call):
        return repr(ordered(left))
    if isinstance(left, Apply) and left.name in ("abs", "norm"):
        return repr(ordered(left))
    if (
        isinstance(left, Bracket)
        and (left.opening, left.closing) == ("(", ")")
        and all(isinstance(item, Symbol | Call) for item in left.items)
    ):
        return repr(left.items)
    if left in (Constant("e"), Constant("i")):
        return repr(left)
    return ""


def names_of(items: Sequence[Tree]) -> list[str]:
    """Return the names that items give to their values; items without one are left out."""
    return [name for item in items if (name := name_of(item))]


def is_assignment(tree: Tree) -> bool:
    """Return whether a relation says what a name is equal to."""
    return isinstance(tree, Relation) and tree.signs == ("=",) and bool(name_of(tree))


def unnamed(tree: Tree) -> Tree:
    """Return the value of an assignment, or another tree as it is."""
    if isinstance(tree, Relation) and tree.signs == ("=",) and name_of(tree) and tree.sides[1] is not None:
        return tree.sides[1]
    return tree


def share_base(names: Sequence[str]) -> bool:
    """Return whether names are one variable or its indexed forms, so that their order says nothing."""
    return len(set(map(_base, names))) <= 1


def _base(name: str) -> str:
    """Return the name of the variable of which a name is an index."""
    return name.partition("'index ")[2].partition("'")[0] or name.partition("name='")[2].partition("'")[0] or name


def is_same_variable(wanted: Sequence[str], given: Sequence[str]) -> bool:
    """Return whether one list names values x_1, x_2 and the other all of them x."""
    if not (wanted and given and share_base([*wanted, *given])):
        return False
    return any(len(set(names)) == 1 and "'index " not in names[0] for names in (wanted, given)) and any(
        "'index " in names[0] for names in (wanted, given)
    )

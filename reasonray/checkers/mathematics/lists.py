"""Lists of answers: in any order, in one order, by their names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from reasonray.checkers.mathematics.decisions import Comparer, Decision, all_of
from reasonray.checkers.mathematics.naming import (
    is_assignment,
    is_same_variable,
    name_of,
    names_of,
    share_base,
    unnamed,
)
from reasonray.checkers.mathematics.relations import is_inequality
from reasonray.checkers.mathematics.rewriting import expanded, ordered, with_names
from reasonray.checkers.mathematics.tree import (
    Bracket,
    Given,
    Listing,
    Matrix,
    Relation,
    Symbol,
    Tree,
    Words,
    nodes,
    symbols,
)
from reasonray.checkers.mathematics.vectors import entries_of, is_tuple
from reasonray.checkers.mathematics.vocabulary import EMPTY

_MAX_ITEMS: Final = 64


def indexed_alike(gold: Tree, answer: Tree) -> tuple[Tree, Tree]:
    """Return two answers with their condition "k is an integer" in one form, and with one name for that index."""
    gold, answer = _with_condition_listed(gold), _with_condition_listed(answer)
    ours, theirs = _integer_indices(gold), _integer_indices(answer)
    if len(ours) == len(theirs) == 1 and ours != theirs and ours[0].name not in symbols(answer):
        return gold, with_names(answer, {theirs[0].name: ours[0]})
    return gold, answer


def _with_condition_listed(tree: Tree) -> Tree:
    if isinstance(tree, Given) and _is_membership(tree.conditions):
        items = tree.answer.items if isinstance(tree.answer, Listing) else (tree.answer,)
        return Listing((*items, tree.conditions))
    return tree


def _integer_indices(tree: Tree) -> list[Symbol]:
    items = tree.items if isinstance(tree, Listing) else ()
    return [item.sides[0] for item in items if _is_membership(item)]  # type: ignore[union-attr, misc]


def _is_membership(tree: Tree) -> bool:
    return (
        isinstance(tree, Relation)
        and tree.signs == ("in",)
        and isinstance(tree.sides[0], Symbol)
        and isinstance(tree.sides[1], Symbol)
        and tree.sides[1].name.startswith("set ")
    )


def compare_items(comparison: Comparer, gold: Tree, answer: Tree) -> Decision:
    """Return whether two lists hold the same answers; a single answer is a list of one."""
    if (isinstance(gold, Bracket | Listing) and isinstance(answer, Bracket | Listing | Matrix)) and (
        (decision := _compare_named_lists(comparison, gold, answer)) is not None
    ):
        return decision
    if isinstance(answer, Listing | Bracket) and (assigned := _assignments(gold)):
        return comparison.same(assigned, answer)
    if isinstance(gold, Listing | Bracket) and not is_tuple(gold) and (assigned := _assignments(answer)):
        return comparison.same(gold, assigned)
    wanted, given = members_of(gold), members_of(answer)
    if len(wanted) > _MAX_ITEMS or len(given) > _MAX_ITEMS:
        return None
    if len(wanted) == 1 and len(given) == 1:
        if Words(EMPTY) in (wanted[0], given[0]) and gold != answer:
            return comparison.by("another set", False)
        return comparison.single(wanted[0], given[0])
    if isinstance(gold, Bracket | Matrix) and isinstance(answer, Listing) and is_tuple(gold):
        return _compare_tuple_and_list(comparison, gold, answer)
    if isinstance(answer, Bracket | Matrix) and isinstance(gold, Listing) and is_tuple(answer):
        return _compare_tuple_and_list(comparison, answer, gold)
    if len(wanted) != len(given):
        return comparison.by("another number of answers", False)
    joiners = {tree.joiner for tree in (gold, answer) if isinstance(tree, Listing)}
    wanted_names, given_names = names_of(wanted), names_of(given)
    if joiners == {"and", "or"} and _joiner_matters((*wanted, *given)):
        return comparison.by("and is not or", False)
    if (wanted_names and given_names and len(wanted_names) == len(given_names) == len(wanted)) and (
        len(set(wanted_names)) == len(wanted) and set(wanted_names) == set(given_names)
    ):
        pairs = dict(zip(given_names, given, strict=True))
        return all_of(comparison.single(item, pairs[name]) for name, item in zip(wanted_names, wanted, strict=True))
    if comparison.is_ordered or has_dots(wanted) or has_dots(given):
        return comparison.by("in order", all_of(map(comparison.single, wanted, given)))
    mixed = bool(wanted_names) != bool(given_names)
    if mixed and not share_base(wanted_names or given_names):
        return comparison.by("in order", all_of(map(comparison.single, map(unnamed, wanted), map(unnamed, given))))
    if mixed or is_same_variable(wanted_names, given_names):
        wanted, given = [unnamed(item) for item in wanted], [unnamed(item) for item in given]
    return match_items(comparison, wanted, given)


def _assignments(tree: Tree) -> Listing | None:
    """Return `(p, q) = (5, 2)` as `p = 5, q = 2`, or None for other trees."""
    match tree:
        case Relation(signs=("=",), sides=(Bracket() as names, Bracket() as values)) if (
            is_tuple(names)
            and len(names.items) == len(values.items)
            and all(isinstance(name, Symbol) for name in names.items)
        ):
            pairs = zip(names.items, values.items, strict=True)
            return Listing(tuple(Relation(("=",), pair) for pair in pairs))
        case _:
            return None


def _compare_named_lists(comparison: Comparer, gold: Bracket | Listing, answer: Tree) -> Decision:
    """Compare (p = 5, q = 2) with p = 5, q = 2, and with (5, 2)."""
    if is_tuple(gold) and all(map(is_assignment, gold.items)):
        return comparison.same(Listing(gold.items), answer)
    if isinstance(answer, Bracket) and is_tuple(answer) and all(map(is_assignment, answer.items)):
        return comparison.same(gold, Listing(answer.items))
    return None


def _compare_tuple_and_list(comparison: Comparer, point: Tree, listing: Listing) -> Decision:
    """Compare a tuple with a bare list of its entries in order, or of named entries in the names' order."""
    entries = entries_of(point)
    items = members_of(listing)
    if entries is None or len(entries) != len(items):
        return comparison.by("another number of answers", False)
    names = names_of(items)
    if names and (len(names) < len(items) or len(set(names)) < len(names)):
        return comparison.by("a tuple is not a list of alternatives", False)
    return comparison.by("in order", all_of(map(comparison.single, entries, map(unnamed, items))))


def match_items(comparison: Comparer, wanted: Sequence[Tree], given: Sequence[Tree]) -> Decision:
    """Match two lists item by item in any order."""
    left = list(given)
    undecided = False
    for item in wanted:
        decisions = [comparison.single(item, other) for other in left]
        if True in decisions:
            del left[decisions.index(True)]
        elif None in decisions:
            undecided = True
        else:
            return comparison.by("an answer is missing", False)
    return None if undecided else comparison.by("as a list", True)


def normal_form(tree: Tree, is_ordered: bool) -> Tree:
    """Return a tree in normal order: answers with the same normal form are the same."""
    tree = ordered(tree)
    if isinstance(tree, Listing) and not is_ordered and not has_dots(tree.items):
        joiner = tree.joiner if _joiner_matters(tree.items) else ","
        return Listing(tuple(sorted(tree.items, key=repr)), joiner)
    return tree


def members_of(tree: Tree) -> list[Tree]:
    """Return the answers in a list, with signs expanded and a name before several values given to each."""
    if isinstance(tree, Listing):
        members: list[Tree] = []
        name: Tree | None = None
        for item in tree.items:
            for member in members_of(item) if not isinstance(item, Bracket) else [*expanded(item)]:
                if isinstance(member, Relation) and member.signs == ("=",) and name_of(member):
                    name = member.sides[0]
                elif name is not None and not isinstance(member, Relation):
                    member = Relation(("=",), (name, member))
                members.append(member)
        return members
    if isinstance(tree, Bracket) and tree.opening == "{":
        return distinct([member for item in tree.items for member in expanded(item)])
    if isinstance(tree, Relation) and len(tree.sides) == 2 and tree.sides[1] is not None:
        right = tree.sides[1]
        if tree.signs == ("in",) and isinstance(right, Bracket) and right.opening == "{":
            return [Relation(("=",), (tree.sides[0], item)) for item in distinct(right.items)]
        if (
            tree.signs == ("=",)
            and isinstance(right, Bracket)
            and right.opening == "{"
            and isinstance(tree.sides[0], Symbol)
        ):
            return distinct(right.items) if tree.sides[0].name.isupper() else [tree]
    return list(expanded(tree))


def distinct(items: Iterable[Tree]) -> list[Tree]:
    """Return items without those that repeat an earlier one."""
    return list({ordered(item): item for item in items}.values())


def _joiner_matters(items: Sequence[Tree]) -> bool:
    """Return whether "and" and "or" say different things: not between the values of one name, or of none."""
    return (
        all(isinstance(item, Symbol) for item in items)
        or any(map(is_inequality, items))
        or len(set(names_of(items))) > 1
    )


def has_dots(items: Iterable[Tree]) -> bool:
    """Return whether an ellipsis is among the items."""
    return any(isinstance(node, Words) and node.text == "…" for item in items for node in nodes(item))

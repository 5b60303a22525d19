"""Equations, inequalities, congruences, and the values that relations state."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

from reasonray.checkers.mathematics import values
from reasonray.checkers.mathematics.decisions import Comparer, Decision, all_of, any_of
from reasonray.checkers.mathematics.naming import name_of
from reasonray.checkers.mathematics.quantities import is_far_apart, measured
from reasonray.checkers.mathematics.rewriting import with_names
from reasonray.checkers.mathematics.tree import (
    Apply,
    Call,
    Number,
    Ratio,
    Relation,
    Symbol,
    Tree,
    is_value,
    negated,
    nodes,
    symbols,
)

_FLIPPED: Final = {">": "<", ">=": "<="}
_VARIABLES: Final = frozenset((*"stuvwxyznmk", "theta", "phi"))
INEQUALITIES: Final = frozenset(("<", "<=", ">", ">=", "!="))


def compare_relations(comparison: Comparer, gold: Tree, answer: Tree) -> Decision:
    """Return whether two answers are the same, of which one or both are relations."""
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        return _compare_two_relations(comparison, gold, answer)
    if isinstance(gold, Relation):
        if "~" in gold.signs and _are_values(gold):
            return any_of(comparison.single(side, answer) for side in gold.sides if side is not None)
        value = stated_value(gold, comparison, is_gold=True)
        if value is None:
            return comparison.by("a relation is not a value", False)
        return comparison.same(value, answer)
    value = stated_value(answer, comparison, is_gold=False) if isinstance(answer, Relation) else answer
    if value is None:
        return comparison.by("a relation is not a value", False)
    return comparison.same(gold, value)


def _compare_two_relations(comparison: Comparer, gold: Relation, answer: Relation) -> Decision:
    gold, answer = _directed(gold), _directed(answer)
    wanted_name, given_name = name_of(gold), name_of(answer)
    if wanted_name and given_name:
        return _compare_assignments(comparison, gold, answer, wanted_name, given_name)
    constants = [_identical_sides(tree) for tree in (gold, answer)]
    if all(constants) and not symbols(gold) and not symbols(answer):
        return comparison.by("both hold", True)
    if len(gold.signs) > 1 or len(answer.signs) > 1:
        return _compare_chains(comparison, gold, answer)
    if gold.signs != answer.signs:
        return comparison.by("another relation", False)
    sides = _compare_sides(comparison, gold, answer)
    if sides is True:
        return True
    sign = gold.signs[0]
    if sign == "≡":
        return _compare_congruences(comparison, gold, answer)
    if sign not in ("=", *INEQUALITIES):
        return comparison.by("side by side", sides)
    if (bool(wanted_name and _is_solved(gold)) != bool(given_name and _is_solved(answer))) and (
        len(symbols(gold) | symbols(answer)) == 1
    ):
        return comparison.by("solved and not solved", False)
    return _compare_equations(comparison, gold, answer, sign)


def _compare_assignments(
    comparison: Comparer, gold: Relation, answer: Relation, wanted_name: str, given_name: str
) -> Decision:
    left, right = gold.sides[0], answer.sides[0]
    if (isinstance(left, Call) and isinstance(right, Call) and left.name == right.name) and (
        len(left.arguments) == len(right.arguments) and not left.name.startswith("index ")
    ):
        renaming = {
            theirs.name: ours
            for ours, theirs in zip(left.arguments, right.arguments, strict=True)
            if isinstance(ours, Symbol)
            and isinstance(theirs, Symbol)
            and ours != theirs
            and _are_variables(ours, theirs)
        }
        if any(ours.name in symbols(answer) for ours in renaming.values()):
            return comparison.by("another variable", False)
        answer = with_names(answer, renaming)
        given_name = name_of(answer) or given_name
    wanted, given = (
        stated_value(gold, comparison, is_gold=True),
        stated_value(answer, comparison, is_gold=False),
    )
    if wanted_name != given_name:
        if _is_equation(gold) and _is_equation(answer) and len(symbols(gold)) > 1:
            return _compare_equations(comparison, gold, answer, "=")
        return comparison.by("another name", False)
    if wanted is None or given is None:
        return comparison.by("a relation is not a value", False)
    return comparison.same(wanted, given)


def _are_variables(*names: Symbol) -> bool:
    """Return whether names are those of a function's variables: f(x) is f(t), but P(A) is not P(B)."""
    return all(name.name in _VARIABLES for name in names)


def _compare_sides(comparison: Comparer, gold: Relation, answer: Relation) -> Decision:
    pairs = zip(gold.sides, answer.sides, strict=True)
    return all_of(
        one is two or (one is not None and two is not None and comparison.single(one, two)) for one, two in pairs
    )


def _compare_chains(comparison: Comparer, gold: Relation, answer: Relation) -> Decision:
    if gold.signs == answer.signs:
        return comparison.by("side by side", _compare_sides(comparison, gold, answer))
    if set(gold.signs) == {"="} and set(answer.signs) == {"="}:
        return comparison.by("side by side", None)
    return comparison.by("another relation", False)


def _compare_congruences(comparison: Comparer, gold: Relation, answer: Relation) -> Decision:
    one, two = gold.sides[1], answer.sides[1]
    match one, two:
        case Apply(name="modulo", arguments=(value, modulus)), Apply(name="modulo", arguments=(other, theirs)):
            sides = gold.sides[0], answer.sides[0]
            left = sides[0] is None or (sides[1] is not None and comparison.single(sides[0], sides[1]))
            difference = Apply("mod", (Apply("+", (value, negated(other))), modulus))
            return all_of(
                (left, comparison.values(modulus, theirs), comparison.values(difference, Number(Fraction(0))))
            )
        case _:
            return comparison.by("another relation", False)


def _compare_equations(comparison: Comparer, gold: Relation, answer: Relation, sign: str) -> Decision:
    """Compare equations or inequalities up to a common factor that is not 0 (not negative, for inequalities)."""
    sides = (*gold.sides, *answer.sides)
    if not all(side is not None and is_value(side) for side in sides):
        return comparison.by("side by side", _compare_sides(comparison, gold, answer))
    first, second = (_difference(tree) for tree in (gold, answer))
    decision = values.proportional(first, second, needs_positive=sign not in ("=", "!="))
    if decision is not True and sign == "=" and symbols(first) == symbols(second) and len(symbols(first)) > 1:
        decision = values.same_solutions(first, second)
    return comparison.by("sides up to a factor", decision)


def stated_value(tree: Relation, comparison: Comparer, *, is_gold: bool) -> Tree | None:
    """Return the value that a relation states for a name, or None: it may be false, unsolved or an inequality."""
    tree = _directed(tree)
    if tree.signs == ("in",) and isinstance(tree.sides[0], Symbol):
        return tree.sides[1]
    if not all(sign in "=~" for sign in tree.signs):
        return None
    named = bool(name_of(tree)) or _is_expression_name(tree.sides[0])
    stated = list(zip(("=", *tree.signs), tree.sides, strict=True))[1 if named else 0 :]
    exact = [side for sign, side in stated if side is not None and sign == "="]
    if not exact:
        first, *others = (side for _, side in stated if side is not None)
        return None if not is_gold and any(is_far_apart(first, side) for side in others) else first
    if len(exact) > 1 and all_of(comparison.same(exact[0], side) for side in exact[1:]) is not True:
        return None
    rough = [side for sign, side in stated if side is not None and sign == "~"]
    if not is_gold and any(is_far_apart(exact[-1], side) for side in rough):
        return None
    return exact[-1]


def is_inequality(tree: Tree) -> bool:
    """Return whether a relation has a sign of inequality."""
    return isinstance(tree, Relation) and any(sign in INEQUALITIES for sign in tree.signs)


def _is_equation(tree: Relation) -> bool:
    return tree.signs == ("=",) and all(side is not None and is_value(side) for side in tree.sides)


def _directed(tree: Relation) -> Relation:
    if tree.signs and all(sign in (">", ">=") for sign in tree.signs):
        return Relation(tuple(_FLIPPED[sign] for sign in reversed(tree.signs)), tuple(reversed(tree.sides)))
    if tree.signs == ("=",) and not name_of(tree):
        flipped = Relation(("=",), (tree.sides[1], tree.sides[0]))
        if name_of(flipped) and isinstance(tree.sides[0], Number):
            return flipped
    return tree


def _are_values(tree: Relation) -> bool:
    return all(side is not None and is_value(measured(side)[0]) for side in tree.sides)


def _is_expression_name(tree: Tree | None) -> bool:
    """Return whether a left side names what its right side states: m + n, sin 2x, AB, P(A); not x + 40 or 2x."""
    if tree is None or isinstance(tree, Ratio):
        return isinstance(tree, Ratio) and all(symbols(term) for term in tree.terms)
    names = symbols(tree)
    if not is_value(tree):
        return False
    if len(names) > 1:
        return True
    return any(
        isinstance(node, Call) or (bool(names) and isinstance(node, Apply) and node.name not in "+*^")
        for node in nodes(tree)
    )


def _identical_sides(tree: Relation) -> bool:
    return tree.signs == ("=",) and tree.sides[0] == tree.sides[1]


def _is_solved(tree: Relation) -> bool:
    right = tree.sides[-1]
    return right is not None and not symbols(right)


def _difference(tree: Relation) -> Tree:
    left, right = tree.sides
    assert left is not None
    assert right is not None
    return Apply("+", (left, negated(right)))

"""Comparison of two parsed answers, kind by kind, with the name of the step that decides.

Steps from cheap to dear: the same structure; sets as sorted intervals; exact rational arithmetic; values at random
admissible points to 60 digits and more. An identity that holds at all of them holds, but for a chance that is
negligible (Schwartz 1980; Zippel 1979); one point at which it fails refutes it. Where no step can decide, the result
is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from reasonray.checkers.mathematics import realsets, values
from reasonray.checkers.mathematics.decisions import Comparer, Decision, all_of, any_of
from reasonray.checkers.mathematics.lists import compare_items, distinct, indexed_alike, match_items, normal_form
from reasonray.checkers.mathematics.naming import name_of
from reasonray.checkers.mathematics.quantities import agree_as_rounded, compare_numerals, measured, scaled
from reasonray.checkers.mathematics.relations import compare_relations, stated_value
from reasonray.checkers.mathematics.rewriting import with_names
from reasonray.checkers.mathematics.tree import (
    Apply,
    Bound,
    Bracket,
    Cases,
    Clock,
    Given,
    Listing,
    Matrix,
    Number,
    Ratio,
    Relation,
    SetBuilder,
    Symbol,
    Tree,
    Words,
    is_value,
    nodes,
    symbols,
)
from reasonray.checkers.mathematics.vectors import as_matrices, entries_of, shape_of

_CONSTANTS = frozenset(("C", "c", "K", "k", "word constant"))


@dataclass(slots=True)
class Comparison(Comparer):
    """One comparison of a gold answer with an answer."""

    def same(self, gold: Tree, answer: Tree) -> Decision:
        """Return whether an answer is the gold answer."""
        if normal_form(gold, self.is_ordered) == normal_form(answer, self.is_ordered):
            return self.by("same structure", True)
        if isinstance(gold, Apply) and isinstance(answer, Apply) and gold.name == answer.name == "restated":
            return all_of(map(self.same, gold.arguments, answer.arguments))
        if isinstance(gold, Apply) and gold.name == "restated":
            return any_of(self.same(part, answer) for part in gold.arguments)
        if isinstance(answer, Apply) and answer.name == "restated":
            return all_of(self.same(gold, part) for part in answer.arguments)
        gold, answer = indexed_alike(gold, answer)
        if isinstance(gold, Given) or isinstance(answer, Given):
            return self._given(gold, answer)
        if isinstance(gold, Words) and isinstance(answer, Words):
            return self.by("words", gold.text == answer.text)
        if isinstance(gold, Clock) or isinstance(answer, Clock):
            return self._clocks(gold, answer)
        if (decision := self._sets(gold, answer)) is not None:
            return decision
        return compare_items(self, gold, answer)

    def _given(self, gold: Tree, answer: Tree) -> Decision:
        if isinstance(gold, Given) and isinstance(answer, Given):
            return all_of((self.same(gold.answer, answer.answer), self.same(gold.conditions, answer.conditions)))
        if isinstance(answer, Given):
            return self.by("a condition that the gold answer lacks", False)
        assert isinstance(gold, Given)
        return self.by("the condition is missing", False if self.same(gold.answer, answer) is False else None)

    def _clocks(self, gold: Tree, answer: Tree) -> Decision:
        one, two = _time(gold), _time(answer)
        if one is None or two is None:
            return self.by("times of day", False)
        halves = {one.half, two.half}
        if "" in halves:
            is_same = one.minute == two.minute and (one.hour == two.hour or _hours(one) == _hours(two))
            if is_same and one.hour != two.hour:
                is_same = max(one.hour, two.hour) > 12
            return self.by("times of day", is_same)
        return self.by("times of day", one.minute == two.minute and _hours(one) == _hours(two))

    def _sets(self, gold: Tree, answer: Tree) -> Decision:
        """Compare sets of real numbers; None if one of the two is something else."""
        if not (realsets.is_set_like(gold) or realsets.is_set_like(answer)):
            return None
        gold, answer = _united(gold, answer), _united(answer, gold)
        wanted, given = realsets.read(gold), realsets.read(answer)
        if wanted is None or given is None:
            return None
        return self.by("sets of real numbers", wanted.same(given))

    def single(self, gold: Tree, answer: Tree) -> Decision:
        """Return whether two answers, each of them one item of a list, are the same."""
        if normal_form(gold, True) == normal_form(answer, True):
            return self.by("same structure", True)
        if isinstance(gold, Relation) or isinstance(answer, Relation):
            return compare_relations(self, gold, answer)
        if isinstance(gold, Listing) and isinstance(answer, Listing):
            return compare_items(self, gold, answer)
        if (decision := self._sets(gold, answer)) is not None:
            return decision
        if (wanted := entries_of(gold)) is not None and (given := entries_of(answer)) is not None:
            return self._bracketed(gold, answer, wanted, given)
        if isinstance(gold, Apply) and isinstance(answer, Apply) and gold.name == answer.name == "cup":
            return match_items(self, _parts(gold, "cup"), _parts(answer, "cup"))
        if isinstance(gold, SetBuilder) and isinstance(answer, SetBuilder):
            return self._builders(gold, answer)
        if isinstance(gold, Cases) and isinstance(answer, Cases):
            if len(gold.pieces) != len(answer.pieces):
                return self.by("another number of pieces", None)
            return match_items(
                self, [Given(*piece) for piece in gold.pieces], [Given(*piece) for piece in answer.pieces]
            )
        if isinstance(gold, Given) and isinstance(answer, Given):
            return self._given(gold, answer)
        if isinstance(gold, Bound) and isinstance(answer, Bound) and gold.kind == answer.kind == "union":
            return self._unions(gold, answer)
        if isinstance(gold, Words) or isinstance(answer, Words):
            return self.by("words", False)
        if isinstance(gold, Ratio) or isinstance(answer, Ratio):
            return self._ratios(gold, answer)
        return self.values(gold, answer)

    def _builders(self, gold: SetBuilder, answer: SetBuilder) -> Decision:
        renamed = answer
        if isinstance(gold.element, Symbol) and isinstance(answer.element, Symbol):
            if gold.element != answer.element and gold.element.name in symbols(answer):
                return self.by("another variable", False)
            renamed = with_names(answer, {answer.element.name: gold.element})
        return all_of((self.same(gold.element, renamed.element), self.same(gold.conditions, renamed.conditions)))

    def _unions(self, gold: Bound, answer: Bound) -> Decision:
        body = with_names(answer.body, {answer.variable: Symbol(gold.variable)})
        limits = ((gold.low, answer.low), (gold.high, answer.high))
        return all_of((*(self.same(one, two) for one, two in limits if one and two), self.same(gold.body, body)))

    def _bracketed(self, gold: Tree, answer: Tree, wanted: Sequence[Tree], given: Sequence[Tree]) -> Decision:
        if isinstance(gold, Matrix) and isinstance(answer, Matrix):
            same_shape = (len(gold.rows), len(gold.rows[0])) == (len(answer.rows), len(answer.rows[0]))
        else:
            same_shape = shape_of(gold) == shape_of(answer)
        if not same_shape:
            return self.by("another shape", False)
        openings = {tree.opening for tree in (gold, answer) if isinstance(tree, Bracket)}
        if "{" in openings:
            if openings != {"{"}:
                return self.by("a set is not a tuple", False)
            return match_items(self, distinct(wanted), distinct(given))
        if len(wanted) != len(given):
            return self.by("another number of entries", False)
        if (isinstance(gold, Bracket) and isinstance(answer, Bracket) and len(wanted) == 2) and (
            (gold.opening, gold.closing) != (answer.opening, answer.closing) and "<" not in openings
        ):
            return self.by("other brackets", False)
        return self.by("entry by entry", all_of(map(self.single, wanted, given)))

    def _ratios(self, gold: Tree, answer: Tree) -> Decision:
        one, two = (_ratio_terms(tree) for tree in (gold, answer))
        if one is None or two is None or len(one) != len(two):
            return self.by("another ratio", False)
        cross = [
            self.values(Apply("*", (one[index], two[0])), Apply("*", (two[index], one[0])))
            for index in range(1, len(one))
        ]
        return all_of(cross)

    def values(self, gold: Tree, answer: Tree) -> Decision:
        """Return whether two quantities or values are the same."""
        (wanted, wanted_unit), (given, given_unit) = measured(gold), measured(answer)
        if (matrices := as_matrices(wanted, given)) is not None:
            one, two = matrices
            if one is None or two is None:
                return self.by("matrices", None)
            if isinstance(one, Matrix) != isinstance(two, Matrix):
                return self.by("another kind of answer", False)
            return self.single(one, two)
        if not (is_value(wanted) and is_value(given)):
            return self.by("another kind of answer", False)
        return (
            any_of(
                self._plain_values(wanted, converted) for converted in scaled(wanted, wanted_unit, given, given_unit)
            )
            if (wanted_unit or given_unit)
            else self._plain_values(wanted, given)
        )

    def _plain_values(self, wanted: Tree, given: Tree) -> Decision:
        if isinstance(wanted, Number) and isinstance(given, Number) and wanted.base != given.base:
            return compare_numerals(self, wanted, given)
        decision, step = values.equal(wanted, _with_constant_of(wanted, given))
        if decision is not True and agree_as_rounded(wanted, given):
            return self.by("equal as far as it is written out", True)
        return self.by(step, decision)


def _with_constant_of(gold: Tree, answer: Tree) -> Tree:
    """Return an answer with the gold answer's name for the constant of integration: x^2 + C, x^2 + c."""
    ours, theirs = _constant_of(gold), _constant_of(answer)
    if any(name != "C" and not name[0].islower() for name in symbols(gold)):
        return answer
    if (
        ours != Symbol("C")
        or theirs is None
        or ours == theirs
        or ours.name in symbols(answer)
        or theirs.name in symbols(gold)
    ):
        return answer
    renamed: Tree = with_names(answer, {theirs.name: ours})
    return renamed


def _constant_of(tree: Tree) -> Symbol | None:
    """Return the one summand of a sum that is a letter for constants, and stands nowhere else in it."""
    terms = tree.arguments if isinstance(tree, Apply) and tree.name == "+" else ()
    found = [term for term in terms if isinstance(term, Symbol) and term.name in _CONSTANTS]
    if len(found) != 1 or len(symbols(tree)) < 2 or sum(found[0] == node for node in nodes(tree)) > 1:
        return None
    return found[0]


def named_value(tree: Tree) -> Tree | None:
    """Return the value that `x = 5` states, or the tree if it is no relation; None for other relations."""
    if not isinstance(tree, Relation):
        return tree
    return stated_value(tree, Comparison(), is_gold=False) if name_of(tree) else None


def _united(listing: Tree, other: Tree) -> Tree:
    """Return `[0,1], [2,3]` as a union where the other answer is one."""
    is_union = isinstance(other, Apply) and other.name == "cup"
    if is_union and isinstance(listing, Listing) and all(isinstance(item, Bracket) for item in listing.items):
        return Apply("cup", listing.items)
    return listing


def _time(tree: Tree) -> Clock | None:
    if isinstance(tree, Clock):
        return tree
    if isinstance(tree, Ratio) and len(tree.terms) == 2 and all(isinstance(term, Number) for term in tree.terms):
        hour, minute = (term.value for term in tree.terms if isinstance(term, Number))
        if hour.denominator == minute.denominator == 1 and 0 <= hour < 24 and 0 <= minute < 60:
            return Clock(int(hour), int(minute))
    return None


def _hours(time: Clock) -> int:
    if not time.half:
        return time.hour
    return time.hour % 12 + (12 if time.half == "pm" else 0)


def _ratio_terms(tree: Tree) -> tuple[Tree, ...] | None:
    if isinstance(tree, Ratio):
        return tree.terms
    if is_value(tree):
        return tree, Number(Fraction(1))
    return None


def _parts(tree: Tree, name: str) -> list[Tree]:
    if isinstance(tree, Apply) and tree.name == name:
        return [part for argument in tree.arguments for part in _parts(argument, name)]
    return [tree]

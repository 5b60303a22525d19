"""Whether two parsed answers are the same answer, kind by kind, and which step decides.

Steps from cheap to dear: the same structure; sets as sorted intervals; exact rational arithmetic; values at random
admissible points to 60 digits and more. An identity that holds at all of them holds, but for a chance that is
negligible (Schwartz 1980; Zippel 1979); one point at which it fails refutes it. Where no step can decide, the result
is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final, TypeAlias

from reasonray.checkers import units
from reasonray.checkers.mathematics import realsets, values
from reasonray.checkers.mathematics.rewriting import expanded, ordered, transformed
from reasonray.checkers.mathematics.tree import (
    MINUS_ONE,
    Apply,
    Bound,
    Bracket,
    Call,
    Cases,
    Clock,
    Constant,
    Given,
    Listing,
    Matrix,
    Number,
    Quantity,
    Ratio,
    Relation,
    SetBuilder,
    Symbol,
    Tree,
    Words,
    is_value,
    negated,
    nodes,
    symbols,
)
from reasonray.checkers.mathematics.vocabulary import EMPTY

Decision: TypeAlias = bool | None
"""True and False are certain; None is undecided."""

_SAME_DIGITS: Final = 6
_MAX_ITEMS: Final = 64
_FLIPPED: Final = {">": "<", ">=": "<="}
_INEQUALITIES: Final = frozenset(("<", "<=", ">", ">=", "!="))
_BASIS: Final = tuple(Symbol(f"basis {letter}") for letter in "ijk")


@dataclass(slots=True)
class Comparison:
    """One comparison of a gold answer with an answer. `steps` collects what decided."""

    is_ordered: bool = False
    """Whether the order and the repeats of a bare list count."""
    steps: dict[str, None] = field(default_factory=dict)

    def same(self, gold: Tree, answer: Tree) -> Decision:
        """Return whether an answer is the gold answer."""
        if _key(gold, self.is_ordered) == _key(answer, self.is_ordered):
            return self._by("same structure", True)
        if isinstance(gold, Apply) and isinstance(answer, Apply) and gold.name == answer.name == "restated":
            return _all(map(self.same, gold.arguments, answer.arguments))
        if isinstance(gold, Apply) and gold.name == "restated":
            return _any(self.same(part, answer) for part in gold.arguments)
        if isinstance(answer, Apply) and answer.name == "restated":
            return _all(self.same(gold, part) for part in answer.arguments)
        if isinstance(gold, Given) or isinstance(answer, Given):
            return self._given(gold, answer)
        if isinstance(gold, Words) and isinstance(answer, Words):
            return self._by("words", gold.text == answer.text)
        if isinstance(gold, Clock) or isinstance(answer, Clock):
            return self._clocks(gold, answer)
        if (decision := self._sets(gold, answer)) is not None:
            return decision
        return self._items(gold, answer)

    def _by(self, step: str, decision: Decision) -> Decision:
        self.steps[step] = None
        return decision

    def _given(self, gold: Tree, answer: Tree) -> Decision:
        if isinstance(gold, Given) and isinstance(answer, Given):
            return _all((self.same(gold.answer, answer.answer), self.same(gold.conditions, answer.conditions)))
        if isinstance(answer, Given):
            return self._by("a condition that the gold answer lacks", False)
        assert isinstance(gold, Given)
        return self._by("the condition is missing", False if self.same(gold.answer, answer) is False else None)

    def _clocks(self, gold: Tree, answer: Tree) -> Decision:
        one, two = _clock(gold), _clock(answer)
        if one is None or two is None:
            return self._by("times of day", False)
        halves = {one.half, two.half}
        if "" in halves:
            is_same = one.minute == two.minute and (one.hour == two.hour or _hours(one) == _hours(two))
            if is_same and one.hour != two.hour:
                is_same = max(one.hour, two.hour) > 12
            return self._by("times of day", is_same)
        return self._by("times of day", one.minute == two.minute and _hours(one) == _hours(two))

    # Sets of real numbers

    def _sets(self, gold: Tree, answer: Tree) -> Decision:
        """Compare sets of real numbers; None if one of the two is something else."""
        if not (realsets.is_set_like(gold) or realsets.is_set_like(answer)):
            return None
        wanted, given = realsets.read(gold), realsets.read(answer)
        if wanted is None or given is None:
            return None
        return self._by("sets of real numbers", wanted.same(given))

    # Lists

    def _items(self, gold: Tree, answer: Tree) -> Decision:
        if (isinstance(gold, Bracket | Listing) and isinstance(answer, Bracket | Listing | Matrix)) and (
            (decision := self._named_lists(gold, answer)) is not None
        ):
            return decision
        wanted, given = _members(gold), _members(answer)
        if len(wanted) > _MAX_ITEMS or len(given) > _MAX_ITEMS:
            return None
        if len(wanted) == 1 and len(given) == 1:
            if Words(EMPTY) in (wanted[0], given[0]) and gold != answer:
                return self._by("another set", False)
            return self._single(wanted[0], given[0])
        if isinstance(gold, Bracket | Matrix) and isinstance(answer, Listing) and _is_tuple(gold):
            return self._tuple_and_list(gold, answer)
        if isinstance(answer, Bracket | Matrix) and isinstance(gold, Listing) and _is_tuple(answer):
            return self._tuple_and_list(answer, gold)
        if len(wanted) != len(given):
            return self._by("another number of answers", False)
        joiners = {tree.joiner for tree in (gold, answer) if isinstance(tree, Listing)}
        wanted_names, given_names = _names(wanted), _names(given)
        if joiners == {"and", "or"} and _joiner_matters((*wanted, *given)):
            return self._by("and is not or", False)
        if (wanted_names and given_names and len(wanted_names) == len(given_names) == len(wanted)) and (
            len(set(wanted_names)) == len(wanted) and set(wanted_names) == set(given_names)
        ):
            pairs = dict(zip(given_names, given, strict=True))
            return _all(self._single(item, pairs[name]) for name, item in zip(wanted_names, wanted, strict=True))
        if self.is_ordered or _has_dots(wanted) or _has_dots(given):
            return self._by("in order", _all(map(self._single, wanted, given)))
        mixed = bool(wanted_names) != bool(given_names)
        if mixed and not _share_base(wanted_names or given_names):
            return self._by("in order", _all(map(self._single, map(_unnamed, wanted), map(_unnamed, given))))
        if mixed or _same_variable(wanted_names, given_names):
            wanted, given = [_unnamed(item) for item in wanted], [_unnamed(item) for item in given]
        return self._matched(wanted, given)

    def _named_lists(self, gold: Bracket | Listing, answer: Tree) -> Decision:
        """Compare (p = 5, q = 2) with p = 5, q = 2, and with (5, 2)."""
        if _is_tuple(gold) and all(map(_is_assignment, gold.items)):
            return self.same(Listing(gold.items), answer)
        if isinstance(answer, Bracket) and _is_tuple(answer) and all(map(_is_assignment, answer.items)):
            return self.same(gold, Listing(answer.items))
        return None

    def _tuple_and_list(self, point: Tree, listing: Listing) -> Decision:
        """Compare a tuple with a bare list of its entries in order, or of named entries in the names' order."""
        entries = _entries(point)
        items = _members(listing)
        if entries is None or len(entries) != len(items):
            return self._by("another number of answers", False)
        names = _names(items)
        if names and (len(names) < len(items) or len(set(names)) < len(names)):
            return self._by("a tuple is not a list of alternatives", False)
        return self._by("in order", _all(map(self._single, entries, map(_unnamed, items))))

    def _matched(self, wanted: Sequence[Tree], given: Sequence[Tree]) -> Decision:
        """Match two lists item by item in any order."""
        left = list(given)
        undecided = False
        for item in wanted:
            decisions = [self._single(item, other) for other in left]
            if True in decisions:
                del left[decisions.index(True)]
            elif None in decisions:
                undecided = True
            else:
                return self._by("an answer is missing", False)
        return None if undecided else self._by("as a list", True)

    # Single answers

    def _single(self, gold: Tree, answer: Tree) -> Decision:
        if _key(gold, True) == _key(answer, True):
            return self._by("same structure", True)
        if isinstance(gold, Relation) or isinstance(answer, Relation):
            return self._relations(gold, answer)
        if isinstance(gold, Listing) and isinstance(answer, Listing):
            return self._items(gold, answer)
        if (decision := self._sets(gold, answer)) is not None:
            return decision
        if (wanted := _entries(gold)) is not None and (given := _entries(answer)) is not None:
            return self._entries(gold, answer, wanted, given)
        if isinstance(gold, Apply) and isinstance(answer, Apply) and gold.name == answer.name == "cup":
            return self._matched(_parts(gold, "cup"), _parts(answer, "cup"))
        if isinstance(gold, SetBuilder) and isinstance(answer, SetBuilder):
            return self._builders(gold, answer)
        if isinstance(gold, Cases) and isinstance(answer, Cases):
            if len(gold.pieces) != len(answer.pieces):
                return self._by("another number of pieces", None)
            return self._matched([Given(*piece) for piece in gold.pieces], [Given(*piece) for piece in answer.pieces])
        if isinstance(gold, Given) and isinstance(answer, Given):
            return self._given(gold, answer)
        if isinstance(gold, Bound) and isinstance(answer, Bound) and gold.kind == answer.kind == "union":
            return self._unions(gold, answer)
        if isinstance(gold, Words) or isinstance(answer, Words):
            return self._by("words", False)
        if isinstance(gold, Ratio) or isinstance(answer, Ratio):
            return self._ratios(gold, answer)
        return self._values(gold, answer)

    def _builders(self, gold: SetBuilder, answer: SetBuilder) -> Decision:
        renamed = answer
        if isinstance(gold.element, Symbol) and isinstance(answer.element, Symbol):
            if gold.element != answer.element and gold.element.name in symbols(answer):
                return self._by("another variable", False)
            renamed = _renamed(answer, {answer.element.name: gold.element})
        return _all((self.same(gold.element, renamed.element), self.same(gold.conditions, renamed.conditions)))

    def _unions(self, gold: Bound, answer: Bound) -> Decision:
        body = _renamed(answer.body, {answer.variable: Symbol(gold.variable)})
        limits = ((gold.low, answer.low), (gold.high, answer.high))
        return _all((*(self.same(one, two) for one, two in limits if one and two), self.same(gold.body, body)))

    def _entries(self, gold: Tree, answer: Tree, wanted: Sequence[Tree], given: Sequence[Tree]) -> Decision:
        if isinstance(gold, Matrix) and isinstance(answer, Matrix):
            same_shape = (len(gold.rows), len(gold.rows[0])) == (len(answer.rows), len(answer.rows[0]))
        else:
            same_shape = _shape(gold) == _shape(answer)
        if not same_shape:
            return self._by("another shape", False)
        openings = {tree.opening for tree in (gold, answer) if isinstance(tree, Bracket)}
        if "{" in openings:
            if openings != {"{"}:
                return self._by("a set is not a tuple", False)
            return self._matched(_distinct(wanted), _distinct(given))
        if len(wanted) != len(given):
            return self._by("another number of entries", False)
        if (isinstance(gold, Bracket) and isinstance(answer, Bracket) and len(wanted) == 2) and (
            (gold.opening, gold.closing) != (answer.opening, answer.closing) and "<" not in openings
        ):
            return self._by("other brackets", False)
        return self._by("entry by entry", _all(map(self._single, wanted, given)))

    def _ratios(self, gold: Tree, answer: Tree) -> Decision:
        one, two = (_ratio_terms(tree) for tree in (gold, answer))
        if one is None or two is None or len(one) != len(two):
            return self._by("another ratio", False)
        cross = [
            self._values(Apply("*", (one[index], two[0])), Apply("*", (two[index], one[0])))
            for index in range(1, len(one))
        ]
        return _all(cross)

    # Relations

    def _relations(self, gold: Tree, answer: Tree) -> Decision:
        if isinstance(gold, Relation) and isinstance(answer, Relation):
            return self._two_relations(_restructured(gold), _restructured(answer))
        if isinstance(gold, Relation):
            gold = _restructured(gold)
            if isinstance(gold, Relation) and "~" in gold.signs and _are_values(gold):
                return _any(self._single(side, answer) for side in gold.sides if side is not None)
            value = _stated_value(gold, self, is_gold=True) if isinstance(gold, Relation) else gold
            if value is None:
                return self._by("a relation is not a value", False)
            return self.same(value, answer)
        answer = _restructured(answer) if isinstance(answer, Relation) else answer
        value = _stated_value(answer, self, is_gold=False) if isinstance(answer, Relation) else answer
        if value is None:
            return self._by("a relation is not a value", False)
        return self.same(gold, value)

    def _two_relations(self, gold: Tree, answer: Tree) -> Decision:
        if not (isinstance(gold, Relation) and isinstance(answer, Relation)):
            return self.same(gold, answer)
        gold, answer = _directed(gold), _directed(answer)
        wanted_name, given_name = _name(gold), _name(answer)
        if wanted_name and given_name:
            return self._assignments(gold, answer, wanted_name, given_name)
        constants = [_identical_sides(tree) for tree in (gold, answer)]
        if all(constants) and not symbols(gold) and not symbols(answer):
            return self._by("both hold", True)
        if len(gold.signs) > 1 or len(answer.signs) > 1:
            return self._chains(gold, answer)
        if gold.signs != answer.signs:
            return self._by("another relation", False)
        sides = self._sides(gold, answer)
        if sides is True:
            return True
        sign = gold.signs[0]
        if sign == "≡":
            return self._congruences(gold, answer)
        if sign not in ("=", *_INEQUALITIES):
            return self._by("side by side", sides)
        if (bool(wanted_name and _is_solved(gold)) != bool(given_name and _is_solved(answer))) and (
            len(symbols(gold) | symbols(answer)) == 1
        ):
            return self._by("solved and not solved", False)
        return self._equations(gold, answer, sign)

    def _assignments(self, gold: Relation, answer: Relation, wanted_name: str, given_name: str) -> Decision:
        left, right = gold.sides[0], answer.sides[0]
        if (isinstance(left, Call) and isinstance(right, Call) and left.name == right.name) and (
            len(left.arguments) == len(right.arguments) and not left.name.startswith("index ")
        ):
            renaming = {
                theirs.name: ours
                for ours, theirs in zip(left.arguments, right.arguments, strict=True)
                if isinstance(ours, Symbol) and isinstance(theirs, Symbol) and ours != theirs
            }
            if any(ours.name in symbols(answer) for ours in renaming.values()):
                return self._by("another variable", False)
            answer = _renamed(answer, renaming)
            given_name = _name(answer) or given_name
        wanted, given = (
            _stated_value(gold, self, is_gold=True),
            _stated_value(answer, self, is_gold=False),
        )
        if wanted_name != given_name:
            if _is_equation(gold) and _is_equation(answer) and len(symbols(gold)) > 1:
                return self._equations(gold, answer, "=")
            return self._by("another name", False)
        if wanted is None or given is None:
            return self._by("a relation is not a value", False)
        return self.same(wanted, given)

    def _sides(self, gold: Relation, answer: Relation) -> Decision:
        pairs = zip(gold.sides, answer.sides, strict=True)
        return _all(
            one is two or (one is not None and two is not None and self._single(one, two)) for one, two in pairs
        )

    def _chains(self, gold: Relation, answer: Relation) -> Decision:
        if gold.signs == answer.signs:
            return self._by("side by side", self._sides(gold, answer))
        if set(gold.signs) == {"="} and set(answer.signs) == {"="}:
            return self._by("side by side", None)
        return self._by("another relation", False)

    def _congruences(self, gold: Relation, answer: Relation) -> Decision:
        one, two = gold.sides[1], answer.sides[1]
        match one, two:
            case Apply(name="modulo", arguments=(value, modulus)), Apply(name="modulo", arguments=(other, theirs)):
                left = self._single(gold.sides[0], answer.sides[0])  # type: ignore[arg-type]
                difference = Apply("mod", (Apply("+", (value, negated(other))), modulus))
                return _all((left, self._values(modulus, theirs), self._values(difference, Number(Fraction(0)))))
            case _:
                return self._by("another relation", False)

    def _equations(self, gold: Relation, answer: Relation, sign: str) -> Decision:
        """Compare equations or inequalities up to a common factor that is not 0 (not negative, for inequalities)."""
        sides = (*gold.sides, *answer.sides)
        if not all(side is not None and is_value(side) for side in sides):
            return self._by("side by side", self._sides(gold, answer))
        first, second = (_difference(tree) for tree in (gold, answer))
        decision = values.proportional(first, second, needs_positive=sign not in ("=", "!="))
        if decision is not True and sign == "=" and symbols(first) == symbols(second) and len(symbols(first)) > 1:
            decision = values.same_solutions(first, second)
        return self._by("sides up to a factor", decision)

    # Values and quantities

    def _values(self, gold: Tree, answer: Tree) -> Decision:
        (wanted, wanted_unit), (given, given_unit) = measured(gold), measured(answer)
        if (matrices := _as_matrices(wanted, given)) is not None:
            one, two = matrices
            if one is None or two is None:
                return self._by("matrices", None)
            if isinstance(one, Matrix) != isinstance(two, Matrix):
                return self._by("another kind of answer", False)
            return self._single(one, two)
        if not (is_value(wanted) and is_value(given)):
            return self._by("another kind of answer", False)
        return (
            _any(self._plain_values(wanted, scaled) for scaled in _scaled(wanted, wanted_unit, given, given_unit))
            if (wanted_unit or given_unit)
            else self._plain_values(wanted, given)
        )

    def _plain_values(self, wanted: Tree, given: Tree) -> Decision:
        if isinstance(wanted, Number) and isinstance(given, Number) and wanted.base != given.base:
            return self._numerals(wanted, given)
        decision, step = values.equal(wanted, given)
        if decision is not True and _agree_as_rounded(wanted, given):
            return self._by("equal as far as it is written out", True)
        return self._by(step, decision)

    def _numerals(self, wanted: Number, given: Number) -> Decision:
        """Compare numerals of which one names its base: the bare one may have left it out, or be the value in ten."""
        if wanted.base != 10 and given.base != 10:
            return self._by("numerals of a base", wanted.value == given.value)
        named, bare = (wanted, given) if wanted.base != 10 else (given, wanted)
        digits = _digits(named)
        is_same = named.value == bare.value or (wanted is named and digits == str(bare.value))
        return self._by("numerals of a base", is_same)


def _digits(number: Number) -> str:
    value, digits = int(number.value), ""
    while value:
        value, digit = divmod(value, number.base)
        digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[digit] + digits
    return digits or "0"


def _all(decisions: Iterable[Decision]) -> Decision:
    undecided = False
    for decision in decisions:
        if decision is False:
            return False
        undecided = undecided or decision is None
    return None if undecided else True


def _any(decisions: Iterable[Decision]) -> Decision:
    undecided = False
    for decision in decisions:
        if decision is True:
            return True
        undecided = undecided or decision is None
    return None if undecided else False


def _key(tree: Tree, is_ordered: bool) -> Tree:
    tree = ordered(tree)
    if isinstance(tree, Listing) and not is_ordered and not _has_dots(tree.items):
        joiner = tree.joiner if _joiner_matters(tree.items) else ","
        return Listing(tuple(sorted(tree.items, key=repr)), joiner)
    return tree


def _has_dots(items: Iterable[Tree]) -> bool:
    return any(isinstance(node, Words) and node.text == "…" for item in items for node in nodes(item))


def _members(tree: Tree) -> list[Tree]:
    """Return the answers in a list, with signs expanded and a name before several values given to each."""
    if isinstance(tree, Listing):
        members: list[Tree] = []
        name: Tree | None = None
        for item in tree.items:
            for member in _members(item) if not isinstance(item, Bracket) else [*expanded(item)]:
                if isinstance(member, Relation) and member.signs == ("=",) and _name(member):
                    name = member.sides[0]
                elif name is not None and not isinstance(member, Relation):
                    member = Relation(("=",), (name, member))
                members.append(member)
        return members
    if isinstance(tree, Bracket) and tree.opening == "{":
        return _distinct([member for item in tree.items for member in expanded(item)])
    if isinstance(tree, Relation) and len(tree.sides) == 2 and tree.sides[1] is not None:
        right = tree.sides[1]
        if tree.signs == ("in",) and isinstance(right, Bracket) and right.opening == "{":
            return [Relation(("=",), (tree.sides[0], item)) for item in _distinct(right.items)]
        if (
            tree.signs == ("=",)
            and isinstance(right, Bracket)
            and right.opening == "{"
            and isinstance(tree.sides[0], Symbol)
        ):
            return _distinct(right.items) if tree.sides[0].name.isupper() else [tree]
    return list(expanded(tree))


def _distinct(items: Iterable[Tree]) -> list[Tree]:
    return list({ordered(item): item for item in items}.values())


def _name(tree: Tree) -> str:
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


def _names(items: Sequence[Tree]) -> list[str]:
    return [name for item in items if (name := _name(item))]


def _is_assignment(tree: Tree) -> bool:
    return isinstance(tree, Relation) and tree.signs == ("=",) and bool(_name(tree))


def _unnamed(tree: Tree) -> Tree:
    if isinstance(tree, Relation) and tree.signs == ("=",) and _name(tree) and tree.sides[1] is not None:
        return tree.sides[1]
    return tree


def _share_base(names: Sequence[str]) -> bool:
    """Return whether names are one variable or its indexed forms, so that their order says nothing."""
    return len(set(map(_base, names))) <= 1


def _base(name: str) -> str:
    """Return the name of the variable of which a name is an index."""
    return name.partition("'index ")[2].partition("'")[0] or name.partition("name='")[2].partition("'")[0] or name


def _same_variable(wanted: Sequence[str], given: Sequence[str]) -> bool:
    """Return whether one list names values x_1, x_2 and the other all of them x."""
    if not (wanted and given and _share_base([*wanted, *given])):
        return False
    return any(len(set(names)) == 1 and "'index " not in names[0] for names in (wanted, given)) and any(
        "'index " in names[0] for names in (wanted, given)
    )


def _is_tuple(tree: Tree) -> bool:
    return isinstance(tree, Matrix) or _is_vector(tree)


def _entries(tree: Tree) -> tuple[Tree, ...] | None:
    if isinstance(tree, Bracket):
        if tree.opening == "[" and all(isinstance(item, Bracket) for item in tree.items) and len(tree.items) > 1:
            return tuple(entry for item in tree.items for entry in (item.items if isinstance(item, Bracket) else ()))
        return tree.items
    if isinstance(tree, Matrix):
        return tuple(entry for row in tree.rows for entry in row)
    return None


def _shape(tree: Tree) -> tuple[int, int]:
    if isinstance(tree, Matrix):
        return (len(tree.rows), len(tree.rows[0])) if min(len(tree.rows), len(tree.rows[0])) > 1 else (0, 0)
    if isinstance(tree, Bracket) and tree.opening == "[":
        widths = {len(item.items) if isinstance(item, Bracket) else 0 for item in tree.items}
        if widths != {0} and len(widths) == 1:
            return len(tree.items), widths.pop()
    return (0, 0)


def _parts(tree: Tree, name: str) -> list[Tree]:
    if isinstance(tree, Apply) and tree.name == name:
        return [part for argument in tree.arguments for part in _parts(argument, name)]
    return [tree]


def _joiner_matters(items: Sequence[Tree]) -> bool:
    """Return whether "and" and "or" say different things: not between the values of one name, or of none."""
    return any(map(_is_inequality, items)) or len(set(_names(items))) > 1


def _is_inequality(tree: Tree) -> bool:
    return isinstance(tree, Relation) and any(sign in _INEQUALITIES for sign in tree.signs)


def _is_equation(tree: Relation) -> bool:
    return tree.signs == ("=",) and all(side is not None and is_value(side) for side in tree.sides)


def _restructured(tree: Relation) -> Tree:
    """Return `A = {1, 2}` and other names of sets as they are, `0 < x` in one direction."""
    return tree


def _directed(tree: Relation) -> Relation:
    if tree.signs and all(sign in (">", ">=") for sign in tree.signs):
        return Relation(tuple(_FLIPPED[sign] for sign in reversed(tree.signs)), tuple(reversed(tree.sides)))
    if tree.signs == ("=",) and not _name(tree):
        flipped = Relation(("=",), (tree.sides[1], tree.sides[0]))
        if _name(flipped) and isinstance(tree.sides[0], Number):
            return flipped
    return tree


def _are_values(tree: Relation) -> bool:
    return all(side is not None and is_value(measured(side)[0]) for side in tree.sides)


def _stated_value(tree: Relation, comparison: Comparison, *, is_gold: bool) -> Tree | None:
    """Return the value that a relation states for a name, or None: it may be false, unsolved or an inequality."""
    tree = _directed(tree)
    if tree.signs == ("in",) and isinstance(tree.sides[0], Symbol):
        return tree.sides[1]
    if not all(sign in "=~" for sign in tree.signs):
        return None
    named = bool(_name(tree)) or _is_expression_name(tree.sides[0])
    stated = list(zip(("=", *tree.signs), tree.sides, strict=True))[1 if named else 0 :]
    exact = [side for sign, side in stated if side is not None and sign == "="]
    if not exact:
        first, *others = (side for _, side in stated if side is not None)
        return None if not is_gold and any(_far_apart(first, side) for side in others) else first
    if len(exact) > 1 and _all(comparison.same(exact[0], side) for side in exact[1:]) is not True:
        return None
    rough = [side for sign, side in stated if side is not None and sign == "~"]
    if not is_gold and any(_far_apart(exact[-1], side) for side in rough):
        return None
    return exact[-1]


def named_value(tree: Tree) -> Tree | None:
    """Return the value that `x = 5` states, or the tree if it is no relation; None for other relations."""
    if not isinstance(tree, Relation):
        return tree
    return _stated_value(tree, Comparison(), is_gold=False) if _name(tree) else None


def _is_expression_name(tree: Tree | None) -> bool:
    """Return whether a left side names what its right side states: m + n, sin 2x, AB, P(A); not x + 40 or 2x."""
    if tree is None or isinstance(tree, Ratio):
        return isinstance(tree, Ratio) and all(symbols(term) for term in tree.terms)
    names = symbols(tree)
    if not names or not is_value(tree):
        return False
    if len(names) > 1:
        return True
    return any(isinstance(node, Call) or (isinstance(node, Apply) and node.name not in "+*^") for node in nodes(tree))


def _far_apart(exact: Tree, rough: Tree) -> bool:
    """Return whether a rounded value is not the exact value's: off by more than one of its last digit."""
    (value, unit), (rounded, rounded_unit) = measured(exact), measured(rough)
    one, two = values.constant(value), values.constant(rounded)
    if one is None or two is None or (unit and rounded_unit and unit != rounded_unit):
        return False
    written = _written(rounded)
    if written is None or not written.decimals:
        return bool(abs(one - two) > 0.05 * max(abs(one), abs(two)))
    return bool(abs(one - two) * 10**written.decimals > 1)


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


def _renamed(tree: Any, renaming: dict[str, Symbol]) -> Any:
    return transformed(tree, lambda node: renaming.get(node.name, node) if isinstance(node, Symbol) else node)


def _clock(tree: Tree) -> Clock | None:
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


def measured(tree: Tree) -> tuple[Tree, str]:
    """Return a value and its unit, "" if it has none."""
    if isinstance(tree, Quantity):
        return tree.value, tree.unit
    if isinstance(tree, Apply) and tree.name == "degree":
        return tree.arguments[0], "degree"
    if isinstance(tree, Apply) and tree.name in ("degree C", "degree F"):
        return tree.arguments[0], "°" + tree.name[-1]
    if isinstance(tree, Apply) and tree.name == "*" and len(tree.arguments) == 2 and tree.arguments[0] == MINUS_ONE:
        value, unit = measured(tree.arguments[1])
        return (negated(value), unit) if unit else (tree, "")
    return tree, ""


def _scaled(wanted: Tree, wanted_unit: str, given: Tree, given_unit: str) -> list[Tree]:
    """Return the values that an answer may have in the gold answer's unit, none if their units contradict."""
    if "%" in (wanted_unit, given_unit):
        if wanted_unit == given_unit:
            return [given]
        if (wanted_unit or given_unit) and wanted_unit and given_unit:
            return []
        factor = Fraction(1, 100) if given_unit == "%" else Fraction(100)
        share = Apply("*", (Number(factor), given))
        size = values.constant(given)
        return [share, given] if size is None or abs(size) >= 1 else [share]
    if "degree" in (wanted_unit, given_unit) and (not wanted_unit or not given_unit):
        bare, turned = (given, wanted) if wanted_unit else (wanted, given)
        if any(node == Constant("pi") for node in nodes(bare)):
            radians = Apply("degree", (turned,))
            return (
                [radians]
                if given_unit
                else [Apply("*", (bare, Number(Fraction(180)), Apply("^", (Constant("pi"), MINUS_ONE))))]
            )
        return [given]
    ratio = units.ratio(wanted_unit, given_unit)
    if ratio is None:
        return []
    return [given if ratio == 1 else Apply("*", (Number(ratio), given))]


def _agree_as_rounded(wanted: Tree, given: Tree) -> bool:
    """Return whether two constants differ by less than the last digit of the shorter decimal, if long enough."""
    written = [tree for tree in (_written(wanted), _written(given)) if tree is not None and tree.decimals]
    if not written:
        return False
    shorter = min(written, key=lambda number: number.decimals)
    if shorter.decimals < _SAME_DIGITS or abs(shorter.value) * 10**shorter.decimals < 10 ** (_SAME_DIGITS - 1):
        return False
    one, two = values.constant(wanted), values.constant(given)
    return one is not None and two is not None and bool(abs(one - two) * 10**shorter.decimals < 1)


def _written(tree: Tree) -> Number | None:
    if isinstance(tree, Number):
        return tree
    if isinstance(tree, Apply) and tree.name == "*" and len(tree.arguments) == 2 and tree.arguments[0] == MINUS_ONE:
        return _written(tree.arguments[1])
    return None


def _as_matrices(wanted: Tree, given: Tree) -> tuple[Tree | None, Tree | None] | None:
    """Return both sides as matrices if one is an expression in vectors or matrices, else None."""
    if not any(map(_has_vectors, (wanted, given))):
        return None
    size = max((len(entries) for tree in (wanted, given) if (entries := _entries(tree)) is not None), default=3)
    return _as_matrix(wanted, size), _as_matrix(given, size)


def _has_vectors(tree: Tree) -> bool:
    return any(isinstance(node, Matrix) or node in _BASIS for node in nodes(tree)) or (
        isinstance(tree, Apply) and any(_is_vector(node) for node in nodes(tree))
    )


def _is_vector(tree: Tree) -> bool:
    return isinstance(tree, Bracket) and (tree.opening, tree.closing) in (("(", ")"), ("[", "]"), ("<", ">"))


def _as_matrix(tree: Tree, size: int) -> Tree | None:
    """Return an expression as one matrix: sums, multiples and products of matrices worked out entry by entry."""
    if isinstance(tree, Matrix):
        return tree
    if _is_vector(tree):
        entries = _entries(tree)
        assert entries is not None
        shape = _shape(tree)
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

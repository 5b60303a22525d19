"""Answers in a row, with their conditions and reasons; one answer with its relations."""

from __future__ import annotations

from typing import Final

from reasonray.checkers.mathematics import vocabulary
from reasonray.checkers.mathematics.grammar.cursor import Cursor
from reasonray.checkers.mathematics.grammar.measures import parse_with_unit
from reasonray.checkers.mathematics.grammar.names import is_membership
from reasonray.checkers.mathematics.grammar.recursion import Rules
from reasonray.checkers.mathematics.lexer import Unreadable
from reasonray.checkers.mathematics.tree import Apply, Bracket, Call, Given, Listing, Relation, Symbol, Tree, Words

_MAX_WORDS: Final = 3
_INTEGERS: Final = frozenset(("integer", "integers"))
_KINDS: Final = {"even": "even", "odd": "odd", "integer": "Z", "prime": "prime"}
_EXCEPTIONS: Final = frozenset(("except", "excluding"))
_QUANTIFIERS: Final = frozenset(("is", "an", "any", "all", "some", "every", "each", "arbitrary"))


def parse_listing(parser: Rules, until: tuple[str, ...] = ()) -> Tree:
    """Parse items up to a closing token (which stays) or the end."""
    items: list[Tree] = [parser.item()]
    joiners: set[str] = set()
    while joiner := parse_joiner(parser):
        if parser.peek() is None or parser.text() in until:
            if joiner != ",":
                raise parser.fault("a list ends with a conjunction")
            break
        if joiner == "," and skip_reason(parser):
            break
        if condition := parse_condition(parser):
            joiners.add(joiner)
            return Given(_listed(items, joiners - {joiner} or {","}), condition)
        joiners.add(joiner)
        items.append(parser.item())
    if is_membership(parser):
        parser.at += 1
        items.append(parser.item())
        parser.expect(")")
        joiners.add(",")
    answer = parse_exception(parser, items) or _listed(items, joiners)
    if condition := parse_condition(parser):
        answer = Given(answer, condition)
    skip_reason(parser)
    return answer


def parse_joiner(cursor: Cursor) -> str:
    """Take what joins two items: ",", "and" or "or"; "" if nothing does."""
    joined = ""
    while True:
        if cursor.text() in (",", ";") or (cursor.text() == "row" and "block" not in cursor.enclosures):
            cursor.at += 1
            joined = joined or ","
        elif cursor.word() in ("and", "or") or cursor.text() in ("and", "or"):
            joined = cursor.word() or cursor.text()
            cursor.at += 1
        elif cursor.text() == "&" and cursor.word(1) in ("and", "or"):
            cursor.at += 1
        else:
            return joined


def parse_condition(parser: Rules) -> Tree | None:
    """Parse `where a > 0` and its like: relations if they can be read, else their words."""
    if parser.word() not in vocabulary.CONDITIONS:
        return None
    begin = parser.at
    lead = parser.next()
    if index := parse_integer_index(parser):
        return index
    if lead.text.casefold() == "such" and parser.word() == "that":
        parser.at += 1
    if parser.enclosures:
        return parser.listing()
    try:
        conditions = parser.listing()
        if parser.peek() is None:
            return conditions
    except Unreadable:
        pass
    parser.at = len(parser.stream)
    return Words(" ".join(token.text.casefold() for token in parser.stream[begin + 1 :]))


def parse_exception(parser: Rules, items: list[Tree]) -> Tree | None:
    """Parse "all real numbers except 1" as a difference of sets, or return None."""
    if parser.word() not in _EXCEPTIONS or items != [Words("all real numbers")]:
        return None
    parser.at += 1
    left_out = parser.listing()
    points = left_out.items if isinstance(left_out, Listing) else (left_out,)
    return Apply("setminus", (items[0], Bracket("{", "}", points)))


def parse_kind(parser: Rules, subject: Tree) -> Tree | None:
    """Parse what a name is said to be: "n is even", "n odd", "k is an integer". Return None for other words."""
    ahead = next((ahead for ahead in range(3) if parser.word(ahead) in _KINDS), None)
    if ahead is None or not isinstance(subject, Symbol):
        return None
    if [parser.word(at) for at in range(ahead)] not in ([], ["is"], ["is", "an"], ["is", "a"]):
        return None
    kind = _KINDS[parser.word(ahead)]
    parser.at += ahead + 1
    return Relation(("in",), (subject, Symbol(f"set {kind}")))


def parse_integer_index(cursor: Cursor) -> Tree | None:
    """Parse "k is an integer", "any integer k" and their like up to the end as membership, or return None."""
    rest = cursor.stream[cursor.at :]
    letters = [token.text for token in rest if token.kind == "letter" and token.text != "a"]
    words = {token.text.casefold() for token in rest if token.kind == "word"}
    is_all = len(letters) + sum(token.kind == "word" for token in rest) == len(rest)
    if not (is_all and len(letters) == 1 and words & _INTEGERS and words <= _INTEGERS | _QUANTIFIERS):
        return None
    cursor.at = len(cursor.stream)
    return Relation(("in",), (Symbol(letters[0]), Symbol("set Z")))


def skip_reason(cursor: Cursor) -> bool:
    """Skip the reason after an answer and return whether there is one. It may take nothing back."""
    gloss = cursor.text() == "(" and bool(cursor.word(1)) and cursor.stream[-1].text == ")" and not cursor.enclosures
    if cursor.word() in vocabulary.REASONS or gloss:
        rest = cursor.stream[cursor.at :]
        if cursor.is_lenient:
            raise cursor.fault("a gold answer with a reason")
        if cursor.word() in vocabulary.CONSEQUENCES and not is_rough(cursor):
            raise cursor.fault("a consequence that may be another answer")
        words = {token.text.casefold() for token in rest if token.kind == "word"}
        if cursor.enclosures or words & (vocabulary.RETRACTIONS | vocabulary.CONDITIONS):
            raise cursor.fault("a reason that may retract")
        if gloss and not all(token.kind == "word" for token in rest[1:-1]):
            raise cursor.fault("a remark that may change the value")
        cursor.at = len(cursor.stream)
        return True
    return False


def is_rough(cursor: Cursor) -> bool:
    """Return whether the rest is words alone, or gives the answer roughly: "which is about 3.46"."""
    rest = [token for token in cursor.stream[cursor.at + 1 :] if token.kind != "word"]
    return not rest or (cursor.word(1) == "is" and cursor.word(2) in ("about", "approximately", "roughly"))


def parse_item(parser: Rules) -> Tree:
    """Parse one answer: a fixed phrase, words, a relation or an expression."""
    if phrase := parse_phrase(parser) or parse_text_alone(parser):
        return phrase
    skip_hedges(parser)
    if (sign := vocabulary.RELATIONS.get(parser.text())) and parser.text():
        parser.at += 1
        value = parse_with_unit(parser, parser.side())
        return value if sign in "=~" else Relation((sign,), (None, value))
    tree = parse_relation(parser)
    while parser.word() in vocabulary.TRAILING:
        parser.at += 1
    return tree


def parse_phrase(cursor: Cursor) -> Tree | None:
    """Parse the longest fixed phrase that begins here, such as "no solution"."""
    words: list[str] = []
    while (word := cursor.word(len(words))) and len(words) < 7:
        words.append(word)
    while words:
        if phrase := vocabulary.PHRASES.get(" ".join(words)):
            cursor.at += len(words)
            return Words(phrase)
        words.pop()
    return None


def parse_text_alone(cursor: Cursor) -> Tree | None:
    """Parse an item that is one to three words and nothing else."""
    count = 0
    while cursor.word(count) and cursor.word(count) not in ("and", "or"):
        count += 1
    ends = (
        cursor.peek(count) is None or cursor.text(count) in (",", ";", ")", "}") or cursor.word(count) in ("and", "or")
    )
    words = [cursor.word(at) for at in range(count)]
    if not (0 < count <= _MAX_WORDS and ends and all(word[0].isalpha() for word in words)):
        return None
    cursor.at += count
    return Words(" ".join(words))


def skip_hedges(cursor: Cursor) -> None:
    """Skip words before an answer that say nothing of it, such as "exactly"."""
    while cursor.word() in vocabulary.HEDGES and cursor.peek(1) is not None and cursor.text(1) not in (",", ")", "}"):
        cursor.at += 1
        cursor.accept(":", ",")


def parse_relation(parser: Rules) -> Tree:
    """Parse sides with the signs of relations between them."""
    first = parser.side()
    if kind := parse_kind(parser, first):
        return kind
    sides: list[Tree | None] = [parse_with_unit(parser, first)]
    signs: list[str] = []
    while parser.text() and (sign := vocabulary.RELATIONS.get(parser.text())):
        if sign == "mid" and "separator" in parser.enclosures[-1:]:
            break
        parser.at += 1
        signs.append(sign)
        if sign in ("in", "notin"):
            skip_hedges(parser)
        side = parse_with_unit(parser, parser.side())
        if sign == "in" and isinstance(side, Symbol) and side.name in ("Z", "N", "Q"):
            side = Symbol(f"set {side.name}")
        sides.append(side)
    if parser.word() in ("is", "are", "equals") and isinstance(sides[-1], Symbol | Call) and not signs:
        parser.at += 1
        signs.append("=")
        sides.append(parse_with_unit(parser, parser.side()))
    last = sides[-1]
    assert last is not None
    if parser.text() in ("pmod", "mod") or (parser.text() == "(" and parser.text(1) == "mod"):
        sides[-1] = Apply("modulo", (last, parse_modulus(parser)))
    elif signs == ["≡"] and isinstance(last, Apply) and last.name == "mod":  # x ≡ 3 mod 5
        sides[-1] = Apply("modulo", last.arguments)
    elif not signs:
        return last
    if not signs:
        return Relation(("≡",), (None, sides[0]))
    return Relation(tuple(signs), tuple(sides))


def parse_modulus(parser: Rules) -> Tree:
    """Parse the modulus of a congruence."""
    if parser.accept("pmod"):
        return parser.argument()
    bracketed = parser.accept("(")
    parser.expect("mod")
    modulus = parser.additive()
    if bracketed:
        parser.expect(")")
    return modulus


def _listed(items: list[Tree], joiners: set[str]) -> Tree:
    if len(items) == 1:
        return items[0]
    named = joiners - {","}
    if len(named) > 1:
        raise Unreadable("both and and or")
    return Listing(tuple(items), named.pop() if named else ",")

"""Many phrases looked for at once: literals find the places, regular expressions decide there.

Python tries a regular expression at every character, and a hundred of them a hundred times. Here one pass over the text
(Aho and Corasick, 1975) finds where the beginning of any expression stands, literally, and only there is it tried. The
beginnings are read off the parsed expressions, as the regular-expression engines of Rust and Go do for themselves.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from re import _constants as ops  # type: ignore[attr-defined]  # what parses every expression, but is not documented
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, Generic, TypeVar

from ahocorasick_rs import AhoCorasick, Implementation

__all__ = ["Phrases", "heads"]

_MOST = 4000
"""Beginnings of one expression; where there would be more, they are cut shorter."""
_LONGEST = (12, 9, 7, 6, 5, 4, 3, 2, 1)
"""Characters of a beginning, in the order in which they are tried."""
_WIDEST = 12
"""Members of a character class up to which it is spelt out."""
_SPACES = re.compile(r"[^\S ]")


Kind = TypeVar("Kind", bound=Hashable)


class Phrases(Generic[Kind]):
    """Regular expressions by kind, found wherever they match, also inside one another."""

    def __init__(self, expressions: Mapping[Kind, Sequence[str]]) -> None:
        found: dict[str, list[tuple[Kind, str]]] = {}
        for kind, alternatives in expressions.items():
            for expression in alternatives:
                for head in heads(expression):
                    found.setdefault(head, []).append((kind, expression))
        self._heads = AhoCorasick(list(found), implementation=Implementation.DFA)
        compiled = {it: re.compile(it) for alternatives in expressions.values() for it in alternatives}
        self._of_head = [[(kind, compiled[it].match) for kind, it in entries] for entries in found.values()]

    def find(self, text: str) -> list[tuple[Kind, int, int]]:
        """Return the kind, start and end of every phrase; those that begin inside a word count for nothing.

        Args:
            text: in lower case; the expressions must be, too.
        """
        flat = text.replace("\n", " ") if text.isascii() else _SPACES.sub(" ", text)
        found = []
        for head, start, _ in self._heads.find_matches_as_indexes(flat, True):
            if start and (flat[start - 1].isalnum() or flat[start - 1] == "_"):
                continue
            for kind, match in self._of_head[head]:
                if hit := match(text, start):
                    found.append((kind, start, hit.end()))
        return found


def heads(expression: str) -> set[str]:
    """Return strings one of which every match begins with, once all white space in it is a blank.

    They are as long as they can be without being too many.

    Raises:
        ValueError: a match can begin with anything.
    """
    parsed = parser.parse(expression)
    for longest in _LONGEST:
        stopped, growing = _grown({""}, parsed, longest)
        found = stopped | growing
        if "" in found:
            raise ValueError(f"{expression}: it has no literal beginning to look for")
        if len(found) <= _MOST:
            break
    return {it for it in found if not any(it[:size] in found for size in range(1, len(it)))}


def _grown(prefixes: set[str], parsed: Iterable[Any], longest: int) -> tuple[set[str], set[str]]:
    """Return what prefixes become by a parsed sequence: those that ended somewhere in it, those that reach its end.

    Every match begins with one of either; none is longer than `longest`.
    """
    stopped: set[str] = set()
    growing = prefixes
    for code, argument in parsed:
        if code in (ops.AT, ops.ASSERT, ops.ASSERT_NOT):
            continue
        ended, longer = _by_one(growing, code, argument, longest)
        if not longer and not ended:
            return stopped | growing, set()
        stopped |= ended | {it[:longest] for it in longer if len(it) >= longest}
        growing = {it for it in longer if len(it) < longest}
        if not growing:
            break
    return stopped, growing


def _by_one(prefixes: set[str], code: Any, argument: Any, longest: int) -> tuple[set[str], set[str]]:
    """Return what prefixes become by one parsed item, as _grown does; nothing at all where it can be anything."""
    if code is ops.LITERAL:
        return set(), {prefix + chr(argument) for prefix in prefixes}
    if code is ops.IN:
        members = _members(argument)
        return set(), {prefix + member for prefix in prefixes for member in members}
    if code is ops.SUBPATTERN:
        return _grown(prefixes, argument[-1], longest)
    if code is ops.BRANCH:
        ends = [_grown(prefixes, branch, longest) for branch in argument[1]]
        return set().union(*(stopped for stopped, _ in ends)), set().union(*(growing for _, growing in ends))
    if code in (ops.MAX_REPEAT, ops.MIN_REPEAT):
        least, most, repeated = argument
        return _repeated(prefixes, least, most, repeated, longest)
    return set(), set()


def _repeated(prefixes: set[str], least: int, most: int, parsed: Any, longest: int) -> tuple[set[str], set[str]]:
    stopped: set[str] = set()
    reached: set[str] = prefixes if least == 0 else set()
    growing = prefixes
    for count in range(1, (least + 1 if most is ops.MAXREPEAT else most) + 1):
        ended, growing = _grown(growing, parsed, longest)
        stopped |= ended
        if count > least and most is ops.MAXREPEAT:
            stopped |= growing
        elif count >= least:
            reached = reached | growing
        if not growing:
            break
    return stopped, reached


def _members(items: Sequence[tuple[Any, Any]]) -> set[str]:
    """Return the characters of a class; none if it has too many."""
    members: set[str] = set()
    for code, argument in items:
        if code is ops.LITERAL:
            members.add(chr(argument))
        elif code is ops.RANGE and argument[1] - argument[0] < _WIDEST:
            members |= {chr(it) for it in range(argument[0], argument[1] + 1)}
        elif (code, argument) == (ops.CATEGORY, ops.CATEGORY_SPACE):
            members.add(" ")
        elif (code, argument) == (ops.CATEGORY, ops.CATEGORY_DIGIT):
            members |= set("0123456789")
        else:
            return set()
    return members if len(members) <= _WIDEST else set()

"""A matcher of many regular expressions at once, which looks for their literal prefixes first.

Python tries a regular expression at every character, and a hundred of them a hundred times. Here one pass over the text
(Aho and Corasick, 1975) finds where a literal prefix of any expression occurs, and only there is the expression tried.
The prefixes are read off the parsed expressions, as the regular-expression engines of Rust and Go do for themselves.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from re import _constants as ops  # type: ignore[attr-defined]  # undocumented, but the parser of every expression
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, Generic, TypeVar

from ahocorasick_rs import AhoCorasick, Implementation

__all__ = ["PhraseMatcher", "literal_prefixes"]

_MOST_PREFIXES = 4000
"""Prefixes of one expression; where there would be more, shorter ones are taken."""
_LENGTHS = (12, 9, 7, 6, 5, 4, 3, 2, 1)
"""Longest prefixes, in characters, in the order in which they are tried."""
_LARGEST_CLASS = 12
"""Members of a character class that is expanded into its members."""
_SPACES = re.compile(r"[^\S ]")


Kind = TypeVar("Kind", bound=Hashable)


class PhraseMatcher(Generic[Kind]):
    """Finds regular expressions, each of some kind, wherever they match, also within one another."""

    def __init__(self, expressions: Mapping[Kind, Sequence[str]]) -> None:
        """Compile the expressions.

        Args:
            expressions: by kind, in lower case.

        Raises:
            ValueError: a match of an expression can begin with anything.
        """
        by_prefix: dict[str, list[tuple[Kind, str]]] = {}
        for kind, alternatives in expressions.items():
            for expression in alternatives:
                for prefix in literal_prefixes(expression):
                    by_prefix.setdefault(prefix, []).append((kind, expression))
        self._automaton = AhoCorasick(list(by_prefix), implementation=Implementation.DFA)
        every = {expression for alternatives in expressions.values() for expression in alternatives}
        compiled = {expression: re.compile(expression) for expression in every}
        # By the number of the prefix in the automaton.
        self._candidates = [
            [(kind, compiled[expression].match) for kind, expression in entries] for entries in by_prefix.values()
        ]

    def find(self, text: str) -> list[tuple[Kind, int, int]]:
        """Return the kind, start and end of every match; one that starts inside a word does not count.

        Args:
            text: in lower case.
        """
        flat = text.replace("\n", " ") if text.isascii() else _SPACES.sub(" ", text)
        matches = []
        for number, start, _ in self._automaton.find_matches_as_indexes(flat, True):
            if start and (flat[start - 1].isalnum() or flat[start - 1] == "_"):
                continue
            for kind, match in self._candidates[number]:
                if hit := match(text, start):
                    matches.append((kind, start, hit.end()))
        return matches


def literal_prefixes(expression: str) -> set[str]:
    """Return strings such that every match begins with one of them, once all white space in it is a blank.

    They are as long as they can be without being too many.

    Raises:
        ValueError: a match can begin with anything.
    """
    parsed = parser.parse(expression)
    for longest in _LENGTHS:
        complete, growing = _extended({""}, parsed, longest)
        prefixes = complete | growing
        if "" in prefixes:
            raise ValueError(f"{expression}: a match can begin with anything, it has no literal prefix")
        if len(prefixes) <= _MOST_PREFIXES:
            break
    return {prefix for prefix in prefixes if not any(prefix[:length] in prefixes for length in range(1, len(prefix)))}


def _extended(prefixes: set[str], parsed: Iterable[Any], longest: int) -> tuple[set[str], set[str]]:
    """Return prefixes extended by a parsed sequence: those that cannot grow further, and those that reach its end.

    Every match begins with one of either; none is longer than `longest`.
    """
    complete: set[str] = set()
    growing = prefixes
    for code, argument in parsed:
        if code in (ops.AT, ops.ASSERT, ops.ASSERT_NOT):
            continue
        ended, longer = _extended_by_item(growing, code, argument, longest)
        if not longer and not ended:
            return complete | growing, set()
        complete |= ended | {prefix[:longest] for prefix in longer if len(prefix) >= longest}
        growing = {prefix for prefix in longer if len(prefix) < longest}
        if not growing:
            break
    return complete, growing


def _extended_by_item(prefixes: set[str], code: Any, argument: Any, longest: int) -> tuple[set[str], set[str]]:
    """Return prefixes extended by one parsed item, as _extended does; two empty sets where it can be anything."""
    if code is ops.LITERAL:
        return set(), {prefix + chr(argument) for prefix in prefixes}
    if code is ops.IN:
        members = _members(argument)
        return set(), {prefix + member for prefix in prefixes for member in members}
    if code is ops.SUBPATTERN:
        return _extended(prefixes, argument[-1], longest)
    if code is ops.BRANCH:
        branches = [_extended(prefixes, branch, longest) for branch in argument[1]]
        return set().union(*(complete for complete, _ in branches)), set().union(*(growing for _, growing in branches))
    if code in (ops.MAX_REPEAT, ops.MIN_REPEAT):
        least, most, repeated = argument
        return _extended_by_repeat(prefixes, least, most, repeated, longest)
    return set(), set()


def _extended_by_repeat(
    prefixes: set[str], least: int, most: int, parsed: Any, longest: int
) -> tuple[set[str], set[str]]:
    complete: set[str] = set()
    reached: set[str] = prefixes if least == 0 else set()
    growing = prefixes
    for count in range(1, (least + 1 if most is ops.MAXREPEAT else most) + 1):
        ended, growing = _extended(growing, parsed, longest)
        complete |= ended
        if count > least and most is ops.MAXREPEAT:
            complete |= growing
        elif count >= least:
            reached = reached | growing
        if not growing:
            break
    return complete, reached


def _members(items: Sequence[tuple[Any, Any]]) -> set[str]:
    """Return the characters of a class; none if it has too many."""
    members: set[str] = set()
    for code, argument in items:
        if code is ops.LITERAL:
            members.add(chr(argument))
        elif code is ops.RANGE and argument[1] - argument[0] < _LARGEST_CLASS:
            members |= {chr(code_point) for code_point in range(argument[0], argument[1] + 1)}
        elif (code, argument) == (ops.CATEGORY, ops.CATEGORY_SPACE):
            members.add(" ")
        elif (code, argument) == (ops.CATEGORY, ops.CATEGORY_DIGIT):
            members |= set("0123456789")
        else:
            return set()
    return members if len(members) <= _LARGEST_CLASS else set()

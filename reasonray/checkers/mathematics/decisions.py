"""Decisions about answers, and the steps of a comparison that call each other across modules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from reasonray.checkers.mathematics.tree import Tree

Decision: TypeAlias = bool | None
"""True and False are certain; None is undecided."""


def all_of(decisions: Iterable[Decision]) -> Decision:
    """Return whether all decisions are True; None if it depends on one that is undecided."""
    undecided = False
    for decision in decisions:
        if decision is False:
            return False
        undecided = undecided or decision is None
    return None if undecided else True


def any_of(decisions: Iterable[Decision]) -> Decision:
    """Return whether any decision is True; None if it depends on one that is undecided."""
    undecided = False
    for decision in decisions:
        if decision is True:
            return True
        undecided = undecided or decision is None
    return None if undecided else False


@dataclass(slots=True)
class Comparer(ABC):
    """One comparison of a gold answer with an answer. `steps` collects what decided.

    Each module that compares one kind of answer calls the steps for other kinds through it;
    `equivalence.Comparison` implements them.
    """

    is_ordered: bool = False
    """Whether the order and the repeats of a bare list count."""
    steps: dict[str, None] = field(default_factory=dict)

    def by(self, step: str, decision: Decision) -> Decision:
        """Note the step that decided, and return its decision."""
        self.steps[step] = None
        return decision

    @abstractmethod
    def same(self, gold: Tree, answer: Tree) -> Decision:
        """Return whether an answer is the gold answer."""

    @abstractmethod
    def single(self, gold: Tree, answer: Tree) -> Decision:
        """Return whether two answers, each of them one item of a list, are the same."""

    @abstractmethod
    def values(self, gold: Tree, answer: Tree) -> Decision:
        """Return whether two quantities or values are the same."""

"""The rules that call each other across the modules of the grammar."""

from __future__ import annotations

from abc import ABC, abstractmethod

from reasonray.checkers.mathematics.grammar.cursor import Cursor
from reasonray.checkers.mathematics.tree import Tree


class Rules(Cursor, ABC):
    """A cursor with the rules through which all recursion of the grammar goes.

    Each module of the grammar reads one kind of notation by functions that take these rules. `parser.Parser`
    implements them.
    """

    @abstractmethod
    def listing(self, until: tuple[str, ...] = ()) -> Tree:
        """Parse items up to a closing token (which stays) or the end."""

    @abstractmethod
    def item(self) -> Tree:
        """Parse one answer of a list: words, a relation or an expression, with its unit."""

    @abstractmethod
    def side(self) -> Tree:
        """Parse one side of a relation: sets or an expression, a ratio, a time of day."""

    @abstractmethod
    def sets(self) -> Tree:
        """Parse sets or values with the operations between sets."""

    @abstractmethod
    def additive(self) -> Tree:
        """Parse a sum."""

    @abstractmethod
    def term(self) -> Tree:
        """Parse a product."""

    @abstractmethod
    def power(self) -> Tree:
        """Parse a primary expression with its powers and the signs after it."""

    @abstractmethod
    def exponent(self, base: Tree) -> Tree:
        """Parse what follows "^" after a base."""

    @abstractmethod
    def argument(self) -> Tree:
        """Parse the argument of a command: a group, or one digit, letter or command."""

    @abstractmethod
    def primary(self) -> Tree:
        """Parse a number, a name, a bracket or a command."""

    @abstractmethod
    def begins_factor(self) -> bool:
        """Return whether the next token begins another factor of a product."""

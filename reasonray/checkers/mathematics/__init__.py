"""Equality of mathematical answers: a tokenizer, a parser, a tree, and comparison step by step.

    text → lexer.tokens → parser.parse → tree → equivalence.Comparison.same

The parser accounts for every token or raises `Unreadable`; nothing is ever evaluated as code, and every computation is
bounded by the sizes in the tree before it starts.
"""

from reasonray.checkers.mathematics.equivalence import Comparison, named_value
from reasonray.checkers.mathematics.lexer import Unreadable
from reasonray.checkers.mathematics.parser import parse
from reasonray.checkers.mathematics.quantities import measured
from reasonray.checkers.mathematics.tree import Tree
from reasonray.checkers.mathematics.values import constant as real_constant

__all__ = ["Comparison", "Tree", "Unreadable", "measured", "named_value", "parse", "real_constant"]

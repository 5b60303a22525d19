"""Names: letters with indices, primes, accents and arguments, words, sets of numbers, named operators."""

from __future__ import annotations

from typing import Final

from reasonray.checkers.mathematics import vocabulary
from reasonray.checkers.mathematics.grammar.brackets import parse_arguments
from reasonray.checkers.mathematics.grammar.cursor import Cursor
from reasonray.checkers.mathematics.grammar.measures import parse_money
from reasonray.checkers.mathematics.grammar.postfixes import parse_primes
from reasonray.checkers.mathematics.grammar.recursion import Rules
from reasonray.checkers.mathematics.lexer import Token
from reasonray.checkers.mathematics.tree import DOTS, Apply, Call, Constant, Symbol, Tree, Words, negated

ACCENTS: Final = frozenset("hat bar tilde vec dot ddot overline underline angle triangle measuredangle".split())  # noqa: SIM905
_CALLED: Final = frozenset(("f", "g", "h", "phi", "psi", "Phi", "Psi", "Gamma", "Theta", "Omega", "varphi"))


def parse_letter(parser: Rules, token: Token, is_bare: bool = False) -> Tree:
    """Parse a letter with its indices and arguments, or `C_n^k`. A bare one, a command's argument, takes neither."""
    name = token.text
    if name == "C" and not is_bare and parser.text() == "_" and parser.enclosures[-1:] != ["{"]:
        begin, stream = parser.at, parser.stream
        parser.at += 1
        below = parser.argument()
        if parser.accept("^"):
            return Apply("binomial", (below, parser.argument()))
        parser.at, parser.stream = begin, stream
    if is_bare:
        return named_constant(name)
    return parse_indexed(parser, name)


def parse_indexed(parser: Rules, name: str) -> Tree:
    """Parse a name with its primes, indices and arguments."""
    name += parse_primes(parser)
    base: Tree = named_constant(name)
    if parser.text() == "_" and base == Constant("e"):
        base = Symbol("e")
    while parser.text() == "_":
        parser.at += 1
        index = parser.argument()
        base = Call("index " + name, (*(base.arguments if isinstance(base, Call) else ()), index))
        if primes := parse_primes(parser):
            base = Call(base.name + primes, base.arguments)
    return parse_called(parser, name, base)


def parse_called(parser: Rules, name: str, base: Tree) -> Tree:
    """Parse the arguments of an unknown function: f(x), f^{-1}(x), f'(x), P(A), and y(t) before a relation."""
    inverse = 0
    if parser.text() == "^" and [parser.text(ahead) for ahead in (1, 2, 3, 4)] == ["{", "-", "1", "}"]:
        inverse = 5
    elif parser.text() == "^" and parser.text(1) == "(" and parser.text(3) == ")" and parser.text(2).isdigit():
        inverse = 4 if parser.text(4) == "(" and name.rstrip("'") in _CALLED else 0
    is_function = name.rstrip("'") in _CALLED or name.endswith("'") or (len(name) == 1 and name.isupper())
    begin = parser.at
    order = "".join(parser.text(ahead) for ahead in range(inverse))
    if inverse and parser.text(inverse) == "(" and is_function:
        parser.at += inverse
    if parser.text() != "(" or isinstance(base, Constant) or (parser.is_spaced() and len(name) == 1 and name.isupper()):
        parser.at = begin
        return base
    if not is_function and not is_definition(parser):
        parser.at = begin
        return base
    if name == "C" and not isinstance(base, Call):
        arguments = parse_arguments(parser)
        if len(arguments) == 2:
            return Apply("binomial", arguments)
        return Call(name, arguments)
    arguments = parse_arguments(parser)
    if name == "Gamma" and len(arguments) == 1:
        return Apply("gamma", arguments)
    inner = base.arguments if isinstance(base, Call) else ()
    return Call(name + order, (*inner, *arguments))


def is_definition(cursor: Cursor) -> bool:
    """Return whether `(x) =` follows, as in `y(t) = 3`: then the letter before it names a function."""
    return cursor.text(2) == ")" and cursor.text(3) == "=" and cursor.kind(1) == "letter"


def is_membership(cursor: Cursor) -> bool:
    r"""Return whether a condition such as `(k \in \mathbb{Z})` stands here, behind an answer."""
    return cursor.text() == "(" and cursor.kind(1) == "letter" and cursor.text(2) == "in" and not cursor.enclosures


def parse_named(parser: Rules, token: Token) -> Tree:
    """Parse a word that is a phrase, a currency sign, a minus or a name."""
    word = token.text.casefold()
    if word == "…":
        return DOTS
    if unit := vocabulary.CURRENCIES.get(word):
        if word.isalpha():
            parser.accept(".")
        return parse_money(parser, unit)
    if word in ("negative", "minus"):
        return negated(parser.power())
    if phrase := vocabulary.PHRASES.get(word):
        return Words(phrase)
    if not word[0].isalpha() or word in vocabulary.CLOSED_CLASS:
        raise parser.fault(f"the word {word!r}")
    if parser.word():
        raise parser.fault("several words")
    return parse_indexed(parser, "word " + word) if parser.text() in ("_", "(") else Symbol("word " + word)


def parse_blackboard(parser: Rules) -> Tree:
    """Parse a letter in a face for sets of numbers, with its sign."""
    name = parser.argument()
    letter = name.name if isinstance(name, Symbol) else ""
    suffix = ""
    if parser.text() in ("^", "_") and parser.text(1) in ("+", "-", "*"):
        suffix = parser.text(1)
        parser.at += 2
    elif parser.text() in ("^", "_") and parser.text(1) == "{" and parser.text(3) == "}":
        suffix = parser.text(2)
        parser.at += 4
    if letter == "R" and not suffix:
        return Words("all real numbers")
    return Symbol(f"set {letter}{suffix}")


def parse_accented(parser: Rules, accent: str) -> Tree:
    """Parse an accent with what it covers as one name; a bar over a segment's ends is the segment's name alone."""
    begin = parser.at
    if accent in ("angle", "triangle", "measuredangle"):
        while (token := parser.peek()) and (
            token.kind in ("letter", "number") or (token.text in ("_", "{", "}") and parser.at > begin)
        ):
            if token.text == "}" and "{" not in [part.text for part in parser.stream[begin : parser.at]]:
                break
            if token.text == "{" and parser.stream[parser.at - 1].text != "_":
                break
            parser.at += 1
    else:
        inner = parser.argument()
        letters = [token.text for token in parser.stream[begin : parser.at] if token.text not in "{}"]
        if accent == "overline" and len(letters) > 1 and all(letter.isupper() for letter in letters):
            return inner
        if accent in ("hat", "vec") and letters in (["i"], ["j"], ["k"]):
            return Symbol("basis " + letters[0])
    covered = "".join(token.text for token in parser.stream[begin : parser.at] if token.text not in "{}")
    if not covered:
        raise parser.fault(f"{accent} over nothing")
    accent = {"overline": "bar", "measuredangle": "angle"}.get(accent, accent)
    return parse_indexed(parser, f"{accent} {covered}")


def parse_operator_name(parser: Rules, name: str) -> Tree:
    """Parse an operator's name with its arguments, or one of the upright constants."""
    if name in ("i", "e", "d"):
        return named_constant(name)
    base = parse_indexed(parser, "operator " + name) if parser.text() == "_" else Symbol("operator " + name)
    if parser.text() == "(":
        return Call("operator " + name, parse_arguments(parser))
    return base


def named_constant(name: str) -> Tree:
    """Return the constant that a letter names, or else the variable."""
    return Constant(name) if name in ("e", "i") else Symbol(name)

"""A recursive-descent parser from an answer to its tree. It accounts for every token or raises Unreadable.

Conventions, where notation is ambiguous: implicit products bind like explicit ones (`1/2x` is half of x); an argument
without parentheses ends at "+", "-", "/", a relation or the next function (`\\sin 2x \\cos x` is a product); `i` is the
imaginary unit unless it is an index; `C(n,k)`, `C_n^k`, `nCk` are binomial coefficients of numbers.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

from reasonray.checkers.mathematics import vocabulary
from reasonray.checkers.mathematics.grammar.brackets import CLOSING, parse_group
from reasonray.checkers.mathematics.grammar.commands import begins_factor, parse_command, parse_operator
from reasonray.checkers.mathematics.grammar.listing import parse_item, parse_listing
from reasonray.checkers.mathematics.grammar.literals import clock, number_of, parse_numeral
from reasonray.checkers.mathematics.grammar.names import parse_letter, parse_named
from reasonray.checkers.mathematics.grammar.postfixes import parse_degrees, parse_postfixes, parse_primes
from reasonray.checkers.mathematics.grammar.recursion import Rules
from reasonray.checkers.mathematics.lexer import Token, tokens
from reasonray.checkers.mathematics.rewriting import with_letter_i
from reasonray.checkers.mathematics.tree import (
    MINUS_ONE,
    Apply,
    Bound,
    Bracket,
    Call,
    Clock,
    Constant,
    Number,
    Ratio,
    Symbol,
    Tree,
    Words,
    is_value,
    negated,
    nodes,
    product,
    quotient,
    symbols,
)


@lru_cache(maxsize=4096)
def parse(text: str, number_format: str = "", is_lenient: bool = False) -> Tree:
    """Return the tree of an answer.

    Args:
        text: the answer as it was written.
        number_format: as in `lexer.tokens`.
        is_lenient: read `x^12` as a gold answer's author means it; LaTeX sets it as `x^1 2`, so that in an answer it is
            unreadable.

    Raises:
        Unreadable: the grammar does not account for every token.
    """
    parser = Parser(tokens(text, number_format), is_lenient)
    return _with_imaginary_unit(parser.whole())


def _with_imaginary_unit(tree: Tree) -> Tree:
    """Read the letter i as the imaginary unit, unless the answer uses it as an index or a bound variable."""
    for node in nodes(tree):
        match node:
            case Bound(variable="i"):
                return with_letter_i(tree)
            case Call(name=name, arguments=arguments) if name.startswith("index ") and any(
                "i" in symbols(part) or Constant("i") in nodes(part) for part in arguments
            ):
                return with_letter_i(tree)
    return tree


def _is_number_set(tree: Tree) -> bool:
    return tree == Words("all real numbers") or (isinstance(tree, Symbol) and tree.name.startswith("set "))


class Parser(Rules):
    """The grammar from whole answers down to primary expressions; each kind of notation has a module in `grammar`."""

    def whole(self) -> Tree:
        """Parse the whole answer: a list, and nothing behind it."""
        if not self.stream:
            raise self.fault("empty")
        if self.stream[-1].kind == "operator" and self.stream[-1].text in (".", ",", ";"):
            self.stream = self.stream[:-1]
        if restated := self._restated():
            return restated
        tree = self.listing()
        if self.accept("over"):
            tree = quotient(tree, self.listing())
        if self.peek() is not None:
            token = self.next()
            raise self.fault(f"{token.text!r} has no place")
        return tree

    def _restated(self) -> Tree | None:
        """Return `x > 1 : (1, \\infty)` as one answer in two notations, or None if it is not one."""
        depth = 0
        for index, token in enumerate(self.stream):
            depth += (token.text in CLOSING) - (token.text in CLOSING.values())
            following = self.stream[index + 1].text if index + 1 < len(self.stream) else ""
            if token.text == ":" and depth == 0 and following in ("(", "[", r"\{", "emptyset"):
                first, second = self.stream[:index], self.stream[index + 1 :]
                if not any(vocabulary.RELATIONS.get(part.text) for part in first) and following != "emptyset":
                    return None
                parts = (Parser(part, self.is_lenient).whole() for part in (first, second))
                return Apply("restated", tuple(parts))
        return None

    def listing(self, until: tuple[str, ...] = ()) -> Tree:
        """Parse items up to a closing token (which stays) or the end."""
        return parse_listing(self, until)

    def item(self) -> Tree:
        """Parse one answer of a list: words, a relation or an expression, with its unit."""
        return parse_item(self)

    def begins_factor(self) -> bool:
        """Return whether the next token begins another factor of a product."""
        return begins_factor(self)

    def side(self) -> Tree:
        """Parse one side of a relation: sets or an expression, a ratio, a time of day."""
        terms = [self.sets()]
        while self.text() == ":" and self.enclosures[-1:] != ["separator"] and self.peek(1) is not None:
            self.at += 1
            terms.append(self.sets())
        if self.word() == "to" and not self.enclosures and self.kind(1) == "number":
            self.at += 1
            terms.append(self.sets())
        if len(terms) == 1:
            return terms[0]
        if isinstance(terms[0], Words) or not all(map(is_value, terms)):
            raise self.fault("a colon between other things than numbers")
        if self.word() in ("am", "pm") and all(isinstance(term, Number) for term in terms) and len(terms) == 2:
            hour, minute = (int(term.value) for term in terms if isinstance(term, Number))
            return Clock(hour, minute, self.next().text.casefold())
        return Ratio(tuple(terms))

    def sets(self) -> Tree:
        """Parse sets or values with the operations between sets."""
        tree = self.additive()
        while self.text() in ("cup", "cap", "setminus"):
            name = self.next().text
            self.accept(",")
            tree = Apply(name, (tree, self.additive()))
        return tree

    def additive(self) -> Tree:
        """Parse a sum."""
        terms: list[Tree] = []
        if self.text() not in ("+", "-", "pm", "mp"):
            terms.append(self.term())
        while self.text() in ("+", "-", "pm", "mp"):
            sign = self.next().text
            term = self.term()
            if sign == "-" and terms and _is_number_set(terms[-1]) and isinstance(term, Bracket):
                terms[-1] = Apply("setminus", (terms[-1], term))
                continue
            if sign == "-":
                term = negated(term)
            elif sign in ("pm", "mp"):
                term = Apply("±", (term,) if sign == "pm" else (negated(term),))
            terms.append(term)
        return terms[0] if len(terms) == 1 else Apply("+", tuple(terms))

    def term(self) -> Tree:
        """Parse a product."""
        if self.text() in ("+", "-", "pm"):
            sign = self.next().text
            inner = self.term()
            return inner if sign == "+" else negated(inner) if sign == "-" else Apply("±", (inner,))
        factors = [self.power()]
        while True:
            if self.accept("*", "cdot", "times"):
                factors.append(self.signed_power())
            elif self.accept("/", "div"):
                factors.append(Apply("^", (self.signed_power(), MINUS_ONE)))
            elif self.text() == "mod":
                self.at += 1
                left = product(factors)
                factors = [Apply("mod", (left, self.power()))]
            elif self.begins_factor():
                if isinstance(factors[-1], Number) and self.kind() == "number":
                    raise self.fault("two numbers in a row")
                factors.append(self.power())
            else:
                return product(factors)

    def signed_power(self) -> Tree:
        """Parse a power that may have a sign, as after a sign of multiplication."""
        if self.accept("-"):
            return negated(self.signed_power())
        self.accept("+")
        return self.power()

    def power(self) -> Tree:
        """Parse a primary expression with its powers and the signs after it."""
        base = parse_postfixes(self, self.primary())
        while self.accept("^"):
            if self.text() == "circ" or (self.text() == "{" and self.text(1) == "circ") or self._is_raised_o(base):
                self.at += 2 if self.text() == "{" else 1
                if self.stream[self.at - 2].text == "{":
                    self.expect("}")
                base = parse_degrees(self, base)
                continue
            if prime := parse_primes(self):
                if not isinstance(base, Symbol):
                    raise self.fault("a prime")
                base = Symbol(base.name + prime)
                continue
            base = parse_postfixes(self, Apply("^", (base, self.exponent(base))))
        return base

    def _is_raised_o(self, base: Tree) -> bool:
        """Return whether an o is raised behind a number: a degree sign by another name."""
        at = 1 if self.text() == "{" else 0
        return isinstance(base, Number) and self.text(at) == "o" and (not at or self.text(at + 1) == "}")

    def exponent(self, base: Tree) -> Tree:
        """Parse what follows "^" after a base."""
        negative = self.accept("-")
        token = self.peek()
        if token and token.kind == "number" and len(token.text) > 1 and not isinstance(base, Number):
            if not self.is_lenient:
                raise self.fault("an exponent of several digits without braces")
            exponent = number_of(self.next())
        elif token and token.kind == "number":
            exponent = number_of(self.next())
        else:
            exponent = self.argument()
        return negated(exponent) if negative else exponent

    def argument(self) -> Tree:
        """Parse the argument of a command: a group, or one digit, letter or command."""
        token = self.peek()
        if token is None:
            raise self.fault("an argument is missing")
        if token.text == "{" and token.kind == "operator":
            return parse_group(self)
        if token.kind == "number":
            if not token.text.isdigit():
                raise self.fault("a decimal as a bare argument")
            digit, rest = token.text[0], token.text[1:]
            self.at += 1
            if rest:
                self.at -= 1
                self.stream = [
                    *self.stream[: self.at],
                    Token("number", digit),
                    Token("number", rest),
                    *self.stream[self.at + 1 :],
                ]
                self.at += 1
            return Number(Fraction(digit))
        if token.kind == "letter":
            self.at += 1
            return parse_letter(self, token, is_bare=True)
        return self.primary()

    def primary(self) -> Tree:
        """Parse a number, a name, a bracket or a command."""
        token = self.next()
        match token.kind:
            case "number":
                return parse_numeral(self, token)
            case "letter":
                return parse_letter(self, token)
            case "clock":
                return clock(token.text)
            case "word":
                return parse_named(self, token)
            case "operator":
                return parse_operator(self, token)
            case _:
                return parse_command(self, token)

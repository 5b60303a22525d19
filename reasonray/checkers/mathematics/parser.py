"""A recursive-descent parser from an answer to its tree. It accounts for every token or raises Unreadable.

Conventions, where notation is ambiguous: implicit products bind like explicit ones (`1/2x` is half of x); an argument
without parentheses ends at "+", "-", "/", a relation or the next function (`\\sin 2x \\cos x` is a product); `i` is the
imaginary unit unless it is an index; `C(n,k)`, `C_n^k`, `nCk` are binomial coefficients of numbers.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Final

from reasonray.checkers import units
from reasonray.checkers.mathematics import vocabulary
from reasonray.checkers.mathematics.lexer import Token, Unreadable, tokens
from reasonray.checkers.mathematics.tree import (
    DOTS,
    MINUS_ONE,
    ONE,
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

_RELATIONS: Final = {
    **{"=": "=", "==": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "!=": "!="},
    **{"le": "<=", "ge": ">=", "ne": "!=", "approx": "~", "equiv": "≡", "in": "in", "notin": "notin", "mid": "mid"},
    **{"subset": "subset", "subseteq": "subseteq", "parallel": "parallel", "perp": "perp", "propto": "propto"},
    **{"to": "to", "cong": "cong", "sim": "similar", "ll": "ll", "gg": "gg", "iff": "iff", "Rightarrow": "implies"},
    **{"supset": "supset", "leftrightarrow": "iff", "nmid": "nmid"},
}
_CLOSING: Final = {"(": ")", "[": "]", "{": "}", r"\{": r"\}", "langle": "rangle", "lfloor": "rfloor", "lceil": "rceil"}
_ACCENTS: Final = frozenset("hat bar tilde vec dot ddot overline underline angle triangle measuredangle".split())  # noqa: SIM905
_CALLED: Final = frozenset(("f", "g", "h", "phi", "psi", "Phi", "Psi", "Gamma", "Theta", "Omega", "varphi"))
_UNIT_LETTERS: Final = {
    **{letter: letter for letter in "mgslh"},
    **{"N": "newton", "J": "joule", "W": "watt", "V": "volt", "A": "ampere", "K": "kelvin"},
}
_UNIT_COMMANDS: Final = {"min": "min", "sec": "s", "Omega": "ohm"}
_MAX_POSTFIXES: Final = 6
_MAX_WORDS: Final = 3
_SUMS: Final = {"sum": "sum", "prod": "product", "bigcup": "union", "bigcap": "intersection"}
_MATRICES: Final = frozenset("matrix pmatrix bmatrix Bmatrix vmatrix Vmatrix smallmatrix array".split())  # noqa: SIM905
_BLOCKS: Final = frozenset("cases aligned align gathered gather split dcases equation multline".split())  # noqa: SIM905


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
    parser = _Parser(tokens(text, number_format), is_lenient)
    return _with_imaginary_unit(parser.whole())


def _with_imaginary_unit(tree: Tree) -> Tree:
    """Read the letter i as the imaginary unit, unless the answer uses it as an index or a bound variable."""
    for node in nodes(tree):
        match node:
            case Bound(variable="i"):
                return _replaced(tree)
            case Call(name=name, arguments=arguments) if name.startswith("index ") and any(
                "i" in symbols(part) or Constant("i") in nodes(part) for part in arguments
            ):
                return _replaced(tree)
    return tree


def _replaced(tree: Tree) -> Tree:
    from reasonray.checkers.mathematics.rewriting import transformed

    return transformed(tree, lambda node: Symbol("i") if node == Constant("i") else node)


class _Parser:
    def __init__(self, stream: list[Token], is_lenient: bool) -> None:
        self.stream = stream
        self.at = 0
        self.is_lenient = is_lenient
        self.enclosures: list[str] = []
        """What encloses the current position: brackets, "|", "integral"; "separator" awaits the bar of a set."""

    # Tokens

    def peek(self, ahead: int = 0) -> Token | None:
        index = self.at + ahead
        return self.stream[index] if index < len(self.stream) else None

    def text(self, ahead: int = 0) -> str:
        token = self.peek(ahead)
        return token.text if token and token.kind != "word" else ""

    def kind(self, ahead: int = 0) -> str:
        token = self.peek(ahead)
        return token.kind if token else ""

    def is_spaced(self) -> bool:
        token = self.peek()
        return token is not None and token.spaced

    def word(self, ahead: int = 0) -> str:
        token = self.peek(ahead)
        return token.text.casefold() if token and token.kind == "word" else ""

    def next(self) -> Token:
        token = self.peek()
        if token is None:
            raise self.fault("the answer ends too early")
        self.at += 1
        return token

    def accept(self, *texts: str) -> bool:
        if self.text() in texts and self.text():
            self.at += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.accept(text):
            raise self.fault(f"{text!r} is missing")

    def fault(self, reason: str) -> Unreadable:
        return Unreadable(reason)

    # Whole answers

    def whole(self) -> Tree:
        if not self.stream:
            raise self.fault("empty")
        if self.stream[-1].kind == "operator" and self.stream[-1].text in (".", ",", ";"):
            self.stream = self.stream[:-1]
        if restated := self._restated():
            return restated
        tree = self.listing()
        if self.peek() is not None:
            token = self.next()
            raise self.fault(f"{token.text!r} has no place")
        return tree

    def _restated(self) -> Tree | None:
        """Return `x > 1 : (1, \\infty)` as one answer in two notations, or None if it is not one."""
        depth = 0
        for index, token in enumerate(self.stream):
            depth += (token.text in _CLOSING) - (token.text in _CLOSING.values())
            following = self.stream[index + 1].text if index + 1 < len(self.stream) else ""
            if token.text == ":" and depth == 0 and following in ("(", "[", r"\{", "emptyset"):
                first, second = self.stream[:index], self.stream[index + 1 :]
                if not any(_RELATIONS.get(part.text) for part in first) and following != "emptyset":
                    return None
                parts = (_Parser(part, self.is_lenient).whole() for part in (first, second))
                return Apply("restated", tuple(parts))
        return None

    def listing(self, until: tuple[str, ...] = ()) -> Tree:
        """Parse items up to a closing token (which stays) or the end."""
        items: list[Tree] = [self.item()]
        joiners: set[str] = set()
        while joiner := self.joiner():
            if self.peek() is None or self.text() in until:
                if joiner != ",":
                    raise self.fault("a list ends with a conjunction")
                break
            if joiner == "," and self.reason():
                break
            if condition := self.condition():
                joiners.add(joiner)
                return Given(_listed(items, joiners - {joiner} or {","}), condition)
            joiners.add(joiner)
            items.append(self.item())
        answer = _listed(items, joiners)
        if condition := self.condition():
            answer = Given(answer, condition)
        self.reason()
        return answer

    def joiner(self) -> str:
        joined = ""
        while True:
            if self.text() in (",", ";") or (self.text() == "row" and "block" not in self.enclosures):
                self.at += 1
                joined = joined or ","
            elif self.word() in ("and", "or") or self.text() in ("and", "or"):
                joined = self.word() or self.text()
                self.at += 1
            elif self.text() == "&" and self.word(1) in ("and", "or"):
                self.at += 1
            else:
                return joined

    def condition(self) -> Tree | None:
        """Parse `where a > 0` and its like: relations if they can be read, else their words."""
        if self.word() not in vocabulary.CONDITIONS:
            return None
        begin = self.at
        lead = self.next()
        if lead.text.casefold() == "such" and self.word() == "that":
            self.at += 1
        if self.enclosures:
            return self.listing()
        try:
            conditions = self.listing()
            if self.peek() is None:
                return conditions
        except Unreadable:
            pass
        self.at = len(self.stream)
        return Words(" ".join(token.text.casefold() for token in self.stream[begin + 1 :]))

    def reason(self) -> bool:
        """Skip the reason after an answer and return whether there is one. It may take nothing back."""
        gloss = self.text() == "(" and bool(self.word(1)) and self.stream[-1].text == ")" and not self.enclosures
        if self.word() in vocabulary.REASONS or gloss:
            rest = self.stream[self.at :]
            if self.is_lenient:
                raise self.fault("a gold answer with a reason")
            if self.word() in vocabulary.CONSEQUENCES and not self.is_rough():
                raise self.fault("a consequence that may be another answer")
            words = {token.text.casefold() for token in rest if token.kind == "word"}
            if self.enclosures or words & (vocabulary.RETRACTIONS | vocabulary.CONDITIONS):
                raise self.fault("a reason that may retract")
            if gloss and not all(token.kind == "word" for token in rest[1:-1]):
                raise self.fault("a remark that may change the value")
            self.at = len(self.stream)
            return True
        return False

    def is_rough(self) -> bool:
        """Return whether the rest is words alone, or gives the answer roughly: "which is about 3.46"."""
        rest = [token for token in self.stream[self.at + 1 :] if token.kind != "word"]
        return not rest or (self.word(1) == "is" and self.word(2) in ("about", "approximately", "roughly"))

    def item(self) -> Tree:
        if phrase := self.phrase() or self.text_alone():
            return phrase
        self.hedges()
        if (sign := _RELATIONS.get(self.text())) and self.text():
            self.at += 1
            value = self.with_unit(self.side())
            return value if sign in "=~" else Relation((sign,), (None, value))
        tree = self.relation()
        while self.word() in vocabulary.TRAILING:
            self.at += 1
        return tree

    def phrase(self) -> Tree | None:
        """Parse the longest fixed phrase that begins here, such as "no solution"."""
        words: list[str] = []
        while (word := self.word(len(words))) and len(words) < 7:
            words.append(word)
        while words:
            if phrase := vocabulary.PHRASES.get(" ".join(words)):
                self.at += len(words)
                return Words(phrase)
            words.pop()
        return None

    def text_alone(self) -> Tree | None:
        """Parse an item that is one to three words and nothing else."""
        count = 0
        while self.word(count) and self.word(count) not in ("and", "or"):
            count += 1
        ends = self.peek(count) is None or self.text(count) in (",", ";", ")", "}") or self.word(count) in ("and", "or")
        words = [self.word(at) for at in range(count)]
        if not (0 < count <= _MAX_WORDS and ends and all(word[0].isalpha() for word in words)):
            return None
        self.at += count
        return Words(" ".join(words))

    def hedges(self) -> None:
        while self.word() in vocabulary.HEDGES and self.peek(1) is not None and self.text(1) not in (",", ")", "}"):
            self.at += 1
            self.accept(":", ",")

    def relation(self) -> Tree:
        sides: list[Tree | None] = [self.with_unit(self.side())]
        signs: list[str] = []
        while self.text() and (sign := _RELATIONS.get(self.text())):
            if sign == "mid" and "separator" in self.enclosures[-1:]:
                break
            self.at += 1
            signs.append(sign)
            if sign in ("in", "notin"):
                self.hedges()
            sides.append(self.with_unit(self.side()))
        if self.word() in ("is", "are", "equals") and isinstance(sides[-1], Symbol | Call) and not signs:
            self.at += 1
            signs.append("=")
            sides.append(self.with_unit(self.side()))
        if not signs:
            assert sides[0] is not None
            return sides[0]
        if self.text() == "pmod" or self.text() == "mod" or (self.text() == "(" and self.text(1) == "mod"):
            sides[-1] = Apply("modulo", (sides[-1] or ONE, self.modulus()))
        return Relation(tuple(signs), tuple(sides))

    def modulus(self) -> Tree:
        if self.accept("pmod"):
            return self.argument()
        bracketed = self.accept("(")
        self.expect("mod")
        modulus = self.additive()
        if bracketed:
            self.expect(")")
        return modulus

    # Units

    def with_unit(self, value: Tree) -> Tree:
        if self.word() == "$":
            raise self.fault("a currency sign after a value")
        if not (is_value(value) or _has_plus_minus(value)):
            return value
        unit = self.unit()
        if unit is None:
            return value
        total = Quantity(value, unit)
        token = self.peek()
        while token and token.kind == "number" and units.is_known(unit):  # 5 feet 6 inches
            part = self.side()
            smaller = self.unit()
            ratio = units.ratio(unit, smaller) if smaller else None
            if smaller is None or not units.is_known(smaller) or ratio is None or ratio >= 1:
                raise self.fault("two quantities in a row")
            total = Quantity(Apply("+", (total.value, Apply("*", (Number(ratio), part)))), unit)
            token = self.peek()
        return total

    def unit(self) -> str | None:
        """Parse a unit or a noun phrase after a value. Return None if neither begins here."""
        token = self.peek()
        if token is None:
            return None
        begin = self.at
        if self.accept("%"):
            return "%"
        parsed = self.unit_product()
        if parsed is None:
            self.at = begin
            return None
        return parsed

    def unit_product(self) -> str | None:
        first = self.unit_factor(is_first=True)
        if first is None:
            return None
        parts = [first]
        while True:
            begin = self.at
            if self.accept("/") or (self.word() == "per" and self._skip()):
                factor = self.unit_factor(is_first=False)
                if factor is None:
                    raise self.fault("a unit is missing")
                parts.append("/" + factor)
            elif self.accept("cdot", "*") or (self.text() == "-" and units.is_known(first) and self._skip()):
                factor = self.unit_factor(is_first=False)
                if factor is None:
                    raise self.fault("a unit is missing")
                parts.append("*" + factor)
            elif (
                self.text() in ("{", "}") or (token := self.peek()) is None or token.kind not in ("letter", "operator")
            ):
                break
            elif units.is_known(parts[-1].strip("/*").partition("^")[0]) and (factor := self.unit_factor(False)):
                parts.append("*" + factor)
            else:
                self.at = begin
                break
        return "".join(parts)

    def _skip(self) -> bool:
        self.at += 1
        return True

    def unit_factor(self, is_first: bool) -> str | None:
        token = self.peek()
        if token is None:
            return None
        if token.text == "{" and token.kind == "operator":
            begin = self.at
            self.at += 1
            inner = self.unit_product()
            if inner is None or not self.accept("}"):
                self.at = begin
                return None
            return self.unit_power(inner)
        if token.kind == "letter" and token.upright and token.text in _UNIT_LETTERS:
            self.at += 1
            return self.unit_power(_UNIT_LETTERS[token.text])
        if token.kind == "command" and token.text == "circ":
            raise self.fault("a degree sign without a value")
        if token.kind == "command" and token.text in _UNIT_COMMANDS and (token.upright or token.text == "Omega"):
            self.at += 1
            return self.unit_power(_UNIT_COMMANDS[token.text])
        if self.word() == "in" and not self.word(1) and self.kind(1) not in ("number", "letter"):
            self.at += 1
            return self.unit_power("in")
        if token.kind != "word":
            return None
        return self.noun_phrase() if is_first or not units.is_known(token.text) else self.known_unit()

    def known_unit(self) -> str:
        return self.unit_power(self.next().text)

    def unit_power(self, unit: str) -> str:
        if not self.accept("^"):
            return unit
        braced = self.accept("{")
        negative = self.accept("-")
        digit = self.next()
        if digit.kind != "number" or digit.text not in "123456":
            raise self.fault("a unit's power")
        if braced:
            self.expect("}")
        return f"{unit}^{'-' if negative else ''}{digit.text}"

    def noun_phrase(self) -> str | None:
        """Parse one to five open-class words. A word of a closed class may change the value, so none may be there."""
        words: list[str] = []
        begin = self.at
        while self.word() and len(words) < 6:
            word = self.word()
            if word == "per" and words:
                break
            if word in vocabulary.TRAILING:
                break
            if word in vocabulary.REASONS or word in vocabulary.CONDITIONS or word in ("and", "or"):
                break
            if word in vocabulary.CLOSED_CLASS and not (
                word in vocabulary.UNIT_FILLERS or (word == "second" and not words)
            ):
                raise self.fault(f"the word {word!r} after a value")
            if not (word[0].isalpha() or word in "€£¥"):
                raise self.fault(f"{word!r} after a value")
            words.append(self.next().text)
            if self.text() == "-" and self.word(1):
                self.at += 1
            if words[-1] not in ("square", "sq", "cubic") and units.is_known(" ".join(words)):
                break
            if self.text() == "." and words[-1] in ("sq", "cu", "ft", "in", "sec", "min", "hr"):
                self.at += 1
        content = [word for word in words if word.casefold() not in vocabulary.UNIT_FILLERS]
        if not content or any(len(word) < 2 and word.isascii() for word in content):
            self.at = begin
            return None
        return self.unit_power(" ".join(words))

    # Expressions

    def side(self) -> Tree:
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
        tree = self.additive()
        while self.text() in ("cup", "cap", "setminus"):
            name = self.next().text
            self.accept(",")
            tree = Apply(name, (tree, self.additive()))
        return tree

    def additive(self) -> Tree:
        terms: list[Tree] = []
        if self.text() not in ("+", "-", "pm", "mp"):
            terms.append(self.term())
        while self.text() in ("+", "-", "pm", "mp"):
            sign = self.next().text
            term = self.term()
            if sign == "-":
                term = negated(term)
            elif sign in ("pm", "mp"):
                term = Apply("±", (term,) if sign == "pm" else (negated(term),))
            terms.append(term)
        return terms[0] if len(terms) == 1 else Apply("+", tuple(terms))

    def term(self) -> Tree:
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
                left = _product(factors)
                factors = [Apply("mod", (left, self.power()))]
            elif self.begins_factor():
                if isinstance(factors[-1], Number) and self.kind() == "number":
                    raise self.fault("two numbers in a row")
                factors.append(self.power())
            else:
                return _product(factors)

    def signed_power(self) -> Tree:
        if self.accept("-"):
            return negated(self.signed_power())
        self.accept("+")
        return self.power()

    def begins_factor(self) -> bool:
        token = self.peek()
        if token is None:
            return False
        if token.kind == "number":
            return True
        if token.kind == "letter":
            return not (token.text == "d" and "integral" in self.enclosures and self.is_differential()) and not (
                token.upright and token.text in _UNIT_LETTERS and self.is_unit_position()
            )
        if token.kind == "command":
            if token.text == "mid" or token.text in _RELATIONS:
                return False
            if token.text == "|":
                return self.enclosures[-1:] not in (["|"], ["separator"])
            if token.text == "norm":
                return self.enclosures[-1:] != ["norm"]
            if token.text == "min":
                return self.text(1) in ("(", "{", r"\{")
            return (
                token.text in vocabulary.FUNCTIONS
                or token.text in vocabulary.GREEK
                or token.text in _SUMS
                or token.text in _ACCENTS
                or token.text in _PRIMARY_COMMANDS
                or token.text.partition(" ")[0] in ("basis", "operator", "begin", "mathbb")
            )
        if token.kind == "operator":
            if token.text == "|":
                return self.enclosures[-1:] not in (["|"], ["separator"])
            if token.text == "{":
                return not self.is_unit_group()
            if token.text == "(" and self.text(1) == "mod":
                return False
            if token.text == "(" and self.word(1) and not self.enclosures and self.stream[-1].text == ")":
                return False
            return token.text in ("(", "[", r"\{") and not (
                token.text == "[" and self.enclosures and self.enclosures[-1] == "]"
            )
        return False

    def is_unit_position(self) -> bool:
        return not self.enclosures or self.enclosures[-1] in ("(", r"\{", "[")

    def is_unit_group(self) -> bool:
        """Return whether the braces that open here hold upright letters or words that are a unit."""
        if not self.is_unit_position():
            return False
        begin = self.at
        self.at += 1
        try:
            token = self.peek()
            if token is None or not token.upright:
                return False
            return self.unit_product() is not None and self.text() == "}"
        except Unreadable:
            return False
        finally:
            self.at = begin

    def is_differential(self) -> bool:
        token = self.peek(1)
        return token is not None and (token.kind == "letter" or token.text in vocabulary.GREEK)

    def power(self) -> Tree:
        base = self.postfix(self.primary())
        while self.accept("^"):
            if self.text() == "circ" or (self.text() == "{" and self.text(1) == "circ"):
                self.at += 2 if self.text() == "{" else 1
                if self.stream[self.at - 2].text == "{":
                    self.expect("}")
                base = self.degrees(base)
                continue
            if prime := self.primes():
                if not isinstance(base, Symbol):
                    raise self.fault("a prime")
                base = Symbol(base.name + prime)
                continue
            base = self.postfix(Apply("^", (base, self.exponent(base))))
        return base

    def exponent(self, base: Tree) -> Tree:
        negative = self.accept("-")
        token = self.peek()
        if token and token.kind == "number" and len(token.text) > 1 and not isinstance(base, Number):
            if not self.is_lenient:
                raise self.fault("an exponent of several digits without braces")
            exponent = self.number(self.next())
        elif token and token.kind == "number":
            exponent = self.number(self.next())
        else:
            exponent = self.argument()
        return negated(exponent) if negative else exponent

    def degrees(self, base: Tree) -> Tree:
        """Parse what follows a degree sign: a scale, or minutes and seconds of arc."""
        token = self.peek()
        if token and token.kind == "letter" and token.text in "CF" and not self.enclosures:
            self.at += 1
            return Apply("degree " + token.text, (base,))
        degrees = base
        for name, share in (("'", 60), ("''", 3600)):
            begin = self.at
            token = self.peek()
            if token is None or token.kind != "number":
                break
            minutes = self.number(self.next())
            self.accept("^")
            if self.primes() != name:
                self.at = begin
                break
            degrees = Apply("+", (degrees, Apply("*", (Number(Fraction(1, share)), minutes))))
        return Apply("degree", (degrees,))

    def primes(self) -> str:
        begin = self.at
        braced = self.accept("{")
        primes = ""
        while self.accept("'"):
            primes += "'"
        if not primes or (braced and not self.accept("}")):
            self.at = begin
            return ""
        return primes

    def postfix(self, value: Tree) -> Tree:
        begin = self.at
        while True:
            if self.at > begin + _MAX_POSTFIXES:
                raise self.fault("too many signs in a row")
            if self.text() == "!":
                self.at += 1
                double = self.text() == "!" and not self.is_spaced()
                if double:
                    self.at += 1
                value = Apply("double factorial" if double else "factorial", (value,))
            elif (
                self.text() == "%"
                and (self.enclosures or self.peek(1) is not None)
                and self.text(1)
                not in (
                    ",",
                    ";",
                    "",
                )
            ):
                self.at += 1
                value = Apply("*", (value, Number(Fraction(1, 100))))
            elif self.text() == "circ":
                self.at += 1
                value = self.degrees(value)
            else:
                return value

    # Primary expressions

    def argument(self) -> Tree:
        """Parse the argument of a command: a group, or one digit, letter or command."""
        token = self.peek()
        if token is None:
            raise self.fault("an argument is missing")
        if token.text == "{" and token.kind == "operator":
            return self.group()
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
            return self.letter(token, is_bare=True)
        return self.primary()

    def group(self) -> Tree:
        """Parse the content of braces that only group; several items are a set."""
        self.expect("{")
        self.enclosures.append("{")
        if self.accept("}"):
            raise self.fault("an empty group")
        content = self.listing(("}",))
        self.enclosures.pop()
        self.expect("}")
        if isinstance(content, Listing):
            return Bracket("{", "}", content.items)
        return content

    def number(self, token: Token) -> Tree:
        text = token.text
        if "(" in text:
            whole, _, rest = text.partition(".")
            whole = whole or "0"
            fixed, _, period = rest[:-1].partition("(")
            value = Fraction(int(whole + fixed or "0"), 10 ** len(fixed))
            return Number(value + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed)))
        mantissa = text.lower().partition("e")[0]
        decimals = len(mantissa.partition(".")[2])
        return Number(Fraction(text.rstrip(".")), decimals if "e" not in text.lower() else 0)

    def mixed(self, whole: Tree) -> Tree:
        """Parse the fraction of a mixed number, or return the number alone."""
        assert isinstance(whole, Number)
        if whole.value.denominator != 1 or whole.decimals or whole.value <= 0:
            return whole
        begin, stream = self.at, self.stream
        fraction: Tree | None = None
        if self.accept("frac"):
            over, under = self.argument(), self.argument()
            fraction = _quotient(over, under)
        elif (token := self.peek()) and token.kind == "number" and token.spaced and self.text(1) == "/":
            over = self.number(self.next())
            self.at += 1
            under_token = self.next()
            if under_token.kind != "number":
                raise self.fault("a mixed number")
            fraction = _quotient(over, self.number(under_token))
        if isinstance(fraction, Number) and 0 < fraction.value < 1:
            return Number(whole.value + fraction.value)
        self.at, self.stream = begin, stream
        return whole

    def primary(self) -> Tree:
        token = self.next()
        match token.kind:
            case "number":
                return self.numeral(token)
            case "letter":
                return self.letter(token)
            case "clock":
                return _clock(token.text)
            case "word":
                return self.named(token)
            case "operator":
                return self.bracketed(token)
            case _:
                return self.command(token)

    def numeral(self, token: Token) -> Tree:
        number = self.number(token)
        assert isinstance(number, Number)
        if self.text() == "_":
            return self.based(token)
        if self.text() == "C" and (following := self.peek(1)) and following.kind == "number":
            self.at += 2
            return Apply("binomial", (number, self.number(following)))
        return self.mixed(number)

    def based(self, token: Token) -> Tree:
        """Parse a numeral with its base."""
        self.at += 1
        base = self.argument()
        if not (isinstance(base, Number) and base.value.denominator == 1 and 2 <= base.value <= 36):
            raise self.fault("a base")
        try:
            return Number(Fraction(int(token.text, int(base.value))), base=int(base.value))
        except ValueError:
            return Call("index " + token.text, (base,))

    def letter(self, token: Token, is_bare: bool = False) -> Tree:
        name = token.text
        if name == "C" and not is_bare and self.text() == "_" and self.enclosures[-1:] != ["{"]:
            begin, stream = self.at, self.stream
            self.at += 1
            below = self.argument()
            if self.accept("^"):
                return Apply("binomial", (below, self.argument()))
            self.at, self.stream = begin, stream
        if is_bare:
            return _named_constant(name)
        return self.indexed(name)

    def indexed(self, name: str) -> Tree:
        """Parse a name with its primes, indices and arguments."""
        name += self.primes()
        base: Tree = _named_constant(name)
        if self.text() == "_" and base == Constant("e"):
            base = Symbol("e")
        while self.text() == "_":
            self.at += 1
            index = self.argument()
            base = Call("index " + name, (*(base.arguments if isinstance(base, Call) else ()), index))
            if primes := self.primes():
                base = Call(base.name + primes, base.arguments)
        return self.called(name, base)

    def called(self, name: str, base: Tree) -> Tree:
        """Parse the arguments of an unknown function: f(x), f^{-1}(x), f'(x), P(A), and y(t) before a relation."""
        inverse = 0
        if self.text() == "^" and [self.text(ahead) for ahead in (1, 2, 3, 4)] == ["{", "-", "1", "}"]:
            inverse = 5
        elif self.text() == "^" and self.text(1) == "(" and self.text(3) == ")" and self.text(2).isdigit():
            inverse = 4 if self.text(4) == "(" and name.rstrip("'") in _CALLED else 0
        is_function = name.rstrip("'") in _CALLED or name.endswith("'") or (len(name) == 1 and name.isupper())
        begin = self.at
        order = "".join(self.text(ahead) for ahead in range(inverse))
        if inverse and self.text(inverse) == "(" and is_function:
            self.at += inverse
        if self.text() != "(" or isinstance(base, Constant) or (self.is_spaced() and len(name) == 1 and name.isupper()):
            self.at = begin
            return base
        if not is_function and not self.is_definition():
            self.at = begin
            return base
        if name == "C" and not isinstance(base, Call):
            arguments = self.bracket_items()
            if len(arguments) == 2:
                return Apply("binomial", arguments)
            return Call(name, arguments)
        arguments = self.bracket_items()
        if name == "Gamma" and len(arguments) == 1:
            return Apply("gamma", arguments)
        inner = base.arguments if isinstance(base, Call) else ()
        return Call(name + order, (*inner, *arguments))

    def is_definition(self) -> bool:
        """Return whether `(x) =` follows, as in `y(t) = 3`: then the letter before it names a function."""
        return self.text(2) == ")" and self.text(3) == "=" and self.kind(1) == "letter"

    def bracket_items(self) -> tuple[Tree, ...]:
        self.expect("(")
        self.enclosures.append("(")
        content = self.listing((")",))
        self.enclosures.pop()
        self.expect(")")
        return content.items if isinstance(content, Listing) else (content,)

    def named(self, token: Token) -> Tree:
        word = token.text.casefold()
        if word == "…":
            return DOTS
        if word in ("$", "€", "£", "¥"):
            return self.money({"$": "dollar", "€": "euro", "£": "£", "¥": "yen"}[word])
        if word in ("negative", "minus"):
            return negated(self.power())
        if phrase := vocabulary.PHRASES.get(word):
            return Words(phrase)
        if not word[0].isalpha() or word in vocabulary.CLOSED_CLASS:
            raise self.fault(f"the word {word!r}")
        if self.word():
            raise self.fault("several words")
        return self.indexed("word " + word) if self.text() in ("_", "(") else Symbol("word " + word)

    def money(self, unit: str) -> Tree:
        sign = self.accept("-")
        value = self.term()
        if self.word() in ("million", "billion", "thousand"):
            scale = {"thousand": 10**3, "million": 10**6, "billion": 10**9}[self.next().text.casefold()]
            value = Apply("*", (value, Number(Fraction(scale))))
        return Quantity(negated(value) if sign else value, unit)

    def choice(self) -> Tree:
        """Parse the rest of `^6C_2`."""
        above = self.argument()
        if not (self.text() == "C" and self.text(1) == "_"):
            raise self.fault("an exponent without its base")
        self.at += 2
        return Apply("binomial", (above, self.argument()))

    def bracketed(self, token: Token) -> Tree:
        match token.text:
            case "^" | "_":
                return self.choice()
            case "{":
                self.at -= 1
                return self.group()
            case "(" | "[" | r"\{":
                return self.between(token.text)
            case "]":
                return self.french()
            case "|":
                return self.absolute("|", "|", "abs")
            case _:
                raise self.fault(f"{token.text!r} has no place")

    def between(self, opening: str) -> Tree:
        closing = _CLOSING[opening]
        if self.accept(closing):
            if opening != r"\{":
                raise self.fault("empty brackets")
            return Words(vocabulary.EMPTY)
        if opening == "(" and self.text() in ("-", "+") and self.text(1) == "infty":
            pass
        self.enclosures.append("separator" if opening == r"\{" else opening)
        begin = self.at
        content = self.block_rows() if opening == r"\{" and self.text().startswith("begin") else None
        content = content or self.listing((closing, "|", "mid", ":"))
        if self.enclosures[-1] == "separator" and self.text() in ("|", "mid", ":"):
            self.at += 1
            self.enclosures[-1] = opening
            conditions = self.listing((closing,))
            self.enclosures.pop()
            self.expect(closing)
            return SetBuilder(content, conditions)
        self.enclosures.pop()
        if (isinstance(content, Cases | Listing) and opening == r"\{" and self.text() != closing) and (
            self.stream[begin].text.startswith("begin")
        ):
            return content
        final = self.next().text
        if final not in (closing, ")", "]") or (final != closing and opening == r"\{"):
            raise self.fault("brackets do not match")
        items = content.items if isinstance(content, Listing) else (content,)
        if isinstance(content, Listing) and content.joiner != ",":
            raise self.fault("a conjunction between brackets")
        if len(items) == 1 and final == closing and opening in "([" and not isinstance(items[0], Listing):
            if opening == "[" and isinstance(items[0], Relation | Bracket):
                return Bracket(opening, final, items)
            return items[0]
        if opening != r"\{" and (len(items) == 1 or (final != closing and len(items) != 2)):
            raise self.fault("an interval needs two ends")
        return Bracket(opening.strip("\\"), final.strip("\\"), items)

    def french(self) -> Tree:
        """Parse `]0;1[`."""
        self.enclosures.append("]")
        low = self.additive()
        if not self.accept(";", ","):
            raise self.fault("an interval needs two ends")
        high = self.additive()
        self.enclosures.pop()
        final = self.next().text
        if final not in ("[", "]"):
            raise self.fault("brackets do not match")
        return Bracket("(", ")" if final == "[" else "]", (low, high))

    def absolute(self, opening: str, closing: str, name: str) -> Tree:
        self.enclosures.append(opening)
        inner = self.additive()
        self.enclosures.pop()
        self.expect(closing)
        return Apply("det" if isinstance(inner, Matrix) else name, (inner,))

    def command(self, token: Token) -> Tree:
        name = token.text
        if name in vocabulary.FUNCTIONS:
            return self.function(name)
        if name.startswith("begin "):
            return self.environment(name.removeprefix("begin "))
        if name.startswith("operator "):
            return self.operator(name.removeprefix("operator "))
        if name.startswith("basis "):
            return Symbol(name)
        if name in _SUMS:
            return self.big_operator(_SUMS[name])
        if name in _ACCENTS:
            return self.accented(name)
        match name:
            case "frac":
                return self.fraction()
            case "binom":
                return Apply("binomial", (self.argument(), self.argument()))
            case "pi":
                return Constant("pi")
            case "infty":
                return Constant("inf")
            case "emptyset":
                return Words(vocabulary.EMPTY)
            case "ldots":
                return DOTS
            case "mathbb" | "mathbf" | "mathcal" | "mathscr":
                return self.blackboard()
            case "int" | "oint" | "iint":
                return self.integral(name)
            case "lim":
                return self.limit()
            case "langle":
                return self.angles()
            case "lfloor" | "lceil":
                inner = self.enclosed(_CLOSING[name])
                return Apply("floor" if name == "lfloor" else "ceil", (inner,))
            case "|" | "norm":
                return self.absolute(name, name, "abs" if name == "|" else "norm")
            case "mho" | "partial" | "nabla":
                return self.indexed(name)
            case "{" | "[" | "(":
                return self.between(r"\{" if name == "{" else name)
            case "i" | "j":
                return _named_constant(name)
        if name in vocabulary.GREEK:
            return self.indexed(name)
        raise self.fault(f"the command {name!r}")

    def blackboard(self) -> Tree:
        name = self.argument()
        letter = name.name if isinstance(name, Symbol) else ""
        suffix = ""
        if self.text() in ("^", "_") and self.text(1) in ("+", "-", "*"):
            suffix = self.text(1)
            self.at += 2
        elif self.text() in ("^", "_") and self.text(1) == "{" and self.text(3) == "}":
            suffix = self.text(2)
            self.at += 4
        if letter == "R" and not suffix:
            return Words("all real numbers")
        return Symbol(f"set {letter}{suffix}")

    def enclosed(self, closing: str) -> Tree:
        self.enclosures.append(closing)
        inner = self.additive()
        self.enclosures.pop()
        self.expect(closing)
        return inner

    def angles(self) -> Tree:
        self.enclosures.append("langle")
        content = self.listing(("rangle",))
        self.enclosures.pop()
        self.expect("rangle")
        return Bracket("<", ">", content.items if isinstance(content, Listing) else (content,))

    def fraction(self) -> Tree:
        begin = self.at
        over = self.argument()
        middle = self.at
        under = self.argument()
        if self._is_differential_group(begin) and self._is_differential_group(middle):
            return Call("derivative", (over, under))
        return _quotient(over, under)

    def _is_differential_group(self, at: int) -> bool:
        texts = [token.text for token in self.stream[at : at + 3]]
        first = texts[1] if texts[:1] == ["{"] and len(texts) > 1 else texts[0]
        return first in ("d", "partial") and texts[:1] == ["{"]

    def accented(self, accent: str) -> Tree:
        """Parse an accent with what it covers as one name; a bar over a segment's ends is the segment's name alone."""
        begin = self.at
        if accent in ("angle", "triangle", "measuredangle"):
            while (token := self.peek()) and (
                token.kind in ("letter", "number") or (token.text in ("_", "{", "}") and self.at > begin)
            ):
                if token.text == "}" and "{" not in [part.text for part in self.stream[begin : self.at]]:
                    break
                if token.text == "{" and self.stream[self.at - 1].text != "_":
                    break
                self.at += 1
        else:
            inner = self.argument()
            letters = [token.text for token in self.stream[begin : self.at] if token.text not in "{}"]
            if accent == "overline" and len(letters) > 1 and all(letter.isupper() for letter in letters):
                return inner
            if accent == "hat" and letters in (["i"], ["j"], ["k"]):
                return Symbol("basis " + letters[0])
        covered = "".join(token.text for token in self.stream[begin : self.at] if token.text not in "{}")
        if not covered:
            raise self.fault(f"{accent} over nothing")
        accent = {"overline": "bar", "measuredangle": "angle"}.get(accent, accent)
        return self.indexed(f"{accent} {covered}")

    def function(self, name: str) -> Tree:
        name = vocabulary.SYNONYMS.get(name, name)
        if name == "sqrt":
            return self.root()
        if name in ("max", "min", "gcd", "lcm"):
            return self.of_many(name)
        base: Tree | None = None
        power: Tree | None = None
        while self.text() in ("^", "_"):
            if self.next().text == "^":
                power = self.exponent(ONE)
            else:
                base = self.argument()
        if name == "log" and base is not None:
            arguments: tuple[Tree, ...] = (self.function_argument(), base)
        elif base is not None:
            raise self.fault(f"an index of {name}")
        else:
            arguments = (self.function_argument(),)
        if name == "exp":
            value: Tree = Apply("^", (Constant("e"), arguments[0]))
        elif power == MINUS_ONE and name in _INVERSES:
            return Apply(_INVERSES[name], arguments)
        elif name == "cbrt":
            value = Apply("root", (arguments[0], Number(Fraction(3))))
        else:
            value = Apply(name, arguments)
        return value if power is None else Apply("^", (value, power))

    def function_argument(self) -> Tree:
        token = self.peek()
        if token is None:
            raise self.fault("an argument is missing")
        if token.text == "(":
            items = self.bracket_items()
            if len(items) != 1:
                raise self.fault("several arguments")
            return self.postfix_degrees(items[0])
        if token.text in ("|", "{", "[") and token.kind in ("operator", "command"):
            return self.postfix_degrees(self.power())
        if token.text in ("-", "+"):
            self.at += 1
            value = self.function_argument()
            return negated(value) if token.text == "-" else value
        factors = [self.power()]
        while True:
            token = self.peek()
            if not self.begins_factor() or token is None or token.text in vocabulary.FUNCTIONS or token.text == "(":
                return _product(factors)
            if isinstance(factors[-1], Number) and token.kind == "number":
                raise self.fault("two numbers in a row")
            factors.append(self.power())

    def postfix_degrees(self, value: Tree) -> Tree:
        return value

    def root(self) -> Tree:
        index: Tree = Number(Fraction(2))
        if self.text() == "[":
            self.at += 1
            self.enclosures.append("[")
            index = self.additive()
            self.enclosures.pop()
            self.expect("]")
        token = self.peek()
        if token and token.text == "(":
            items = self.bracket_items()
            if len(items) != 1:
                raise self.fault("several arguments")
            radicand = items[0]
        elif token and token.kind == "number" and "{" not in [part.text for part in self.stream]:
            radicand = self.number(self.next())
        else:
            radicand = self.argument()
        return Apply("root", (radicand, index))

    def of_many(self, name: str) -> Tree:
        if self.text() in ("(", r"\{"):
            if self.text() == "(":
                items = self.bracket_items()
            else:
                bracket = self.primary()
                items = bracket.items if isinstance(bracket, Bracket) else (bracket,)
            return Apply(name, items)
        raise self.fault(f"{name} without its arguments")

    def operator(self, name: str) -> Tree:
        if name in ("i", "e", "d"):
            return _named_constant(name)
        base = self.indexed("operator " + name) if self.text() == "_" else Symbol("operator " + name)
        if self.text() == "(":
            return Call("operator " + name, self.bracket_items())
        return base

    def environment(self, name: str) -> Tree:
        if name in _BLOCKS:
            self.at -= 1
            return self.block_rows()
        if name not in _MATRICES:
            raise self.fault(f"the environment {name!r}")
        rows = self.rows(name)
        if len({len(row) for row in rows}) != 1:
            raise self.fault("rows of different lengths")
        matrix = Matrix(tuple(tuple(row) for row in rows))
        return Apply("det", (matrix,)) if name in ("vmatrix",) else matrix

    def rows(self, name: str) -> list[list[Tree]]:
        self.enclosures.append("block")
        rows: list[list[Tree]] = [[]]
        while not self.accept(f"end {name}"):
            if self.accept("row"):
                rows.append([])
            elif self.accept("&"):
                continue
            else:
                rows[-1].append(self.item())
        self.enclosures.pop()
        return [row for row in rows if row]

    def block_rows(self) -> Tree:
        """Parse the rows of `cases` or of aligned equations."""
        name = self.next().text.removeprefix("begin ")
        self.enclosures.append("block")
        rows: list[Tree] = []
        pieces: list[tuple[Tree, Tree]] = []
        while not self.accept(f"end {name}"):
            if self.accept("row") or self.accept("&"):
                continue
            value = self.item()
            self.accept(",")
            if (self.accept("&") or self.word() in vocabulary.CONDITIONS) and self.text() not in _RELATIONS:
                while self.word() in vocabulary.CONDITIONS and self.word() != "otherwise":
                    self.at += 1
                self.accept("&")
                if self.word() == "otherwise" or self.word() == "else":
                    self.at += 1
                    pieces.append((value, Words("otherwise")))
                elif self.text() in ("row", f"end {name}"):
                    rows.append(value)
                else:
                    condition = self.item()
                    if self.accept(","):
                        condition = Listing((condition, self.item()))
                    pieces.append((value, condition))
                self.accept(",", ".")
            else:
                rows.append(value)
        self.enclosures.pop()
        if pieces and rows:
            raise self.fault("pieces without conditions")
        if pieces:
            return Cases(tuple(pieces))
        return rows[0] if len(rows) == 1 else Listing(tuple(rows), "and")

    def big_operator(self, kind: str) -> Tree:
        variable, low, high = "", None, None
        while self.text() in ("_", "^"):
            if self.next().text == "^":
                high = self.argument()
                continue
            lower = self.argument()
            if isinstance(lower, Relation) and lower.signs == ("=",):
                name, low = lower.sides
            else:
                raise self.fault("a sum without its first index")
            if name == Constant("i"):
                name = Symbol("i")
            if not isinstance(name, Symbol):
                raise self.fault("a sum's index")
            variable = name.name
        if low is None or high is None:
            raise self.fault("a sum without its bounds")
        body = self.sets() if kind in ("union", "intersection") else self.term()
        if variable == "i":
            body = _replaced(body)
        return Bound(kind, variable, low, high, body)

    def integral(self, name: str) -> Tree:
        low: Tree | None = None
        high: Tree | None = None
        while self.text() in ("_", "^"):
            if self.next().text == "_":
                low = self.argument()
            else:
                high = self.exponent(ONE)
        self.enclosures.append("integral")
        body: Tree = ONE
        if not (self.text() == "d" and self.is_differential()):
            body = self.additive()
        self.enclosures.pop()
        if not self.accept("d"):
            raise self.fault("an integral without its differential")
        variable = self.argument()
        if not isinstance(variable, Symbol):
            raise self.fault("an integral's variable")
        return Bound("integral" if name == "int" else name, variable.name, low, high, body)

    def limit(self) -> Tree:
        if not self.accept("_"):
            raise self.fault("a limit without its variable")
        approach = self.argument()
        if not (isinstance(approach, Relation) and approach.signs == ("to",)):
            raise self.fault("a limit without its variable")
        variable, target = approach.sides
        if not isinstance(variable, Symbol):
            raise self.fault("a limit's variable")
        return Bound("limit", variable.name, target, None, self.term())


_PRIMARY_COMMANDS: Final = frozenset(
    "frac binom pi infty langle lfloor lceil int oint lim mathbb sum prod mho partial nabla { sqrt i j".split()  # noqa: SIM905
)
_INVERSES: Final = {
    **{name: "arc" + name for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    **{"sinh": "arsinh", "cosh": "arcosh", "tanh": "artanh"},
}


def _listed(items: list[Tree], joiners: set[str]) -> Tree:
    if len(items) == 1:
        return items[0]
    named = joiners - {","}
    if len(named) > 1:
        raise Unreadable("both and and or")
    return Listing(tuple(items), named.pop() if named else ",")


def _product(factors: list[Tree]) -> Tree:
    return factors[0] if len(factors) == 1 else Apply("*", tuple(factors))


def _quotient(over: Tree, under: Tree) -> Tree:
    if isinstance(over, Number) and isinstance(under, Number) and under.value:
        return Number(over.value / under.value)
    return Apply("*", (over, Apply("^", (under, MINUS_ONE))))


def _named_constant(name: str) -> Tree:
    return Constant(name) if name in ("e", "i") else Symbol(name)


def _clock(text: str) -> Tree:
    hour, _, rest = text.partition(":")
    digits = "".join(character for character in rest if character.isdigit())
    return Clock(int(hour), int(digits[:2]), rest[-1] + "m" if rest[-1].isalpha() else "")


def _has_plus_minus(tree: Tree) -> bool:
    return isinstance(tree, Apply) and any(isinstance(node, Apply) and node.name == "±" for node in nodes(tree))

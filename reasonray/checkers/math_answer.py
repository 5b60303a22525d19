"""Mathematical equality: a fast path for plain numbers and words, then math-verify (LaTeX, sets, intervals, matrices).

math-verify compares asymmetrically: the gold answer comes first. Its own time limits are signals, which work on a main
thread only and cannot interrupt a long integer operation, so they are off here and the pool kills instead. Where
math-verify is more lenient than correctness allows, this module decides before or after it: units, bases, order, tiny
numbers, equations that are still to be solved.

`metadata["ordered"] = true` makes the order and the repeats of a bare list count.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from reasonray.checkers import notation, numbers, units
from reasonray.checkers.checker import Checker, Finding
from reasonray.records import Outcome, Problem

# It warns at every call that its time limits are off, as intended here.
logging.getLogger("math_verify").setLevel(logging.ERROR)

_MAX_CHARACTERS = 4000
_MAX_CHARACTERS_PARSED_AT_LOAD = 400
_LIST = re.compile(r",|;|\\pm|\\cup|\band\b|\bor\b")
_BASED = re.compile(r"([0-9A-Za-z]+)_\{?(\d{1,2})\}?")
_TAIL_UNIT = re.compile(
    r"(?P<body>.*[^\s\\])\s*\\(?:text|mathrm|textrm|mbox)\s?\{\s*(?P<unit>[A-Za-z][A-Za-z ./]*?)\s*\}"
    r"(?P<power>\s*\^\s*\{?\d\}?)?",
    re.DOTALL,
)
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)\b")
_TURN = re.compile(r"(\d+(?:\.\d+)?)\s*°")
_EQUATION = re.compile(r"(?P<left>[^=<>]+)=(?P<right>[^=<>]+)")
_HALF = re.compile(r"^\s*(?:[<>=]|\\(?:le|ge|ne|lt|gt|approx)\b)|[-+*/=<>^]\s*$")
_CLOCK = re.compile(r"0?(\d{1,2}):(\d{2})\s*(?:([ap])\.?\s?m\.?)?", re.IGNORECASE)
_TOWER = re.compile(r"\^[^=,]*\^[^=,]*\^|\d{5,}\s*!|!\s*!|\^\s*\{?\s*\d{5,}")


class MathAnswer(Checker):
    """Judges whether an answer equals the problem's gold answer."""

    has_independent_rules = True

    def unverifiable(self, problem: Problem) -> str | None:
        """Return why no answer can be compared with a problem's gold answer, or None if answers can be.

        Plain numbers and words cost microseconds, the rest a parse of some milliseconds. Very long gold answers, and
        those whose evaluation might not end, are not parsed here.
        """
        gold = problem.answer or ""
        if numbers.read(gold) or notation.words(gold):
            return None
        return _unreadable(gold)

    def fast(self, problem: Problem, answer: str) -> Finding | None:
        """Decide what needs no algebra: numbers, the same notation, bases, times of day, words."""
        gold = problem.answer or ""
        if finding := numbers.compare(gold, answer):
            return finding
        if len(answer) > max(_MAX_CHARACTERS, 4 * len(gold)):
            return Finding(Outcome.WRONG, "far longer than the gold answer") if notation.balanced(gold) else None
        wanted = notation.squeezed(gold)
        if wanted and wanted == notation.squeezed(answer) and any(character.isalnum() for character in wanted):
            return Finding(Outcome.CORRECT, "same notation")
        return _same_base(gold, answer) or _same_time(gold, answer) or _same_words(gold, answer)

    def compare(self, problem: Problem, answer: str) -> Finding:
        """Compare by algebra alone."""
        gold = problem.answer or ""
        if reason := _unreadable(gold):
            return Finding(Outcome.UNVERIFIABLE, reason)
        if _is_same_union(gold, answer):
            return Finding(Outcome.CORRECT, "inequalities joined by or")
        (given, given_unit), (wanted, wanted_unit) = _stated(answer), _stated(gold)
        if not given:
            return Finding(Outcome.WRONG, "states no single formula")
        if wanted_unit and given_unit and units.ratio(wanted_unit, given_unit) != 1:
            return Finding(Outcome.WRONG, "another unit")
        if "=" not in wanted and (fault := _no_solution(given)):
            return Finding(Outcome.WRONG, fault)
        if _HALF.search(given) and not _HALF.search(wanted):
            return Finding(Outcome.WRONG, "a bound or half a formula")
        sides = (wanted, given)
        if any(side.startswith(r"\{") for side in sides) and any(side.startswith(("(", "[")) for side in sides):
            return Finding(Outcome.WRONG, "a set is not a pair")
        wanted, given = _in_one_form(wanted, given, problem.metadata.get("ordered") is True)
        if not _parsed(given):
            return Finding(Outcome.WRONG, "math-verify cannot read the answer", is_undecided=True)
        return Finding(Outcome.CORRECT if _equal(wanted, given) else Outcome.WRONG, "math-verify")

    def combine(self, problem: Problem, boxes: tuple[str, ...]) -> str | None:
        """Return several boxed answers as one list where the gold answer is a list, else None."""
        return ", ".join(boxes) if _LIST.search(notation.tidy(problem.answer or "")) else None


def value_of(formula: str) -> numbers.Number | None:
    """Return the value of a formula to 30 digits, or None if it is not a finite real number."""
    from sympy import Expr

    body, unit = _without_unit(formula)
    expressions = _parsed(_in_one_form(body, body, False)[0])
    if not expressions or not isinstance(expressions[0], Expr) or not expressions[0].is_number:
        return None
    value = expressions[0].doit().evalf(30)
    return numbers.Number(Fraction(str(value)), unit=unit) if value.is_Float and value.is_finite else None


@lru_cache(maxsize=4096)
def _unreadable(gold: str) -> str | None:
    text = notation.tidy(gold)
    if not any(character.isalnum() for character in text.replace("boxed", "")):
        return "the gold answer is empty"
    if not notation.balanced(text):
        return "the braces of the gold answer do not balance"
    if _TOWER.search(text) or len(text) > _MAX_CHARACTERS_PARSED_AT_LOAD:
        return None
    return None if _is_readable(_stated(gold)[0] or text) else "math-verify cannot read the gold answer"


def _equal(wanted: str, given: str) -> bool:
    from math_verify import verify

    first, second = _parsed(wanted), _parsed(given)
    if not first or not second:
        return False
    options = {"timeout_seconds": None, "allow_set_relation_comp": True}
    if not verify(first, second, **options):
        complex_first, complex_second = _with_imaginary_unit(first), _with_imaginary_unit(second)
        return bool(complex_first and complex_second and verify(complex_first, complex_second, **options))
    return _near(first[0], second[0])


def _is_same_union(gold: str, answer: str) -> bool:
    """Return whether `x < 2 or x > 3` is the gold answer's set; math-verify reads it as a set of relations."""
    from sympy import Union

    parts = re.split(r"\bor\b", notation.flat(notation.tidy(answer)))
    if len(parts) < 2 or r"\cup" not in gold or not all(re.search(r"[<>]|\\[lg]e\b", part) for part in parts):
        return False
    relations = [parsed[0] for part in parts if (parsed := _parsed(part.strip())) and hasattr(parsed[0], "as_set")]
    if len(relations) < len(parts):
        return False
    wanted = _parsed(notation.tidy(gold))
    return bool(wanted) and bool(wanted[0] == Union(*(relation.as_set() for relation in relations)))


def _near(wanted: Any, given: Any) -> bool:
    """Return False for numbers that math-verify calls equal only because its absolute tolerance dwarfs both."""
    from sympy import Expr

    if not (isinstance(wanted, Expr) and isinstance(given, Expr) and wanted.is_number and given.is_number):
        return True
    wanted, given = wanted.doit(), given.doit()
    if wanted == given or not (wanted.is_finite and given.is_finite):
        return True
    scale = max(abs(wanted.evalf(30)), abs(given.evalf(30)))
    return bool(abs((wanted - given).evalf(30)) <= scale * 2e-6)


def _with_imaginary_unit(expressions: list[Any]) -> list[Any] | None:
    """Read the letter i as the imaginary unit; None if there are other letters, whose index it may be."""
    from sympy import Expr, I

    expression = expressions[0]
    if not isinstance(expression, Expr) or any(str(symbol) != "i" for symbol in expression.free_symbols):
        return None
    return [expression.subs(dict.fromkeys(expression.free_symbols, I)).doit().expand(complex=True)]


def _is_readable(text: str) -> bool:
    return any(not isinstance(expression, str) for expression in _parsed(text))


@lru_cache(maxsize=4096)
def _parsed(text: str) -> list[Any]:
    from math_verify import parse

    # Delimiters make math-verify read the whole text as one formula instead of looking for numbers in prose.
    return list(parse(f"${text}$", parsing_timeout=None)) or list(parse(text, parsing_timeout=None))


def _in_one_form(wanted: str, given: str, ordered: bool) -> tuple[str, str]:
    """Return both answers with tuples, degrees and ordered lists in the same notation."""
    sides = [
        (_TURN.sub(r"(\\frac{\1\\pi}{180})", side) if _TRIGONOMETRY.search(side) else side).replace("°", r"^\circ")
        for side in (wanted, given)
    ]
    wanted, given = sides
    if ordered or (wanted.startswith("(") and _is_one_group(wanted) and "," in wanted):
        wanted, given = (
            f"({side})" if "," in side and not side.startswith(("(", "[", r"\{")) else side for side in sides
        )
    return wanted, given


def _is_one_group(text: str) -> bool:
    return "(" not in text[1:] and text.endswith(")")


def _same_base(gold: str, answer: str) -> Finding | None:
    """Compare numerals with a base. A missing base is the gold answer's."""
    wanted = _BASED.fullmatch(notation.tidy(gold))
    given = _BASED.fullmatch(notation.tidy(answer))
    if not wanted or int(wanted[2]) not in range(2, 37):
        return None
    if given and int(given[2]) in range(2, 37):
        try:
            is_same = int(wanted[1], int(wanted[2])) == int(given[1], int(given[2]))
        except ValueError:  # a digit that the base does not have: an index rather than a base
            return None
        return Finding(Outcome.CORRECT if is_same else Outcome.WRONG, "numerals of a base")
    if notation.tidy(answer).isalnum():
        is_same = wanted[1] == notation.tidy(answer)
        return Finding(Outcome.CORRECT if is_same else Outcome.WRONG, "numerals of a base")
    return None


def _same_time(gold: str, answer: str) -> Finding | None:
    """Compare times of day. One of them may leave out the half of the day; without it in both they may be ratios."""
    wanted, given = (_CLOCK.fullmatch(notation.flat(notation.tidy(text))) for text in (gold, answer))
    if not wanted or not given or not (wanted[3] or given[3]):
        return None
    halves = {(time[3] or "").casefold() for time in (wanted, given)} - {""}
    is_same = wanted.group(1, 2) == given.group(1, 2) and len(halves) == 1
    return Finding(Outcome.CORRECT if is_same else Outcome.WRONG, "times of day")


def _same_words(gold: str, answer: str) -> Finding | None:
    wanted = notation.words(gold)
    short = notation.words(notation.without_tail(answer)) if wanted else None
    given = notation.words(answer) or short if wanted else None
    if not wanted or not given:
        return None
    return Finding(Outcome.CORRECT if wanted in (given, short) else Outcome.WRONG, "words")


def _stated(text: str) -> tuple[str, str]:
    """Return the formula that an answer states and its unit; the formula is "" if it states none."""
    body, unit = _without_unit(notation.tidy(text))
    formula = notation.formula(body) or ""
    return (formula, unit) if unit else _without_unit(formula)


def _without_unit(text: str) -> tuple[str, str]:
    if match := _TAIL_UNIT.fullmatch(text):
        power = (match["power"] or "").replace(" ", "")
        return match["body"], match["unit"] + power
    if text.endswith("°") and not _TRIGONOMETRY.search(text):
        return text[:-1].rstrip(), "degree"
    return text, ""


def _no_solution(text: str) -> str:
    """Return why an equation states no value: it is false (2 = 3) or still to be solved (x + 40 = 42); else ""."""
    match = _EQUATION.fullmatch(text)
    if not match:
        return ""
    left, right = match["left"].strip(), match["right"].strip()
    if not re.search("[A-Za-z]", left):
        return "" if left == right or _equal(left, right) else "an equation that does not hold"
    return "an equation still to be solved" if _is_unsolved(left) else ""


def _is_unsolved(left: str) -> bool:
    if "\\" in left.replace(r"\cdot", "") or "(" in left:
        return False
    left = "".join(left.split())
    return len(set(re.findall("[A-Za-z]", left))) == 1 and bool(re.search(r"[-+*/^\d]", left.split("_")[0]))

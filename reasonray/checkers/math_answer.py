"""Mathematical equality: a fast path for plain numbers and words, then math-verify (LaTeX, sets, intervals, matrices).

math-verify compares asymmetrically: the gold answer comes first. Its own time limits are signals that work on a main
thread only and cannot interrupt a long integer operation; they are off here, the pool kills instead. What it is lenient
about and must not be is settled before or after it: units, bases, order, tiny numbers, equations still to be solved.

`metadata["ordered"] = true` makes the order and the repeats of a bare list count.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from reasonray.checkers import notation, numbers, units
from reasonray.records import Outcome, Problem

# It warns at every call that its time limits are off, which is what is wanted here.
logging.getLogger("math_verify").setLevel(logging.ERROR)

Finding = tuple[Outcome, str]

UNREAD = "math-verify cannot read the answer"
"""The detail of a verdict that says less than it seems to: another checker should look (checkers/judgement.py)."""

_LONGEST = 4000
_LONGEST_PARSED_EARLY = 400
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


def fast(problem: Problem, answer: str) -> Finding | None:
    """Decide what needs no algebra; None if it does."""
    gold = problem.answer or ""
    if finding := numbers.compare(gold, answer):
        return finding
    if len(answer) > _longest(gold):
        return (Outcome.WRONG, "far longer than the gold answer") if notation.balanced(gold) else None
    wanted = notation.squeezed(gold)
    if wanted and wanted == notation.squeezed(answer) and any(it.isalnum() for it in wanted):
        return Outcome.CORRECT, "same notation"
    if finding := _same_base(gold, answer):
        return finding
    if finding := _same_time(gold, answer):
        return finding
    wanted_words = notation.words(gold)
    given_words = wanted_words and (notation.words(answer) or notation.words(notation.without_tail(answer)))
    if wanted_words and given_words:
        same = wanted_words in (given_words, notation.words(notation.without_tail(answer)))
        return (Outcome.CORRECT if same else Outcome.WRONG), "words"
    return None


def compare(problem: Problem, answer: str) -> Finding:
    """Say whether an answer equals the problem's gold answer."""
    return fast(problem, answer) or symbolic(problem, answer)


def symbolic(problem: Problem, answer: str) -> Finding:
    """Compare by algebra alone, whatever the fast path would say of it."""
    gold = problem.answer or ""
    if reason := _unreadable(gold):
        return Outcome.UNVERIFIABLE, reason
    if _is_same_union(gold, answer):
        return Outcome.CORRECT, "inequalities joined by or"
    (given, given_unit), (wanted, wanted_unit) = _stated(answer), _stated(gold)
    if not given:
        return Outcome.WRONG, "states no single formula"
    if wanted_unit and given_unit and units.ratio(wanted_unit, given_unit) != 1:
        return Outcome.WRONG, "another unit"
    if "=" not in wanted and (fault := _no_solution(given)):
        return Outcome.WRONG, fault
    if _HALF.search(given) and not _HALF.search(wanted):
        return Outcome.WRONG, "a bound or half a formula"
    sides = (wanted, given)
    if any(it.startswith(r"\{") for it in sides) and any(it.startswith(("(", "[")) for it in sides):
        return Outcome.WRONG, "a set is no pair"
    wanted, given = _in_one_form(wanted, given, problem.metadata.get("ordered") is True)
    if not _parsed(given):
        return Outcome.WRONG, UNREAD
    return (Outcome.CORRECT if _equal(wanted, given) else Outcome.WRONG), "math-verify"


def unverifiable(problem: Problem) -> str | None:
    """Return why no answer can be judged against a problem's gold answer, None if one can be.

    Plain numbers and words cost microseconds, the rest a parse of some milliseconds. Very long golds, and those
    whose evaluation might not end, are not parsed here.
    """
    gold = problem.answer or ""
    if numbers.read(gold) or notation.words(gold):
        return None
    return _unreadable(gold)


def list_of(problem: Problem, answers: tuple[str, ...]) -> str | None:
    """Return several boxed answers as one list where the gold answer is a list, None where it is not."""
    return ", ".join(answers) if _LIST.search(notation.tidy(problem.answer or "")) else None


def value_of(formula: str) -> numbers.Number | None:
    """Return the value of a formula to 30 digits, None if it is not a finite real number."""
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
    if not any(it.isalnum() for it in text.replace("boxed", "")):
        return "the gold answer is empty"
    if not notation.balanced(text):
        return "the braces of the gold answer do not balance"
    if _TOWER.search(text) or len(text) > _LONGEST_PARSED_EARLY:
        return None
    return None if _expressions(_stated(gold)[0] or text) else "math-verify cannot read the gold answer"


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
    """Say whether `x < 2 or x > 3` is the set that the gold answer is; math-verify takes it for a set of relations."""
    from sympy import Union

    parts = re.split(r"\bor\b", notation.flat(notation.tidy(answer)))
    if len(parts) < 2 or r"\cup" not in gold or not all(re.search(r"[<>]|\\[lg]e\b", part) for part in parts):
        return False
    relations = [parsed[0] for part in parts if (parsed := _parsed(part.strip())) and hasattr(parsed[0], "as_set")]
    if len(relations) < len(parts):
        return False
    wanted = _parsed(notation.tidy(gold))
    return bool(wanted) and bool(wanted[0] == Union(*(it.as_set() for it in relations)))


def _near(wanted: Any, given: Any) -> bool:
    """Refuse numbers that math-verify takes for equal only because both are tiny beside its absolute tolerance."""
    from sympy import Expr

    if not (isinstance(wanted, Expr) and isinstance(given, Expr) and wanted.is_number and given.is_number):
        return True
    wanted, given = wanted.doit(), given.doit()
    if wanted == given or not (wanted.is_finite and given.is_finite):
        return True
    scale = max(abs(wanted.evalf(30)), abs(given.evalf(30)))
    return bool(abs((wanted - given).evalf(30)) <= scale * 2e-6)


def _with_imaginary_unit(expressions: list[Any]) -> list[Any] | None:
    """Read the letter i as the imaginary unit; None where there are other letters, of which it may be an index."""
    from sympy import Expr, I

    expression = expressions[0]
    if not isinstance(expression, Expr) or any(str(it) != "i" for it in expression.free_symbols):
        return None
    return [expression.subs(dict.fromkeys(expression.free_symbols, I)).doit().expand(complex=True)]


def _expressions(text: str) -> bool:
    return any(not isinstance(it, str) for it in _parsed(text))


@lru_cache(maxsize=4096)
def _parsed(text: str) -> list[Any]:
    from math_verify import parse

    # Delimiters make math-verify read the whole as one formula instead of looking for numbers in prose.
    return list(parse(f"${text}$", parsing_timeout=None)) or list(parse(text, parsing_timeout=None))


def _in_one_form(wanted: str, given: str, ordered: bool) -> tuple[str, str]:
    """Write tuples, degrees and ordered lists of both answers alike."""
    pair = [_TURN.sub(r"(\\frac{\1\\pi}{180})", it) if _TRIGONOMETRY.search(it) else it for it in (wanted, given)]
    wanted, given = (it.replace("°", r"^\circ") for it in pair)
    if ordered or (wanted.startswith("(") and _is_one_group(wanted) and "," in wanted):
        wanted, given = (
            f"({it})" if "," in it and not it.startswith(("(", "[", r"\{")) else it for it in (wanted, given)
        )
    return wanted, given


def _is_one_group(text: str) -> bool:
    return "(" not in text[1:] and text.endswith(")")


def _same_base(gold: str, answer: str) -> Finding | None:
    """Compare numerals with a base; a base that is left out is the one asked for."""
    first = _BASED.fullmatch(notation.tidy(gold))
    second = _BASED.fullmatch(notation.tidy(answer))
    if not first or int(first[2]) not in range(2, 37):
        return None
    if second and int(second[2]) in range(2, 37):
        try:
            same = int(first[1], int(first[2])) == int(second[1], int(second[2]))
        except ValueError:  # a digit that the base does not have: an index rather than a base
            return None
        return (Outcome.CORRECT if same else Outcome.WRONG), "numerals of a base"
    if notation.tidy(answer).isalnum():
        return (Outcome.CORRECT if first[1] == notation.tidy(answer) else Outcome.WRONG), "numerals of a base"
    return None


def _stated(text: str) -> tuple[str, str]:
    """Return the formula that an answer states and its unit; "" where it states none."""
    body, unit = _without_unit(notation.tidy(text))
    formula = notation.formula(body) or ""
    return (formula, unit) if unit else _without_unit(formula)


def _same_time(gold: str, answer: str) -> Finding | None:
    """Compare times of day; which half of the day may be left out. Without it in both they may as well be ratios."""
    first, second = (_CLOCK.fullmatch(notation.flat(notation.tidy(it))) for it in (gold, answer))
    if not first or not second or not (first[3] or second[3]):
        return None
    halves = {(it[3] or "").casefold() for it in (first, second)} - {""}
    same = first.group(1, 2) == second.group(1, 2) and len(halves) == 1
    return (Outcome.CORRECT if same else Outcome.WRONG), "times of day"


def _without_unit(text: str) -> tuple[str, str]:
    if match := _TAIL_UNIT.fullmatch(text):
        power = (match["power"] or "").replace(" ", "")
        return match["body"], match["unit"] + power
    if text.endswith("°") and not _TRIGONOMETRY.search(text):
        return text[:-1].rstrip(), "degree"
    return text, ""


def _no_solution(text: str) -> str:
    """Say why an equation states no value: it holds for none (2 = 3) or is still to be solved (x + 40 = 42)."""
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


def _longest(gold: str) -> int:
    return max(_LONGEST, 4 * len(gold))

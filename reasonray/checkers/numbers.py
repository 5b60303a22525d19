"""Plain numbers, exactly: the fast path of math_answer, for what needs no algebra.

Integers, decimals, fractions, mixed numbers, thousands separators, currency, percent, a unit in words, unicode minus
and scientific notation are read into fractions. Whatever else, or whatever is ambiguous, is left to the algebra.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from reasonray.records import Outcome

_LONGEST = 64
_NUMBER = re.compile(
    r"""(?P<sign>[-+]?)\s?[$€£]?\s?
        (?:(?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?P<decimals>\.\d+)?|(?P<bare>\.\d+))
        (?:[eE](?P<exponent>[-+]?\d{1,2}))?
        (?:\s?/\s?(?P<under>\d+)|\s(?P<over>\d+)\s?/\s?(?P<part>\d+))?
        \s?(?P<percent>\\?%)?
        (?:\s(?P<unit>[A-Za-z][A-Za-z ]{0,30}))?""",
    re.VERBOSE,
)
_FRACTION = re.compile(r"([-+]?)\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_TYPESETTING = str.maketrans({"−": "-", "–": "-", "\u00a0": " ", "\u202f": " "})


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it was written."""

    value: Fraction
    percent: bool = False
    unit: str = ""


def compare(gold: str, answer: str) -> tuple[Outcome, str] | None:
    """Compare two plain numbers; None if either is not one, or if only algebra or rounding could tell."""
    wanted, given = read(gold), read(answer)
    if wanted is None or given is None or wanted.percent != given.percent:
        return None
    if wanted.unit and wanted.unit != given.unit:
        return None
    if wanted.value == given.value:
        return Outcome.CORRECT, "equal numbers"
    if wanted.value.denominator == given.value.denominator == 1:
        return Outcome.WRONG, "different integers"
    return None


def read(text: str) -> Number | None:
    """Read a plain number, None if the text is not just one."""
    if len(text) > _LONGEST:
        return None
    text = text.translate(_TYPESETTING).strip().strip("$").replace(r"\!", "").replace(r"\$", "$").replace("{,}", ",")
    if fraction := _FRACTION.fullmatch(text):
        sign, over, under = fraction.groups()
        return Number(_signed(sign, Fraction(int(over), int(under)))) if int(under) else None
    match = _NUMBER.fullmatch(text)
    return _number(match) if match else None


def _number(match: re.Match[str]) -> Number | None:
    group = match.groupdict()
    value = Fraction((group["whole"] or "0").replace(",", "") + (group["decimals"] or group["bare"] or ""))
    value *= Fraction(10) ** int(group["exponent"] or 0)
    under, part = group["under"], group["part"]
    if (under and not int(under)) or (part and not int(part)):
        return None
    if under:
        value /= int(under)
    if part:
        value += Fraction(int(group["over"]), int(part))
    unit = " ".join((group["unit"] or "").casefold().split())
    return Number(_signed(group["sign"], value), bool(group["percent"]), unit)


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value

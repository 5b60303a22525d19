"""Exact comparison of plain numbers: the fast path of math_answer, where no algebra is needed.

Integers, decimals (repeating ones too), fractions, mixed numbers, thousands separators, currency, percent, degrees,
units in words, scale words, unicode minus and scientific notation are read into fractions. The algebra reads the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from reasonray.checkers import notation, numerals, units
from reasonray.checkers.checker import Finding
from reasonray.checkers.mathematics.vocabulary import CLOSED_CLASS, UNIT_FILLERS
from reasonray.records import Outcome

_MAX_CHARACTERS = 160
_INTEGER = re.compile(r"[-+]?(?:[0-9]{1,40}|[0-9]{1,3}(?:,[0-9]{3}){1,12})")
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?:[ ]\d{3})+(?![\d/])|\d+)"
_PART = r"(?:\{{\s?(?P<{0}>[-+]?{1}(?:\.\d+)?)\s?\}}|\s?(?P<{0}d>\d))"
_MIXED = r"\\frac\s?" + _PART.format("mo", r"\d+") + r"\s?" + _PART.format("mu", r"\d+")
_PURE = r"\\frac\s?" + _PART.format("fo", _DIGITS) + r"\s?" + _PART.format("fu", _DIGITS)
_NUMBER = re.compile(
    rf"""(?P<sign>[-+]?)\s?(?P<money>[$€£¥])?\s?(?P<sign2>[-+]?)
    (?:
        (?P<mixed>\d+)(?:\s?{_MIXED}|\s+(?P<o>\d+)\s?/\s?(?P<u>\d+)(?![\d.]))
      | {_PURE}
      | (?P<ten>10)\s?\^\s?(?:\{{\s?(?P<tenth>[-+]?\d{{1,3}})\s?\}}|(?P<tenthd>[-+]?\d{{1,3}}))
      | (?:(?P<whole>{_DIGITS})(?:\.(?P<decimals>\d*))?|\.(?P<bare>\d+))(?:\\overline\s?\{{(?P<period>\d+)\}})?
        (?:[eE](?P<exponent>[-+]?\d{{1,3}})
          |\s?(?:\\times|\\cdot|[xX*])\s?10\s?\^\s?(?:\{{\s?(?P<power>[-+]?\d{{1,3}})\s?\}}|(?P<powerd>[-+]?\d{{1,3}}))
          |\s?/\s?(?P<under>[-+]?\d+)(?![\d.]))?
    )
    (?:\s+(?P<scale>thousand|million|billion|trillion|dozen)\b)?
    (?P<rest>.*)""",
    re.VERBOSE | re.DOTALL,
)
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_PERCENT = re.compile(r"\s?(?:%|per ?cent\b|pct\b)", re.IGNORECASE)
_WORD = r"[A-Za-z]+(?:\^\{?\d\}?)?"
_UNIT = re.compile(rf"\s?(?:°\s?[CF]?\b|°|[€£$]|{_WORD}(?:\s?/\s?{_WORD})?(?:[ -]{_WORD}){{0,4}})")
_UPRIGHT_CONSTANT = re.compile(r"\\[a-z]+\s?\{\s*[eid]\s*\}")
_GLOSS = re.compile(r"\s+\((?:[A-Za-z -]*[A-Za-z]{4}[A-Za-z -]*|one|two|six|ten)\)")
_SAME_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Number:
    """A number, with what its notation adds to its value."""

    value: Fraction
    percent: bool = False
    unit: str = ""
    decimals: int = 0
    """Digits after the point: the precision of a rounded number."""


def compare(gold: str, answer: str) -> Finding | None:
    """Compare two plain numbers, or return None if either text is not one."""
    wanted = read(gold)
    given = read(answer) if wanted else None
    if wanted is None or given is None:
        return None
    scaled = commensurable(wanted, given)
    if scaled is None:
        return Finding(Outcome.WRONG, "another unit")
    if wanted.value in scaled:
        return Finding(Outcome.CORRECT, "equal numbers")
    if any(_agree_as_rounded(wanted, given, value) for value in scaled):
        return Finding(Outcome.CORRECT, "equal as far as it is written out")
    return Finding(Outcome.WRONG, "different numbers")


def commensurable(wanted: Number, given: Number) -> tuple[Fraction, ...] | None:
    """Return the values that a number may have in the gold number's unit, or None if their units contradict each other.

    A percentage may mean its share. Where only one of the two has the sign, from 1 on it may mean the bare number, too.
    """
    if wanted.percent or given.percent:
        if units.is_known(wanted.unit) or units.is_known(given.unit):
            return None
        if wanted.percent == given.percent:
            return (given.value,)
        share = given.value / 100 if given.percent else given.value * 100
        return (share, given.value) if abs(given.value) >= 1 else (share,)
    if wanted.unit == given.unit:
        return (given.value,)
    ratio = units.ratio(wanted.unit, given.unit)
    return None if ratio is None else (given.value * ratio,)


@lru_cache(maxsize=16384)
def read(text: str) -> Number | None:
    """Return the plain number that a text states, or None if it states more than a number, a unit and a few words."""
    if _INTEGER.fullmatch(text):
        return Number(Fraction(int(text.replace(",", ""))))
    if len(text) > _MAX_CHARACTERS or ".." in text or ("{" in text and _UPRIGHT_CONSTANT.search(text)):
        return None
    text = " ".join(notation.flat(notation.tidy(text)).split())
    text = re.sub(r"\$([^$]+)\$", r"\1", text)
    if hedge := notation.HEDGES.match(text):
        text = text[hedge.end() :]
    text = re.sub(r"^(?:negative|minus)\s+", "-", _GLOSS.sub("", text))
    if text[:1].isalpha() or text[-2:].isalpha():
        text = numerals.in_digits(text)
    match = _NUMBER.fullmatch(text)
    return _number(match) if match else None


def _number(match: re.Match[str]) -> Number | None:
    value = _value(match)
    if value is None or (match["sign"] and match["sign2"]):
        return None
    value *= _SCALES.get(match["scale"], 1)
    rest = match["rest"]
    percent = _PERCENT.match(rest)
    tail = rest[percent.end() :] if percent else rest
    unit = _unit(tail, match["money"] or "")
    if unit is None:
        return None
    decimals = len(match["decimals"] or match["bare"] or "") if not (match["under"] or match["period"]) else 0
    negative = "-" in (match["sign"], match["sign2"])
    return Number(-value if negative else value, bool(percent), unit, decimals)


def _value(match: re.Match[str]) -> Fraction | None:
    group = match.groupdict()
    if group["mixed"]:
        over, under = (group[a] or group[b] or group[c] for a, b, c in (("mo", "mod", "o"), ("mu", "mud", "u")))
        return Fraction(group["mixed"]) + Fraction(over) / Fraction(under) if Fraction(under) else None
    if over := group["fo"] or group["fod"]:
        under = _plain(group["fu"] or group["fud"])
        return Fraction(_plain(over)) / Fraction(under) if Fraction(under) else None
    if group["ten"]:
        return Fraction(10) ** int(group["tenth"] or group["tenthd"])
    digits = group["decimals"] or group["bare"] or ""
    value = Fraction(int(_plain(group["whole"] or "0") + digits), 10 ** len(digits))
    if period := group["period"]:
        if group["decimals"] is None and group["bare"] is None:
            return None
        value += Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(digits))
    if power := group["exponent"] or group["power"] or group["powerd"]:
        value *= Fraction(10) ** int(power)
    if group["under"]:
        return value / int(group["under"]) if int(group["under"]) else None
    return value


def _unit(rest: str, money: str) -> str | None:
    """Return the unit after a number, "" if there is none, or None if more than a unit follows."""
    if cut := notation.TAIL.search(rest):
        tail = rest[cut.start() :]
        if notation.RETRACTED.search(tail) and not re.match(r"\s*[,(]\s*not\b", tail):
            return None
        rest = rest[: cut.start()]
    if not rest.strip():
        return money
    match = _UNIT.fullmatch(rest.rstrip(" .,"))
    if match is None:
        return None
    unit = match.group().strip()
    if not units.is_known(unit) and any(word[:1].isalpha() and not word[1:2].isalpha() for word in unit.split()):
        return None
    if not units.is_known(unit) and any(
        word in CLOSED_CLASS and word not in UNIT_FILLERS for word in unit.casefold().replace("-", " ").split()
    ):
        return None
    # `5x` and `5 x` are formulas, `10cm` and `10 m` are quantities, `5m` may be either.
    glued = not rest[0].isspace() and not unit.startswith("°")
    if (glued and (len(unit) == 1 or not units.is_known(unit))) or (
        len(unit) == 1 and not units.is_known(unit) and unit != "°"
    ):
        return None
    return f"{money}/{unit[4:]}" if money and unit.startswith("per ") else unit


def _agree_as_rounded(wanted: Number, given: Number, value: Fraction) -> bool:
    """Return whether two numbers differ by less than the last digit of the shorter decimal, if that is long enough."""
    written = [number for number in (wanted, given) if number.decimals]
    if not written:
        return False
    shorter = min(written, key=lambda number: number.decimals)
    is_enough = shorter.decimals >= _SAME_DIGITS and abs(shorter.value) * 10**shorter.decimals >= 10 ** (
        _SAME_DIGITS - 1
    )
    return is_enough and abs(wanted.value - value) < Fraction(1, 10**shorter.decimals)


def _plain(digits: str) -> str:
    return digits.replace(",", "").replace(" ", "")

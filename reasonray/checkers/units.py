"""Units of measure in answers: which are equal, which convert, which contradict each other."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

# Factors are of metres, grams, seconds, dollars.
_LENGTHS = {
    "mm millimeter millimetre": "1/1000",
    "cm centimeter centimetre": "1/100",
    "m meter metre": "1",
    "km kilometer kilometre": "1000",
    "in inch inches": "0.0254",
    "ft foot feet": "0.3048",
    "yd yard": "0.9144",
    "mi mile": "1609.344",
}
_MASSES = {
    "mg milligram": "1/1000",
    "g gram": "1",
    "kg kilogram": "1000",
    "oz ounce": "28.349523125",
    "lb lbs pound": "453.59237",
}
_TIMES = {
    "ms millisecond": "1/1000",
    "s sec second": "1",
    "min minute": "60",
    "h hr hour": "3600",
    "day": "86400",
    "week": "604800",
}
_VOLUMES = {"ml milliliter millilitre": "1/1000000", "l liter litre": "1/1000"}
_MONEY = {"cent": "1/100", "dollar usd $": "1"}
_EUROS = {"euro eur €": "1"}

_FORCES = {"newton": "1000", "kn": "1000000"}
_ENERGIES = {"joule": "1000", "kj": "1000000"}
_POWERS = {"watt": "1000", "kw": "1000000"}
_PRESSURES = {"pa pascal": "1000", "kpa": "1000000"}
_FREQUENCIES = {"hz hertz": "1", "khz": "1000"}
_OTHERS = "volt|amp ampere|ohm|kelvin|mol mole|rad radian|coulomb".split("|")  # noqa: SIM905
_BASES = {"length": _LENGTHS, "mass": _MASSES, "time": _TIMES, "dollars": _MONEY, "euros": _EUROS}

_DIMENSIONS: list[tuple[dict[str, int], dict[str, str]]] = [
    *(({base: 1}, table) for base, table in _BASES.items()),
    ({"length": 3}, _VOLUMES),
    ({"mass": 1, "length": 1, "time": -2}, _FORCES),
    ({"mass": 1, "length": 2, "time": -2}, _ENERGIES),
    ({"mass": 1, "length": 2, "time": -3}, _POWERS),
    ({"mass": 1, "length": -1, "time": -2}, _PRESSURES),
    ({"time": -1}, _FREQUENCIES),
    *(({names.partition(" ")[0]: 1}, {names: "1"}) for names in _OTHERS),
]
_KNOWN: dict[str, tuple[dict[str, int], Fraction]] = {
    name: (dimensions, Fraction(factor))
    for dimensions, table in _DIMENSIONS
    for names, factor in table.items()
    for name in names.split()
}
_PART = re.compile(r"(^|[/*])([^/*]+)")
_POWER = re.compile(r"-?[1-6]")
_SYNONYMS = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "°c": "degree celsius", "celsius": "degree celsius"}
_SYNONYMS |= {"°f": "degree fahrenheit", "fahrenheit": "degree fahrenheit", "£": "sterling", "¥": "yen"}
_FILLERS = frozenset(("a", "an", "the", "of", "total", "altogether", "each"))


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit: its dimension and factor if it is known, else its words."""

    dimension: str
    factor: Fraction
    words: frozenset[str]


@lru_cache(maxsize=4096)
def unit(text: str) -> Unit:
    """Read a unit such as `cm^2`, `square feet`, `km/h` or `red apples`."""
    text = text.casefold().replace("°", " ° ").replace("° c", "°c").replace("° f", "°f").strip(" .")
    text = re.sub(r"\bper\b", "/", " ".join(_SYNONYMS.get(word, word) for word in text.split()))
    text = re.sub(r"\b(?:square|sq)\.? (\w+)", r"\1^2", text)
    text = re.sub(r"\bcubic (\w+)", r"\1^3", text)
    text = re.sub(r"\{(-?\d)\}", r"\1", text)
    text = re.sub(r"\s*([/^*])\s*", r"\1", text)
    known = _known(text) or _known(text.partition(" ")[0])
    if known:
        return Unit(*known, frozenset())
    words = ("degree" if word == "°" else _singular(word) for word in re.split(r"[\s/,-]+", text))
    return Unit("", Fraction(1), frozenset(word for word in words if word and word not in _FILLERS))


def ratio(wanted: str, given: str) -> Fraction | None:
    """Return how many of the wanted unit make one of the given unit, or None if the two contradict each other.

    A missing unit contradicts none. Unknown units agree if the words of one are among the words of the other.
    """
    if not wanted or not given or wanted == given:
        return Fraction(1)
    first, second = unit(wanted), unit(given)
    if first.dimension or second.dimension:
        return second.factor / first.factor if first.dimension == second.dimension else None
    return Fraction(1) if first.words <= second.words or second.words <= first.words else None


def is_known(text: str) -> bool:
    """Return whether a unit is one of those that convert."""
    return bool(unit(text).dimension)


def _known(text: str) -> tuple[str, Fraction] | None:
    """Return dimension and factor of `base^power/base^power*…`."""
    powers: dict[str, int] = {}
    factor = Fraction(1)
    for sign, part in _PART.findall(text):
        base, _, power = part.partition("^")
        known = _KNOWN.get(base) or _KNOWN.get(_singular(base))
        if known is None or not _POWER.fullmatch(power or "1"):
            return None
        exponent = int(power or 1) * (-1 if sign == "/" else 1)
        dimensions, size = known
        for dimension, of in dimensions.items():
            powers[dimension] = powers.get(dimension, 0) + of * exponent
        factor *= size**exponent
    if not powers or "".join(sign + part for sign, part in _PART.findall(text)) != text:
        return None
    return " ".join(f"{name}^{power}" for name, power in sorted(powers.items()) if power) or "1", factor


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("xes", "ches", "shes", "sses")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 2 else word

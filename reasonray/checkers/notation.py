"""Normalisation of notation: unicode, LaTeX spacing and text commands, math delimiters, units, surrounding prose.

Nothing here computes. `tidy` returns LaTeX, `flat` plain characters, `formula` the formula in a prose answer.
"""

from __future__ import annotations

import re
from functools import lru_cache

from reasonray.answers import strip_markup
from reasonray.checkers.mathematics.vocabulary import PHRASES

_VULGAR = "1/2 1/3 2/3 1/4 3/4 1/5 2/5 3/5 4/5 1/6 5/6 1/8 3/8 5/8 7/8".split()  # noqa: SIM905
_CHARACTERS = {
    **dict.fromkeys("−–‒﹣", "-"),
    **dict.fromkeys("\u00a0\u202f\u2009\u2007", " "),
    **{"⁄": "/", "÷": "/", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "≤": r"\le ", "≥": r"\ge "},
    **{"≠": r"\ne ", "±": r"\pm ", "∞": r"\infty ", "π": r"\pi ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in "},
    **{"∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "’": "'"},
    **dict(
        zip(
            "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞",
            (f" {part}" for part in _VULGAR),
            strict=True,
        )
    ),
}
_UNICODE = str.maketrans(_CHARACTERS)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_ROOT = re.compile(r"√\s?(?:\(([^()]{1,80})\)|(\w{1,20}))")
_SPACING = re.compile(
    r"(?<!\\)\\(?:[,;: ]|quad\b|qquad\b|displaystyle\b|left\b(?=\s?[\[\]()|.\\])|right\b(?=\s?[\[\]()|.\\]))|~"
)
_DEGREES = re.compile(r"\^\s?(?:\{\s?\\circ\s?\}|\\circ(?![A-Za-z]))|\\degree\b")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mbox|bf|rm)\s?\{([^{}]*)\}")
_INLINE = re.compile(r"\$\$?([^$]{1,2000})\$\$?|\\\((.{1,2000}?)\\\)|\\\[(.{1,2000}?)\\\]", re.DOTALL)
_CHOOSE = re.compile(r"\{([^{}]{1,80})\\choose([^{}]{1,80})\}")
_UNIT_BEHIND = re.compile(r"\s*([A-Za-z][A-Za-z /]{0,30}?)\s*(\^\s?\{?\d\}?)?[\s.,]*")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)

_DEEPEST = 4
"""Levels of nested braces or text commands that are removed; a bound, so that hostile answers stay cheap."""

HEDGES = re.compile(
    r"(?:(?:exactly|simply|just|indeed|clearly|therefore|thus|then|hence|equal to|given by|precisely|obviously"
    r"|approximately|about|roughly|is|the (?:number|value|integer|fraction|sum|total)(?: of)?|a total of"
    r"|(?:the )?(?:point|interval|set|(?:ordered )?pair|vector|matrix)(?: is)?)\b[\s:,]*"
    r"|(?:\\approx|≈|=|:)\s*)+",
    re.IGNORECASE,
)
CHANGES_VALUE = re.compile(
    r"\b(?:not|neither|nor|less|more|fewer|greater|larger|smaller|least|most|between|twice|thrice|half|double|times|than"
    r"|plus|minus|squared|cubed|unknown|close|near|nearly|almost|under|over|above|below|without|except|but|wrong"
    r"|incorrect|wait|actually|maybe|perhaps|impossible|undefined|any|every|no|cannot|factorial|mod|modulo"
    r"|multiples?|divisible|factor|divisor|power|root|logarithm|prime|range|some|up|within|outside|inside|to|hundred"
    r"|hundreds|possibly|probably|or|and|out|over|divided|choose|halves|thirds|fourths|fifths|sixths|sevenths|eighths"
    r"|ninths|tenths|hundredths|thousandths|thousand|million|billion|trillion|dozen|nd|th|st|rd|pi|sqrt|sin|cos|tan|log"
    r"|ln|is|am|pm)\b",
    re.IGNORECASE,
)
_REASON = r"because|since|as|using|found|obtained|in (?:total|all)|i\.e\."
_CONSEQUENCE = r"(?:and )?(?:which|so|giving|hence|thus|therefore)"
TAIL = re.compile(
    rf"(?:\s*[,;:(]?\s*(?:(?:{_REASON})\b|(?:{_CONSEQUENCE})\b(?=[^\d$\\]*$|\s+is\s+(?:about|approximately|roughly)\b))"
    r"|\s*,\s*not\b|\s+\((?:not|or)\s+[^()]*\)$)",
    re.IGNORECASE,
)
RETRACTED = re.compile(r"\b(?:but|wait|wrong|incorrect|actually|rather|instead|mistake|no|or)\b", re.IGNORECASE)
_RULED_OUT = re.compile(r"\s*[,(]\s*not\b", re.IGNORECASE)
_JOINT = re.compile(r"\s*(?:,|;|,?\s*and|,?\s*or)\s*", re.IGNORECASE)
_PI = re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])")
_AND = re.compile(r"(?<![\\A-Za-z])(?:,\s*)?(?:and|or)(?![A-Za-z])", re.IGNORECASE)
_WORD = re.compile(r"(?<![\\A-Za-z{_^])[A-Za-z]{2,}(?![A-Za-z(_^])")
_MATH_WORDS = frozenset(
    (
        "sin",
        "cos",
        "tan",
        "log",
        "ln",
        "sqrt",
        "pi",
        "and",
        "or",
        "inf",
        "infinity",
        "exp",
        "sec",
        "csc",
        "cot",
        "det",
        "gcd",
        "lcm",
    )
)
_SHORT_WORDS = frozenset(
    "is of the for so as in to by not but at we it if no on an be all its was are has can per via".split()  # noqa: SIM905
)


@lru_cache(maxsize=4096)
def tidy(text: str) -> str:
    """Return an answer as LaTeX without delimiters, spacing commands, typographic characters and variant commands."""
    if not text.isascii():
        text = _RAISED.sub(lambda digits: "^{" + digits.group().translate(_SUPERSCRIPTS) + "}", text).translate(
            _UNICODE
        )
        text = _ROOT.sub(lambda root: rf"\sqrt{{{root[1] or root[2]}}}", text)
    text = strip_markup(text).replace("**", "^")
    if "\\" in text or "{" in text or "~" in text:
        text = text.replace(r"\!", "").replace("{,}", ",").replace(r"\$", "$").replace(r"\%", "%")
        text = _DEGREES.sub("°", _SPACING.sub(" ", text))
        text = re.sub(r"\\[dtc]frac\b", r"\\frac", text)
        text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
        text = re.sub(r"\\([lg])eq(?:slant)?\b", r"\\\1e", text)
        for _ in range(_DEEPEST):
            if not (text.startswith("{") and text.endswith("}") and _closes_last(text)):
                break
            text = text[1:-1].strip()
    # Single spaces keep regular expressions from backtracking over long runs of them.
    return " ".join(text.split()).rstrip(" ,;")


def flat(text: str) -> str:
    """Return a tidy text as plain characters, its text commands replaced by their contents."""
    for _ in range(_DEEPEST):
        if "\\" not in text:
            break
        text = _TEXT.sub(lambda command: " " + command[1].rstrip(), text)
    return " ".join(text.split())


def squeezed(text: str) -> str:
    """Return a tidy text without the spaces that separate no words, so that two texts can be compared."""
    return re.sub(r"(?<![A-Za-z0-9])\s+|\s+(?![A-Za-z0-9])", "", tidy(text))


def words(text: str) -> str | None:
    """Return a text in one case if it is words, or None if it is a formula."""
    text = tidy(text)
    plain = flat(text).strip("(). '\"")
    if not re.fullmatch(r"[A-Za-z]+(?:[ '-]+[A-Za-z]+)*", plain):
        return None
    if (
        _TEXT.fullmatch(text)
        or (len(plain) > 3 and plain.casefold() not in _MATH_WORDS)
        or plain.casefold() in {"yes", "no", "odd"}
    ):
        return " ".join(plain.casefold().split())
    return None


def without_tail(text: str) -> str:
    """Return a tidy text without the reason after it, or the whole text if that reason retracts something."""
    text = tidy(text)
    cut = TAIL.search(text)
    return text[: cut.start()] if cut and not RETRACTED.search(text, cut.start()) else text


def formula(text: str) -> str | None:
    """Return the one formula (or list of formulas) that a prose answer states, or None if it states none or hedges.

    "approximately $5$", "$x = 1$ and $y = 2$" and "5, because …" state one; "not $5$", "less than 5" and "5, no, 6" do
    not.
    """
    text = tidy(text)
    segments = list(_INLINE.finditer(text))
    if segments:
        return _segment(text, segments)
    text = _PI.sub(r"\\pi ", _AND.sub(",", flat(text)))
    text = re.sub(r"^\s*,|(?<=,)\s*,", "", re.sub(r"^\s*(?:either|both)\b", "", text, flags=re.IGNORECASE))
    text = text[hedge.end() :] if (hedge := HEDGES.match(text)) else text
    for word in _WORD.finditer(text):
        if _is_foreign(word.group()):
            return _before_tail(text, word.start())
    return text or None


def balanced(text: str) -> bool:
    """Return whether the braces balance."""
    depth = 0
    for token in _BRACES.finditer(text):
        depth += (token.group() == "{") - (token.group() == "}")
        if depth < 0:
            return False
    return depth == 0


def _segment(text: str, segments: list[re.Match[str]]) -> str | None:
    first = segments[0]
    if CHANGES_VALUE.search(text, 0, first.start()):
        return None
    kept = [first]
    for segment in segments[1:]:
        if not _JOINT.fullmatch(text, kept[-1].end(), segment.start()):
            break
        kept.append(segment)
    tail = text[kept[-1].end() :]
    if not _is_harmless(tail):
        return None
    stated = tidy(", ".join(next(filter(None, segment.groups())) for segment in kept))
    cut = TAIL.search(tail)
    unit = _UNIT_BEHIND.fullmatch(tail[: cut.start()] if cut else tail)
    return rf"{stated}\text{{ {unit[1]}}}{unit[2] or ''}" if unit else stated


def _before_tail(text: str, at: int) -> str | None:
    """Return the text before the first word that is not of a formula, or None if the rest changes the value."""
    head = text[:at].rstrip(" ,;:(")
    rest = text[len(head) :]
    return head if head and _is_harmless(rest) else None


def _is_harmless(tail: str) -> bool:
    """Return whether the text after a formula leaves its value unchanged: a unit, a reason, a rejected value."""
    if cut := TAIL.search(tail):
        reason = tail[cut.start() :]
        if RETRACTED.search(reason) and not _RULED_OUT.match(reason):
            return False
        tail = tail[: cut.start()]
    tail = re.sub(r"(?<=[A-Za-z])\^\{?\d\}?", "", tail)  # the square of a unit
    return not CHANGES_VALUE.search(tail) and not re.search(r"[\d$\\]|[-–—+*=<>]", tail)


def _is_foreign(word: str) -> bool:
    folded = word.casefold()
    return folded not in _MATH_WORDS and (len(word) > 3 or folded in _SHORT_WORDS)


def _closes_last(text: str) -> bool:
    """Return whether the first brace of a text closes at its end."""
    depth = 0
    for token in _BRACES.finditer(text):
        depth += (token.group() == "{") - (token.group() == "}")
        if depth == 0:
            return token.end() == len(text)
    return False


def phrase(text: str) -> str | None:
    """Return the phrase that stands for a fixed one such as "no solutions" or "DNE", or None."""
    return PHRASES.get(" ".join(text.casefold().split()))

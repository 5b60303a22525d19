"""Normalisation of notation: unicode, LaTeX spacing and text commands, math delimiters, units, surrounding prose.

Nothing here computes. `tidy` returns LaTeX, `flat` plain characters, `words` words in one case.
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
_CHOOSE = re.compile(r"\{([^{}]{1,80})\\choose([^{}]{1,80})\}")
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
_REASON = r"because|since|as|using|found|obtained|in (?:total|all)|i\.e\."
_CONSEQUENCE = r"(?:and )?(?:which|so|giving|hence|thus|therefore)"
TAIL = re.compile(
    rf"(?:\s*[,;:(]?\s*(?:(?:{_REASON})\b|(?:{_CONSEQUENCE})\b(?=[^\d$\\]*$|\s+is\s+(?:about|approximately|roughly)\b))"
    r"|\s*,\s*not\b|\s+\((?:not|or)\s+[^()]*\)$)",
    re.IGNORECASE,
)
RETRACTED = re.compile(r"\b(?:but|wait|wrong|incorrect|actually|rather|instead|mistake|no|or)\b", re.IGNORECASE)
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
        text = _TEXT.sub(_apart, text)
    return " ".join(text.split())


def _apart(command: re.Match[str]) -> str:
    """Return the content of a text command, apart from the words around it, next to a sign after it."""
    following = command.string[command.end() : command.end() + 1]
    return f" {command[1].rstrip()}{' ' if following.isalnum() else ''}"


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


def balanced(text: str) -> bool:
    """Return whether the braces balance."""
    depth = 0
    for token in _BRACES.finditer(text):
        depth += (token.group() == "{") - (token.group() == "}")
        if depth < 0:
            return False
    return depth == 0


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

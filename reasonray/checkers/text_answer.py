"""Answers in words: the same text, or one of several.

`metadata["accepted"]` may list further answers that count as right. `metadata["text_match"]` is `normalised` (case,
spacing, typography, quotes and punctuation around the text set aside; the default) or `exact`.
"""

from __future__ import annotations

import unicodedata

from reasonray.checkers import notation
from reasonray.records import Outcome, Problem

_MATCHES = ("normalised", "exact")
_AROUND = " .,;:!?\"'`*_()[]{}"
_TYPOGRAPHY = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "−": "-", "‐": "-", "‑": "-"})


def compare(problem: Problem, answer: str) -> tuple[Outcome, str]:
    """Say whether an answer is the gold answer or one of those accepted beside it."""
    if reason := unverifiable(problem):
        return Outcome.UNVERIFIABLE, reason
    accepted = [problem.answer or "", *map(str, problem.metadata.get("accepted", ()))]
    if problem.metadata.get("text_match", "normalised") == "exact":
        same = answer.strip() in {text.strip() for text in accepted}
    else:
        same = normalised(answer) in {normalised(text) for text in accepted}
    return (Outcome.CORRECT, "same text") if same else (Outcome.WRONG, "another text")


fast = compare
"""Nothing here can take long."""


def unverifiable(problem: Problem) -> str | None:
    """Return what is wrong with the gold answer or the options of the comparison, None if nothing is."""
    if problem.metadata.get("text_match", "normalised") not in _MATCHES:
        return f"text_match is {problem.metadata['text_match']!r}; it must be one of {', '.join(_MATCHES)}"
    if not isinstance(problem.metadata.get("accepted", ()), list | tuple):
        return "accepted must be a list of texts"
    return None if normalised(problem.answer or "") else "the gold answer is empty"


def normalised(text: str) -> str:
    """Return the text in one case, with single spaces, without LaTeX text commands and punctuation around it."""
    folded = unicodedata.normalize("NFKC", notation.flat(text)).translate(_TYPOGRAPHY).casefold()
    return " ".join(folded.split()).strip(_AROUND)

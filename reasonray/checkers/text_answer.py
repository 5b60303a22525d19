"""Answers in words: the same text as the gold answer.

`metadata["text_match"]` is `normalised` (the default: case, spacing, typography, quotes and surrounding punctuation are
ignored) or `exact`.
"""

from __future__ import annotations

import re
import unicodedata

from reasonray.answers import ExtractedAnswer, final_answer, is_words
from reasonray.checkers import notation
from reasonray.checkers.checker import Checker, Finding
from reasonray.records import Outcome, Problem

_MATCHES = ("normalised", "exact")
_AROUND = " .,;:!?\"'`*_()[]{}"
_TYPOGRAPHY = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "−": "-", "‐": "-", "‑": "-"})


_ARTICLE = re.compile(r"^(?:the|an?) (?=\S)")
_LEAD = re.compile(r"^(?:it is |it's )?(?:on |in |at )?(?:the |an? )?(?=\S)")
"""Words before an answer that do not change it where the other text has none: "on Friday" is "Friday"."""
_ESCAPED = re.compile(r"\\([&%$#_ ])")


class TextAnswer(Checker):
    """Judges whether an answer is the gold answer's text."""

    def unverifiable(self, problem: Problem) -> str | None:
        """Return what is wrong with the gold answer or with the options of the comparison, or None if nothing is."""
        if problem.metadata.get("text_match", "normalised") not in _MATCHES:
            return f"text_match is {problem.metadata['text_match']!r}; it must be one of {', '.join(_MATCHES)}"
        return None if normalised(problem.answer or "") else "the gold answer is empty"

    def extract(self, problem: Problem, response: str) -> ExtractedAnswer | None:
        """Return the final answer of a response; a response of a few words is one as a whole."""
        return final_answer(response, whole_sentences=True, accepts=is_words)

    def compare(self, problem: Problem, answer: str) -> Finding:
        """Judge whether two texts are the same."""
        if reason := self.unverifiable(problem):
            return Finding(Outcome.UNVERIFIABLE, reason)
        gold = problem.answer or ""
        if problem.metadata.get("text_match", "normalised") == "exact":
            is_same = answer.strip() == gold.strip()
        else:
            is_same = _is_same(normalised(gold), normalised(answer))
        return Finding(Outcome.CORRECT, "same text") if is_same else Finding(Outcome.WRONG, "another text")

    fast = compare


def normalised(text: str) -> str:
    """Return a text in one case with single spaces, without LaTeX text commands and surrounding punctuation."""
    folded = unicodedata.normalize("NFKC", notation.flat(_ESCAPED.sub(r"\1", text))).translate(_TYPOGRAPHY).casefold()
    return " ".join(folded.split()).strip(_AROUND)


def _is_same(gold: str, answer: str) -> bool:
    """Return whether two normalised texts differ by an article, or by words of one of them that only lead to it."""
    if gold == answer or _ARTICLE.sub("", gold) == _ARTICLE.sub("", answer):
        return True
    return _LEAD.sub("", gold) == answer or gold == _LEAD.sub("", answer)

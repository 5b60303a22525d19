"""Answers in words: equal once case, spacing and surrounding punctuation are set aside.

`metadata["accepted"]` may list further answers that count as right.
"""

from __future__ import annotations

import string
import unicodedata

from reasonray.records import Outcome, Problem


def compare(problem: Problem, answer: str) -> tuple[Outcome, str]:
    """Say whether an answer is the gold answer or one of those accepted beside it."""
    accepted = [problem.answer or "", *map(str, problem.metadata.get("accepted", ()))]
    if normalised(answer) in {normalised(text) for text in accepted}:
        return Outcome.CORRECT, "same text"
    return Outcome.WRONG, "another text"


def normalised(text: str) -> str:
    """Return the text in one case, with single spaces, without quotes and punctuation around it."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).strip(string.punctuation + " ")

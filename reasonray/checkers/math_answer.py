"""Mathematical equality by math-verify (LaTeX, sets, intervals, matrices, equations), after the fast path has passed.

math-verify compares asymmetrically: the gold answer comes first. Its own time limits are signals that work on a main
thread only and cannot interrupt a long integer operation; they are off here, the pool kills instead.
"""

from __future__ import annotations

import logging

from reasonray.records import Outcome, Problem

# It warns at every call that its time limits are off, which is what is wanted here.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def compare(problem: Problem, answer: str) -> tuple[Outcome, str]:
    """Say whether an answer equals the problem's gold answer."""
    from math_verify import verify

    gold = _parsed(problem.answer or "")
    if not gold:
        return Outcome.UNVERIFIABLE, "math-verify cannot read the gold answer"
    given = _parsed(answer)
    if not given:
        return Outcome.WRONG, "math-verify cannot read the answer"
    equal = verify(gold, given, timeout_seconds=None)
    return (Outcome.CORRECT if equal else Outcome.WRONG), "math-verify"


def is_readable(answer: str) -> bool:
    """Say whether a gold answer can be judged at all."""
    return bool(_parsed(answer))


def _parsed(text: str) -> list[object]:
    from math_verify import parse

    # Delimiters make math-verify read the whole as one formula instead of looking for numbers in prose.
    return list(parse(f"${text}$", parsing_timeout=None)) or list(parse(text, parsing_timeout=None))

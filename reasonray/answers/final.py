"""The final answer of a text: the last candidate that the text does not take back.

Boxes, tags, `####` and statements are candidates of one kind: the later one counts. Only where there is none of them,
weaker forms do: a value that the text calls its result, a last sentence "Therefore, x = 42", a last line in bold, a
response that is the answer and nothing else, and, where that is asked for, the last number.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from reasonray.answers.boxes import boxes, hashes, listed_with, tags
from reasonray.answers.candidate import Candidate, ExtractedAnswer
from reasonray.answers.markup import is_formula, strip_markup
from reasonray.answers.retractions import correction, taken_back_at
from reasonray.answers.statements import lowered, occurrences, outcomes, statements

_NUMBER = re.compile(r"(?<![\w.])-?[$€£]?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?")
_CONCLUSION = re.compile(
    r"(?:^|[.\n])[\s*_]*(?:therefore|thus|hence|so|consequently|finally|in conclusion|∴)\b[\s,:]{0,4}"
    r"(?:(?:we|i) (?:get|have|obtain|find|conclude)\b(?: that)?:?\s{0,4})?(?P<value>[^\n]{1,200}?=[^\n]{1,200})\s*$",
    re.IGNORECASE,
)
_BOLD_LINE = re.compile(r"(?:^|\n)\s*\*\*([^*\n]{1,100})\*\*[.!]?\s*$")
_IS_THE_ANSWER = re.compile(
    r"(?:^|[.!?\n:])\s*(?:so|thus|therefore|hence)?,?\s*(?P<value>[^.!?\n]{1,60}?)\*{0,2} (?:is|as) (?:the|our|my) "
    r"(?:final |correct |right )?$",
    re.IGNORECASE,
)
_REASONING_ENDS = (
    *("[/THINK]", "</thinking>", "</reasoning>", "</thought>", "<|end_of_thought|>", "◁/think▷"),
    *("<|channel|>final<|message|>", "assistantfinal"),
)
_CLOSING = 600
"""The last characters in which a conclusion without a label is looked for."""


def final_answer(
    text: str,
    *,
    last_number: bool = False,
    accepts: Callable[[str], bool] = is_formula,
    weaker: Callable[[str], list[Candidate]] | None = None,
) -> ExtractedAnswer | None:
    """Return the final answer of a text, or None if no rule finds one or the text takes it back.

    Args:
        text: the response, without the reasoning before it.
        last_number: whether the last number is the answer if no other rule finds one.
        accepts: whether a response that is nothing but a short text can be the answer.
        weaker: a checker's own rules, for texts without a box, a tag, `####` or a statement.
    """
    found = candidates(text)
    if found:
        chosen = _last(found)
        if chosen.retracted:
            return None
        others = (
            listed_with(text, [box for box in found if box.rule == "boxed"], chosen) if chosen.rule == "boxed" else ()
        )
        return ExtractedAnswer(chosen.text, chosen.rule, chosen.closed, others)
    weak = _weak(text, accepts, weaker) or (_last_number(text) if last_number else None)
    if weak is None or (weak.rule != "last number" and taken_back_at(text, weak.end, len(text)) >= 0):
        return None
    return ExtractedAnswer(weak.text, weak.rule, weak.closed)


def candidates(text: str) -> list[Candidate]:
    """Return the boxes, tags, `####` and statements of a text in their order, with what the text takes back marked.

    Of an answer within another (a box in a tag, a statement after `####`) the inner one comes later and counts.
    """
    start = max((text.rfind(mark) + len(mark) for mark in _REASONING_ENDS if mark in text), default=0)
    rest = text[start:] if start else text
    found = sorted([*tags(rest), *hashes(rest), *statements(rest), *boxes(rest)], key=lambda candidate: candidate.start)
    if not found:
        return []
    at = taken_back_at(rest, _last(found).end, len(rest))
    if at < 0:
        return _shifted(found, start)
    corrected = correction(rest, at)
    found = [replace(candidate, retracted=True) for candidate in found]
    return _shifted([*found, corrected] if corrected else found, start)


def last_boxed(text: str) -> str | None:
    """Return the content of the last `\\boxed{…}` whose braces balance, or None if there is none."""
    return next(reversed(boxed_answers(text)), None)


def boxed_answers(text: str) -> list[str]:
    """Return the contents of all closed `\\boxed{…}` that hold no other box, in their order."""
    return [box.text for box in boxes(text) if not box.retracted]


def after_hashes(text: str) -> str | None:
    """Return the text after the last `####`, which is how GSM8K writes its gold answers; None if there is none."""
    _, mark, after = text.rpartition("####")
    return strip_markup(after.partition("\n")[0]) or None if mark else None


def _last(found: list[Candidate]) -> Candidate:
    return next((candidate for candidate in reversed(found) if not candidate.remark), found[-1])


def _shifted(found: list[Candidate], by: int) -> list[Candidate]:
    return [replace(one, start=one.start + by, end=one.end + by) for one in found] if by else found


def _weak(
    text: str, accepts: Callable[[str], bool], weaker: Callable[[str], list[Candidate]] | None
) -> Candidate | None:
    """Return the last answer that the weaker rules find."""
    found = [*outcomes(text), *_conclusions(text)]
    found += weaker(text) if weaker else []
    if found:
        return sorted(found, key=lambda candidate: candidate.start)[-1]
    stripped = text.strip()
    if not stripped or len(stripped) > _CLOSING or "\n\n" in stripped or not accepts(stripped):
        return None
    start = text.find(stripped)
    return Candidate(strip_markup(stripped), start, len(text), "whole response", closed=False)


def _conclusions(text: str) -> list[Candidate]:
    """Return what the last sentence concludes, what the last line has in bold, and what "is the answer"."""
    start = max(0, len(text) - _CLOSING)
    tail = text[start:]
    found = [match.span("value") for match in [_CONCLUSION.search(tail)] if match]
    found += [match.span(1) for match in [_BOLD_LINE.search(tail)] if match]
    for at in occurrences(lowered(tail), "answer"):
        if match := _IS_THE_ANSWER.search(tail, max(0, at - 80), at):
            found.append(match.span("value"))
    values = [(strip_markup(tail[begin:end]), begin, end) for begin, end in found]
    return [
        Candidate(value, start + begin, start + end, "conclusion", closed=start + end < len(text))
        for value, begin, end in values
        if is_formula(value)
    ]


def _last_number(text: str) -> Candidate | None:
    matches = deque(_NUMBER.finditer(text), maxlen=1)
    if not matches:
        return None
    end = matches[0].end()
    return Candidate(matches[0].group().rstrip(","), matches[0].start(), end, "last number", end < len(text))

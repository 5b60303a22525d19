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
from reasonray.answers.markup import is_formula, sentence_end, strip_markup
from reasonray.answers.retractions import correction, taken_back_at
from reasonray.answers.statements import lowered, occurrences, outcomes, predicate, statements

_NUMBER = re.compile(r"(?<![\w.])-?[$€£]?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?")
_CONCLUSION = re.compile(
    r"(?:^|[.\n])[\s*_]*(?:therefore|thus|hence|so|consequently|finally|in conclusion|∴)\b[\s,:]{0,4}"
    r"(?:(?:we|i) (?:get|have|obtain|find|conclude)\b(?: that)?:?\s{0,4})?(?P<value>[^\n]{1,200}?=[^\n]{1,200})\s*$",
    re.IGNORECASE,
)
_BOLD_LINE = re.compile(r"(?:^|\n)\s*\*\*([^*\n]{1,100})\*\*[.!]?\s*$")
_CONCLUDING = re.compile(
    r"(?:^|[.!\n])[\s*_]*(?:therefore|thus|hence|so|consequently|finally|in conclusion|∴)\b[\s,:]{0,4}"
    r"(?P<sentence>[^\n]{1,300})\s*$",
    re.IGNORECASE,
)
_IS_THE_ANSWER = re.compile(
    r"(?:^|[.!?\n:])\s*(?:so|thus|therefore|hence)?,?\s*(?P<value>[^.!?\n]{1,60}?)\*{0,2} (?:is|as) (?:the|our|my) "
    r"(?:final |correct |right |only )?$",
    re.IGNORECASE,
)
_REASONING_ENDS = (
    *("[/THINK]", "</thinking>", "</reasoning>", "</thought>", "<|end_of_thought|>", "◁/think▷"),
    *("<|channel|>final<|message|>", "assistantfinal"),
)
_TURN_END = re.compile(r"<\|(?:im_end|im_start|eot_id|endoftext|end|return)\|>")
_CLOSING = 600
"""The last characters in which a conclusion without a label is looked for."""


def final_answer(
    text: str,
    *,
    last_number: bool = False,
    whole_sentences: bool = False,
    accepts: Callable[[str], bool] = is_formula,
    weaker: Callable[[str], list[Candidate]] | None = None,
) -> ExtractedAnswer | None:
    """Return the final answer of a text, or None if no rule finds one or the text takes it back.

    Args:
        text: the response, without the reasoning before it.
        last_number: whether the last number is the answer if no other rule finds one.
        whole_sentences: whether "The largest n is 34" stays a sentence; else its answer is 34.
        accepts: whether a text can be the answer where it is the whole response or the end of a sentence.
        weaker: a checker's own rules, for texts without a box, a tag, `####` or a statement.
    """
    response = _response(text)
    found = candidates(response)
    if found:
        chosen = _last(found)
        others = listed_with(response, found, chosen) if len(found) > 1 else ()
    else:
        weak = _weak(response, accepts, weaker) or (_last_number(response) if last_number else None)
        if weak is None or (weak.rule != "last number" and taken_back_at(response, weak.end, len(response)) >= 0):
            return None
        chosen, others = weak, ()
    if chosen.retracted:
        return None
    answer = chosen.text if whole_sentences or chosen.rule == "boxed" else predicate(chosen.text, accepts)
    return ExtractedAnswer(answer, chosen.rule, chosen.closed, others)


def candidates(text: str) -> list[Candidate]:
    """Return the boxes, tags, `####` and statements of a text in their order, with what the text takes back marked.

    Of an answer within another (a box in a tag, a statement after `####`) the inner one comes later and counts; a box
    is read as a whole.
    """
    found, boxed = statements(text), boxes(text)
    if found and boxed:
        found = [one for one in found if not any(box.start < one.start < box.end for box in boxed)]
    found += boxed
    if "<" in text:
        found += tags(text)
    if "####" in text:
        found += hashes(text)
    if len(found) > 1:
        found.sort(key=lambda candidate: candidate.start)
    at = taken_back_at(text, _last(found).end, len(text)) if found else -1
    if at < 0:
        return found
    corrected = correction(text, at)
    found = [replace(candidate, retracted=True) for candidate in found]
    return [*found, corrected] if corrected else found


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
    if not found[-1].remark:
        return found[-1]
    return next((candidate for candidate in reversed(found) if not candidate.remark), found[-1])


def _response(text: str) -> str:
    """Return the text between the reasoning of another template and the end of the turn."""
    if (
        "</" not in text
        and "<|" not in text
        and "/THINK]" not in text
        and "think▷" not in text
        and "tfinal" not in text
    ):
        return text
    start = max((text.rfind(mark) + len(mark) for mark in _REASONING_ENDS if mark in text), default=0)
    end = _TURN_END.search(text, start)
    return text[start : end.start() if end else len(text)]


def _weak(
    text: str, accepts: Callable[[str], bool], weaker: Callable[[str], list[Candidate]] | None
) -> Candidate | None:
    """Return the last answer that the weaker rules find."""
    found = [*outcomes(text), *_conclusions(text)]
    found += weaker(text) if weaker else []
    if found:
        return sorted(found, key=lambda candidate: candidate.start)[-1]
    stripped = text.strip()
    is_short = 0 < len(stripped) <= _CLOSING and "\n\n" not in stripped
    if not is_short or not (accepts(stripped) or _is_statement(strip_markup(stripped), accepts)):
        return None
    start = text.find(stripped)
    return Candidate(strip_markup(stripped), start, len(text), "whole response", closed=False)


def _is_statement(sentence: str, accepts: Callable[[str], bool]) -> bool:
    return predicate(sentence, accepts) != sentence


def _conclusions(text: str) -> list[Candidate]:
    """Return what the last sentence concludes, what the last line has in bold, and what "is the answer"."""
    start = max(0, len(text) - _CLOSING)
    tail = text[start:]
    found = [match.span("value") for match in [_CONCLUSION.search(tail)] if match]
    found += [match.span(1) for match in [_BOLD_LINE.search(tail)] if match]
    for at in (at for word in ("answer", "solution") for at in occurrences(lowered(tail), word)):
        if match := _IS_THE_ANSWER.search(tail, max(0, at - 80), at):
            found.append(match.span("value"))
    values = [(strip_markup(tail[begin:end]), begin, end) for begin, end in found]
    if (match := _CONCLUDING.search(tail)) and not sentence_end(match["sentence"].rstrip(" .*")):
        sentence = strip_markup(match["sentence"])
        values += [(value, *match.span("sentence")) for value in [predicate(sentence, is_formula)] if value != sentence]
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

"""Rules that find the final answer in a text; they are tried in order and are linear in the text's length.

The rules are `\\boxed{…}` (balanced braces; the inner one of nested boxes), "The answer is …" and its common forms,
`####`, and the last number where that is asked for. A phrase's answer ends with its sentence. A final "!" ends the
sentence, too, so a factorial at the end of a text must be in a box or between math delimiters.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

# Every quantifier is bounded or followed by something it cannot match, so nothing backtracks. [^\S\n] is a space on the
# same line.
_BOX = re.compile(r"\\(?:boxed|fbox)\b")
_TOKEN = re.compile(
    r"\\{1,2}(?:boxed|fbox)(?:\s{0,4}(?P<open>\{)|\s(?P<bare>[^\s${}\\]{1,64}))|\\.|(?P<brace>[{}])", re.DOTALL
)
_PHRASE = re.compile(
    r"\banswer\b[*_`]{0,4}"
    r"(?:[^\S\n](?:to|of|for)[^\S\n][^.!?:=\n]{1,80}?)?[^\S\n]{0,4}"
    r"(?::|=|(?:is|equals|(?:would|should|must|will|can[^\S\n]only)[^\S\n]be)(?!\w))[*_]{0,4}[^\S\n]{0,4}:?"
    r"(?:[^\S\n]{0,4}(?:therefore|thus|then|hence)\b[^\S\n]{0,4},?)?",
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"^[^\S\n]{0,4}(?:[#*_]{1,8}[^\S\n]{0,4}(?:final[^\S\n])?|final[^\S\n])answer[^\S\n]{0,4}[*_]{0,8}[^\S\n]{0,4}$",
    re.IGNORECASE | re.MULTILINE,
)
_DOUBT = re.compile(
    r"(?:\b(?:if|suppose|supposing|assume|assuming|whether|unless)|\b(?:might|may|could|would) "
    r"(?:think|guess|believe|say)|\bthought)(?: that)?(?: the| my| our| your| final| correct){0,3}\s*$",
    re.IGNORECASE,
)
_REMARK = re.compile(
    r"(?:(?:also|indeed|clearly|now|still|in fact) )?(?:correct|incorrect|right|wrong|verified|confirmed|reasonable|"
    r"consistent|plausible|valid|clear|unique|sensible|obvious|checked|as follows|found|obtained|based|in the)\b",
    re.IGNORECASE,
)
_HASHES = "####"
_SENTENCE_END = re.compile(r"[.?](?=[\s*_`\"')]|$)|!(?=\s*$|\s+[A-Z]|[*_`\"')])")
_BLANK = re.compile(r"[\s*_]*\n[^\S\n]*")
_EMPHASIS = re.compile(r"\*\*([^*\n]{1,200})\*\*")
_NUMBER = re.compile(r"(?<![\w.])-?[$€£]?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?")
_DISPLAY = {"$$": "$$", r"\[": r"\]"}
_DELIMITERS = (*_DISPLAY.items(), ("$", "$"), (r"\(", r"\)"), ('"', '"'), ("“", "”"))
_MAX_PHRASES = 8
"""The last phrases that are examined; a bound, so that hostile texts stay cheap."""


@dataclass(frozen=True, slots=True)
class ExtractedAnswer:
    """The final answer of a text, as the text writes it."""

    text: str
    rule: str
    """The rule that found it: boxed, phrase, hashes or last number; a checker may have rules of its own."""
    closed: bool
    """False if the answer ends where the text ends, because a cut may have gone through it."""
    other_boxes: tuple[str, ...] = ()
    """Earlier boxed answers that differ from this one, in their order."""


def final_answer(text: str, *, last_number: bool = False) -> ExtractedAnswer | None:
    """Return the final answer of a text, or None if no rule finds one.

    Args:
        text: the response, without the reasoning before it.
        last_number: whether the last number is the answer if no other rule finds one.
    """
    answer = _boxed(text) or _phrase(text) or _after_hashes(text)
    return answer or (_last_number(text) if last_number else None)


def last_boxed(text: str) -> str | None:
    """Return the content of the last `\\boxed{…}` whose braces balance, or None if there is none."""
    answer = _boxed(text)
    return answer.text if answer else None


def boxed_answers(text: str) -> list[str]:
    """Return the contents of all closed `\\boxed{…}` that hold no other box, in their order."""
    first = _BOX.search(text)
    return _boxes(text, max(0, first.start() - 1)) if first else []


def after_hashes(text: str) -> str | None:
    """Return the text after the last `####`, which is how GSM8K writes its gold answers; None if there is none."""
    answer = _after_hashes(text)
    return answer.text if answer else None


def strip_markup(text: str) -> str:
    """Return an answer without its typesetting: emphasis, math delimiters, quotes, a final full stop."""
    text = _EMPHASIS.sub(r"\1", text) if "**" in text else text
    text = text.strip().strip("*_`").strip()
    for opening, closing in _DELIMITERS:
        inside = text[len(opening) : -len(closing)]
        if text.startswith(opening) and text.endswith(closing) and inside and opening not in inside:
            text = inside.strip()
    return text.rstrip(".").strip()


def _boxed(text: str) -> ExtractedAnswer | None:
    first = _BOX.search(text)
    boxes = _boxes(text, max(0, first.start() - 1)) if first else []
    if not boxes:
        return None
    others = {_squeezed(box): box for box in boxes[:-1]}
    others.pop(_squeezed(boxes[-1]), None)
    return ExtractedAnswer(boxes[-1], "boxed", True, tuple(others.values()))


def _boxes(text: str, start: int) -> list[str]:
    """Return the contents of all closed, non-empty boxes that contain no box, in one pass."""
    boxes: list[str] = []
    latest = 0  # start of the latest recorded box
    stack: list[int] = []  # start of the content of each open box, -1 for other braces
    for token in _TOKEN.finditer(text, start):
        if token["bare"]:
            boxes.append(token["bare"].rstrip(".,;:"))
            latest = token.start()
        elif token["open"]:
            stack.append(token.end())
        elif token["brace"] == "{":
            stack.append(-1)
        elif token["brace"] and stack and (begin := stack.pop()) > latest:
            content = text[begin : token.start()].strip()
            if content:
                boxes.append(content)
                latest = begin
    return boxes


def _phrase(text: str) -> ExtractedAnswer | None:
    matches = deque(_PHRASE.finditer(text), maxlen=_MAX_PHRASES)
    matches.extend(deque(_HEADING.finditer(text), maxlen=1))
    remark = None
    for match in sorted(matches, key=lambda match: match.end(), reverse=True):
        if _DOUBT.search(text, max(0, match.start() - 60), match.start()):
            continue
        answer = _answer_at(text, match.end())
        if answer and not _REMARK.match(answer.text):
            return answer
        remark = remark or answer
    return remark


def _answer_at(text: str, start: int) -> ExtractedAnswer | None:
    """Return the answer that begins after a phrase, or None if it is empty or a question."""
    begin = text.find("\n", start)
    if begin >= 0 and not text[start:begin].strip(" \t*_"):  # the rest of the line is empty: the answer is further down
        blank = _BLANK.match(text, start)
        start = blank.end() if blank else start
    for opening, closing in _DISPLAY.items():
        at = start + len(text[start : start + 40]) - len(text[start : start + 40].lstrip())
        end = text.find(closing, at + 2) if text.startswith(opening, at) else -1
        if end >= 0:
            answer = text[at + 2 : end].strip().rstrip(".").strip()
            return ExtractedAnswer(answer, "phrase", True) if answer else None
    end = text.find("\n", start)
    line = text[start : len(text) if end < 0 else end]
    stop = _SENTENCE_END.search(line)
    if stop and stop.group() == "?":
        return None
    answer = strip_markup(line[: stop.start()] if stop else line)
    return ExtractedAnswer(answer, "phrase", bool(stop) or end >= 0) if answer else None


def _after_hashes(text: str) -> ExtractedAnswer | None:
    start = text.rfind(_HASHES)
    if start < 0:
        return None
    line, newline, _ = text[start + len(_HASHES) :].lstrip(" ").partition("\n")
    answer = strip_markup(line)
    return ExtractedAnswer(answer, "hashes", bool(newline)) if answer else None


def _last_number(text: str) -> ExtractedAnswer | None:
    matches = deque(_NUMBER.finditer(text), maxlen=1)
    if not matches:
        return None
    return ExtractedAnswer(matches[0].group().rstrip(","), "last number", matches[0].end() < len(text))


def _squeezed(text: str) -> str:
    return "".join(text.split())

"""Where the final answer stands in a text: explicit rules, tried in order, linear in the text's length.

`\\boxed{…}` (braces balanced; of a box within a box the inner one), "The answer is …" and its common forms, `####`,
and, only where asked for, the last number. A phrase ends with its sentence, and a final "!" ends it too: a
factorial at the end of a text belongs into a box or math delimiters.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

# Every quantifier is bounded or followed by what it cannot match: no backtracking. [^\S\n]: spaces of the same line.
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
_PHRASES_LOOKED_AT = 8


@dataclass(frozen=True, slots=True)
class Found:
    """An answer as it stands in a text."""

    text: str
    rule: str
    """boxed, phrase, hashes or last number."""
    closed: bool
    """False if the answer touches the end of the text, so that a cut may have gone through it."""
    rivals: tuple[str, ...] = ()
    """Other boxed answers that differ from this one, in their order."""


def final_answer(text: str, *, last_number: bool = False) -> Found | None:
    """Return the final answer of a text, None if no rule finds one."""
    found = _boxed(text) or _phrase(text) or _after_hashes(text)
    return found or (_last_number(text) if last_number else None)


def last_boxed(text: str) -> str | None:
    """Return the content of the last `\\boxed{…}` whose braces balance, None if there is none."""
    found = _boxed(text)
    return found.text if found else None


def after_hashes(text: str) -> str | None:
    """Return what follows the last `####`, as GSM8K writes its gold answers."""
    found = _after_hashes(text)
    return found.text if found else None


def undecorated(text: str) -> str:
    """Strip what typesets an answer without being part of it: emphasis, delimiters, quotes, a final full stop."""
    text = _EMPHASIS.sub(r"\1", text) if "**" in text else text
    text = text.strip().strip("*_`").strip()
    for opening, closing in _DELIMITERS:
        inside = text[len(opening) : -len(closing)]
        if text.startswith(opening) and text.endswith(closing) and inside and opening not in inside:
            text = inside.strip()
    return text.rstrip(".").strip()


def _boxed(text: str) -> Found | None:
    first = _BOX.search(text)
    boxes = _boxes(text, max(0, first.start() - 1)) if first else []
    if not boxes:
        return None
    others = {_squeezed(box): box for box in boxes[:-1]}
    others.pop(_squeezed(boxes[-1]), None)
    return Found(boxes[-1], "boxed", True, tuple(others.values()))


def _boxes(text: str, start: int) -> list[str]:
    """Return the contents of all closed, non-empty boxes that hold no box themselves, in one pass."""
    boxes: list[str] = []
    latest = 0  # where the latest recorded box begins
    stack: list[int] = []  # where the content of each open box begins, -1 for other braces
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


def _phrase(text: str) -> Found | None:
    matches = deque(_PHRASE.finditer(text), maxlen=_PHRASES_LOOKED_AT)
    matches.extend(deque(_HEADING.finditer(text), maxlen=1))
    remark = None
    for match in sorted(matches, key=lambda it: it.end(), reverse=True):
        if _DOUBT.search(text, max(0, match.start() - 60), match.start()):
            continue
        found = _said(text, match.end())
        if found and not _REMARK.match(found.text):
            return found
        remark = remark or found
    return remark


def _said(text: str, start: int) -> Found | None:
    """Return the answer that begins after a phrase, None if it is empty or a question."""
    begin = text.find("\n", start)
    if begin >= 0 and not text[start:begin].strip(" \t*_"):  # nothing more on this line: it stands on a later one
        blank = _BLANK.match(text, start)
        start = blank.end() if blank else start
    for opening, closing in _DISPLAY.items():
        at = start + len(text[start : start + 40]) - len(text[start : start + 40].lstrip())
        end = text.find(closing, at + 2) if text.startswith(opening, at) else -1
        if end >= 0:
            answer = text[at + 2 : end].strip().rstrip(".").strip()
            return Found(answer, "phrase", True) if answer else None
    end = text.find("\n", start)
    line = text[start : len(text) if end < 0 else end]
    stop = _SENTENCE_END.search(line)
    if stop and stop.group() == "?":
        return None
    answer = undecorated(line[: stop.start()] if stop else line)
    return Found(answer, "phrase", bool(stop) or end >= 0) if answer else None


def _after_hashes(text: str) -> Found | None:
    start = text.rfind(_HASHES)
    if start < 0:
        return None
    line, newline, _ = text[start + len(_HASHES) :].lstrip(" ").partition("\n")
    answer = undecorated(line)
    return Found(answer, "hashes", bool(newline)) if answer else None


def _last_number(text: str) -> Found | None:
    matches = deque(_NUMBER.finditer(text), maxlen=1)
    if not matches:
        return None
    return Found(matches[0].group().rstrip(","), "last number", matches[0].end() < len(text))


def _squeezed(text: str) -> str:
    return "".join(text.split())

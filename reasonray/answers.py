"""Where the final answer stands in a text: explicit rules, tried in order, linear in the text's length.

`\\boxed{…}` (the last one, braces balanced), "The answer is …" and its common forms, then `####`.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
# [^\S\n]: spaces of the same line. Every quantifier is bounded or followed by what it cannot match: no backtracking.
_PHRASE = re.compile(
    r"\b(?:final[^\S\n]{1,4})?answer[^\S\n]{0,4}\**[^\S\n]{0,4}(?::|is(?=\W)|=)[^\S\n]{0,4}:?[^\S\n]{0,4}",
    re.IGNORECASE,
)
_HASHES = "####"
_SENTENCE_END = re.compile(r"[.!?](?=\s|[*_]|$)")


@dataclass(frozen=True, slots=True)
class Found:
    """An answer as it stands in a text."""

    text: str
    rule: str
    """boxed, phrase or hashes."""
    closed: bool
    """False if the answer touches the end of the text, so that a cut may have gone through it."""
    rivals: tuple[str, ...] = ()
    """Other boxed answers that differ from this one."""


def final_answer(text: str) -> Found | None:
    """Return the final answer of a text, None if no rule finds one."""
    return _boxed(text) or _phrase(text) or _after_hashes(text)


def last_boxed(text: str) -> str | None:
    """Return the content of the last `\\boxed{…}` whose braces balance, None if there is none."""
    found = _boxed(text)
    return found.text if found else None


def after_hashes(text: str) -> str | None:
    """Return what follows the last `####`, as GSM8K writes its gold answers."""
    found = _after_hashes(text)
    return found.text if found else None


def _boxed(text: str) -> Found | None:
    boxes = []
    position = 0
    while match := _BOX.search(text, position):
        end = _closing_brace(text, match.end())
        if end is None:  # an unclosed box runs to the end of the text; none can follow it
            break
        boxes.append(text[match.end() : end].strip())
        position = end + 1
    if not boxes:
        return None
    rivals = tuple(sorted({box for box in boxes if _squeezed(box) != _squeezed(boxes[-1])}))
    return Found(boxes[-1], "boxed", True, rivals)


def _closing_brace(text: str, start: int) -> int | None:
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        if match.group() == "{":
            depth += 1
        elif match.group() == "}":
            depth -= 1
            if depth == 0:
                return match.start()
    return None


def _phrase(text: str) -> Found | None:
    phrases = deque(_PHRASE.finditer(text), maxlen=1)
    if not phrases:
        return None
    last = phrases[0]
    line_end = text.find("\n", last.end())
    line = text[last.end() : len(text) if line_end < 0 else line_end]
    stop = _SENTENCE_END.search(line)
    answer = _undecorated(line[: stop.start()] if stop else line)
    return Found(answer, "phrase", bool(stop) or line_end >= 0) if answer else None


def _after_hashes(text: str) -> Found | None:
    start = text.rfind(_HASHES)
    if start < 0:
        return None
    line, newline, _ = text[start + len(_HASHES) :].lstrip(" ").partition("\n")
    answer = _undecorated(line)
    return Found(answer, "hashes", bool(newline)) if answer else None


def _undecorated(text: str) -> str:
    """Strip what typesets an answer without being part of it: emphasis, math delimiters, a final full stop."""
    text = text.strip().strip("*_`").strip()
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            text = text[len(opening) : -len(closing)].strip()
    return text.rstrip(".").strip()


def _squeezed(text: str) -> str:
    return "".join(text.split())

"""Answers in a form of their own: `\\boxed{…}`, `<answer>…</answer>`, and `####`, GSM8K's mark."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence

from reasonray.answers.candidate import Candidate
from reasonray.answers.markup import is_formula, strip_markup

# Every quantifier is bounded or followed by something it cannot match, so nothing backtracks.
_OPENING = (
    r"(?:\\{1,2}(?:boxed|fbox|framebox)(?![A-Za-z])|(?<![A-Za-z\\])(?:boxed|fbox)(?=\{))\s{0,4}"
    r"(?:(?P<open>\{)|(?P<bare>-?\d[^\s${}\\]{0,63}|[A-Za-z](?=[\s.,;:]{0,4}(?:\$|\\[)\]]|$))))"
)
_BOX = re.compile(rf"{_OPENING}|\\.", re.DOTALL)
_BOX_OR_BRACE = re.compile(rf"{_OPENING}|\\.|(?P<brace>[{{}}])", re.DOTALL)
_MAX_BEFORE = len(r"\\\\frame")
_PLACEHOLDER = re.compile(
    r"\s*(?:\\(?:text|textbf|mathrm)\s?\{)?\s*(?:\.{2,}|…|\\[lc]?dots|(?:your |the |final )*answer(?: here)?)[\s}]*",
    re.IGNORECASE,
)
_JOINT = re.compile(
    r"(?:[\s$,;:.&*()\[\]|-]|\\[,;:!()\[\]\\]|\\q?quad\b|"
    r"\b(?:and|or|either|both|also|maybe|perhaps|possibly|as|well|und|oder|et|ou|y|o)\b|[和或、，；]"
    r"|\\(?:text|mathrm|textbf)\{[^{}]{0,40}\}|\b[A-Za-z](?:_\{?\w{1,3}\}?)?\s*(?:=|\\in\b))*"
)
_MAX_JOINT = 120
"""The characters between two boxes of one list."""
_MAX_LISTED = 64
_MAX_BOXES = 128
"""The last boxes of a text that are candidates; a bound, so that hostile texts stay cheap."""
_MAX_MENTIONS = 1024
"""The last places with "box" in them that are examined."""
_MAX_TOKENS = 20_000
"""The braces and commands inside boxes that are read; a box in which they run out counts as never closed."""
_UNCLOSED = re.compile(r"[^.\n]{0,200}")
"""The content of a box that never closes ends with its sentence: what follows may state another answer."""

_TAG = re.compile(r"<(/?)(?:final_)?answer>|<\|(begin|end)_of_box\|>", re.IGNORECASE)
_HASHES = re.compile(r"(?<!#)####(?!#)[^\S\n]{0,4}")
_AFTER_HASHES = re.compile(r"\s#{1,8}\s*$|</answer>\s*$")
_NUMBERED = re.compile(r"\d{1,2}[.)][^\S\n]+[A-Za-z*]")
_MAX_CANDIDATES = 16
"""The last tags and hashes that are examined; a bound, so that hostile texts stay cheap."""


def boxes(text: str) -> list[Candidate]:
    """Return the last boxes of a text that contain no box, in one pass, in their order.

    An empty box and one that never closes are retracted: the text announces another answer and does not give it.
    """
    begin = _first_mention(text)
    if begin < 0:
        return []
    closed: list[tuple[int, int, int, int]] = []  # of each box and of its content
    opened: list[tuple[int, int]] = []  # start of each open box and of its content; -1 for other braces
    latest, at, budget = -1, max(0, begin - _MAX_BEFORE), _MAX_TOKENS
    while budget and (token := (_BOX_OR_BRACE if opened else _BOX).search(text, at)):
        at, kind = token.end(), token.lastgroup
        budget -= bool(opened)
        if kind == "bare":
            closed.append((*token.span(), *token.span("bare")))
            latest = token.start()
        elif kind == "open":
            opened.append(token.span())
        elif kind and token.group() == "{":
            opened.append((-1, -1))
        elif kind and (top := opened.pop())[1] > latest:
            closed.append((top[0], token.end(), top[1], token.start()))
            latest = top[1]
    found = [_box(text, *spans) for spans in closed[-_MAX_BOXES:]]
    if opened and (unclosed := _unclosed(text, opened, latest)):
        found.append(unclosed)
    return [box for box in found if not _PLACEHOLDER.fullmatch(box.text)]


def _first_mention(text: str) -> int:
    """Return the place of the first of the last mentions of a box, or -1 if there is none."""
    first = -1
    at = text.rfind("box")
    for _ in range(_MAX_MENTIONS):
        if at < 0:
            break
        first, at = at, text.rfind("box", 0, at)
    return first


def _unclosed(text: str, opened: Sequence[tuple[int, int]], latest: int) -> Candidate | None:
    """Return the last box that is still open at the end of a text, or None if another one ends after its beginning."""
    start, inner = next((top for top in reversed(opened) if top[0] >= 0), (-1, -1))
    content = _UNCLOSED.match(text, inner) if inner > latest else None
    if content is None:
        return None
    return Candidate(content.group().strip(), start, content.end(), "boxed", closed=False, retracted=True)


def _box(text: str, start: int, end: int, inner: int, inner_end: int) -> Candidate:
    content = text[inner:inner_end].strip()
    content = content if text[inner - 1] == "{" else content.rstrip(".,;:")
    return Candidate(content, start, end, "boxed", retracted=not content)


def listed_with(text: str, found: Sequence[Candidate], last: Candidate) -> tuple[str, ...]:
    """Return the boxed answers that stand in one list with a box and differ from it, in their order."""
    if last.rule != "boxed":
        return ()
    others: dict[str, str] = {}
    after = last
    for box in reversed([box for box in found if box.rule == "boxed" and box.start < last.start][-_MAX_LISTED:]):
        gap = text[box.end : after.start]
        if len(gap) > _MAX_JOINT or not box.text or not _JOINT.fullmatch(gap):
            break
        others.setdefault("".join(box.text.split()), box.text)
        after = box
    others.pop("".join(last.text.split()), None)
    return tuple(reversed(others.values()))


def tags(text: str) -> list[Candidate]:
    """Return the contents of the last `<answer>` tags. One that is left open ends with the text."""
    found: deque[Candidate] = deque(maxlen=_MAX_CANDIDATES)
    opened = -1
    for tag in _TAG.finditer(text):
        if not tag[1] and tag[2] != "end":
            opened = tag.end()
        elif opened >= 0:
            content = text[opened : tag.start()].strip()
            found.append(Candidate(content, opened, tag.start(), "tag", retracted=not content))
            opened = -1
    if opened >= 0 and (content := text[opened:].strip()):
        found.append(Candidate(content, opened, len(text), "tag", closed=False))
    return list(found)


def hashes(text: str) -> list[Candidate]:
    """Return the answers after the last marks `####`. A Markdown heading of four hashes is none."""
    found = []
    for mark in deque(_HASHES.finditer(text), maxlen=_MAX_CANDIDATES):
        end = text.find("\n", mark.end())
        end = len(text) if end < 0 else end
        line = text[mark.end() : end]
        answer = strip_markup(_AFTER_HASHES.sub("", line) if "#" in line or "<" in line else line)
        is_last = not text[end:].strip()
        if answer and not _NUMBERED.match(answer) and (is_last or is_formula(answer)) and not _is_heading(answer):
            found.append(Candidate(answer, mark.end(), end, "hashes", closed=end < len(text)))
    return found


_HEADING_WORDS = re.compile(
    r"(?:final )?(?:step|answer|result|solution|conclusion|verification|check|explanation|note|case|part|summary"
    r"|approach|method|option|question|problem|analysis|reasoning|calculation|proof|example)s?\b",
    re.IGNORECASE,
)


def _is_heading(answer: str) -> bool:
    return _HEADING_WORDS.match(answer) is not None

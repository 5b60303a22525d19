"""What reasoning looks like from outside: phrases that betray a behaviour, with the characters that show it.

The detectors are lexical. They read first-person frames ("let me check", "Wait, that's wrong") and not bare words, so
that a waiter, a bank check or an answer that is "incorrect." does not count. Code blocks, text quoted from the problem
and what others say are passed over. Every pattern has bounded repeats only: the time is linear in the text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from operator import itemgetter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reasonray.curation.lexicon import ANYWHERE, OPENED, OPENERS, OPENING
from reasonray.curation.phrase_matcher import Phrases
from reasonray.prompts import REASONING_CLOSE, split_reasoning
from reasonray.records import BEHAVIOURS, Annotation, Span
from reasonray.store.schema import ROLLOUT_SCHEMA, SPANS, set_columns

__all__ = ["annotate", "annotate_table", "sentences"]

_Evidence = tuple[str, int, int]
"""Behaviour, start and end: a Span, of which a long text has hundreds."""
_LONGEST_OPENING = 40


@cache
def _phrases() -> Phrases[tuple[str, bool]]:
    """Return the lexicon by behaviour, and whether a phrase counts at an opening only."""
    opening = {(behaviour, True): phrases for behaviour, phrases in OPENING.items()}
    return Phrases(opening | {(behaviour, False): phrases for behaviour, phrases in ANYWHERE.items()})


_DENIALS = ("no need", "no reason", "without", "not", "never", "cannot")
_BETWEEN = ("need", "have", "to", "even", "for", "bother")
_SAYS = ("claims", "says", "thinks", "believes", "argues", "insists", "claimed", "said", "thought")
_DENIED = re.compile(rf"(?:\b(?:{'|'.join(_DENIALS)})|n[’']t)(?:\s+(?:{'|'.join(_BETWEEN)})){{0,3}}\s+\Z")
_SAID = re.compile(
    r"\b(?:said|says|shout(?:s|ed)|ask(?:s|ed)|tells?|told|repl(?:ies|ied)|yell(?:s|ed)|wrote|writes|reads)"
    r"[^.!?\n\"“]{0,16}[\"“‘']\s?\Z",
)
_REPORTED = re.compile(rf"\b(?:{'|'.join(_SAYS)})(?: that)?\s\Z")
_SAID_AFTER = re.compile(
    r"[^\"”\n]{0,40}[\"”]\s?(?:\w+ ){0,2}(?:said|says|ask(?:s|ed)|repl(?:ies|ied)|shout(?:s|ed)|yell(?:s|ed))\b"
)
_BEFORE = (_SAID, _REPORTED, _DENIED)
_TURNING = frozenset(word for words in (*_DENIALS, *_BETWEEN, *_SAYS, "that") for word in words.split())
_TURNED = ("n't", "n’t", '"', "“", "‘", "'")
"""What one of _BEFORE ends in, by which most places are cleared without a look at what stands before."""
_LOOK_BACK = 40
_WIDEST_JOINT = 4
_JOINED = re.compile(rf"[\s,—–-]{{1,{_WIDEST_JOINT}}}")
_PLAINLY_OPEN = frozenset(OPENERS)
"""Where one of these stands before a phrase, a space between, it is OPENED without a look further back."""
_PLAINLY_CLEAR = frozenset(".,!?:;)>*")
"""What ends no word of _TURNING and nothing of _TURNED."""

_FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
# Fenced and inline code, and comments outside fences: `#` only where indented, for at a margin it is a heading.
_CODE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]{1,200}`|^[ \t]{2,40}#[^\n]{0,400}|^[ \t]{0,40}//[^\n]{0,400}", re.DOTALL | re.MULTILINE
)
_CODE_MARKS = ("`", "#", "//")
_WORD = re.compile(r"\w[\w'’]*")
# Its literal comes first, for which Python looks much faster than for a border of words.
_STEP = re.compile(r"step(?<!\wstep)\s{1,3}#?(\d{1,4})\b")
_NUMBER = re.compile(r"[ \t]{0,8}\d{1,3}")
_LONGEST_MARKER = 11
_ABBREVIATIONS = ("e.g", "i.e", "etc", "vs", "cf", "approx", "dr", "mr", "mrs", "ms", "eq", "fig")
_ABBREVIATION = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, _ABBREVIATIONS))})\Z", re.IGNORECASE)
_ABBREVIATED = frozenset(it[-2:] for it in _ABBREVIATIONS)
"""How one ends, which few words do."""
_LONGEST_ABBREVIATION = 1 + max(map(len, _ABBREVIATIONS))
"""With the character before it."""
_SENTENCE_END = re.compile(r"[.!?…\n](?:(?<=\n)|[.!?…]{0,7}(?=[\s\"'”’)*_]|\Z))")

_QUOTED_WORDS = 5
"""So many words in a row that also stand in the question are a quotation."""


def annotate(completion: str, question: str) -> Annotation:
    """Return the behaviours of one completion, with evidence, and its depth."""
    depth, spans = _read(completion, question)
    counts = Counter(behaviour for behaviour, _, _ in spans)
    return Annotation(
        verification=counts["verification"],
        backtracking=counts["backtracking"],
        subgoals=counts["subgoals"],
        backward_chaining=counts["backward_chaining"],
        num_steps=depth,
        spans=tuple(Span(*it) for it in spans),
    )


def annotate_table(table: pa.Table) -> pa.Table:
    """Return rollouts with behaviours and depth filled in; what selection decides is kept where it is known.

    Args:
        table: columns of tables.ROLLOUT_SCHEMA, at least completion and problem_question.
    """
    pairs = zip(table["completion"].to_pylist(), table["problem_question"].to_pylist(), strict=True)
    found = [_read(completion, question) for completion, question in pairs]
    spans = [span for _, spans in found for span in spans]
    ends = np.cumsum([0, *(len(spans) for _, spans in found)], dtype=np.int32)
    owners = np.repeat(np.arange(len(found)), np.diff(ends))
    behaviours = np.array([behaviour for behaviour, _, _ in spans], dtype=object)
    columns: dict[str, pa.Array] = {
        f"annotation_{name}": pa.array(np.bincount(owners[behaviours == name], minlength=len(found)), pa.int32())
        for name in BEHAVIOURS
    }
    columns["annotation_num_steps"] = pa.array([depth for depth, _ in found], pa.int32())
    parts = [pa.array([span[at] for span in spans], SPANS.value_type[at].type) for at in range(3)]
    columns["annotation_spans"] = pa.ListArray.from_arrays(
        pa.array(ends), pa.StructArray.from_arrays(parts, fields=list(SPANS.value_type)), type=SPANS
    )
    for name, default in (("annotation_dropped_by", ""), ("annotation_selected", False)):
        kind = ROLLOUT_SCHEMA.field(name).type
        known = table[name].cast(kind) if name in table.column_names else pa.nulls(table.num_rows, kind)
        columns[name] = pc.fill_null(known, default)
    return set_columns(table, columns)


def _read(completion: str, question: str) -> tuple[int, list[_Evidence]]:
    """Return the depth of a completion and its behaviours, in the order of the text."""
    text = _lower(_hide(completion, question))
    return _depth(text), sorted(_found(text), key=itemgetter(1, 2))


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yield where each sentence that has a word begins and ends; code in fences has none, a list's marker is none."""
    prose = _FENCED.sub(_blank, text) if "```" in text else text
    begun = 0
    for end in _SENTENCE_END.finditer(prose):
        start, stop = end.span()
        if prose[start] == "." and _ends_no_sentence(prose, begun, start):
            continue
        if word := _WORD.search(prose, begun, start):
            yield word.start(), stop
        begun = stop
    if word := _WORD.search(prose, begun):
        yield word.start(), len(prose)


def _ends_no_sentence(text: str, begun: int, stop: int) -> bool:
    """Tell whether a full stop belongs to an abbreviation, or to the number of a list's item."""
    if text[stop - 1].isalpha():
        likely = text[stop - 2 : stop].lower() in _ABBREVIATED
        return likely and bool(_ABBREVIATION.search(text, max(begun, stop - _LONGEST_ABBREVIATION), stop))
    short = stop - begun <= _LONGEST_MARKER and (not begun or text[begun - 1] == "\n")
    return short and text[stop + 1 : stop + 2] in {" ", "\t"} and bool(_NUMBER.fullmatch(text, begun, stop))


def _found(text: str) -> list[_Evidence]:
    """Return every behaviour in a text of lower case, with where it begins and ends."""
    places: dict[str, list[tuple[int, int]]] = {}
    for (behaviour, opening), start, end in _phrases().find(text):
        if not opening or _opens(text, start):
            places.setdefault(behaviour, []).append((start, end))
    quotes = '"' in text or "”" in text
    return [
        (behaviour, start, end)
        for behaviour, hits in places.items()
        for start, end in _joined(text, sorted(hits))
        if not _is_denied(text, start) and not (quotes and _is_said(text, end))
    ]


def _opens(text: str, start: int) -> bool:
    """Say whether a sentence or clause opens at a place."""
    before = text[max(0, start - 2) : start]
    if before[-1:] in _PLAINLY_OPEN or (before[-1:].isspace() and before[0] in _PLAINLY_OPEN):
        return True
    return bool(OPENED.search(text, max(0, start - _LONGEST_OPENING), start))


def _lower(text: str) -> str:
    lowered = text.lower()
    # One letter has two in lower case, and offsets must stay.
    return lowered if len(lowered) == len(text) else text.replace("İ", "i").lower()


def _is_denied(text: str, start: int) -> bool:
    """Say whether what stands before a phrase denies it, or gives it to somebody else."""
    if text[max(0, start - 2) : start].rstrip()[-1:] in _PLAINLY_CLEAR:
        return False
    before = text[max(0, start - _LOOK_BACK) : start]
    last = before.split()[-1:]
    turns = bool(last) and (last[0] in _TURNING or last[0].endswith(_TURNED))
    return turns and any(it.search(before) for it in _BEFORE)


def _is_said(text: str, end: int) -> bool:
    """Say whether a quotation ends soon after a phrase, and somebody said it."""
    quoted = any(text.find(mark, end, end + _LOOK_BACK + 2) >= 0 for mark in '"”')
    return quoted and bool(_SAID_AFTER.match(text, end))


def _joined(text: str, hits: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return hits, in order, as events: "Wait, that's wrong" is one change of mind, not two."""
    events: list[tuple[int, int]] = []
    for start, end in hits:
        begun, ended = events[-1] if events else (0, -1)
        near = start - ended <= _WIDEST_JOINT
        if events and near and (start <= ended or _JOINED.fullmatch(text, ended, start)):
            events[-1] = begun, max(ended, end)
        else:
            events.append((start, end))
    return events


def _hide(completion: str, question: str) -> str:
    """Blank code and quotations, character by character, so that offsets stay those of the raw completion."""
    text = _CODE.sub(_blank, completion) if any(mark in completion for mark in _CODE_MARKS) else completion
    phrases = _quotable(question)
    if not phrases:
        return text
    size = len(next(iter(phrases)))
    words = list(_WORD.finditer(text))
    lowered = [match.group().lower() for match in words]
    pieces, done, index = [], 0, 0
    while index + size <= len(words):
        if tuple(lowered[index : index + size]) not in phrases:
            index += 1
            continue
        first = index
        while index + size <= len(words) and tuple(lowered[index : index + size]) in phrases:
            index += 1
        start, end = words[first].start(), words[index + size - 2].end()
        pieces += [text[done:start], "\0" * (end - start)]
        done, index = end, index + size - 1
    return "".join([*pieces, text[done:]])


@lru_cache(maxsize=1024)
def _quotable(question: str) -> frozenset[tuple[str, ...]]:
    """Return the runs of words by which a quotation is known; none if the question holds nothing to be fooled by."""
    lowered = _lower(question)
    if not (_STEP.search(lowered) or _found(lowered)):
        return frozenset()
    words = [match.group().lower() for match in _WORD.finditer(question)]
    size = min(_QUOTED_WORDS, len(words))
    return frozenset(tuple(words[index : index + size]) for index in range(len(words) - size + 1))


def _blank(match: re.Match[str]) -> str:
    return "\0" * len(match.group())


def _depth(text: str) -> int:
    reasoning, response = split_reasoning(text)
    tagged = REASONING_CLOSE in text or bool(reasoning)
    steps = {match.group(1).lstrip("0") for match in _STEP.finditer(reasoning if tagged else response)}
    if steps or not tagged:
        return len(steps)
    return sum(1 for _ in sentences(reasoning))

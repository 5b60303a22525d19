"""Lexical detectors of reasoning behaviours, with the characters of the completion that are the evidence.

The phrases (lexicon.py) are first-person frames ("let me check", "Wait, that's wrong") and not bare words, so that a
waiter, a bank check or an answer that is "incorrect." does not count. Code blocks, text quoted from the problem and
reported speech do not count either. Every pattern has bounded repeats only, so that the time is linear in the text.
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
from reasonray.curation.phrase_matcher import PhraseMatcher
from reasonray.prompts import REASONING_CLOSE, split_reasoning
from reasonray.records import BEHAVIOURS, Annotation, Span
from reasonray.store.schema import ROLLOUT_SCHEMA, SPANS, answers, set_columns

__all__ = ["DETECTORS_VERSION", "annotate", "annotate_table", "sentences"]

DETECTORS_VERSION = "2"
"""Raise it with every change of what detectors, measures and rules find: with another version, stored annotations and
data sets are made again."""

_Evidence = tuple[str, int, int]
"""Behaviour, start and end. Lighter than a Span, because a long text has hundreds."""
_LONGEST_OPENING = 40
"""Characters before a phrase in which OPENED is looked for."""


@cache
def _matcher() -> PhraseMatcher[tuple[str, bool]]:
    """Return the matcher of the lexicon; a phrase's kind is its behaviour, and whether it counts at an opening only."""
    opening = {(behaviour, True): phrases for behaviour, phrases in OPENING.items()}
    return PhraseMatcher(opening | {(behaviour, False): phrases for behaviour, phrases in ANYWHERE.items()})


_NEGATIONS = ("no need", "no reason", "without", "not", "never", "cannot")
_LINKS = ("need", "have", "to", "even", "for", "bother")
_REPORTING_VERBS = ("claims", "says", "thinks", "believes", "argues", "insists", "claimed", "said", "thought")
_NEGATED = re.compile(rf"(?:\b(?:{'|'.join(_NEGATIONS)})|n[’']t)(?:\s+(?:{'|'.join(_LINKS)})){{0,3}}\s+\Z")
_SPEAKER_BEFORE = re.compile(
    r"\b(?:said|says|shout(?:s|ed)|ask(?:s|ed)|tells?|told|repl(?:ies|ied)|yell(?:s|ed)|wrote|writes|reads)"
    r"[^.!?\n\"“]{0,16}[\"“‘']\s?\Z",
)
_REPORTED = re.compile(rf"\b(?:{'|'.join(_REPORTING_VERBS)})(?: that)?\s\Z")
_SPEAKER_AFTER = re.compile(
    r"[^\"”\n]{0,40}[\"”]\s?(?:\w+ ){0,2}(?:said|says|ask(?:s|ed)|repl(?:ies|ied)|shout(?:s|ed)|yell(?:s|ed))\b"
)
_DISCOUNTING = (_SPEAKER_BEFORE, _REPORTED, _NEGATED)
"""Contexts before a phrase in which it does not count: quoted or reported speech, and negation."""
_DISCOUNTING_WORDS = frozenset(" ".join((*_NEGATIONS, *_LINKS, *_REPORTING_VERBS, "that")).split())
_DISCOUNTING_ENDINGS = ("n't", "n’t", '"', "“", "‘", "'")
"""The words and endings with which every match of _DISCOUNTING ends. Without one, no expression needs to be tried."""
_LOOK_BACK = 40
"""Characters before and after a phrase that can discount it."""
_WIDEST_GAP = 4
"""Characters between two phrases that are one event."""
_GAP = re.compile(rf"[\s,—–-]{{1,{_WIDEST_GAP}}}")
_CERTAIN_OPENERS = frozenset(OPENERS)
"""One of these right before a phrase, or with one space between, makes an opening without a search for OPENED."""
_NEVER_DISCOUNTING = frozenset(".,!?:;)>*")
"""Characters that end nothing of _DISCOUNTING_WORDS and _DISCOUNTING_ENDINGS."""

_FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
# Fenced and inline code, and comments outside fences: `#` only where indented, because at the margin it is a heading.
_CODE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]{1,200}`|^[ \t]{2,40}#[^\n]{0,400}|^[ \t]{0,40}//[^\n]{0,400}", re.DOTALL | re.MULTILINE
)
_CODE_MARKS = ("`", "#", "//")
_WORD = re.compile(r"\w[\w'’]*")
# The literal comes first, because Python searches for it much faster than for a border of words.
_STEP = re.compile(r"step(?<!\wstep)\s{1,3}#?(\d{1,4})\b")
_NUMBER = re.compile(r"[ \t]{0,8}\d{1,3}")
_LONGEST_MARKER = 11
"""Characters before the full stop that numbers an item of a list."""
_ABBREVIATIONS = ("e.g", "i.e", "etc", "vs", "cf", "approx", "dr", "mr", "mrs", "ms", "eq", "fig")
_ABBREVIATION = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, _ABBREVIATIONS))})\Z", re.IGNORECASE)
_ABBREVIATION_ENDINGS = frozenset(abbreviation[-2:] for abbreviation in _ABBREVIATIONS)
"""Their last two characters, with which few other words end."""
_LONGEST_ABBREVIATION = 1 + max(map(len, _ABBREVIATIONS))
"""With the character before it."""
_SENTENCE_END = re.compile(r"[.!?…\n](?:(?<=\n)|[.!?…]{0,7}(?=[\s\"'”’)*_]|\Z))")

_QUOTED_NGRAM = 5
"""Words in a row that are a quotation where the question holds them too."""


def annotate(completion: str, question: str, opening: str = "") -> Annotation:
    """Return the behaviours of one completion, with their evidence, and its number of reasoning steps."""
    num_steps, spans = _detect(completion, question, opening)
    counts = Counter(behaviour for behaviour, _, _ in spans)
    return Annotation(
        verification=counts["verification"],
        backtracking=counts["backtracking"],
        subgoals=counts["subgoals"],
        backward_chaining=counts["backward_chaining"],
        num_steps=num_steps,
        spans=tuple(Span(*span) for span in spans),
    )


def annotate_table(table: pa.Table) -> pa.Table:
    """Return rollouts with behaviours and reasoning steps filled in; what selection decided is kept where it is known.

    Args:
        table: columns of schema.ROLLOUT_SCHEMA, at least completion and problem_question; opening if it is known.
    """
    completions, questions = table["completion"].to_pylist(), table["problem_question"].to_pylist()
    openings = [
        answer[: len(answer) - len(completion)]
        for answer, completion in zip(answers(table).to_pylist(), completions, strict=True)
    ]
    detected = [_detect(*texts) for texts in zip(completions, questions, openings, strict=True)]
    spans = [span for _, evidence in detected for span in evidence]
    ends = np.cumsum([0, *(len(evidence) for _, evidence in detected)], dtype=np.int32)
    owners = np.repeat(np.arange(len(detected)), np.diff(ends))
    behaviours = np.array([behaviour for behaviour, _, _ in spans], dtype=object)
    columns: dict[str, pa.Array] = {
        f"annotation_{name}": pa.array(np.bincount(owners[behaviours == name], minlength=len(detected)), pa.int32())
        for name in BEHAVIOURS
    }
    columns["annotation_num_steps"] = pa.array([num_steps for num_steps, _ in detected], pa.int32())
    parts = [pa.array([span[part] for span in spans], SPANS.value_type[part].type) for part in range(3)]
    columns["annotation_spans"] = pa.ListArray.from_arrays(
        pa.array(ends), pa.StructArray.from_arrays(parts, fields=list(SPANS.value_type)), type=SPANS
    )
    for name, default in (("annotation_dropped_by", ""), ("annotation_selected", False)):
        kind = ROLLOUT_SCHEMA.field(name).type
        known = table[name].cast(kind) if name in table.column_names else pa.nulls(table.num_rows, kind)
        columns[name] = pc.fill_null(known, default)
    return set_columns(table, columns)


def _detect(completion: str, question: str, opening: str) -> tuple[int, list[_Evidence]]:
    """Return the reasoning steps of an answer and the evidence of the completion's behaviours, in order of the text."""
    text = _lowered(_blank_code_and_quotations(completion, question))
    return _count_steps(opening + text), sorted(_find_behaviours(text), key=itemgetter(1, 2))


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each sentence; fenced code, list markers and what has no word are no sentences."""
    prose = _FENCED.sub(_as_nulls, text) if "```" in text else text
    begin = 0
    for end in _SENTENCE_END.finditer(prose):
        start, stop = end.span()
        if prose[start] == "." and _ends_no_sentence(prose, begin, start):
            continue
        if word := _WORD.search(prose, begin, start):
            yield word.start(), stop
        begin = stop
    if word := _WORD.search(prose, begin):
        yield word.start(), len(prose)


def _ends_no_sentence(text: str, begin: int, stop: int) -> bool:
    """Return whether a full stop belongs to an abbreviation, or to the number of a list's item."""
    if text[stop - 1].isalpha():
        likely = text[stop - 2 : stop].lower() in _ABBREVIATION_ENDINGS
        return likely and bool(_ABBREVIATION.search(text, max(begin, stop - _LONGEST_ABBREVIATION), stop))
    short = stop - begin <= _LONGEST_MARKER and (not begin or text[begin - 1] == "\n")
    return short and text[stop + 1 : stop + 2] in {" ", "\t"} and bool(_NUMBER.fullmatch(text, begin, stop))


def _find_behaviours(text: str) -> list[_Evidence]:
    """Return the evidence of every behaviour in a text of lower case, behaviour by behaviour."""
    places: dict[str, list[tuple[int, int]]] = {}
    for (behaviour, opening), start, end in _matcher().find(text):
        if not opening or _is_opening(text, start):
            places.setdefault(behaviour, []).append((start, end))
    quotes = '"' in text or "”" in text
    return [
        (behaviour, start, end)
        for behaviour, hits in places.items()
        for start, end in _merged(text, sorted(hits))
        if not _is_discounted(text, start) and not (quotes and _is_quoted_speech(text, end))
    ]


def _is_opening(text: str, start: int) -> bool:
    """Return whether a sentence or clause opens at a place."""
    before = text[max(0, start - 2) : start]
    if before[-1:] in _CERTAIN_OPENERS or (before[-1:].isspace() and before[0] in _CERTAIN_OPENERS):
        return True
    return bool(OPENED.search(text, max(0, start - _LONGEST_OPENING), start))


def _lowered(text: str) -> str:
    lowered = text.lower()
    # "İ" alone becomes two characters in lower case, and offsets must stay.
    return lowered if len(lowered) == len(text) else text.replace("İ", "i").lower()


def _is_discounted(text: str, start: int) -> bool:
    """Return whether the text before a phrase negates it, or attributes it to somebody else."""
    if text[max(0, start - 2) : start].rstrip()[-1:] in _NEVER_DISCOUNTING:
        return False
    before = text[max(0, start - _LOOK_BACK) : start]
    last = before.split()[-1:]
    possible = bool(last) and (last[0] in _DISCOUNTING_WORDS or last[0].endswith(_DISCOUNTING_ENDINGS))
    return possible and any(context.search(before) for context in _DISCOUNTING)


def _is_quoted_speech(text: str, end: int) -> bool:
    """Return whether a quotation ends soon after a phrase and a speaker is named after it."""
    quoted = any(text.find(mark, end, end + _LOOK_BACK + 2) >= 0 for mark in '"”')
    return quoted and bool(_SPEAKER_AFTER.match(text, end))


def _merged(text: str, hits: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return sorted matches as events: "Wait, that's wrong" is one change of mind, not two."""
    events: list[tuple[int, int]] = []
    for start, end in hits:
        first, last = events[-1] if events else (0, -1)
        near = start - last <= _WIDEST_GAP
        if events and near and (start <= last or _GAP.fullmatch(text, last, start)):
            events[-1] = first, max(last, end)
        else:
            events.append((start, end))
    return events


def _blank_code_and_quotations(completion: str, question: str) -> str:
    """Blank code and quotations, character by character, so that offsets stay those of the raw completion."""
    text = _CODE.sub(_as_nulls, completion) if any(mark in completion for mark in _CODE_MARKS) else completion
    ngrams = _question_ngrams(question)
    if not ngrams:
        return text
    size = len(next(iter(ngrams)))
    words = list(_WORD.finditer(text))
    lowered = [match.group().lower() for match in words]
    pieces, done, index = [], 0, 0
    while index + size <= len(words):
        if tuple(lowered[index : index + size]) not in ngrams:
            index += 1
            continue
        first = index
        while index + size <= len(words) and tuple(lowered[index : index + size]) in ngrams:
            index += 1
        start, end = words[first].start(), words[index + size - 2].end()
        pieces += [text[done:start], "\0" * (end - start)]
        done, index = end, index + size - 1
    return "".join([*pieces, text[done:]])


@lru_cache(maxsize=1024)
def _question_ngrams(question: str) -> frozenset[tuple[str, ...]]:
    """Return the n-grams of a question that identify a quotation; none if the detectors find nothing in it."""
    lowered = _lowered(question)
    if not (_STEP.search(lowered) or _find_behaviours(lowered)):
        return frozenset()
    words = [match.group().lower() for match in _WORD.finditer(question)]
    size = min(_QUOTED_NGRAM, len(words))
    return frozenset(tuple(words[index : index + size]) for index in range(len(words) - size + 1))


def _as_nulls(match: re.Match[str]) -> str:
    return "\0" * len(match.group())


def _count_steps(text: str) -> int:
    """Return the number of reasoning steps: of numbered ones, else of the sentences of the reasoning."""
    reasoning, response = split_reasoning(text)
    tagged = REASONING_CLOSE in text or bool(reasoning)
    steps = {match.group(1).lstrip("0") for match in _STEP.finditer(reasoning if tagged else response)}
    if steps or not tagged:
        return len(steps)
    return sum(1 for _ in sentences(reasoning))

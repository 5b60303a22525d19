"""Quotations from rollouts: the phrases by which each behaviour was found, in the model's own words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from reasonray.records import BASE, BEHAVIOURS, STUDENT

_CONTEXT = 60
"""Characters shown before and after a phrase."""


@dataclass(frozen=True, slots=True)
class Quote:
    """A phrase in its context."""

    behaviour: str
    arm: str
    id: str
    """Of the rollout."""
    before: str
    phrase: str
    after: str


def quotes(arms: Mapping[str, pa.Table], each: int = 2) -> list[Quote]:
    """Return quotations of each behaviour, of base and student.

    The most frequent phrases are quoted, each from the first of its rollouts by id.

    Args:
        arms: rollouts by model (id, completion, annotation_spans); models without annotations give no quotes.
        each: quotations of a behaviour by a model.
    """
    by_arm = {arm: list(_quoted(arms[arm], arm)) for arm in (BASE, STUDENT) if arm in arms}
    chosen = []
    for behaviour in BEHAVIOURS:
        for candidates in by_arm.values():
            by_phrase: dict[str, list[Quote]] = {}
            for quote in candidates:
                if quote.behaviour == behaviour:
                    by_phrase.setdefault(quote.phrase.casefold(), []).append(quote)
            most_frequent = sorted(by_phrase.items(), key=lambda item: (-len(item[1]), item[0]))
            chosen += [min(same, key=lambda quote: quote.id) for _, same in most_frequent[:each]]
    return chosen


def _quoted(rollouts: pa.Table, arm: str) -> Iterator[Quote]:
    if "annotation_spans" not in rollouts.column_names:
        return
    columns = (rollouts[name].to_pylist() for name in ("id", "completion", "annotation_spans"))
    for rollout, text, spans in zip(*columns, strict=True):
        for span in spans or ():
            start, end = span["start"], span["end"]
            before, after = text[max(0, start - _CONTEXT) : start], text[end : end + _CONTEXT]
            yield Quote(span["behaviour"], arm, rollout, _before(before), text[start:end], _after(after))


def _before(text: str) -> str:
    """Return the text before a phrase on one line, without a word that the limit cut."""
    line = " ".join(text.split()) + (" " if text[-1:].isspace() else "")
    return line if len(text) < _CONTEXT else f"… {line.partition(' ')[2]}"


def _after(text: str) -> str:
    """Return the text after a phrase on one line, without a word that the limit cut."""
    line = (" " if text[:1].isspace() else "") + " ".join(text.split())
    return line if len(text) < _CONTEXT else f"{line.rpartition(' ')[0]} …"

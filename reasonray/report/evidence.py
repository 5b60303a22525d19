"""What behaviours look like in the model's own words: for each the phrases that betray it, quoted from rollouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from reasonray.records import BASE, BEHAVIOURS, STUDENT

_AROUND = 60
"""Characters shown before and after a phrase."""


@dataclass(frozen=True, slots=True)
class Quote:
    """A phrase where it stands."""

    behaviour: str
    arm: str
    id: str
    """Of the rollout."""
    before: str
    found: str
    after: str


def quotes(arms: Mapping[str, pa.Table], each: int = 2) -> list[Quote]:
    """Return some quotes of each behaviour, of base and student: the most frequent phrases, in the first by id."""
    measured = {arm: list(_spans(arms[arm])) for arm in (BASE, STUDENT) if arm in arms}
    found = []
    for behaviour in BEHAVIOURS:
        for arm, spans in measured.items():
            by_phrase: dict[str, list[Quote]] = {}
            for behaves, (rollout, text, start, end) in spans:
                if behaves == behaviour:
                    before, after = text[max(0, start - _AROUND) : start], text[end : end + _AROUND]
                    quote = Quote(behaviour, arm, rollout, _leading_to(before), text[start:end], _going_on(after))
                    by_phrase.setdefault(text[start:end].casefold(), []).append(quote)
            often = sorted(by_phrase.items(), key=lambda it: (-len(it[1]), it[0]))
            found += [min(same, key=lambda it: it.id) for _, same in often[:each]]
    return found


def _spans(rollouts: pa.Table) -> Iterator[tuple[str, tuple[str, str, int, int]]]:
    if "annotation_spans" not in rollouts.column_names:
        return
    columns = (rollouts[name].to_pylist() for name in ("id", "completion", "annotation_spans"))
    for rollout, text, spans in zip(*columns, strict=True):
        for span in spans or ():
            yield span["behaviour"], (rollout, text, span["start"], span["end"])


def _leading_to(text: str) -> str:
    """Return what stands before a quotation on one line, without the word that the cut before it went through."""
    line = " ".join(text.split()) + (" " if text[-1:].isspace() else "")
    return line if len(text) < _AROUND else f"… {line.partition(' ')[2]}"


def _going_on(text: str) -> str:
    """Return what stands after a quotation on one line, without the word that the cut at its end went through."""
    line = (" " if text[:1].isspace() else "") + " ".join(text.split())
    return line if len(text) < _AROUND else f"{line.rpartition(' ')[0]} …"

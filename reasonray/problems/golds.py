"""Gold answers, as a source writes them: a text, a number, a list of several, a solution that ends in a box.

A gold answer is kept as it is written; only the part that the source names is taken out of its column.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reasonray.answers import boxed_answers
from reasonray.problems.values import text_of

_GROUPED = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_SEVERAL = 'set gold = "any" if one of them is enough, or "all" if an answer must state each'
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""The letters of options, in their order."""


@dataclass(frozen=True, slots=True)
class Gold:
    """What a problem's answer is compared with."""

    answer: str | None
    """None if the row has no gold answer."""
    accepted: tuple[str, ...] = ()
    """Further answers that are as correct."""


def read(value: Any, form: str) -> Gold:
    """Return the gold answer in a column's value.

    Args:
        value: the column's value.
        form: `gold` of the source (config/sources.py); index and number are read by `of_option`.

    Raises:
        ValueError: the value has no gold answer of that form; the message names the cure.
    """
    if form == "gsm8k":
        return _one([_after_hashes(text)] if (text := _text(value)) else [])
    if form == "boxed":
        return _one(_boxes(text) if (text := _text(value)) else [])
    if form in ("any", "all"):
        golds = _several(value)
        if form == "all" or not golds:
            return Gold(", ".join(golds) or None)
        return Gold(golds[0], golds[1:])
    return _one(_items(value)) if isinstance(value, list | tuple) else Gold(_text(value) or None)


def of_option(value: Any, options: Any, first: int) -> str:
    """Return the letter of the option at a place.

    Args:
        value: the place of the option, as a number or a text.
        options: the problem's options: texts, or letter → text.
        first: the place of the first option: 0 or 1.

    Raises:
        ValueError: there is no such option.
    """
    letters = list(options) if isinstance(options, Mapping) else list(LETTERS[: len(options)])
    text = _text(value)
    place = int(text) - first if re.fullmatch(r"\d{1,3}", text) else -1
    if not 0 <= place < len(letters):
        last = len(letters) + first - 1
        raise ValueError(
            f"{text[:40]!r} is not the place of one of its {len(letters)} options ({first} to {last}); "
            'set gold to "index" if the first option is 0, to "number" if it is 1'
        )
    return str(letters[place])


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        keys = ", ".join(map(str, value))
        raise ValueError(
            f"the answer is a table of {keys[:80]}; name the key that holds it, such as answer = "
            f'"COLUMN.{next(iter(value), "key")}"'
        )
    return text_of(value)


def _items(values: Sequence[Any]) -> list[str]:
    return [text for value in values if (text := _text(value))]


def _several(value: Any) -> tuple[str, ...]:
    """Return the items of a list, the boxes of a text that has boxes, or the text itself; each once."""
    if isinstance(value, list | tuple):
        found = _items(value)
    else:
        text = _text(value)
        found = boxed_answers(text) or ([text] if text else [])
    return tuple(dict.fromkeys(found))


def _one(golds: Sequence[str]) -> Gold:
    distinct = list(dict.fromkeys(golds))
    if len(distinct) > 1:
        shown = ", ".join(text[:30] for text in distinct[:3])
        raise ValueError(f"{len(distinct)} gold answers ({shown}); {_SEVERAL}")
    return Gold(distinct[0] if distinct else None)


def _after_hashes(text: str) -> str:
    """Return the text after the last `####`, which is how GSM8K ends its solutions."""
    _, hashes, after = text.rpartition("####")
    if not hashes:
        raise ValueError("no #### in the answer; set gold to the form that the answers have")
    answer = after.strip().partition("\n")[0].strip()
    # GSM8K writes 1,008 for 1008; other commas separate answers.
    return answer.replace(",", "") if _GROUPED.fullmatch(answer) else answer


def _boxes(text: str) -> list[str]:
    boxes = boxed_answers(text)
    if not boxes:
        raise ValueError(r"no \boxed{} in the answer; set gold to the form that the answers have")
    return boxes

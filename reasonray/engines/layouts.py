"""The layouts in which data sets hold completions: which columns hold what, and the recordings of a row. Pure.

Columns are found by the names that OpenThoughts, OpenR1-Math, NuminaMath, s1K, OpenMathReasoning, DeepMath, distilabel,
NeMo-Skills and chat logs use. Rows are hostile: a field may be missing, null or of another type.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from reasonray.config.engines import RecordedColumns
from reasonray.engines.answers import estimated_tokens, is_cut, message_text
from reasonray.errors import UserError
from reasonray.problems.columns import question_text, value_at
from reasonray.problems.notes import Notes
from reasonray.problems.values import text_of
from reasonray.prompts import known_tags, with_standard_tags
from reasonray.records import Finish, storable

_QUESTIONS = ("question", "problem", "prompt", "instruction", "query", "input")
_CHATS = ("messages", "conversations", "conversation", "chat")
_SEVERAL = ("generations", "completions", "responses", *_CHATS)
"""Columns that hold lists, which CSV files hold as JSON."""
_COMPLETIONS = (
    *("generations", "completions", "responses", "r1_solution_*", "generation", "completion", "response"),
    *("generated_solution", "deepseek_solution", "deepseek_attempt", "attempt", "output"),
    *(*_CHATS, "solution"),
)
"""In the order in which they are preferred: a chat next to several generations holds one of them, as in OpenR1-Math."""
_REASONINGS = ("reasoning_content", "reasoning", "thinking", "reasoning_trace")
_REASONINGS_OF = {
    "deepseek_solution": ("deepseek_reasoning",),
    "deepseek_attempt": ("deepseek_thinking_trajectory",),
    "attempt": ("thinking_trajectories", "thinking_trajectory"),
}
"""Column of a completion → the columns of its reasoning."""
_FINISHES = ("finish_reasons", "finish_reason", "stop_reason", "is_reasoning_complete")
_ROLES = {"assistant", "gpt", "model", "bot"}
_MAX_TOKENS = 2**31 - 1


class Unusable(Exception):
    """A row, or one of its completions, cannot be a recording; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a row that hold its parts; "" for those that there are not."""

    question: str
    id: str
    completion: str
    """May be a pattern (`r1_solution_*`): then each of the columns holds one."""
    reasoning: str
    finish: tuple[str, ...]
    """The first one with a value counts."""
    tokens: str

    def __str__(self) -> str:
        """Return which column was taken for what."""
        parts = {
            "question": self.question,
            "id": self.id,
            "completion": self.completion,
            "reasoning": self.reasoning,
            "finish": " or ".join(self.finish),
            "tokens": self.tokens,
        }
        return ", ".join(f"{part}: {column}" for part, column in parts.items() if column)


@dataclass(frozen=True, slots=True)
class Recording:
    """A completion as it was recorded."""

    text: str
    finish: Finish
    tokens: int | None
    """None if the row does not say."""
    opening: str = ""
    """What the prompt wrote of the answer, before the text."""

    @property
    def estimated_tokens(self) -> int:
        """Its tokens, estimated where they are not known."""
        return estimated_tokens(self.text) if self.tokens is None else self.tokens


def layout_of(columns: RecordedColumns, names: Sequence[str]) -> Layout:
    """Return the columns that hold the parts of a row.

    Args:
        columns: those that the configuration names.
        names: of the row's columns.
    """
    completion = columns.completion or _first(_COMPLETIONS, names)
    others = [name for name in names if name != completion]
    reasoning = "" if completion in _CHATS else _first((*_REASONINGS_OF.get(completion, ()), *_REASONINGS), others)
    return Layout(
        columns.question or ("" if columns.id else _first((*_QUESTIONS, *_CHATS), names)),
        columns.id or "",
        completion,
        columns.reasoning or reasoning,
        (columns.finish,) if columns.finish else tuple(name for name in _FINISHES if name in names),
        columns.tokens or "",
    )


def _first(candidates: Sequence[str], names: Sequence[str]) -> str:
    return next((known for known in candidates if any(fnmatchcase(name, known) for name in names)), "")


def question_of(row: Mapping[str, Any], layout: Layout, location: str) -> str:
    """Return the question of a row, without surrounding space.

    Raises:
        Unusable: there is none, or it is not one turn of a user.
    """
    try:
        question = question_text(_as_list(_value(row, layout.question)), layout.question, location, Notes())
    except UserError:
        question = ""
    if not question:
        raise Unusable("without a readable question")
    return storable(question)


def id_of(row: Mapping[str, Any], layout: Layout) -> str:
    """Return the id of a row.

    Raises:
        Unusable: there is none.
    """
    try:
        identity = text_of(_value(row, layout.id))
    except ValueError:
        identity = ""
    if not identity:
        raise Unusable("without an id")
    return storable(identity)


def recordings_of(row: Mapping[str, Any], layout: Layout) -> Iterator[Recording | Unusable]:
    """Yield the completions of a row in their order, and the reason for each that cannot be used."""
    items = _completions(row, layout.completion)
    if not items:
        yield Unusable("without a completion")
    reasonings = _as_list(_value(row, layout.reasoning)) if layout.reasoning else None
    if isinstance(reasonings, list | tuple) and len(reasonings) != len(items):
        yield Unusable(f"with {len(reasonings)} reasonings of {len(items)} completions")
        return
    finish = next((value for name in layout.finish if _holds(value := _as_list(_value(row, name)))), None)
    tokens = _as_list(_value(row, layout.tokens)) if layout.tokens else None
    for number, item in enumerate(items):
        try:
            reasoning = _text(_of_number(reasonings, number, len(items)))
            text = storable(_answer(item, reasoning))
            text = with_standard_tags(text, known_tags(text))
        except ValueError:
            text = ""
        if not text.strip():
            yield Unusable("without a completion")
            continue
        is_whole = _of_number(finish, number, len(items))
        yield Recording(
            text,
            Finish.LENGTH if _is_cut(is_whole) else Finish.STOP,
            _count(_of_number(tokens, number, len(items))),
        )


def _value(row: Mapping[str, Any], column: str) -> Any:
    try:
        return value_at(row, column)
    except KeyError:
        return None


def _holds(value: Any) -> bool:
    return any(item is not None for item in value) if isinstance(value, list | tuple) else value is not None


def _completions(row: Mapping[str, Any], column: str) -> Sequence[Any]:
    if "*" in column:
        return [row[name] for name in sorted(row) if fnmatchcase(name, column)]
    value = _value(row, column)
    if column in _SEVERAL:
        value = _as_list(value)
    if not isinstance(value, list | tuple):
        return [] if value is None else [value]
    return [value] if _is_chat(value) else value


def _as_list(value: Any) -> Any:
    """Return the list that a text holds as JSON, as CSV files have it; other values unchanged."""
    if not (isinstance(value, str) and value.lstrip().startswith("[")):
        return value
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return parsed if isinstance(parsed, list) and parsed else value


def _is_chat(value: Any) -> bool:
    is_list = isinstance(value, list | tuple) and bool(value)
    return is_list and all(isinstance(turn, Mapping) and ("role" in turn or "from" in turn) for turn in value)


def _answer(item: Any, reasoning: str) -> str:
    """Return a completion whose reasoning, if it was kept apart, is in front of it, in tags.

    Raises:
        ValueError: it is no text.
    """
    if _is_chat(item):
        if str(item[-1].get("role", item[-1].get("from"))).lower() not in _ROLES:
            return ""  # nobody has answered
        item = item[-1]
    if isinstance(item, Mapping):
        inner = item.get("message")  # of one of a server's choices
        message: Mapping[str, Any] = inner if isinstance(inner, Mapping) else item
        content = next((message[name] for name in ("content", "value", "text") if message.get(name)), "")
        return message_text({**message, "content": content} | ({"reasoning_content": reasoning} if reasoning else {}))
    return message_text({"content": _text(item), "reasoning_content": reasoning})


def _text(value: Any) -> str:
    """Return a text verbatim; other plain values as they are written.

    Raises:
        ValueError: the value is a list or a table.
    """
    return value if isinstance(value, str) else text_of(value)


def _of_number(values: Any, number: int, count: int) -> Any:
    """Return what a column holds of one of a row's completions; None if it does not distinguish them."""
    if isinstance(values, list | tuple):
        return values[number] if len(values) == count else None
    return values if count == 1 else None


def _is_cut(finish: Any) -> bool:
    if isinstance(finish, bool):
        return not finish
    return isinstance(finish, str) and (is_cut(finish.strip()) or finish.strip().lower() == "false")


def _count(value: Any) -> int | None:
    try:
        count = int(text_of(value))
    except ValueError:
        return None
    return count if 0 <= count <= _MAX_TOKENS else None

"""The problem in a row of a table: which columns hold it, in which form."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from reasonray.checkers import find_checker, own
from reasonray.config import FilesSource, HubSource
from reasonray.errors import UserError
from reasonray.problems import golds
from reasonray.problems.notes import Notes
from reasonray.problems.values import json_value, text_of, without_surrogates
from reasonray.records import Problem, Split

Row = tuple[str, Mapping[str, Any]]
"""The location of a row (file and line), and the row."""

_MISSING = object()
_ROLES = {"human": "user", "gpt": "assistant"}
"""ShareGPT's names of roles → those of chat templates."""
_PLACES = {"index": 0, "number": 1}
"""Form of a gold answer that counts options → the place of the first."""


def mapped_columns(source: FilesSource | HubSource) -> list[str]:
    """Return the columns that a source's configuration names."""
    columns = source.columns
    named = [columns.question, columns.answer, columns.difficulty, columns.checker, *columns.metadata.values()]
    return [column for column in named if column is not None]


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """Return the value of a column, or of a part of one (`reward_model.ground_truth`, `messages.0.content`).

    Raises:
        KeyError: there is no such column or part.
    """
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list | tuple) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise KeyError(column)
    return value


def problem_of(
    row: Mapping[str, Any], location: str, source: FilesSource | HubSource, name: str, split: Split, notes: Notes
) -> Problem:
    """Return the problem of a row. Its metadata are the source's checker_args and the columns that are not mapped.

    Args:
        row: column → value.
        location: file and line, for messages.
        source: gives the mapping of columns, the form of gold answers, the checker and its arguments.
        name: the source's name, a part of the problem's id.
        split: the part of the source.
        notes: takes what is left out or replaced.

    Raises:
        UserError: a mapped column is missing or not of its form, or the question or the answer is empty.
    """
    columns = source.columns
    checker = _text(row, columns.checker, "checker", location) if columns.checker else source.checker
    if own.is_own(checker) and checker != source.checker:
        cure = f'set checker = "{checker}" for the source if the code is yours'
        raise UserError(f"{location}: only the configuration may name code as a checker, not a row; {cure}")
    question = question_text(_mapped(row, columns.question, "question", location), columns.question, location, notes)
    if not question:
        raise UserError(f"{location}: the question is empty; fill it or remove the row")
    metadata = source.checker_args | _metadata(row, source, name, location, notes)
    options = metadata.get("options")
    if checker == "choice" and isinstance(options, Mapping):
        options = metadata["options"] = _labelled(options)
    if checker == "choice" and source.show_options:
        question = _with_options(question, options, location)
    elif checker == "choice" and options and not _states(question, options):
        notes.add(f"source {name}: questions that do not state their options; set show_options = true", location)
    gold = _gold(row, source, checker, options, location)
    if gold.answer is None and not source.unanswered and _needs_answer(checker, location):
        raise UserError(_without_answer(row, columns.answer, location))
    if gold.accepted:
        metadata["accepted"] = [*gold.accepted]
    cleaned = without_surrogates(question), gold.answer and without_surrogates(gold.answer)
    if cleaned != (question, gold.answer):
        notes.add(f"source {name}: half a character (a lone surrogate), replaced by U+FFFD", location)
    return Problem.of(
        *cleaned,
        source=name,
        checker=checker,
        difficulty=_text(row, columns.difficulty, "difficulty", location) if columns.difficulty else "",
        split=split,
        metadata=metadata,
    )


def _metadata(
    row: Mapping[str, Any], source: FilesSource | HubSource, name: str, location: str, notes: Notes
) -> dict[str, Any]:
    """Return the columns that are not mapped, as JSON can hold them, and those that columns.metadata renames."""
    found: dict[str, Any] = {}
    columns = source.columns
    mapped = (columns.question, columns.answer, columns.difficulty, columns.checker, *columns.leave_out)
    for column, value in row.items():
        if column in mapped:
            continue
        try:
            plain = json_value(value)
        except TypeError as error:
            notes.add(f"source {name}: column {column} is left out: metadata cannot hold it ({error})", location)
            continue
        if plain is not None:
            found[column] = plain
    for option, column in columns.metadata.items():
        try:
            found[option] = json_value(_mapped(row, column, option, location))
        except TypeError as error:
            raise UserError(f"{location}: column {column!r} for the {option}: JSON cannot hold it ({error})") from None
    return found


def _gold(
    row: Mapping[str, Any], source: FilesSource | HubSource, checker: str, options: Any, location: str
) -> golds.Gold:
    try:
        value = value_at(row, source.columns.answer)
    except KeyError:
        return golds.Gold(None)
    try:
        place = _first_place(value, source.gold, checker, options)
        if place is not None and value is not None:
            return golds.Gold(golds.of_option(value, options, place))
        return golds.read(value, source.gold)
    except ValueError as error:
        raise UserError(f"{location}: {error}") from None


def _first_place(value: Any, form: str, checker: str, options: Any) -> int | None:
    """Return the place of the first option if a gold answer is the place of an option, else None.

    A number, as against a text, can only be a place where the options are texts.
    """
    if form in _PLACES:
        if not isinstance(options, list | Mapping) or not options:
            raise ValueError(f'gold = "{form}" needs the options: columns.metadata = {{ options = "…" }}')
        return _PLACES[form]
    is_number = isinstance(value, int) and not isinstance(value, bool)
    are_texts = isinstance(options, list) and bool(options) and all(isinstance(option, str) for option in options)
    return 0 if checker == "choice" and form == "verbatim" and is_number and are_texts else None


def _with_options(question: str, options: Any, location: str) -> str:
    """Return a question with a line for each option: its letter and its text."""
    if not isinstance(options, list | Mapping) or not options:
        raise UserError(f'{location}: show_options needs the options: columns.metadata = {{ options = "…" }}')
    pairs = options.items() if isinstance(options, Mapping) else zip(golds.LETTERS, options, strict=False)
    return "\n".join([question, "", *(f"{letter}. {text_of(text)}" for letter, text in pairs)])


def _states(question: str, options: Any) -> bool:
    """Return whether a question states an option, so that a model can choose."""
    texts = options.values() if isinstance(options, Mapping) else options
    return not isinstance(texts, Collection) or any(str(text).strip() in question for text in texts)


def _labelled(options: Mapping[str, Any]) -> Any:
    """Return options that are two columns, as in ARC ({text: […], label: […]}), as label → text; others unchanged."""
    texts, labels = options.get("text"), options.get("label")
    if len(options) != 2 or not isinstance(texts, list) or not isinstance(labels, list) or len(texts) != len(labels):
        return options
    return dict(zip(labels, texts, strict=True))


def question_text(value: Any, column: str, location: str, notes: Notes) -> str:
    """Return a question that is a text, or the user's turn of a chat.

    Args:
        value: of the column.
        column: its name.
        location: file and line, for messages.
        notes: takes what is left out of a chat.

    Raises:
        UserError: it is neither, or the chat has not one turn of the user.
    """
    if not isinstance(value, list | tuple):
        try:
            return text_of(value)
        except ValueError as error:
            raise UserError(f"{location}: column {column!r} for the question holds {error}") from None
    turns = [_turn(message, column, location) for message in value]
    asked = [number for number, (role, _) in enumerate(turns) if role == "user"]
    if len(asked) != 1:
        raise UserError(
            f"{location}: the chat in column {column!r} has {len(asked)} turns of the user; a question is one turn"
        )
    before, after = turns[: asked[0]], turns[asked[0] + 1 :]
    if any(text for _, text in before):
        notes.add("system messages left out: models are asked with their own prompt.system", location)
    if after:
        notes.add("chats whose turns after the question are left out", location)
    return turns[asked[0]][1]


def _turn(message: Any, column: str, location: str) -> tuple[str, str]:
    """Return role and text of a message."""
    if not isinstance(message, Mapping):
        raise UserError(f"{location}: column {column!r} for the question is a list, but not one of messages")
    role = str(message.get("role", message.get("from", "")))
    content = message.get("content", message.get("value"))
    parts = content if isinstance(content, list | tuple) else [{"type": "text", "text": content}]
    if not all(isinstance(part, Mapping) and isinstance(part.get("text") or "", str) for part in parts):
        raise UserError(f"{location}: a message in column {column!r} is not a text")
    if other := [part.get("type") for part in parts if part.get("type", "text") != "text"]:
        raise UserError(f"{location}: a message in column {column!r} holds a part of type {other[0]}, not a text")
    return _ROLES.get(role, role), "".join(part.get("text") or "" for part in parts).strip()


def _mapped(row: Mapping[str, Any], column: str, role: str, location: str) -> Any:
    try:
        return value_at(row, column)
    except KeyError:
        raise UserError(f"{location}: no column {column!r} for the {role}; {_there_are(row)}") from None


def _text(row: Mapping[str, Any], column: str, role: str, location: str) -> str:
    try:
        return without_surrogates(text_of(_mapped(row, column, role, location)))
    except ValueError as error:
        raise UserError(f"{location}: column {column!r} for the {role} holds {error}") from None


def _needs_answer(checker: str, location: str) -> bool:
    try:
        return find_checker(checker).needs_answer
    except UserError as error:
        raise UserError(f"{location}: {error}") from None


def _without_answer(row: Mapping[str, Any], column: str, location: str) -> str:
    try:
        value_at(row, column)
    except KeyError:
        return f"{location}: no column {column!r} for the answer; {_there_are(row)}"
    return f"{location}: the answer is empty; fill it, remove the row, or set unanswered = true for the source"


def _there_are(row: Mapping[str, Any]) -> str:
    return f"there are {', '.join(map(str, row))}"[:300]

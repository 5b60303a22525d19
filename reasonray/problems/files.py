"""Problems from files: JSON Lines, JSON, CSV or parquet, by path, glob or URI, with a mapping of columns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc

from reasonray.checkers import CHECKERS, find_checker
from reasonray.config import FilesSource, HubSource
from reasonray.errors import UserError
from reasonray.records import Problem, Split
from reasonray.store.storage import Place, place, storage_error

Row = tuple[str, Mapping[str, Any]]
"""The location of a row (file and line), and the row."""


def load(source: FilesSource) -> list[tuple[Problem, str]]:
    """Return the problems of a source, each with its location.

    Raises:
        UserError: a file is missing or malformed (the message names the line), or a row has no question or answer.
    """
    parts = ((Split.TRAIN, source.train, source.limit_train), (Split.TEST, source.test, source.limit_test))
    problems = []
    for split, pattern, limit in parts:
        if not pattern:
            continue
        rows = islice(read_rows(pattern, source.name), limit)
        problems += [(problem_of(row, location, source, source.name, split), location) for location, row in rows]
    return problems


def read_rows(pattern: str, name: str) -> Iterator[Row]:
    """Yield the rows of the files at a path or glob, each with its location.

    Args:
        pattern: path, glob or URI.
        name: the source's name in messages.

    Raises:
        UserError: a file is missing or malformed.
    """
    for file in matching(pattern, name):
        yield from _rows(file)


def problem_of(
    row: Mapping[str, Any], location: str, source: FilesSource | HubSource, name: str, split: Split
) -> Problem:
    """Return the problem of a row. Its metadata are the source's checker_args and the columns that are not mapped.

    Args:
        row: column → value.
        location: file and line, for messages.
        source: gives the mapping of columns, the checker and its arguments.
        name: the source's name, a part of the problem's id.
        split: the part of the source.

    Raises:
        UserError: a mapped column is missing, or the question or the answer is empty.
    """
    columns = source.columns
    mapped = {
        role: column
        for role, column in columns.model_dump(exclude={"metadata"}).items()
        if column is not None and (role != "answer" or column in row)
    }
    for role, column in (mapped | columns.metadata).items():
        if column not in row:
            raise UserError(f"{location}: no column {column!r} for the {role}; there are {', '.join(map(str, row))}")
    checker = _text(row[mapped["checker"]]) if "checker" in mapped else source.checker
    question, answer = _text(row[mapped["question"]]), _text(row.get(columns.answer)) or None
    if not question:
        raise UserError(f"{location}: the question is empty; fill it or remove the row")
    if answer is None and not source.unanswered and (checker not in CHECKERS or find_checker(checker).needs_answer):
        raise UserError(_without_answer(row, columns.answer, location))
    metadata = {key: value for key, value in row.items() if key not in mapped.values() and _is_plain(value)}
    return Problem.of(
        question,
        answer,
        source=name,
        checker=checker,
        difficulty=_text(row[mapped["difficulty"]]) if "difficulty" in mapped else "",
        split=split,
        metadata=source.checker_args | metadata | {name: row[column] for name, column in columns.metadata.items()},
    )


def _without_answer(row: Mapping[str, Any], column: str, location: str) -> str:
    if column not in row:
        return f"{location}: no column {column!r} for the answer; there are {', '.join(map(str, row))}"
    return f"{location}: the answer is empty; fill it, remove the row, or set unanswered = true for the source"


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | list | dict) and value == value  # NaN is not JSON


def matching(pattern: str, source: str) -> list[Place]:
    """Return the files at a path, glob or URI.

    Args:
        pattern: path, glob or URI.
        source: the source's name in messages.

    Raises:
        UserError: there is no such file, or its directory cannot be read.
    """
    target = place(pattern)
    is_glob = any(sign in target.name for sign in "*?[")
    folder = Place(target.filesystem, target.path.rpartition("/")[0])
    try:
        if is_glob:
            files = [file for file in folder.list() if fnmatch(file.name, target.name)]
        else:
            files = [target] if target.exists() else []
    except OSError as error:
        raise storage_error(target, error) from None
    if not files:
        raise UserError(f"source {source}: no file {'matches' if is_glob else 'at'} {pattern}")
    return files


def _rows(file: Place) -> Iterator[Row]:
    kind = file.name.removesuffix(".gz").rpartition(".")[2].lower()
    readers = {"jsonl": _json_lines, "ndjson": _json_lines, "json": _json, "csv": _csv, "parquet": _parquet}
    if kind not in readers:
        raise UserError(f"{file}: cannot read .{kind} files; there are {', '.join('.' + name for name in readers)}")
    try:
        yield from readers[kind](file)
    except OSError as error:
        raise storage_error(file, error) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 at byte {error.start + 1}; save it as UTF-8") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"{file}: not a .{kind} file: {str(error).partition(chr(10))[0]}") from None


def _json_lines(file: Place) -> Iterator[Row]:
    for number, line in enumerate(_decoded(file).split("\n"), 1):
        if line.strip():
            location = f"{file}, line {number}"
            yield location, _an_object(_parsed(line, location), location)


def _json(file: Place) -> Iterator[Row]:
    rows = _parsed(_decoded(file), str(file))
    if not isinstance(rows, list):
        raise UserError(f"{file}: a .json file must hold a list of objects; one object a line makes a .jsonl file")
    for number, row in enumerate(rows, 1):
        location = f"{file}, item {number}"
        yield location, _an_object(row, location)


def _parsed(text: str, location: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{location}: not JSON: {error.msg} at column {error.colno}") from None


def _an_object(row: Any, location: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{location}: expected an object, found {type(row).__name__}")
    return row


def _csv(file: Place) -> Iterator[Row]:
    table = pc.read_csv(pa.BufferReader(_decoded(file).encode()))  # read_csv would read other encodings as bytes
    return _numbered(file, table.to_pylist())


def _parquet(file: Place) -> Iterator[Row]:
    return _numbered(file, file.read_table().to_pylist())


def _decoded(file: Place) -> str:
    return file.read().decode("utf-8-sig")


def _numbered(file: Place, rows: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    return ((f"{file}, row {number}", row) for number, row in enumerate(rows, 1))

"""Problems from files: JSON Lines, JSON, CSV or parquet, by path, glob or URI, with a mapping of columns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc

from reasonray.checkers import CHECKERS, needs_no_answer
from reasonray.config import FilesSource, HubSource
from reasonray.errors import UserError
from reasonray.records import Problem, Split
from reasonray.store.storage import Place, place, storage_error

Row = tuple[str, Mapping[str, Any]]
"""Where a row stands, and the row."""


def load(source: FilesSource) -> list[tuple[Problem, str]]:
    """Return the problems of a source, each with where it stands.

    Raises:
        UserError: a file is missing or malformed (with the line), or a row has no question or answer.
    """
    parts = ((Split.TRAIN, source.train, source.limit_train), (Split.TEST, source.test, source.limit_test))
    problems = []
    for split, pattern, limit in parts:
        if not pattern:
            continue
        rows = read_rows(pattern, source.name)
        problems += [(problem_of(row, where, source, source.name, split), where) for where, row in islice(rows, limit)]
    return problems


def read_rows(pattern: str, name: str) -> Iterator[Row]:
    """Yield the rows of the files at a path or glob, each with where it stands.

    Args:
        pattern: path, glob or URI.
        name: what messages call the source.

    Raises:
        UserError: a file is missing or malformed.
    """
    for file in matching(pattern, name):
        yield from _rows(file)


def problem_of(row: Mapping[str, Any], where: str, source: FilesSource | HubSource, name: str, split: Split) -> Problem:
    """Return the problem that a row holds; the source's checker_args and columns that nothing maps are its metadata.

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
            raise UserError(f"{where}: no column {column!r} for the {role}; there are {', '.join(map(str, row))}")
    checker = _text(row[mapped["checker"]]) if "checker" in mapped else source.checker
    question, answer = _text(row[mapped["question"]]), _text(row.get(columns.answer)) or None
    if not question:
        raise UserError(f"{where}: the question is empty; fill it or remove the row")
    if answer is None and not source.unanswered and not (checker in CHECKERS and needs_no_answer(checker)):
        raise UserError(_without_answer(row, columns.answer, where))
    metadata = {key: value for key, value in row.items() if key not in mapped.values() and _is_plain(value)}
    return Problem(
        id=Problem.identify(name, question, answer),
        source=name,
        question=question,
        answer=answer,
        checker=checker,
        difficulty=_text(row[mapped["difficulty"]]) if "difficulty" in mapped else "",
        split=split,
        metadata=source.checker_args | metadata | {name: row[column] for name, column in columns.metadata.items()},
    )


def _without_answer(row: Mapping[str, Any], column: str, where: str) -> str:
    if column not in row:
        return f"{where}: no column {column!r} for the answer; there are {', '.join(map(str, row))}"
    return f"{where}: the answer is empty; fill it, remove the row, or set unanswered = true for the source"


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | list | dict) and value == value  # NaN is not JSON


def matching(pattern: str, source: str) -> list[Place]:
    """Return the files at a path, glob or URI.

    Raises:
        UserError: there is none (the message names the source), or its place cannot be read.
    """
    target = place(pattern)
    is_glob = any(sign in target.name for sign in "*?[")
    folder = Place(target.filesystem, target.path.rpartition("/")[0])
    try:
        if not is_glob:
            found = [target] if target.exists() else []
        else:
            found = [file for file in folder.list() if fnmatch(file.name, target.name)]
    except OSError as error:
        raise storage_error(target, error) from None
    if not found:
        raise UserError(f"source {source}: no file {'matches' if is_glob else 'at'} {pattern}")
    return found


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
            where = f"{file}, line {number}"
            yield where, _an_object(_parsed(line, where), where)


def _json(file: Place) -> Iterator[Row]:
    rows = _parsed(_decoded(file), str(file))
    if not isinstance(rows, list):
        raise UserError(f"{file}: a .json file must hold a list of objects; one object a line makes a .jsonl file")
    for number, row in enumerate(rows, 1):
        where = f"{file}, item {number}"
        yield where, _an_object(row, where)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON: {error.msg} at column {error.colno}") from None


def _an_object(row: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object, found {type(row).__name__}")
    return row


def _csv(file: Place) -> Iterator[Row]:
    table = pc.read_csv(pa.BufferReader(_decoded(file).encode()))  # which would take other encodings for bytes
    return _numbered(file, table.to_pylist())


def _parquet(file: Place) -> Iterator[Row]:
    return _numbered(file, file.read_table().to_pylist())


def _decoded(file: Place) -> str:
    return file.read().decode("utf-8-sig")


def _numbered(file: Place, rows: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    return ((f"{file}, row {number}", row) for number, row in enumerate(rows, 1))

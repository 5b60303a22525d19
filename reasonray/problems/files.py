"""Problems from files: JSON Lines, JSON, CSV or parquet, by path, glob or URI, with a mapping of columns.

A value is read as it is written: a CSV file holds texts, and a number in JSON keeps its digits. Files are hostile: what
cannot be read is one line that names the place.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from fnmatch import fnmatch
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reasonray.config import FilesSource
from reasonray.errors import UserError
from reasonray.problems.arrow import rows_of_table
from reasonray.problems.columns import Row, mapped_columns, problem_of
from reasonray.problems.notes import Notes
from reasonray.problems.values import WrittenFloat
from reasonray.records import Problem, Split
from reasonray.store.storage import Place, place, storage_error

_BATCH = 1024
_MAX_DIGITS = 4300
"""Python refuses to read longer integers, because that takes quadratic time; they stay texts."""
_BOM = "\ufeff"


def load(source: FilesSource, notes: Notes | None = None) -> list[tuple[Problem, str]]:
    """Return the problems of a source, each with its location.

    Raises:
        UserError: a file is missing or malformed (the message names the line), or a row has no question or answer.
    """
    notes = Notes() if notes is None else notes
    parts = ((Split.TRAIN, source.train, source.limit_train), (Split.TEST, source.test, source.limit_test))
    problems = []
    for split, pattern, limit in parts:
        if not pattern:
            continue
        rows = islice(read_rows(pattern, source.name, mapped_columns(source), notes), limit)
        problems += [(problem_of(row, location, source, source.name, split, notes), location) for location, row in rows]
    return problems


def read_rows(pattern: str, name: str, wanted: Collection[str] = (), notes: Notes | None = None) -> Iterator[Row]:
    """Yield the rows of the files at a path or glob, each with its location.

    Args:
        pattern: path, glob or URI.
        name: the source's name in messages.
        wanted: the columns that must be there as texts if they are there at all, such as dates.
        notes: takes the columns that are left out, because JSON could not hold their values.

    Raises:
        UserError: a file is missing or malformed.
    """
    for file in matching(pattern, name):
        yield from _rows(file, name, wanted, Notes() if notes is None else notes)


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


def _rows(file: Place, name: str, wanted: Collection[str], notes: Notes) -> Iterator[Row]:
    kind = file.name.removesuffix(".gz").rpartition(".")[2].lower()
    readers: dict[str, Callable[[Place], Iterator[Row]]] = {
        "jsonl": _json_lines,
        "ndjson": _json_lines,
        "json": _json,
        "csv": _csv,
        "parquet": lambda file: _parquet(file, name, wanted, notes),
    }
    if kind not in readers:
        raise UserError(f"{file}: cannot read .{kind} files; there are {', '.join('.' + name for name in readers)}")
    try:
        yield from readers[kind](file)
    except pa.ArrowException as error:
        raise UserError(f"{file}: not a .{kind} file: {_line(error)}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 at byte {error.start + 1}; save it as UTF-8") from None
    except OSError as error:
        raise storage_error(file, error) from None


def _json_lines(file: Place) -> Iterator[Row]:
    return _lines(file, _decoded(file))


def _lines(file: Place, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip().removeprefix(_BOM)  # files that were put together have a mark at each of their beginnings
        if line:
            location = f"{file}, line {number}"
            yield location, _an_object(_parsed(line, location), location)


def _json(file: Place) -> Iterator[Row]:
    """Yield the rows of a JSON list; many files called .json hold an object a line instead."""
    text = _decoded(file)
    first = text.lstrip().partition("\n")[0].rstrip()
    if first.startswith("{") and first.endswith("}"):
        yield from _lines(file, text)
        return
    rows = _parsed(text, str(file))
    if not isinstance(rows, list):
        raise UserError(f"{file}: a .json file must hold a list of objects, or an object a line")
    for number, row in enumerate(rows, 1):
        location = f"{file}, item {number}"
        yield location, _an_object(row, location)


def _parsed(text: str, location: str) -> Any:
    try:
        return json.loads(text, parse_int=_integer, parse_float=WrittenFloat.of, parse_constant=_constant)
    except json.JSONDecodeError as error:
        raise UserError(f"{location}: not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise UserError(f"{location}: its JSON is nested too deeply") from None


def _integer(digits: str) -> int | float | str:
    if len(digits) > _MAX_DIGITS:
        return digits
    return WrittenFloat.of(digits) if digits == "-0" else int(digits)


def _constant(name: str) -> float | None:
    return None if name == "NaN" else WrittenFloat.of(name)


def _an_object(row: Any, location: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{location}: expected an object, found {type(row).__name__}")
    return row


def _csv(file: Place) -> Iterator[Row]:
    """Yield the rows of a CSV file, all values as texts. A line break may be in a quoted field of any length."""
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(_decoded(file), newline=""), strict=True)
    names: list[str] = []
    number = 1  # of the line that a row begins with
    try:
        for fields in reader:
            if not names:
                names = _header(fields, str(file))
            elif len(fields) == len(names):
                yield f"{file}, line {number}", dict(zip(names, fields, strict=True))
            elif fields:
                raise UserError(
                    f"{file}: not a .csv file: line {number}: Expected {len(names)} columns, got {len(fields)}; "
                    "put quotes around a field that holds commas"
                )
            number = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{file}: not a .csv file: line {number}: {error}") from None
    if not names:
        raise UserError(f"{file}: not a .csv file: Empty CSV file")


def _header(names: list[str], location: str) -> list[str]:
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{location}: two columns are called {twice!r}; rename one")
    return names


def _parquet(file: Place, name: str, wanted: Collection[str], notes: Notes) -> Iterator[Row]:
    number = 0
    with pq.ParquetFile(file.path, filesystem=file.filesystem, pre_buffer=True) as stored:
        for batch in stored.iter_batches(_BATCH):
            first = f"{file}, row {number + 1}"
            for row in rows_of_table(pa.Table.from_batches([batch]), wanted, name, first, notes):
                number += 1
                yield f"{file}, row {number}", row


def _decoded(file: Place) -> str:
    with file.filesystem.open_input_stream(file.path) as stream:  # which decompresses what is called .gz
        return bytes(stream.read()).decode("utf-8-sig")


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]

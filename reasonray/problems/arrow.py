"""The rows of Arrow tables, as plain values. Columns that JSON could not hold are left out, with a note."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types

from reasonray.errors import UserError
from reasonray.problems.notes import Notes

_MAX_TYPE = 60


def rows_of_table(
    table: pa.Table, wanted: Collection[str], source: str, location: str, notes: Notes
) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a table, column → value.

    Args:
        table: with any columns: pictures, times inside of structs and maps are left out.
        wanted: the columns that are needed, also parts of structs (`reward_model.ground_truth`); a time or a binary
            value of theirs becomes a text.
        source: the source's name in messages.
        location: of the table's first row.
        notes: takes the columns that are left out.

    Raises:
        UserError: two columns have the same name, or the values of a column cannot be read as texts.
    """
    names = table.column_names
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{location}: two columns are called {twice!r}; rename one")
    columns = {}
    for name in names:
        column = _as_text(table[name]) if name in wanted else table[name]
        if _is_plain(column.type):
            columns[name] = column
            continue
        for part in sorted(wanted):
            if part.startswith(f"{name}."):
                columns[part] = _part(column, part.split(".")[1:], location)
        kind = str(column.type)
        if name in wanted:
            raise UserError(f"{location}: column {name!r} holds {kind[:200]}, which is neither a text nor a chat")
        kind = kind if len(kind) <= _MAX_TYPE else f"{kind[: _MAX_TYPE - 1]}…"
        notes.add(f"source {source}: column {name} is left out: metadata cannot hold {kind}", location, table.num_rows)
    values = {name: _values(column, name, location) for name, column in columns.items()}
    for row in zip(*values.values(), strict=True) if values else [()] * table.num_rows:
        yield dict(zip(values, row, strict=True))


def _is_plain(kind: pa.DataType) -> bool:
    """Return whether JSON can hold the values of a type."""
    if types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    if types.is_struct(kind):
        return all(_is_plain(field.type) for field in kind)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_plain(kind.value_type)
    is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    return bool(is_text or is_number or types.is_boolean(kind) or types.is_null(kind))


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    is_binary = types.is_binary(kind) or types.is_large_binary(kind)
    return column.cast(pa.large_string()) if types.is_temporal(kind) or is_binary else column


def _part(column: pa.ChunkedArray, path: list[str], location: str) -> pa.ChunkedArray:
    """Return a part of a struct that JSON cannot hold as a whole."""
    try:
        part = _as_text(pc.struct_field(column, path))
    except (pa.ArrowException, KeyError):
        part = None
    if part is None or not _is_plain(part.type):
        raise UserError(f"{location}: no readable {'.'.join(path)} in a column of type {str(column.type)[:200]}")
    return part


def _values(column: pa.ChunkedArray, name: str, location: str) -> list[Any]:
    """Return a column's values; numbers of less than 64 bits with the digits that they were written with."""
    try:
        if types.is_float16(column.type) or types.is_float32(column.type):
            return [text if text is None else float(text) for text in column.cast(pa.string()).to_pylist()]
        return list(column.to_pylist())
    except UnicodeDecodeError:
        raise UserError(f"{location} and below: column {name!r} is not UTF-8; save it as UTF-8") from None

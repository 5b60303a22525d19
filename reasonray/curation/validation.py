"""Validation of stored rollouts: reads segments, counts what is invalid by its fault, and skips it.

Segments can come from an older version, from another tool, or off a failing disk. Columns of another tool are ignored,
columns that are newer than the segment are null, other types are cast. A row is skipped if a required value is missing,
if its text is not UTF-8, if its completion is larger than LARGEST, or if its problem is not among the train problems. A
file that cannot be read is skipped whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reasonray.records import Finish, Outcome, Split
from reasonray.store.schema import ROLLOUT_SCHEMA, absent_column, stored_columns, upgrade
from reasonray.store.storage import Place

LARGEST = 8 << 20
"""Bytes of a completion; models write no more than some hundred thousand tokens."""
_ALLOWED = {"finish": tuple(Finish), "verdict_outcome": tuple(Outcome), "problem_split": (Split.TRAIN,)}
"""The values of columns that hold one of a few names."""


def read_batches(segment: Place, rows: int, train: Collection[str], faults: Counter[str]) -> Iterator[pa.Table]:
    """Yield a segment's valid rollouts as tables of ROLLOUT_SCHEMA, and count the invalid ones by their fault.

    Args:
        segment: a parquet file.
        rows: of a table, at most.
        train: ids of the train problems.
        faults: the counts, by column or "segment cannot be read: NAME", to which these are added.

    Raises:
        FileNotFoundError: a committed segment is lost, which is a fault of the storage and not of the data.
    """
    try:
        with pq.ParquetFile(segment.path, filesystem=segment.filesystem, pre_buffer=True) as file:
            names = stored_columns(ROLLOUT_SCHEMA.names, file.schema_arrow)
            for batch in file.iter_batches(rows, columns=names, use_threads=False):
                valid = valid_rows(upgrade(pa.table(batch)), train, faults)
                if valid.num_rows:
                    yield valid
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        faults[f"segment cannot be read: {segment.name}"] += 1


def valid_rows(table: pa.Table, train: Collection[str], faults: Counter[str]) -> pa.Table:
    """Return the valid rows of a table, cast to ROLLOUT_SCHEMA, and count the others by the first column at fault."""
    columns, invalid = [], {}
    for field in ROLLOUT_SCHEMA:
        column, fault = _as_field(table, field)
        if field.name == "problem_id":
            fault = pc.or_(fault, _is_unknown(column, train))
        if fault is not None and pc.any(fault).as_py():
            invalid[field.name] = fault
        columns.append(column)
    valid = pa.array([True] * table.num_rows)
    for name, fault in invalid.items():
        faults[name] += pc.sum(pc.and_(valid, fault)).as_py() or 0
        valid = pc.and_(valid, pc.invert(fault))
    nullable = pa.schema([field.with_nullable(True) for field in ROLLOUT_SCHEMA])
    return pa.table(columns, schema=nullable).filter(valid).cast(ROLLOUT_SCHEMA)


def _as_field(table: pa.Table, field: pa.Field) -> tuple[pa.Array, pa.Array | None]:
    """Return a column as a field of the schema, and which of its rows are invalid (None if none can be)."""
    if field.name not in table.column_names:
        absent = absent_column(field, table.num_rows)
        if absent is not None:
            return absent, None
        return pa.nulls(table.num_rows, field.type), pa.array([True] * table.num_rows)
    column = table[field.name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0, column.type)
    if _is_text(field.type) and _can_be_text(column.type):
        column, fault = _as_text(column, field)
    else:
        column, fault = _as_type(column, field.type)
    if not field.nullable:
        fault = pc.or_(fault, pc.is_null(column))
    if field.name in _ALLOWED:
        allowed = pa.array([name.value for name in _ALLOWED[field.name]])
        fault = pc.or_(fault, pc.invert(pc.is_in(column, value_set=allowed)))
    if field.name == "completion":
        fault = pc.or_(fault, pc.fill_null(pc.greater(pc.binary_length(column), LARGEST), False))
    return column, fault


def _is_unknown(problem_ids: pa.Array, train: Collection[str]) -> pa.Array:
    """Return which rows are of other problems; an id is looked up once for all its rows."""
    encoded = problem_ids.dictionary_encode()
    unknown = pa.array([problem not in train for problem in encoded.dictionary.to_pylist()], pa.bool_())
    return pc.fill_null(unknown.take(encoded.indices), True)


def _as_type(column: pa.Array, wanted: pa.DataType) -> tuple[pa.Array, pa.Array]:
    """Return a column cast to a type, and which rows cannot be cast."""
    try:
        return column.cast(wanted), pa.array([False] * len(column))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    # Arrow casts all or nothing: find out which values fail.
    values = []
    for value in column:
        try:
            values.append(value.cast(wanted).as_py())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            values.append(None)
    cast = pa.array(values, wanted)
    return cast, pc.and_(pc.is_null(cast), pc.is_valid(column))


def _as_text(column: pa.Array, field: pa.Field) -> tuple[pa.Array, pa.Array]:
    """Return a text column whose values are UTF-8, and which rows are not."""
    column = column.cast(pa.large_binary()) if not _is_text(column.type) else column
    try:
        text = column.cast(pa.large_string())
        text.validate(full=True)
        return text.cast(field.type), pa.array([False] * len(column))
    except pa.ArrowInvalid:
        pass
    raw = column.cast(pa.large_binary()).to_pylist()
    decoded = [_decoded(value) for value in raw]
    invalid = [value is not None and text is None for value, text in zip(raw, decoded, strict=True)]
    return pa.array(decoded, field.type), pa.array(invalid)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _can_be_text(kind: pa.DataType) -> bool:
    """Return whether a column holds bytes, which can be decoded. Numbers are cast; nested values are not text."""
    if pa.types.is_dictionary(kind):
        return _can_be_text(kind.value_type)
    views = pa.types.is_string_view(kind) or pa.types.is_binary_view(kind)
    flat = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return bool(_is_text(kind) or views or flat)


def _decoded(value: bytes | None) -> str | None:
    try:
        return value.decode() if value is not None else None
    except UnicodeDecodeError:
        return None

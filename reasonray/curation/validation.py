"""Stored segments → rollouts that curation can rely on; what is spoilt is named, counted and kept out.

Segments may come from an older version, from another tool, or off a failing disk. Columns that are not ours are passed
over, columns that are newer than the segment are null, other types are cast. A row that has no value where there must
be one, text that is not UTF-8, a completion beyond all measure, or a problem that is not to be learned from is kept
out, and so is a file that cannot be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reasonray.records import Finish, Outcome, Split
from reasonray.store.schema import ROLLOUT_SCHEMA, stored_columns, upgrade
from reasonray.store.storage import Place

LARGEST = 8 << 20
"""Bytes of a completion; models write no more than some hundred thousand tokens."""
_NAMED = {"finish": tuple(Finish), "verdict_outcome": tuple(Outcome), "problem_split": (Split.TRAIN,)}
"""Columns that hold one of a few names."""


def read_batches(segment: Place, rows: int, train: Collection[str], faults: Counter[str]) -> Iterator[pa.Table]:
    """Yield a segment's good rollouts in tables of ROLLOUT_SCHEMA, and count the others by what is wrong with them.

    Args:
        segment: a parquet file.
        rows: of a table, at most.
        train: ids of the problems that may be learned from.
        faults: the counts, to which these are added.
    """
    try:
        with pq.ParquetFile(segment.path, filesystem=segment.filesystem, pre_buffer=True) as file:
            ours = stored_columns(ROLLOUT_SCHEMA.names, file.schema_arrow)
            for batch in file.iter_batches(rows, columns=ours, use_threads=False):
                good = keep_good(upgrade(pa.table(batch)), train, faults)
                if good.num_rows:
                    yield good
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise  # a committed segment is lost: that is a fault of the storage, not of the data
        faults[f"segment cannot be read: {segment.name}"] += 1


def keep_good(table: pa.Table, train: Collection[str], faults: Counter[str]) -> pa.Table:
    """Return the good rows of a table as ROLLOUT_SCHEMA wants them, and count the others by what is wrong with them."""
    columns, spoilt = [], {}
    for field in ROLLOUT_SCHEMA:
        column, fault = _as_field(table, field)
        if field.name == "problem_id":
            fault = pc.or_(fault, _unknown(column, train))
        if fault is not None and pc.any(fault).as_py():
            spoilt[field.name] = fault
        columns.append(column)
    good = pa.array([True] * table.num_rows)
    for name, fault in spoilt.items():
        new = pc.and_(good, fault)
        faults[name] += pc.sum(new).as_py() or 0
        good = pc.and_(good, pc.invert(fault))
    loose = pa.schema([field.with_nullable(True) for field in ROLLOUT_SCHEMA])
    return pa.table(columns, schema=loose).filter(good).cast(ROLLOUT_SCHEMA)


def _as_field(table: pa.Table, field: pa.Field) -> tuple[pa.Array, pa.Array | None]:
    """Return a column of the wanted type, and which of its rows cannot be used (None if any can)."""
    if field.name not in table.column_names:
        empty = pa.nulls(table.num_rows, field.type)
        return empty, None if field.nullable else pa.array([True] * table.num_rows)
    column = table[field.name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0, column.type)
    if _is_text(field.type) and _may_be_text(column.type):
        column, fault = _as_text(column, field)
    else:
        column, fault = _as_type(column, field.type)
    if not field.nullable:
        fault = pc.or_(fault, pc.is_null(column))
    if field.name in _NAMED:
        known = pa.array([name.value for name in _NAMED[field.name]])
        fault = pc.or_(fault, pc.invert(pc.is_in(column, value_set=known)))
    if field.name == "completion":
        fault = pc.or_(fault, pc.fill_null(pc.greater(pc.binary_length(column), LARGEST), False))
    return column, fault


def _unknown(problems: pa.Array, train: Collection[str]) -> pa.Array:
    """Say which rows are of other problems; an id is looked up once for all its rows."""
    encoded = problems.dictionary_encode()
    strange = pa.array([it not in train for it in encoded.dictionary.to_pylist()], pa.bool_())
    return pc.fill_null(strange.take(encoded.indices), True)


def _as_type(column: pa.Array, wanted: pa.DataType) -> tuple[pa.Array, pa.Array]:
    """Return a column of the wanted type, and which rows do not fit it."""
    try:
        return column.cast(wanted), pa.array([False] * len(column))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    # Some of the values do not fit: find out which.
    values = []
    for value in column:
        try:
            values.append(value.cast(wanted).as_py())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            values.append(None)
    cast = pa.array(values, wanted)
    return cast, pc.and_(pc.is_null(cast), pc.is_valid(column))


def _as_text(column: pa.Array, field: pa.Field) -> tuple[pa.Array, pa.Array]:
    """Return a text column whose values are UTF-8, and which rows were not."""
    column = column.cast(pa.large_binary()) if not _is_text(column.type) else column
    try:
        text = column.cast(pa.large_string())
        text.validate(full=True)
        return text.cast(field.type), pa.array([False] * len(column))
    except pa.ArrowInvalid:
        pass
    raw = column.cast(pa.large_binary()).to_pylist()
    decoded = [_decoded(value) for value in raw]
    spoilt = [value is not None and text is None for value, text in zip(raw, decoded, strict=True)]
    return pa.array(decoded, field.type), pa.array(spoilt)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _may_be_text(kind: pa.DataType) -> bool:
    """Say whether a column holds bytes, of which text is made; numbers are cast, and what is nested is no text."""
    if pa.types.is_dictionary(kind):
        return _may_be_text(kind.value_type)
    views = pa.types.is_string_view(kind) or pa.types.is_binary_view(kind)
    flat = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return bool(_is_text(kind) or views or flat)


def _decoded(value: bytes | None) -> str | None:
    try:
        return value.decode() if value is not None else None
    except UnicodeDecodeError:
        return None

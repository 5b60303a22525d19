"""The Arrow schema of everything on disk, and the conversion of records to rows and back.

Nested records are flattened with the field's name as prefix (`problem_id`, `verdict_outcome`, `annotation_num_steps`).
A column that has no value yet (an annotation before curation) is null.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reasonray.errors import UserError
from reasonray.records import (
    OVER_QUOTA,
    Annotation,
    Finish,
    Outcome,
    Problem,
    Rollout,
    Span,
    Split,
    Verdict,
    content_hash,
)
from reasonray.store.storage import Place

SCHEMA_VERSION = "5"
"""Version 2 added the columns of curation/measures.py, which are null in older files. Version 3 renamed two columns and
a value. Version 4 added three columns, and stores all text as large_string. Version 5 added the columns of tokens,
which are null in older files."""

_FORMER_NAMES = {"resample": "round", "annotation_num_steps": "annotation_depth"}
"""Column → its name up to version 2."""
_FORMER_OVER_QUOTA = "surplus"
"""The value of OVER_QUOTA up to version 2."""
_ADDED = {"opening": "", "prompt": 0, "tokens_estimated": False}
"""Column that is never null → its value in files of a version that did not have it."""

_TOKEN_COLUMNS = ("token_ids", "logprobs")

_TEXT = pa.large_string()
"""Offsets of 64 bits: with `string` a column of 107 million ids would be too large for one array."""
_SEPARATOR = pa.scalar("\x1f", _TEXT)

_PROBLEM_FIELDS = [
    pa.field("id", _TEXT, nullable=False),
    pa.field("source", _TEXT, nullable=False),
    pa.field("question", _TEXT, nullable=False),
    pa.field("answer", _TEXT),
    pa.field("checker", _TEXT, nullable=False),
    pa.field("difficulty", _TEXT, nullable=False),
    pa.field("split", _TEXT, nullable=False),
    pa.field("metadata", _TEXT, nullable=False),
]
_VERDICT_FIELDS = [
    pa.field("outcome", _TEXT, nullable=False),
    pa.field("extracted", _TEXT),
    pa.field("checker", _TEXT, nullable=False),
    pa.field("detail", _TEXT, nullable=False),
    pa.field("seconds", pa.float64(), nullable=False),
]
SPANS = pa.list_(pa.struct([("behaviour", _TEXT), ("start", pa.int32()), ("end", pa.int32())]))
_ANNOTATION_FIELDS = [
    pa.field("verification", pa.int32()),
    pa.field("backtracking", pa.int32()),
    pa.field("subgoals", pa.int32()),
    pa.field("backward_chaining", pa.int32()),
    pa.field("num_steps", pa.int32()),
    pa.field("spans", SPANS),
    pa.field("failed_branch_fraction", pa.float64()),
    pa.field("foreign_share", pa.float64()),
    pa.field("compression_ratio", pa.float64()),
    pa.field("ngram_loop", pa.int32()),
    pa.field("code_share", pa.float64()),
    pa.field("reasoning_format", _TEXT),
    pa.field("pass_rate", pa.float64()),
    pa.field("dropped_by", _TEXT),
    pa.field("selected", pa.bool_()),
]


def _prefixed(prefix: str, fields: Sequence[pa.Field]) -> list[pa.Field]:
    return [field.with_name(f"{prefix}_{field.name}") for field in fields]


PROBLEM_SCHEMA = pa.schema(_PROBLEM_FIELDS, metadata={"reasonray.schema": SCHEMA_VERSION})
ROLLOUT_SCHEMA = pa.schema(
    [
        pa.field("id", _TEXT, nullable=False),
        *_prefixed("problem", _PROBLEM_FIELDS),
        pa.field("teacher", _TEXT, nullable=False),
        pa.field("model", _TEXT, nullable=False),
        pa.field("fingerprint", _TEXT, nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("resample", pa.int32(), nullable=False),
        pa.field("prompt", pa.int32(), nullable=False),
        pa.field("opening", _TEXT, nullable=False),
        pa.field("completion", _TEXT, nullable=False),
        pa.field("finish", _TEXT, nullable=False),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("completion_tokens", pa.int32(), nullable=False),
        pa.field("tokens_estimated", pa.bool_(), nullable=False),
        pa.field("token_ids", pa.large_list(pa.int32())),
        pa.field("logprobs", pa.large_list(pa.float16())),
        *_prefixed("verdict", _VERDICT_FIELDS),
        *_prefixed("annotation", _ANNOTATION_FIELDS),
    ],
    metadata={"reasonray.schema": SCHEMA_VERSION},
)


def set_columns(table: pa.Table, columns: Mapping[str, pa.Array | pa.ChunkedArray]) -> pa.Table:
    """Return a table with other columns of ROLLOUT_SCHEMA: replaced where it has them, else appended."""
    for name, values in columns.items():
        index, field = table.schema.get_field_index(name), ROLLOUT_SCHEMA.field(name)
        table = table.append_column(field, values) if index < 0 else table.set_column(index, field, values)
    return table


def answers(table: pa.Table) -> pa.ChunkedArray:
    """Return each rollout's answer from its beginning: what its prompt opened, if that is known, and the completion."""
    completions = table["completion"]
    if "opening" not in table.column_names:
        return completions
    parts = (pc.fill_null(column.cast(_TEXT), "") for column in (table["opening"], completions))
    return pc.binary_join_element_wise(*parts, pa.scalar("", _TEXT))


def rollout_keys(table: pa.Table) -> pa.ChunkedArray:
    """Return the key of each row: the id together with the resample number."""
    ids, resamples = (table[name].cast(_TEXT) for name in ("id", "resample"))
    return pc.binary_join_element_wise(ids, resamples, pa.scalar("/", _TEXT))


def row_hashes(table: pa.Table) -> pa.Array:
    """Return a hash of each rollout as it was committed, without its annotations and the columns of its tokens.

    Columns that a later version added count only where they differ from their default, so that a rollout keeps its
    hash when it is read by a later version.
    """
    committed = [
        name for name in ROLLOUT_SCHEMA.names if not name.startswith("annotation_") and name not in _TOKEN_COLUMNS
    ]
    rows = _joined(table, [name for name in committed if name not in _ADDED])
    is_default = [pc.equal(table[name], pa.scalar(value, table[name].type)) for name, value in _ADDED.items()]
    with_added = pc.binary_join_element_wise(rows, _joined(table, list(_ADDED)), _SEPARATOR)
    rows = pc.if_else(reduce(pc.and_, is_default), rows, with_added)
    return pa.array([content_hash(row) for row in rows.to_pylist()], _TEXT)


def _joined(table: pa.Table, names: Sequence[str]) -> pa.ChunkedArray:
    """Return the values of each row's columns as one text."""
    columns = [table[name].cast(_TEXT) for name in names]
    return pc.binary_join_element_wise(*columns, _SEPARATOR, null_handling="replace", null_replacement="\x00")


def refuse_newer(version: str, segment: str) -> None:
    """Refuse a segment with columns that this version would ignore, and lose when it writes the rows again.

    Raises:
        UserError: the segment has a newer schema version.
    """
    if int(version) > int(SCHEMA_VERSION):
        raise UserError(
            f"segment {segment} is of schema {version}, and this version reads up to {SCHEMA_VERSION}; update reasonray"
        )


def select_columns(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Return columns of ROLLOUT_SCHEMA, with the values of `absent_column` where an older version did not have them.

    Args:
        table: rows of this schema version or an older one.
        names: of this version's columns.

    Raises:
        KeyError: a column is missing that must have values.
    """
    table = upgrade(table)
    columns = []
    for field in (ROLLOUT_SCHEMA.field(name) for name in names):
        absent = None if field.name in table.column_names else absent_column(field, table.num_rows)
        columns.append(_as_type(table[field.name], field.type) if absent is None else absent)
    return pa.table(columns, names=list(names))


def absent_column(field: pa.Field, rows: int) -> pa.Array | None:
    """Return what a column of ROLLOUT_SCHEMA holds in files of a version that did not have it.

    Args:
        field: of ROLLOUT_SCHEMA.
        rows: length of the column.

    Returns:
        Its default value, or nulls; None if files of every version have the column.
    """
    if field.name in _ADDED:
        return pa.repeat(pa.scalar(_ADDED[field.name], field.type), rows)
    return pa.nulls(rows, field.type) if field.nullable else None


def _as_type(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Return a column with the type of its field; one that was read as a dictionary stays a dictionary."""
    is_encoded = pa.types.is_dictionary(column.type)
    return column.cast(pa.dictionary(column.type.index_type, kind) if is_encoded else kind)


def stored_columns(names: Sequence[str], stored: pa.Schema) -> list[str]:
    """Return the columns of a file that hold the named columns, under their present or former names.

    Args:
        names: of this version's columns; those that the file does not have are left out.
        stored: the file's schema.
    """
    present_and_former = ((name, _FORMER_NAMES.get(name, name)) for name in names)
    return list(dict.fromkeys(name for pair in present_and_former for name in pair if name in stored.names))


def read_rollouts(file: Place, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rollouts of a parquet file of this schema version or an older one.

    Args:
        file: a segment, or a part of curated/rollouts.
        columns: of ROLLOUT_SCHEMA; None for all.

    Raises:
        UserError: the file has a newer schema version.
    """
    names = ROLLOUT_SCHEMA.names if columns is None else list(columns)
    with pq.ParquetFile(file.path, filesystem=file.filesystem, pre_buffer=True) as stored:
        refuse_newer(schema_version(stored.schema_arrow), file.name)
        return select_columns(stored.read(columns=stored_columns(names, stored.schema_arrow)), names)


def schema_version(stored: pa.Schema) -> str:
    """Return the schema version that a file was written with."""
    return bytes((stored.metadata or {}).get(b"reasonray.schema", b"0")).decode()


def upgrade(table: pa.Table) -> pa.Table:
    """Return a table of any older schema version with this version's column names and values."""
    for name, former in _FORMER_NAMES.items():
        if former not in table.column_names:
            continue
        values = table[former]
        if name in table.column_names:  # the table was concatenated from rows of several versions
            values = pc.coalesce(table[name], values)
            table = table.drop_columns([name])
        table = table.set_column(table.schema.get_field_index(former), name, values)
    for name, value in _ADDED.items():  # in such a table, rows of older versions have nulls
        if name in table.column_names and table[name].null_count:
            values = pc.fill_null(table[name], value)
            table = table.set_column(table.schema.get_field_index(name), ROLLOUT_SCHEMA.field(name), values)
    if "annotation_dropped_by" in table.column_names and table.num_rows:
        index, rules = table.schema.get_field_index("annotation_dropped_by"), table["annotation_dropped_by"]
        is_former = pc.fill_null(pc.equal(rules, _FORMER_OVER_QUOTA), False)
        if pc.any(is_former).as_py():
            table = table.set_column(index, table.schema.field(index), pc.if_else(is_former, OVER_QUOTA, rules))
    return table


def problems_to_table(problems: Iterable[Problem]) -> pa.Table:
    """Return a table of PROBLEM_SCHEMA with one row per problem."""
    return pa.Table.from_pylist([_problem_row(problem) for problem in problems], schema=PROBLEM_SCHEMA)


def table_to_problems(table: pa.Table) -> list[Problem]:
    """Return the problems of a table of PROBLEM_SCHEMA."""
    return [problem_of_row(row) for row in table.to_pylist()]


def rollouts_to_table(rollouts: Iterable[Rollout]) -> pa.Table:
    """Return a table of ROLLOUT_SCHEMA with one row per rollout.

    Raises:
        ValueError: a column has no value, or a text that is not Unicode. For a value of another type, or a number that
            is too large, it may also be a TypeError, an OverflowError or an exception of Arrow.
    """
    table = pa.Table.from_pylist([_rollout_row(rollout) for rollout in rollouts], schema=ROLLOUT_SCHEMA)
    for field, column in zip(table.schema, table.columns, strict=True):
        if column.null_count and not field.nullable:
            raise ValueError(f"a rollout has no {field.name}")
    return table


def table_to_rollouts(table: pa.Table) -> list[Rollout]:
    """Return the rollouts of a table of ROLLOUT_SCHEMA."""
    return [_rollout(row) for row in table.to_pylist()]


def _problem_row(problem: Problem, prefix: str = "") -> dict[str, Any]:
    return {
        f"{prefix}id": problem.id,
        f"{prefix}source": problem.source,
        f"{prefix}question": problem.question,
        f"{prefix}answer": problem.answer,
        f"{prefix}checker": problem.checker,
        f"{prefix}difficulty": problem.difficulty,
        f"{prefix}split": problem.split.value,
        f"{prefix}metadata": json.dumps(dict(problem.metadata), sort_keys=True),
    }


def problem_of_row(row: Mapping[str, Any], prefix: str = "") -> Problem:
    """Return the problem of a row of PROBLEM_SCHEMA, or of ROLLOUT_SCHEMA with its prefix."""
    return Problem(
        id=row[f"{prefix}id"],
        source=row[f"{prefix}source"],
        question=row[f"{prefix}question"],
        answer=row[f"{prefix}answer"],
        checker=row[f"{prefix}checker"],
        difficulty=row[f"{prefix}difficulty"],
        split=Split(row[f"{prefix}split"]),
        metadata=json.loads(row[f"{prefix}metadata"]),
    )


def _rollout_row(rollout: Rollout) -> dict[str, Any]:
    verdict, annotation = rollout.verdict, rollout.annotation
    row = {
        "id": rollout.id,
        **_problem_row(rollout.problem, "problem_"),
        "teacher": rollout.teacher,
        "model": rollout.model,
        "fingerprint": rollout.fingerprint,
        "sample": rollout.sample,
        "seed": rollout.seed,
        "resample": rollout.resample,
        "prompt": rollout.prompt,
        "opening": rollout.opening,
        "completion": rollout.completion,
        "finish": rollout.finish.value,
        "prompt_tokens": rollout.prompt_tokens,
        "completion_tokens": rollout.completion_tokens,
        "tokens_estimated": rollout.tokens_estimated,
        "token_ids": rollout.token_ids,
        "logprobs": rollout.logprobs,
        "verdict_outcome": verdict.outcome.value,
        "verdict_extracted": verdict.extracted,
        "verdict_checker": verdict.checker,
        "verdict_detail": verdict.detail,
        "verdict_seconds": verdict.seconds,
    }
    if annotation is not None:
        row |= {f"annotation_{field.name}": getattr(annotation, field.name) for field in _ANNOTATION_FIELDS}
        row["annotation_spans"] = [asdict(span) for span in annotation.spans]
    return row


def _rollout(row: dict[str, Any]) -> Rollout:
    return Rollout(
        id=row["id"],
        problem=problem_of_row(row, "problem_"),
        teacher=row["teacher"],
        model=row["model"],
        fingerprint=row["fingerprint"],
        sample=row["sample"],
        seed=row["seed"],
        resample=row["resample"],
        prompt=row["prompt"],
        opening=row["opening"],
        completion=row["completion"],
        finish=Finish(row["finish"]),
        prompt_tokens=row["prompt_tokens"],
        completion_tokens=row["completion_tokens"],
        tokens_estimated=row["tokens_estimated"],
        token_ids=_tuple(row["token_ids"]),
        logprobs=_tuple(row["logprobs"]),
        verdict=Verdict(
            outcome=Outcome(row["verdict_outcome"]),
            extracted=row["verdict_extracted"],
            checker=row["verdict_checker"],
            detail=row["verdict_detail"],
            seconds=row["verdict_seconds"],
        ),
        annotation=_annotation(row),
    )


def _tuple(values: Sequence[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)


def _annotation(row: dict[str, Any]) -> Annotation | None:
    if row["annotation_dropped_by"] is None:
        return None
    values = {field.name: row[f"annotation_{field.name}"] for field in _ANNOTATION_FIELDS}
    values["spans"] = tuple(Span(span["behaviour"], span["start"], span["end"]) for span in values["spans"])
    return Annotation(**values)

"""Tables of older schema versions, read with this version's names and values."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reasonray.errors import UserError
from reasonray.records import OVER_QUOTA, Annotation, Rollout
from reasonray.store.schema import (
    PROBLEM_SCHEMA,
    ROLLOUT_SCHEMA,
    SCHEMA_VERSION,
    read_rollouts,
    rollouts_to_table,
    row_hashes,
    schema_version,
    select_columns,
    stored_columns,
    table_to_rollouts,
    upgrade,
)
from reasonray.store.storage import place
from reasonray.store.verdicts import VERIFIED_SCHEMA
from tests.factories import a_rollout

VERSION_1_LACKS = [
    *("annotation_foreign_share", "annotation_compression_ratio", "annotation_ngram_loop"),
    *("annotation_code_share", "annotation_reasoning_format"),
]
VERSION_3_LACKS = ["prompt", "opening", "tokens_estimated"]


def rollouts() -> list[Rollout]:
    return [
        a_rollout(sample=0, annotation=Annotation(num_steps=3, dropped_by=OVER_QUOTA)),
        a_rollout(sample=1, resample=2, annotation=Annotation(num_steps=5, selected=True)),
        a_rollout(sample=2),
    ]


def with_tokens() -> list[Rollout]:
    """Log-probabilities that float16 holds exactly."""
    return [replace(rollout, token_ids=(5, 70_000), logprobs=(-0.5, -1024.0)) for rollout in rollouts()]


def as_version(table: pa.Table, version: int) -> pa.Table:
    """Return a table of ROLLOUT_SCHEMA as an older version wrote it."""
    if version < 5:
        table = table.drop_columns(["token_ids", "logprobs"])
    if version < 4:
        narrow = [field.with_type(pa.string()) if field.type == pa.large_string() else field for field in table.schema]
        table = table.cast(pa.schema(narrow)).drop_columns(VERSION_3_LACKS)
    if version < 3:
        former = {"resample": "round", "annotation_num_steps": "annotation_depth"}
        table = table.rename_columns([former.get(name, name) for name in table.column_names])
        index = table.schema.get_field_index("annotation_dropped_by")
        rules = ["surplus" if rule == OVER_QUOTA else rule for rule in table["annotation_dropped_by"].to_pylist()]
        table = table.set_column(index, table.schema.field(index), pa.array(rules, pa.string()))
    if version < 2:
        table = table.drop_columns(VERSION_1_LACKS)
    return table.replace_schema_metadata({"reasonray.schema": str(version)})


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_every_version_up_to_this_one_is_read_as_the_same_rollouts(tmp_path: Path, version: int) -> None:
    file = place(tmp_path / "part.parquet")
    file.write_table(as_version(rollouts_to_table(rollouts()), version))
    assert schema_version(pq.read_schema(file.path)) == str(version)
    assert table_to_rollouts(read_rollouts(file)) == rollouts()
    narrow = read_rollouts(file, ["id", "resample", "annotation_num_steps", "annotation_dropped_by"])
    assert narrow["resample"].to_pylist() == [0, 2, 0]
    assert narrow["annotation_num_steps"].to_pylist() == [3, 5, None]
    assert narrow["annotation_dropped_by"].to_pylist() == [OVER_QUOTA, "", None]


def test_rows_of_several_versions_are_upgraded_together() -> None:
    table = rollouts_to_table(rollouts())
    parts = [as_version(table, version).replace_schema_metadata(None) for version in (1, 2, 3, 4, 5)]
    together = pa.concat_tables(parts, promote_options="permissive")
    upgraded = select_columns(together, ROLLOUT_SCHEMA.names).cast(ROLLOUT_SCHEMA)
    assert table_to_rollouts(upgraded) == rollouts() * 5


def test_tokens_and_their_log_probabilities_are_stored(tmp_path: Path) -> None:
    file = place(tmp_path / "part.parquet")
    file.write_table(rollouts_to_table([*with_tokens(), *rollouts()]))
    assert table_to_rollouts(read_rollouts(file)) == [*with_tokens(), *rollouts()]
    assert (
        row_hashes(rollouts_to_table(with_tokens())).to_pylist()
        == row_hashes(rollouts_to_table(rollouts())).to_pylist()
    ), "a rollout is the same with and without them"


def test_a_table_of_this_version_is_not_changed() -> None:
    table = rollouts_to_table(rollouts())
    assert upgrade(table) == table


def test_the_columns_of_a_file_are_found_under_their_former_names() -> None:
    table = rollouts_to_table(rollouts())
    names = ["id", "resample", "annotation_ngram_loop"]
    assert stored_columns(names, table.schema) == names
    assert stored_columns(names, as_version(table, 2).schema) == ["id", "round", "annotation_ngram_loop"]
    assert stored_columns(names, as_version(table, 1).schema) == ["id", "round"]


def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    file = place(tmp_path / "part.parquet")
    newer = str(int(SCHEMA_VERSION) + 1)
    file.write_table(rollouts_to_table(rollouts()).replace_schema_metadata({"reasonray.schema": newer}))
    with pytest.raises(UserError, match=rf"part\.parquet is of schema {newer}, .*; update reasonray"):
        read_rollouts(file)


def test_a_rollout_keeps_its_hash_when_a_later_version_reads_it(tmp_path: Path) -> None:
    file = place(tmp_path / "part.parquet")
    file.write_table(as_version(rollouts_to_table(rollouts()), 3))
    hashes = row_hashes(read_rollouts(file)).to_pylist()
    assert hashes == row_hashes(rollouts_to_table(rollouts())).to_pylist()
    opened = [replace(rollout, opening="<think>") for rollout in rollouts()]
    assert not set(hashes) & set(row_hashes(rollouts_to_table(opened)).to_pylist())


def test_no_column_of_text_has_offsets_of_32_bits() -> None:
    for schema in (PROBLEM_SCHEMA, ROLLOUT_SCHEMA, VERIFIED_SCHEMA):
        assert not [field.name for field in schema if " string" in f" {field.type}" or "<string" in str(field.type)]

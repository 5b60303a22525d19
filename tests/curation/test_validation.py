"""Invalid rows and files are named, counted and skipped; the valid rows around them stay."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonray.curation.validation import LARGEST, read_batches, valid_rows
from reasonray.store.schema import ROLLOUT_SCHEMA, rollouts_to_table
from reasonray.store.storage import place
from tests.factories import a_problem, a_rollout

TRAIN = {a_problem().id}


def three() -> pa.Table:
    return rollouts_to_table([a_rollout(sample=number) for number in range(3)])


def with_column(table: pa.Table, name: str, values: Any, kind: pa.DataType | None = None) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values, kind))


def validated(table: pa.Table) -> tuple[pa.Table, Counter[str]]:
    faults: Counter[str] = Counter()
    valid = valid_rows(table, TRAIN, faults)
    assert valid.schema.equals(ROLLOUT_SCHEMA)
    valid.validate(full=True)
    assert valid.num_rows + faults.total() == table.num_rows, "every row is kept or counted"
    return valid, faults


def not_utf8() -> pa.Array:
    raw = pa.array([b"fine", b"\xff\xfe broken", b"fine too"], pa.large_binary())
    return pa.Array.from_buffers(pa.large_string(), 3, raw.buffers())


def test_valid_rollouts_pass_unchanged() -> None:
    valid, faults = validated(three())
    assert valid.equals(three())
    assert not faults


@pytest.mark.parametrize(
    ("column", "values", "kind"),
    [
        ("completion", ["a", None, "c"], pa.large_string()),
        ("completion", not_utf8(), None),
        ("completion", [b"a", b"\xff", b"c"], pa.binary()),
        ("completion", ["a", "x" * (LARGEST + 1), "c"], pa.large_string()),
        ("problem_id", [a_problem().id, None, a_problem().id], pa.string()),
        ("problem_id", [a_problem().id, a_problem("Whose?").id, a_problem().id], pa.string()),
        ("problem_split", ["train", "test", "train"], pa.string()),
        ("verdict_outcome", ["correct", "splendid", "wrong"], pa.string()),
        ("sample", [0, 2**40, 2], pa.int64()),
        ("completion_tokens", [1, None, 3], pa.int32()),
        ("completion_tokens", ["1", "many", "3"], pa.string()),
    ],
)
def test_an_invalid_row_is_counted_under_its_column_and_the_others_stay(column: str, values: Any, kind: Any) -> None:
    table = three()
    replaced = values if isinstance(values, pa.Array) else pa.array(values, kind)
    table = table.set_column(table.schema.get_field_index(column), column, replaced)
    valid, faults = validated(table)
    assert valid["id"].to_pylist() == [three()["id"][0].as_py(), three()["id"][2].as_py()]
    assert faults == {column: 1}


@pytest.mark.parametrize(
    "values", [[1, 2, 3], [0.5, 1.5, 2.5], [True, False, True], pa.array([7] * 3).dictionary_encode()]
)
def test_values_that_can_be_cast_to_text_are(values: Any) -> None:
    valid, faults = validated(with_column(three(), "problem_answer", values))
    assert valid["problem_answer"].to_pylist() == pa.array(values).cast(pa.string()).to_pylist()
    assert not faults


@pytest.mark.parametrize("values", [[["a"]] * 3, [{"a": 1}] * 3])
@pytest.mark.parametrize("column", ["id", "problem_answer", "completion"])
def test_values_that_cannot_be_cast_to_text_are_skipped(column: str, values: Any) -> None:
    valid, faults = validated(with_column(three(), column, values))
    assert valid.num_rows == 0
    assert faults == {column: 3}


def test_columns_of_other_tools_are_ignored_and_older_segments_are_read() -> None:
    table = (
        three().append_column("mood", pa.array(["good"] * 3)).drop_columns(["annotation_spans", "verdict_extracted"])
    )
    table = with_column(table, "sample", [0, 1, 2], pa.int64())
    valid, faults = validated(table)
    assert valid["annotation_spans"].null_count == 3
    assert not faults
    without = three().drop_columns(["completion"])
    assert validated(without)[1] == {"completion": 3}


def test_a_file_that_is_not_parquet_is_counted_and_a_lost_one_raises(tmp_path: Path) -> None:
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    pq.write_table(three(), tmp_path / "good.parquet")
    faults: Counter[str] = Counter()
    tables = [
        table
        for name in ("torn", "good")
        for table in read_batches(place(tmp_path) / f"{name}.parquet", 2, TRAIN, faults)
    ]
    assert [table.num_rows for table in tables] == [2, 1]
    assert faults == {"segment cannot be read: torn.parquet": 1}
    with pytest.raises(FileNotFoundError):
        list(read_batches(place(tmp_path) / "lost.parquet", 2, TRAIN, faults))


@given(st.lists(st.sampled_from(["id", "completion", "problem_question", "finish", "seed"]), unique=True), st.data())
def test_whichever_values_are_null_every_row_is_kept_or_counted(columns: list[str], data: st.DataObject) -> None:
    table = three()
    for name in columns:
        keep = data.draw(st.lists(st.booleans(), min_size=3, max_size=3))
        values = [value if kept else None for value, kept in zip(table[name].to_pylist(), keep, strict=True)]
        table = with_column(table, name, values, ROLLOUT_SCHEMA.field(name).type)
    validated(table)

"""Spoilt rows and files are named, counted and kept out; what is good around them stays."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonray.curation.validation import LARGEST, keep_good, read_batches
from reasonray.store.schema import ROLLOUT_SCHEMA, rollouts_to_table
from reasonray.store.storage import place
from tests.factories import a_problem, a_rollout

TRAIN = {a_problem().id}


def three() -> pa.Table:
    return rollouts_to_table([a_rollout(sample=number) for number in range(3)])


def with_column(table: pa.Table, name: str, values: Any, kind: pa.DataType | None = None) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values, kind))


def intake(table: pa.Table) -> tuple[pa.Table, Counter[str]]:
    faults: Counter[str] = Counter()
    good = keep_good(table, TRAIN, faults)
    assert good.schema.equals(ROLLOUT_SCHEMA)
    good.validate(full=True)
    assert good.num_rows + faults.total() == table.num_rows, "every row is there or counted"
    return good, faults


def not_utf8() -> pa.Array:
    raw = pa.array([b"fine", b"\xff\xfe broken", b"fine too"], pa.large_binary())
    return pa.Array.from_buffers(pa.large_string(), 3, raw.buffers())


def test_good_rollouts_pass_as_they_are() -> None:
    good, faults = intake(three())
    assert good.equals(three())
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
def test_a_spoilt_row_is_counted_under_its_column_and_the_others_stay(column: str, values: Any, kind: Any) -> None:
    table = three()
    spoilt = values if isinstance(values, pa.Array) else pa.array(values, kind)
    table = table.set_column(table.schema.get_field_index(column), column, spoilt)
    good, faults = intake(table)
    assert good["id"].to_pylist() == [three()["id"][0].as_py(), three()["id"][2].as_py()]
    assert faults == {column: 1}


@pytest.mark.parametrize(
    "values", [[1, 2, 3], [0.5, 1.5, 2.5], [True, False, True], pa.array([7] * 3).dictionary_encode()]
)
def test_what_can_be_written_as_text_is(values: Any) -> None:
    good, faults = intake(with_column(three(), "problem_answer", values))
    assert good["problem_answer"].to_pylist() == pa.array(values).cast(pa.string()).to_pylist()
    assert not faults


@pytest.mark.parametrize("values", [[["a"]] * 3, [{"a": 1}] * 3])
@pytest.mark.parametrize("column", ["id", "problem_answer", "completion"])
def test_what_cannot_be_written_as_text_is_kept_out(column: str, values: Any) -> None:
    good, faults = intake(with_column(three(), column, values))
    assert good.num_rows == 0
    assert faults == {column: 3}


def test_foreign_columns_are_passed_over_and_older_segments_are_read() -> None:
    table = (
        three().append_column("mood", pa.array(["good"] * 3)).drop_columns(["annotation_spans", "verdict_extracted"])
    )
    table = with_column(table, "sample", [0, 1, 2], pa.int64())
    good, faults = intake(table)
    assert good["annotation_spans"].null_count == 3
    assert not faults
    without = three().drop_columns(["completion"])
    assert intake(without)[1] == {"completion": 3}


def test_a_file_that_is_no_parquet_is_named_and_a_lost_one_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    pq.write_table(three(), tmp_path / "good.parquet")
    faults: Counter[str] = Counter()
    tables = [
        it for name in ("torn", "good") for it in read_batches(place(tmp_path) / f"{name}.parquet", 2, TRAIN, faults)
    ]
    assert [it.num_rows for it in tables] == [2, 1]
    assert faults == {"segment cannot be read: torn.parquet": 1}
    with pytest.raises(FileNotFoundError):
        list(read_batches(place(tmp_path) / "lost.parquet", 2, TRAIN, faults))


@given(st.lists(st.sampled_from(["id", "completion", "problem_question", "finish", "seed"]), unique=True), st.data())
def test_whatever_is_null_every_row_has_one_fate(columns: list[str], data: st.DataObject) -> None:
    table = three()
    for name in columns:
        keep = data.draw(st.lists(st.booleans(), min_size=3, max_size=3))
        values = [value if kept else None for value, kept in zip(table[name].to_pylist(), keep, strict=True)]
        table = with_column(table, name, values, ROLLOUT_SCHEMA.field(name).type)
    intake(table)

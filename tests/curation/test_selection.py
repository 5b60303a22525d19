"""Selection gives every rollout one fate, whatever the order of the rows."""

import time
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonray.curation.selection import select
from reasonray.records import Outcome

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("problem_id", pa.string()),
        ("completion_tokens", pa.int32()),
        ("text_hash", pa.string()),
        ("verdict_outcome", pa.string()),
        ("dropped_by", pa.string()),
    ]
)


def a_row(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "id": f"r{number}",
        "problem_id": "p",
        "completion_tokens": 10 + number,
        "text_hash": f"text {number}",
        "verdict_outcome": "correct",
        "dropped_by": "",
    }
    return row | changes


def fates(rows: list[dict[str, Any]], keep: int = 4, *, drop_duplicates: bool = True) -> dict[str, dict[str, Any]]:
    table = select(pa.Table.from_pylist(rows, schema=SCHEMA), keep, drop_duplicates=drop_duplicates)
    assert table.column_names == ["id", "dropped_by", "selected", "pass_rate"]
    assert table["id"].to_pylist() == [row["id"] for row in rows]
    return {row["id"]: row for row in table.to_pylist()}


def test_the_shortest_are_selected_and_the_rest_is_surplus() -> None:
    found = fates([a_row(3), a_row(1), a_row(2)], keep=2)
    assert {name: it["dropped_by"] for name, it in found.items()} == {"r1": "", "r2": "", "r3": "surplus"}
    assert [name for name, it in found.items() if it["selected"]] == ["r1", "r2"]


def test_equal_lengths_are_ordered_by_id() -> None:
    found = fates([a_row(2, completion_tokens=5), a_row(1, completion_tokens=5)], keep=1)
    assert found["r1"]["selected"]
    assert found["r2"]["dropped_by"] == "surplus"


def test_of_equal_texts_of_a_problem_the_first_is_kept() -> None:
    rows = [a_row(1), a_row(2, text_hash="text 1"), a_row(3, text_hash="text 1", problem_id="q")]
    assert [it["dropped_by"] for it in fates(rows).values()] == ["", "duplicate", ""]
    assert [it["dropped_by"] for it in fates(rows, drop_duplicates=False).values()] == ["", "", ""]


def test_a_dropped_rollout_makes_no_other_a_duplicate() -> None:
    rows = [a_row(1, dropped_by="too_long"), a_row(2, text_hash="text 1")]
    assert [it["dropped_by"] for it in fates(rows).values()] == ["too_long", ""]


def test_the_pass_rate_is_over_the_judged_rollouts_of_the_problem() -> None:
    rows = [a_row(number, verdict_outcome=outcome.value) for number, outcome in enumerate(Outcome)]
    rows.append(a_row(9, problem_id="q", verdict_outcome="timeout"))
    found = fates(rows)
    assert {it["pass_rate"] for name, it in found.items() if name != "r9"} == {0.25}
    assert found["r9"]["pass_rate"] is None


def test_nothing_to_select_from_is_no_fault() -> None:
    assert fates([]) == {}


_ROWS = st.lists(
    st.tuples(
        st.sampled_from(["p", "q", "r"]),
        st.integers(1, 4),
        st.integers(0, 3),
        st.sampled_from([outcome.value for outcome in Outcome]),
        st.sampled_from(["", "", "incorrect"]),
    ),
    max_size=25,
).map(
    lambda drawn: [
        a_row(
            number,
            problem_id=problem,
            completion_tokens=tokens,
            text_hash=str(text),
            verdict_outcome=outcome,
            dropped_by=dropped,
        )
        for number, (problem, tokens, text, outcome, dropped) in enumerate(drawn)
    ]
)


@given(_ROWS, st.integers(1, 4), st.booleans(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(
    rows: list[dict[str, Any]], keep: int, distinct: bool, dice: Any
) -> None:
    shuffled = dice.sample(rows, len(rows))
    assert fates(rows, keep, drop_duplicates=distinct) == fates(shuffled, keep, drop_duplicates=distinct)


@given(_ROWS, st.integers(1, 4), st.booleans())
def test_every_rollout_has_exactly_one_fate(rows: list[dict[str, Any]], keep: int, distinct: bool) -> None:
    found = fates(rows, keep, drop_duplicates=distinct)
    assert all(it["selected"] == (it["dropped_by"] == "") for it in found.values())
    before = {row["id"]: row["dropped_by"] for row in rows}
    assert all(found[name]["dropped_by"] == reason for name, reason in before.items() if reason)
    taken = [row for row in rows if found[row["id"]]["selected"]]
    assert max(Counter(row["problem_id"] for row in taken).values(), default=0) <= keep
    surplus = {row["problem_id"] for row in rows if found[row["id"]]["dropped_by"] == "surplus"}
    assert all(Counter(row["problem_id"] for row in taken)[problem] == keep for problem in surplus)
    if distinct:
        texts = [(row["problem_id"], row["text_hash"]) for row in taken]
        assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("hashed", ["string", "int64"])
def test_a_million_rollouts_take_seconds(hashed: str) -> None:
    rows = 1_000_000
    dice = np.random.default_rng(0)
    text = pa.array(dice.integers(0, rows // 2, rows))
    table = pa.table(
        {
            "id": [f"{number:020x}" for number in dice.permutation(rows)],
            "problem_id": [f"p{number}" for number in dice.integers(0, rows // 16, rows)],
            "completion_tokens": pa.array(dice.integers(10, 4000, rows), pa.int32()),
            "text_hash": text.cast(pa.string()) if hashed == "string" else text,
            "verdict_outcome": dice.choice(["correct", "wrong"], rows),
            "dropped_by": dice.choice(["", "incorrect"], rows),
        }
    )
    begun = time.process_time()
    assert select(table, 4, drop_duplicates=True).num_rows == rows
    assert time.process_time() - begun < 10

"""Selection decides once about every rollout, in any order of the rows."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonray.config import Curation, UserError
from reasonray.curation.dedup import PERMUTATIONS
from reasonray.curation.selection import distinct_rollouts, select
from reasonray.records import Outcome

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("problem_id", pa.string()),
        ("problem_source", pa.string()),
        ("completion_tokens", pa.int32()),
        ("text_hash", pa.string()),
        ("verdict_outcome", pa.string()),
        ("first_rule", pa.int32()),
    ]
)
MORE = {
    "reasoning": pa.string(),
    "score": pa.float64(),
    "signature": pa.list_(pa.uint16(), PERMUTATIONS),
}


def a_row(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "id": f"r{number}",
        "problem_id": "p",
        "problem_source": "s",
        "completion_tokens": 10 + number,
        "text_hash": f"text {number}",
        "verdict_outcome": "correct",
        "dropped_by": "",
    }
    return row | changes


def table_of(rows: list[dict[str, Any]], rules: Sequence[str]) -> pa.Table:
    """Return features; `dropped_by` of the rows is the rule that fires first among those that judge one rollout."""
    more = [(name, kind) for name, kind in MORE.items() if rows and name in rows[0]]
    rows = [row | {"first_rule": [*rules, ""].index(row["dropped_by"])} for row in rows]
    return pa.Table.from_pylist(rows, schema=pa.schema([*SCHEMA, *more]))


def decisions(
    rows: list[dict[str, Any]],
    keep: int = 4,
    *,
    drop_duplicates: bool = True,
    contaminated: Sequence[str] = (),
    **changes: Any,
) -> dict[str, dict[str, Any]]:
    rules = ("incorrect", "too_long", *(("duplicate",) if drop_duplicates else ()))
    curation = Curation(**{"rules": rules, "keep_per_problem": keep} | changes)
    table = select(table_of(rows, curation.rules), curation, contaminated=contaminated)
    assert table.column_names == ["id", "dropped_by", "selected", "pass_rate"]
    assert table["id"].to_pylist() == [row["id"] for row in rows]
    return {row["id"]: row for row in table.to_pylist()}


def test_the_shortest_are_selected_and_the_rest_is_over_quota() -> None:
    decided = decisions([a_row(3), a_row(1), a_row(2)], keep=2)
    assert {name: row["dropped_by"] for name, row in decided.items()} == {"r1": "", "r2": "", "r3": "over_quota"}
    assert chosen(decided) == ["r1", "r2"]


def test_equal_lengths_are_ordered_by_id() -> None:
    decided = decisions([a_row(2, completion_tokens=5), a_row(1, completion_tokens=5)], keep=1)
    assert decided["r1"]["selected"]
    assert decided["r2"]["dropped_by"] == "over_quota"


def test_of_equal_texts_of_a_problem_the_first_is_kept() -> None:
    rows = [a_row(1), a_row(2, text_hash="text 1"), a_row(3, text_hash="text 1", problem_id="q")]
    assert [row["dropped_by"] for row in decisions(rows).values()] == ["", "duplicate", ""]
    assert [row["dropped_by"] for row in decisions(rows, drop_duplicates=False).values()] == ["", "", ""]


def test_a_dropped_rollout_does_not_make_another_a_duplicate() -> None:
    rows = [a_row(1, dropped_by="too_long"), a_row(2, text_hash="text 1")]
    assert [row["dropped_by"] for row in decisions(rows).values()] == ["too_long", ""]


def test_the_pass_rate_is_over_the_judged_rollouts_of_the_problem() -> None:
    rows = [a_row(number, verdict_outcome=outcome.value) for number, outcome in enumerate(Outcome)]
    rows.append(a_row(9, problem_id="q", verdict_outcome="timeout"))
    decided = decisions(rows)
    assert {row["pass_rate"] for name, row in decided.items() if name != "r9"} == {0.25}
    assert decided["r9"]["pass_rate"] is None


def chosen(decided: dict[str, dict[str, Any]]) -> list[str]:
    return [name for name, row in decided.items() if row["selected"]]


def test_preferred_rollouts_come_first() -> None:
    rows = [a_row(number, score=float(number % 3)) for number in range(5)]
    assert chosen(decisions(rows, 2)) == ["r0", "r1"]
    assert chosen(decisions(rows, 2, prefer="longest")) == ["r3", "r4"]
    assert chosen(decisions(rows, 1, prefer="score", score="m:f")) == ["r2"]
    by_seed = [tuple(chosen(decisions(rows, 2, prefer="random", seed=seed))) for seed in range(8)]
    assert len(set(by_seed)) > 2
    assert by_seed == [tuple(chosen(decisions(rows[::-1], 2, prefer="random", seed=seed)))[::-1] for seed in range(8)]


def test_the_most_different_is_taken_after_the_shortest() -> None:
    quarters = [[1, 2, 3, 4], [1, 2, 3, 5], [6, 7, 8, 9], [1, 2, 8, 9]]
    signatures = [quarter * (PERMUTATIONS // 4) for quarter in quarters]
    rows = [a_row(number, signature=signature) for number, signature in enumerate(signatures)]
    assert chosen(decisions(rows, 2, prefer="diverse")) == ["r0", "r2"]
    assert decisions(rows, 3, prefer="diverse")["r3"]["selected"], (
        "half like each of the two; r1 is three quarters like r0"
    )


def test_the_time_of_the_most_different_is_linear_in_the_rows() -> None:
    dice = np.random.default_rng(0)

    def seconds(rows: int) -> float:
        sampled = [a_row(number, signature=dice.integers(0, 9, PERMUTATIONS).tolist()) for number in range(rows)]
        begun = time.process_time()
        assert len(chosen(decisions(sampled, 4, prefer="diverse"))) == 4
        return time.process_time() - begun

    seconds(100)
    # Ordering them all would need 16 times as long.
    assert seconds(8000) < 8 * seconds(2000) + 0.05


def test_comparing_rules_fire_in_their_order() -> None:
    dice = np.random.default_rng(0)
    a, b, c, d, e = dice.integers(0, 1 << 16, (5, PERMUTATIONS)).tolist()
    rows = [
        a_row(0, reasoning="1+1", signature=a),
        a_row(1, reasoning="1+1", signature=b),
        a_row(2, reasoning="", signature=c),
        a_row(3, reasoning="", signature=d),
        a_row(4, reasoning="2+2", signature=a),
        a_row(5, reasoning="1+1", signature=a, problem_id="q"),
        a_row(6, reasoning="3+3", signature=e, problem_id="leaked"),
    ]
    rules = ("contaminated", "same_reasoning", "near_duplicate")
    decided = decisions(rows, 9, rules=rules, contaminated=["leaked"])
    assert [row["dropped_by"] for row in decided.values()] == [
        "", "same_reasoning", "", "", "near_duplicate", "near_duplicate", "contaminated"
    ]  # fmt: skip


def test_problems_outside_the_band_of_pass_rates_are_dropped_and_both_ends_are_within() -> None:
    rows = [
        a_row(10 * problem + number, problem_id=f"p{problem}", verdict_outcome=("wrong", "correct")[number < problem])
        for problem in range(5)
        for number in range(4)
    ]
    decided = decisions(rows, 9, rules=("pass_rate",), min_pass_rate=0.25, max_pass_rate=0.75)
    assert {row["problem_id"] for row in rows if decided[row["id"]]["dropped_by"] == "pass_rate"} == {"p0", "p4"}


def test_hard_problems_get_more_of_the_quota_and_each_at_least_one() -> None:
    def rows(problem: str, correct: int) -> list[dict[str, Any]]:
        return [
            a_row(100 * correct + number, problem_id=problem, dropped_by="" if number < correct else "incorrect",
                  verdict_outcome="correct" if number < correct else "wrong")
            for number in range(8)
        ]  # fmt: skip

    sampled = rows("easy", 8) + rows("fair", 4) + rows("hard", 2)
    decided = decisions(sampled, 4, quota="difficulty")
    taken = Counter(row["problem_id"] for row in sampled if decided[row["id"]]["selected"])
    assert taken == {"easy": 1, "fair": 2, "hard": 2}, "the quota of hard is 3 of 4, and it has 2"


def test_a_size_is_filled_in_turns_and_a_mix_by_source() -> None:
    rows = [a_row(10 * problem + number, problem_id=f"p{problem}", problem_source="a" if problem < 4 else "b")
            for problem in range(6) for number in range(3)]  # fmt: skip
    sized = decisions(rows, 3, size=7)
    taken = Counter(row["problem_id"] for row in rows if sized[row["id"]]["selected"])
    assert sorted(taken.values()) == [1, 1, 1, 1, 1, 2]
    mixed = decisions(rows, 3, mix={"a": 0.5, "b": 0.5})
    assert Counter(row["problem_source"] for row in rows if mixed[row["id"]]["selected"]) == {"a": 6, "b": 6}
    assert all(row["selected"] or row["dropped_by"] == "over_quota" for row in mixed.values())
    with pytest.raises(UserError, match="source 'c' has no rollout to select"):
        decisions(rows, 3, mix={"a": 0.5, "c": 0.5})


@given(st.integers(1, 30), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_a_mix_has_the_configured_size_and_no_share_is_off_by_one(size: int, weights: list[int]) -> None:
    mix = {f"s{number}": weight / sum(weights) for number, weight in enumerate(weights)}
    rows = [a_row(100 * number + place, problem_id=f"{source}/{place}", problem_source=source)
            for number, source in enumerate(mix) for place in range(size)]  # fmt: skip
    decided = decisions(rows, mix=mix, size=size)
    taken = Counter(row["problem_source"] for row in rows if decided[row["id"]]["selected"])
    assert taken.total() == size
    assert all(abs(taken[source] - size * share) < 1 for source, share in mix.items())


def test_a_mix_without_a_size_takes_all_of_the_scarcest_source() -> None:
    rows = [a_row(number, problem_id=f"p{number}", problem_source="rare" if number < 7 else "common")
            for number in range(120)]  # fmt: skip
    assert len(chosen(decisions(rows, mix={"rare": 0.07, "common": 0.93}))) == 100


def test_no_rows_give_no_decisions() -> None:
    assert decisions([]) == {}


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
    lambda rows: [
        a_row(
            number,
            problem_id=problem,
            completion_tokens=tokens,
            text_hash=str(text),
            verdict_outcome=outcome,
            dropped_by=dropped,
        )
        for number, (problem, tokens, text, outcome, dropped) in enumerate(rows)
    ]
)


@given(_ROWS, st.integers(1, 4), st.booleans(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(
    rows: list[dict[str, Any]], keep: int, distinct: bool, dice: Any
) -> None:
    shuffled = dice.sample(rows, len(rows))
    assert decisions(rows, keep, drop_duplicates=distinct) == decisions(shuffled, keep, drop_duplicates=distinct)


@given(_ROWS, st.integers(1, 4), st.booleans())
def test_every_rollout_is_selected_or_dropped_for_one_reason(
    rows: list[dict[str, Any]], keep: int, distinct: bool
) -> None:
    decided = decisions(rows, keep, drop_duplicates=distinct)
    assert all(row["selected"] == (row["dropped_by"] == "") for row in decided.values())
    before = {row["id"]: row["dropped_by"] for row in rows}
    assert all(decided[name]["dropped_by"] == reason for name, reason in before.items() if reason)
    taken = [row for row in rows if decided[row["id"]]["selected"]]
    assert max(Counter(row["problem_id"] for row in taken).values(), default=0) <= keep
    over_quota = {row["problem_id"] for row in rows if decided[row["id"]]["dropped_by"] == "over_quota"}
    assert all(Counter(row["problem_id"] for row in taken)[problem] == keep for problem in over_quota)
    if distinct:
        texts = [(row["problem_id"], row["text_hash"]) for row in taken]
        assert len(set(texts)) == len(texts)


@pytest.mark.slow
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
            "problem_source": ["s"] * rows,
            "verdict_outcome": dice.choice(["correct", "wrong"], rows),
            "first_rule": pa.array(dice.choice([3, len(Curation().rules)], rows), pa.int32()),
        }
    )
    begun = time.process_time()
    assert select(table, Curation()).num_rows == rows
    assert time.process_time() - begun < 10


def test_of_copies_of_a_rollout_the_newest_counts_and_of_equally_new_ones_the_content_decides() -> None:
    schema = ("id", "resample", "content", "part", "row")
    copies = [("a", 0, "x", "p", 0), ("b", 0, "z", "p", 1), ("a", 1, "y", "q", 0), ("b", 0, "y", "q", 1)]
    wanted = [("a", 1, "y", "q", 0), ("b", 0, "y", "q", 1)]
    for order in (copies, copies[::-1]):
        table = pa.Table.from_pylist([dict(zip(schema, copy, strict=True)) for copy in order])
        assert [tuple(row.values()) for row in distinct_rollouts(table).to_pylist()] == wanted
    assert distinct_rollouts(table.slice(0, 0)).num_rows == 0

"""Rounds compared: paired by problem, variety between the samples of one problem, and signs of a collapse."""

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonray.analysis.rounds import (
    DISTINCT,
    Values,
    differences,
    measures,
    narrowed,
    no_gain,
    other_equations,
    other_words,
    units_of,
    values_by_problem,
)
from reasonray.analysis.scores import paired_difference, score
from reasonray.records import Interval


def a_model(
    outcomes: Sequence[Sequence[bool]], texts: Sequence[Sequence[str]] | None = None
) -> tuple[pa.Table, Values]:
    """Return the rollouts of a model and its measures, by problem and sample."""
    rows = [
        {
            "id": f"{problem}-{sample}",
            "problem_id": f"p{problem:02d}",
            "problem_difficulty": "easy",
            "model": "m",
            "sample": sample,
            "verdict_outcome": "correct" if is_correct else "wrong",
            "verdict_extracted": "1",
            "completion_tokens": 10 + sample,
        }
        for problem, samples in enumerate(outcomes)
        for sample, is_correct in enumerate(samples)
    ]
    written = {row["id"]: texts[int(row["problem_id"][1:])][row["sample"]] if texts else "a b c d e f" for row in rows}
    table = pa.Table.from_pylist(rows)
    return table, values_by_problem(table, written, 2, {id_: text[:1] for id_, text in written.items()})


@given(st.lists(st.lists(st.booleans(), min_size=2, max_size=2), min_size=2, max_size=12), st.data())
def test_accuracy_and_its_differences_are_those_of_the_reports(before: list[list[bool]], data: st.DataObject) -> None:
    after = data.draw(
        st.lists(st.lists(st.booleans(), min_size=2, max_size=2), min_size=len(before), max_size=len(before))
    )
    (old, old_values), (new, new_values) = a_model(before), a_model(after)
    scored = score(new, "student", [1, 2])[0]
    levels = measures(new_values)
    assert levels["pass@1"] == scored.pass_at[1]
    assert levels["pass@2"] == scored.pass_at[2]
    one, other = differences(old_values, new_values)["pass@1"], paired_difference(old, new)["all"]
    assert (one.mean, one.low, one.high) == pytest.approx((other.mean, other.low, other.high))


def test_rows_in_any_order_are_the_same_model() -> None:
    table, values = a_model([[True, False], [False, False], [True, True]])
    shuffled = table.take([5, 0, 3, 1, 4, 2])
    texts = dict.fromkeys(table["id"].to_pylist(), "a b c d e f")
    for name, row in values_by_problem(shuffled, texts, 2, dict.fromkeys(texts, "a")).items():
        assert np.array_equal(row, values[name], equal_nan=True)


@given(st.lists(st.sampled_from(["", "x", "y"]), max_size=6))
def test_different_equations_are_a_share_of_pairs_that_state_any(keys: list[str]) -> None:
    share, stated = other_equations(keys), [key for key in keys if key]
    assert math.isnan(share) == (len(stated) < 2)
    if len(stated) >= 2:
        assert 0 <= share <= 1
        assert (share == 0) == (len(set(stated)) == 1)


@given(st.lists(st.text("ab ", max_size=30), min_size=2, max_size=4))
def test_different_words_are_none_for_equal_texts_and_all_for_texts_that_share_none(texts: list[str]) -> None:
    assert 0 <= other_words(texts) <= 1
    assert other_words([texts[0], texts[0]]) == 0
    assert other_words([texts[0] + " end of one text", "nothing in common at all here"]) == 1
    assert math.isnan(other_words(texts[:1]))


def test_what_no_problem_shows_is_left_out_and_a_pair_needs_both() -> None:
    _, one = a_model([[True, True], [True, False]], [["same", "same"], ["", ""]])
    _, other = a_model([[True, True], [True, False]], [["", ""], ["same", "same"]])
    assert measures(one)["distinct_equations"].mean == 0
    assert "distinct_equations" not in differences(one, other), "no problem shows it in both"


def test_variants_of_a_problem_are_not_independent() -> None:
    _, before = a_model([[False, False]] * 3 + [[True, False]] * 3)
    _, after = a_model([[True, True]] * 3 + [[True, False]] * 3)
    names = [f"p{number:02d}" for number in range(6)]
    units = units_of(names, {name: "abc"[number // 2] for number, name in enumerate(names)})
    alone, together = differences(before, after), differences(before, after, units)
    assert together["pass@1"].mean == alone["pass@1"].mean
    assert together["pass@1"].high - together["pass@1"].low > alone["pass@1"].high - alone["pass@1"].low
    assert units_of(names, None) is None


RISE, LEVEL, FALL = Interval(0.2, 0.1, 0.3), Interval(0.0, -0.1, 0.1), Interval(-0.2, -0.3, -0.1)


def test_a_collapse_is_a_rise_of_the_first_try_with_a_fall_of_reach_or_variety() -> None:
    assert narrowed({"pass@1": RISE, "pass@4": FALL, "distinct_words": FALL}, 4) == ("pass@4", "distinct_words")
    assert narrowed({"pass@1": RISE, "pass@4": LEVEL, "distinct_words": LEVEL}, 4) == ()
    assert narrowed({"pass@1": FALL, "pass@4": FALL}, 4) == (), "then all of it fell"
    assert narrowed({}, 4) == ()
    assert DISTINCT == ("distinct_equations", "distinct_words")


def test_a_series_goes_on_while_the_interval_lies_above_0_and_reach_does_not_fall() -> None:
    assert no_gain({"pass@1": RISE, "pass@4": LEVEL}, 4) == ""
    assert no_gain({"pass@1": LEVEL}, 4) == "no measurable gain in pass@1: +0.0 points [-10.0, +10.0]"
    assert no_gain({"pass@1": FALL}, 1).startswith("no measurable gain")
    assert no_gain({"pass@1": RISE, "pass@4": FALL}, 4) == "pass@4 fell by 20.0 points"
    assert no_gain({"pass@1": RISE}, 1) == "", "with one sample there is no other k"

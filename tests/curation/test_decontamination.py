"""Decontamination finds planted runs of words, copies and short texts, and leaves other problems alone."""

import pickle
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonray.curation.decontamination import Item, build_index, find_overlaps
from reasonray.curation.text import normalised_words
from tests.curation.texts import UNSPACED, prose


@pytest.mark.parametrize("size", [8, 13])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_a_planted_run_of_words_is_always_found_and_a_shorter_one_never(size: int, seed: int) -> None:
    dice = random.Random(seed)
    items = [Item("bench", str(number), prose(dice, 30)) for number in range(20)]
    words = items[7].text.split()
    start = dice.randrange(30 - size + 1)
    planted = f"{prose(dice, 9)} 77 {' '.join(words[start : start + size]).title()}! 77 {prose(dice, 9)}"
    shorter = f"{prose(dice, 9)} 77 {' '.join(words[start : start + size - 1])} 77 {prose(dice, 9)}"
    overlaps = find_overlaps(build_index(items, (size,)), [("planted", planted), ("shorter", shorter)]).to_pylist()
    assert [(row["problem_id"], row["item_id"], row["words"]) for row in overlaps] == [("planted", "7", size)]
    assert overlaps[0]["matched"] == " ".join(words[start : start + size])


def test_a_short_text_that_occurs_whole_in_the_other_is_found_in_both_directions() -> None:
    dice = random.Random(2)
    short, long = "Who painted the green horse?", f"{prose(dice, 20)} who painted the green horse {prose(dice, 20)}"
    lengths = [len(normalised_words(short))]
    assert find_overlaps(build_index([Item("b", "long", long)], (13,), lengths), [("short", short)]).num_rows == 1
    assert find_overlaps(build_index([Item("b", "short", short)], (13,)), [("long", long)]).num_rows == 1
    assert (
        find_overlaps(
            build_index([Item("b", "short", "Who is it?")], (13,)), [("long", "Tell me: who is it?")]
        ).num_rows
        == 0
    )
    sums = build_index([Item("b", "sum", "What is 12 + 7?")], (13,))
    assert find_overlaps(sums, [("same", "what is $12 + 7$"), ("other", "What is 12 - 7?")])[
        "problem_id"
    ].to_pylist() == ["same"]


def test_a_pair_is_reported_once_with_its_longest_match() -> None:
    words = prose(random.Random(4), 30)
    problems = [("same", words), ("more", f"{words} indeed"), ("other", prose(random.Random(6), 30))]
    overlaps = find_overlaps(build_index([Item("b", "1", words)], (8, 13)), problems)
    assert overlaps.select(["problem_id", "item_id", "words"]).to_pylist() == [
        {"problem_id": "same", "item_id": "1", "words": 30},
        {"problem_id": "more", "item_id": "1", "words": 13},
    ]


@pytest.mark.parametrize("text", ["12 * 7 = ?", "Find 7!", "Evaluate 3 + 4.", r"Compute $\sqrt{2}$.", "7 的平方?"])
def test_a_copy_is_found_however_short_and_a_problem_with_the_same_words_is_not_a_copy(text: str) -> None:
    held_out = build_index([Item("b", "copied", text), Item("b", "empty", "")], (13,))
    problems = [("copy", f" {text.upper()}\n"), ("longer", f"{text} And why?"), ("other", "Find 7."), ("none", " ?")]
    assert find_overlaps(held_out, problems)["problem_id"].to_pylist() == ["copy"]


def test_an_item_that_occurs_many_times_is_not_common_wording() -> None:
    dice = random.Random(7)
    logged = [prose(dice, 30) for _ in range(11)]
    items = [Item("log", f"{number}-{sample}", text) for number, text in enumerate(logged) for sample in range(16)]
    overlaps = find_overlaps(
        build_index(items, (13,)), [("held", f"{prose(dice, 5)} {logged[3]}"), ("new", prose(dice, 30))]
    )
    assert overlaps["problem_id"].to_pylist() == ["held"] * 16
    assert overlaps["item_id"].to_pylist() == [f"3-{sample}" for sample in range(16)]


@pytest.mark.parametrize(("item", "other"), UNSPACED)
def test_overlaps_are_found_in_scripts_without_spaces(item: str, other: str) -> None:
    held_out = build_index([Item("b", "1", item)], (13,), [len(normalised_words(other))])
    problems = [("held", f"问 1: {item} (2)"), ("other", other)]
    assert find_overlaps(held_out, problems)["problem_id"].to_pylist() == ["held"]


def test_common_wording_does_not_count() -> None:
    wording = "please solve the following problem and put your final answer within the box"
    dice = random.Random(3)
    items = [Item("bench", str(number), f"{wording} {prose(dice, 20)}") for number in range(40)]
    problems = [("worded", f"{wording} {prose(dice, 20)}"), ("copied", items[5].text)]
    overlaps = find_overlaps(build_index(items, (8,)), problems)
    assert set(overlaps["problem_id"].to_pylist()) == {"copied"}


def test_an_index_pickles() -> None:
    held_out = build_index([Item("b", "1", "one two three four five six seven eight nine")], (8,))
    again = pickle.loads(pickle.dumps(held_out))
    problems = [("p", "zero one two three four five six seven eight nine ten")]
    assert find_overlaps(again, problems).equals(find_overlaps(held_out, problems))
    assert find_overlaps(build_index([], (8, 13)), problems).num_rows == 0

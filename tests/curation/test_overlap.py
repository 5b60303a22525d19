"""Overlap: the same reasoning, near-duplicates, contamination; what is planted is found, what is not is left alone."""

import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonray.curation.overlap import Item, hits, index, near_duplicates, normalised, reasoning_key, signatures

VOCABULARY = [f"{a}{b}{c}" for a in "bdfklmnprst" for b in "aeiou" for c in ("ler", "nt", "mo", "sk", "ra")]


def prose(dice: random.Random, words: int) -> str:
    return " ".join(dice.choice(VOCABULARY) for _ in range(words))


def test_the_same_equations_in_other_words_are_the_same_reasoning() -> None:
    one = reasoning_key("First 6 * 7 = 42. Then 42 + 1 = 43.")
    assert one == reasoning_key("<think> We multiply: 6*7=42, and so 42 +1 = 43 </think>")
    assert one != reasoning_key("First 42 + 1 = 43. Then 6 * 7 = 42.")
    assert one != reasoning_key("6 * 7 = 42. 42 + 2 = 44.")
    assert reasoning_key("6 * 7 = 42, clearly.") == reasoning_key("No equation.") == ""


@given(st.text(alphabet="0123456789+-*/=(). x", max_size=200))
def test_any_text_has_a_key(text: str) -> None:
    assert reasoning_key(text) in ("", reasoning_key(f" {text} "))


def test_texts_with_few_words_changed_are_near_duplicates_and_others_are_not() -> None:
    dice = random.Random(0)
    texts = [prose(dice, 200) for _ in range(60)]
    changed = [text.replace(text.split()[100], "other", 1) for text in texts[:20]]
    owner = near_duplicates(signatures([*texts, *changed]), 0.8)
    assert owner[60:].tolist() == list(range(20))
    assert owner[:60].tolist() == list(range(60))


@given(st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_groups_of_near_duplicates_do_not_depend_on_the_order(dice: random.Random) -> None:
    base = random.Random(1)
    texts = [prose(base, 60) for _ in range(10)]
    texts += [f"{text} indeed" for text in texts[:5]] + [f"{text} indeed so" for text in texts[:3]]
    order = dice.sample(range(len(texts)), len(texts))

    def groups(signed: np.ndarray, names: list[int]) -> set[frozenset[int]]:
        owner = near_duplicates(signed, 0.8).tolist()
        return {frozenset(names[i] for i, it in enumerate(owner) if it == root) for root in set(owner)}

    signed = signatures(texts)
    assert groups(signed, list(range(len(texts)))) == groups(signed[order], order)


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
    found = hits(index(items, (size,)), [("planted", planted), ("shorter", shorter)]).to_pylist()
    assert [(it["problem_id"], it["item_id"], it["words"]) for it in found] == [("planted", "7", size)]
    assert found[0]["matched"] == " ".join(words[start : start + size])


def test_a_short_text_that_stands_whole_in_the_other_is_found_in_both_directions() -> None:
    dice = random.Random(2)
    short, long = "Who painted the green horse?", f"{prose(dice, 20)} who painted the green horse {prose(dice, 20)}"
    lengths = [len(normalised(short))]
    assert hits(index([Item("b", "long", long)], (13,), lengths), [("short", short)]).num_rows == 1
    assert hits(index([Item("b", "short", short)], (13,)), [("long", long)]).num_rows == 1
    assert hits(index([Item("b", "short", "Who is it?")], (13,)), [("long", "Tell me: who is it?")]).num_rows == 0
    sums = index([Item("b", "sum", "What is 12 + 7?")], (13,))
    assert hits(sums, [("same", "what is $12 + 7$"), ("other", "What is 12 - 7?")])["problem_id"].to_pylist() == [
        "same"
    ]


def test_how_problems_are_worded_does_not_count() -> None:
    wording = "please solve the following problem and put your final answer within the box"
    dice = random.Random(3)
    items = [Item("bench", str(number), f"{wording} {prose(dice, 20)}") for number in range(40)]
    asked = [("worded", f"{wording} {prose(dice, 20)}"), ("copied", items[5].text)]
    found = hits(index(items, (8,)), asked)
    assert set(found["problem_id"].to_pylist()) == {"copied"}


def test_an_index_travels() -> None:
    held_out = index([Item("b", "1", "one two three four five six seven eight nine")], (8,))
    again = pickle.loads(pickle.dumps(held_out))
    asked = [("p", "zero one two three four five six seven eight nine ten")]
    assert hits(again, asked).equals(hits(held_out, asked))
    assert hits(index([], (8, 13)), asked).num_rows == 0

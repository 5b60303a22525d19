"""Overlap: the same reasoning, near-duplicates, contamination; what is planted is found, what is not is left alone."""

import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonray.curation.decontamination import Item, hits, index
from reasonray.curation.dedup import PERMUTATIONS, near_duplicates, reasoning_key, signatures
from reasonray.curation.text import normalised

VOCABULARY = [f"{a}{b}{c}" for a in "bdfklmnprst" for b in "aeiou" for c in ("ler", "nt", "mo", "sk", "ra")]


def prose(dice: random.Random, words: int) -> str:
    return " ".join(dice.choice(VOCABULARY) for _ in range(words))


def test_the_same_equations_in_other_words_are_the_same_reasoning() -> None:
    one = reasoning_key("First 6 * 7 = 42. Then 42 + 1 = 43.")
    assert one == reasoning_key("<think> We multiply: 6*7=42, and so 42 +1 = 43 </think>")
    assert one != reasoning_key("First 42 + 1 = 43. Then 6 * 7 = 42.")
    assert one != reasoning_key("6 * 7 = 42. 42 + 2 = 44.")
    assert reasoning_key("6 * 7 = 42, clearly.") == reasoning_key("No equation.") == ""


@pytest.mark.parametrize(
    "written",
    [
        r"We have $6 \times 7 = 42$, so \(1{,}000 + \frac{42}{7} = 1006\).",
        "- **6 × 7 = 42**\n- 1,000 + 42/7\n  = 1006",
        "1. 6 x 7 = 42.\n2. 1000 + 42 ÷ 7 = 1006 apples, as x = 3",
    ],
)
def test_an_equation_is_the_same_however_it_is_typeset(written: str) -> None:
    assert reasoning_key(written) == reasoning_key("6*7=42 and 1000+42/7=1006") != ""


def test_a_value_that_is_only_named_is_no_equation() -> None:
    assert reasoning_key("x = 5, y = 7, 3 = 3, n = 12") == ""
    assert reasoning_key("6 * 7 = 42 = 42") == ""
    assert reasoning_key("2 + 4 = 3 * 2 = 6") == reasoning_key("2 + 4 = 3 * 2. Now 3*2 = 6.") != ""


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


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_a_pair_at_the_threshold_is_missed_at_most_about_once_in_a_hundred_times(threshold: float) -> None:
    signed, other = of_likeness(threshold, 2000), of_likeness(threshold - 0.2, 2000)
    pairs = near_duplicates(np.concatenate(signed), threshold)
    assert np.mean(pairs[2000:] == np.arange(2000)) >= 0.98
    assert np.mean(near_duplicates(np.concatenate(other), threshold)[2000:] == np.arange(2000)) <= 0.01


def of_likeness(share: float, pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return signatures, and those of texts of that Jaccard similarity to theirs."""
    dice = np.random.default_rng(0)
    one, other = (dice.integers(0, 1 << 16, (pairs, PERMUTATIONS), dtype=np.uint16) for _ in range(2))
    return one, np.where(dice.random(one.shape) < share, one, other)


def test_one_that_stands_between_a_pair_in_every_band_does_not_part_it() -> None:
    one, other = (it[0] for it in of_likeness(0.85, 1))
    rows = [one, other]
    rows += [np.where(one == other, one, np.uint16(filler)) for filler in range(8)]
    for row in rows[2:]:
        row[np.flatnonzero(one == other)[:60]] += 1
    found = {
        tuple(sorted(order[at] for at in np.flatnonzero(owner == owner[place])))
        for order in ([0, *range(2, 10), 1], list(range(10)), [*range(2, 10), 1, 0])
        for owner in [near_duplicates(np.stack([rows[at] for at in order]), 0.8)]
        for place in [order.index(0)]
    }
    assert len(found) == 1
    assert {0, 1} <= set(found.pop())


def test_problems_of_one_wording_are_not_near_duplicates_for_it() -> None:
    dice = random.Random(5)
    wording = prose(dice, 60)
    texts = [f"{wording} {prose(dice, 40)}" for _ in range(500)]
    assert near_duplicates(signatures(texts), 0.8).tolist() == list(range(500))


def test_nothing_has_no_near_duplicates() -> None:
    assert near_duplicates(signatures([]), 0.8).tolist() == []
    assert near_duplicates(signatures(["one"]), 0.8).tolist() == [0]
    assert near_duplicates(signatures(["", "one", " "]), 0.8).tolist() == [0, 1, 0]


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


def test_a_pair_is_told_once_and_by_its_longest_words() -> None:
    words = prose(random.Random(4), 30)
    asked = [("same", words), ("more", f"{words} indeed"), ("other", prose(random.Random(6), 30))]
    found = hits(index([Item("b", "1", words)], (8, 13)), asked)
    assert found.select(["problem_id", "item_id", "words"]).to_pylist() == [
        {"problem_id": "same", "item_id": "1", "words": 30},
        {"problem_id": "more", "item_id": "1", "words": 13},
    ]


@pytest.mark.parametrize("text", ["12 * 7 = ?", "Find 7!", "Evaluate 3 + 4.", r"Compute $\sqrt{2}$.", "7 的平方?"])
def test_a_copy_is_found_however_short_it_is_and_what_only_has_its_words_is_none(text: str) -> None:
    held_out = index([Item("b", "copied", text), Item("b", "empty", "")], (13,))
    asked = [("copy", f" {text.upper()}\n"), ("longer", f"{text} And why?"), ("other", "Find 7."), ("none", " ?")]
    assert hits(held_out, asked)["problem_id"].to_pylist() == ["copy"]


def test_an_item_that_is_there_many_times_is_no_wording() -> None:
    dice = random.Random(7)
    logged = [prose(dice, 30) for _ in range(11)]
    items = [Item("log", f"{number}-{sample}", text) for number, text in enumerate(logged) for sample in range(16)]
    found = hits(index(items, (13,)), [("held", f"{prose(dice, 5)} {logged[3]}"), ("new", prose(dice, 30))])
    assert found["problem_id"].to_pylist() == ["held"] * 16
    assert found["item_id"].to_pylist() == [f"3-{sample}" for sample in range(16)]


@pytest.mark.parametrize(
    ("item", "other"),
    [
        (
            "小明有五个苹果，小红给了他七个苹果，然后他又吃掉了三个。请问小明现在有多少个？",
            "小明有三本书，小红有五本书。",
        ),
        (
            "太郎さんはりんごを五個持っています。花子さんから七個もらいました。全部でいくつ？",
            "りんごを三個買いました。",
        ),
        ("สมชายมีแอปเปิ้ลห้าผล และได้รับอีกเจ็ดผลจากเพื่อน แล้วกินไปสามผล รวมทั้งหมดกี่ผล", "สมชายมีส้มสามผล"),
    ],
)
def test_words_that_no_space_parts_are_found_too(item: str, other: str) -> None:
    held_out = index([Item("b", "1", item)], (13,), [len(normalised(other))])
    assert hits(held_out, [("held", f"问 1: {item} (2)"), ("other", other)])["problem_id"].to_pylist() == ["held"]
    one, changed, another = signatures([item, f"{item[:-3]}6{item[-2:]}", other])
    assert np.mean(one == changed) > 0.6 > 0.2 > np.mean(one == another)


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

"""Deduplication finds the same reasoning and planted near-duplicates, and leaves other texts alone."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonray.curation.dedup import PERMUTATIONS, minhash_signatures, near_duplicates, reasoning_key
from tests.curation.texts import UNSPACED, prose


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


def test_a_value_without_an_operation_is_not_an_equation() -> None:
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
    owner = near_duplicates(minhash_signatures([*texts, *changed]), 0.8)
    assert owner[60:].tolist() == list(range(20))
    assert owner[:60].tolist() == list(range(60))


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_a_pair_at_the_threshold_is_missed_at_most_about_once_in_a_hundred_times(threshold: float) -> None:
    alike, other = signatures_of_likeness(threshold, 2000), signatures_of_likeness(threshold - 0.2, 2000)
    pairs = near_duplicates(np.concatenate(alike), threshold)
    assert np.mean(pairs[2000:] == np.arange(2000)) >= 0.98
    assert np.mean(near_duplicates(np.concatenate(other), threshold)[2000:] == np.arange(2000)) <= 0.01


def signatures_of_likeness(share: float, pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return signatures, and those of texts of that Jaccard similarity to theirs."""
    dice = np.random.default_rng(0)
    one, other = (dice.integers(0, 1 << 16, (pairs, PERMUTATIONS), dtype=np.uint16) for _ in range(2))
    return one, np.where(dice.random(one.shape) < share, one, other)


def test_rows_sorted_between_a_pair_in_every_band_do_not_separate_it() -> None:
    one, other = (rows[0] for rows in signatures_of_likeness(0.85, 1))
    rows = [one, other]
    rows += [np.where(one == other, one, np.uint16(filler)) for filler in range(8)]
    for row in rows[2:]:
        row[np.flatnonzero(one == other)[:60]] += 1
    groups = {
        tuple(sorted(order[at] for at in np.flatnonzero(owner == owner[place])))
        for order in ([0, *range(2, 10), 1], list(range(10)), [*range(2, 10), 1, 0])
        for owner in [near_duplicates(np.stack([rows[at] for at in order]), 0.8)]
        for place in [order.index(0)]
    }
    assert len(groups) == 1
    assert {0, 1} <= set(groups.pop())


def test_texts_with_a_common_wording_are_not_near_duplicates() -> None:
    dice = random.Random(5)
    wording = prose(dice, 60)
    texts = [f"{wording} {prose(dice, 40)}" for _ in range(500)]
    assert near_duplicates(minhash_signatures(texts), 0.8).tolist() == list(range(500))


def test_no_texts_empty_texts_and_one_text_are_grouped() -> None:
    assert near_duplicates(minhash_signatures([]), 0.8).tolist() == []
    assert near_duplicates(minhash_signatures(["one"]), 0.8).tolist() == [0]
    assert near_duplicates(minhash_signatures(["", "one", " "]), 0.8).tolist() == [0, 1, 0]


@given(st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_groups_of_near_duplicates_do_not_depend_on_the_order(dice: random.Random) -> None:
    base = random.Random(1)
    texts = [prose(base, 60) for _ in range(10)]
    texts += [f"{text} indeed" for text in texts[:5]] + [f"{text} indeed so" for text in texts[:3]]
    order = dice.sample(range(len(texts)), len(texts))

    def groups(signatures: np.ndarray, names: list[int]) -> set[frozenset[int]]:
        owners = near_duplicates(signatures, 0.8).tolist()
        return {frozenset(names[i] for i, owner in enumerate(owners) if owner == root) for root in set(owners)}

    signatures = minhash_signatures(texts)
    assert groups(signatures, list(range(len(texts)))) == groups(signatures[order], order)


@pytest.mark.parametrize(("text", "other"), UNSPACED)
def test_texts_in_scripts_without_spaces_have_words(text: str, other: str) -> None:
    one, changed, another = minhash_signatures([text, f"{text[:-3]}6{text[-2:]}", other])
    assert np.mean(one == changed) > 0.6 > 0.2 > np.mean(one == another)

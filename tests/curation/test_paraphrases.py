"""Paraphrases: the nearest item, the sample, the controls, and what replies mean."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonray.checkers import paraphrase
from reasonray.curation import paraphrases
from reasonray.curation.decontamination import HELD_OUT, Item
from reasonray.curation.paraphrases import (
    ControlQuestions,
    ItemIndex,
    controls,
    findings,
    rewritten,
    sample_of,
    similar_pairs,
    with_another_number,
)
from reasonray.curation.text import normalised_words
from reasonray.records import Outcome, Problem
from tests.factories import a_problem

WORDS = st.text(alphabet="ab1 ", max_size=12) | st.text(max_size=12)
TEXTS = st.lists(WORDS, min_size=1, max_size=12)


def items_of(texts: Sequence[str]) -> list[Item]:
    return [Item(HELD_OUT, str(number), text) for number, text in enumerate(texts)]


@given(TEXTS, st.data())
def test_an_item_is_its_own_nearest(texts: list[str], data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(texts))
    found = ItemIndex.of(items_of(texts)).nearest(text)
    if words := set(normalised_words(text)):
        assert found is not None
        assert set(normalised_words(found[0].text)) == words
        assert found[1] == pytest.approx(1)
    else:
        assert found is None


@given(TEXTS, WORDS, st.randoms(use_true_random=False))
def test_the_order_of_the_items_does_not_matter(texts: list[str], text: str, order: random.Random) -> None:
    items = items_of(texts)
    found = ItemIndex.of(items).nearest(text)
    order.shuffle(items)
    assert ItemIndex.of(items).nearest(text) == found
    assert found is None or 0 <= found[1] <= 1 + 1e-9


def test_problems_are_compared_by_what_they_ask_and_numbers_decide_between_equal_wordings() -> None:
    apples = "Anna has {} apples and eats {}. How many apples are left?"
    items = items_of([apples.format(9, 4), apples.format(8, 3), "A train runs 9 hours at 4 miles an hour. How far?"])
    index = ItemIndex.of(items)
    nearest = index.nearest("Emma had 8 apples. She has eaten 3 apples. How many are left?")
    assert nearest is not None
    assert nearest[0].id == "1"
    again = index.nearest(apples.format(5, 2))
    assert again is not None
    assert again[0].id in "01"
    assert again[1] > 0.8


def test_what_resembles_no_item_is_not_asked_about() -> None:
    near, far = a_problem("Name the capital of France."), a_problem("Wie viele Beine haben zwei Spinnen?")
    items = items_of(["What is the capital of France?", "", "?!"])
    assert [(pair.problem, pair.item.id) for pair in similar_pairs([near, far], items)] == [(near, "0")]
    assert similar_pairs([near], []) == similar_pairs([near], items_of(["", "?"])) == []


@settings(max_examples=20)
@given(st.sets(st.integers(0, 99), max_size=20), st.integers(0, 20), st.integers(0, 20))
def test_a_larger_sample_contains_a_smaller_one(numbers: set[int], one: int, other: int) -> None:
    problems = [a_problem(f"What is {number} + 1?") for number in numbers]
    small, large = (sample_of(problems, size) for size in sorted((one, other)))
    assert small == large[: len(small)]
    assert sample_of(problems[::-1], one) == sample_of(problems, one)


@given(
    st.text(st.characters(max_codepoint=0x17F))
    | st.from_regex(r"(Mary|Tom|Peter) has [0-9]+ (apples|\$x\$|pears)", fullmatch=True)
)
def test_rewriting_keeps_every_word_but_the_given_names(statement: str) -> None:
    names = {name.lower() for names in paraphrases._NAMES for name in names}
    before, after = normalised_words(statement), normalised_words(rewritten(statement))
    if not names & set(before):
        assert [word.upper() for word in after] == [word.upper() for word in before]
    else:
        assert len(before) == len(after)
        kept = [(old.upper(), new.upper()) for old, new in zip(before, after, strict=True) if old not in names]
        assert all(old == new for old, new in kept)
        assert [word.upper() for word in before] != [word.upper() for word in after]


def test_rewriting_leaves_formulas_as_they_are() -> None:
    assert rewritten("Mary and Anna see Tom.") == "EMILY  AND  ALICE  SEE  ADAM."
    assert rewritten("Mary finds $x + X$ for x.").endswith("  finds $x + X$ for  x.")


def test_controls_are_a_problem_with_itself_with_another_one_and_with_another_number() -> None:
    problems = [a_problem(f"What is {number} + {number}?", str(2 * number)) for number in range(80)]
    questions = controls(problems)
    assert {len({question.id for question in kind}) for kind in (questions.same, questions.others)} == {50}
    assert len({question.id for question in questions.other_numbers}) == 50
    assert {question.answer for question in questions.same} == {"yes"}
    assert {question.answer for question in (*questions.others, *questions.other_numbers)} == {"no"}
    assert controls(problems[::-1]) == questions
    without_numbers = controls([a_problem("Is it?", "yes"), a_problem("Is it not?", "yes")])
    assert without_numbers.others == without_numbers.other_numbers == (), "they may be the same"
    assert controls([]) == ControlQuestions()


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("What is 6 * 7?", "What is 6 * 17?"),
        ("It costs $15.", "It costs $33."),
        ("In 2 hours, 12.5 or 1,200 or 3rd or x4 of 50%", "In 2 hours, 12.5 or 1,200 or 3rd or x4 of 103%"),
        ("Only 1.5 and 2,000", None),
        ("none", None),
    ],
)
def test_another_number_takes_the_place_of_the_last_whole_one(statement: str, expected: str | None) -> None:
    assert with_another_number(statement) == expected


@given(st.text())
def test_with_another_number_a_problem_has_other_words(statement: str) -> None:
    changed = with_another_number(statement)
    assert changed is None or normalised_words(changed) != normalised_words(statement)


def replies(problems: Sequence[Problem], outcome: Outcome) -> dict[str, str]:
    return {problem.id: outcome.value for problem in problems}


def test_a_reply_that_cannot_be_read_is_left_out_of_the_share_and_no_pair_is_no_paraphrase() -> None:
    problems = [a_problem(f"How many legs have {number} spiders?", str(8 * number)) for number in range(30)]
    items = items_of(["What number of legs have 3 spiders?"])
    pairs = similar_pairs(problems, items)
    asked = controls(problems)
    known = replies(asked.same, Outcome.CORRECT) | replies((*asked.others, *asked.other_numbers), Outcome.WRONG)
    questions = [pair.question for pair in pairs]
    known |= replies(questions[:25], Outcome.CORRECT) | replies(questions[25:27], Outcome.WRONG)
    known |= replies(questions[27:28], Outcome.NO_ANSWER) | replies(questions[28:29], Outcome.FAILED)
    found = findings("judge", len(items), 40, pairs, known, asked)
    assert (found.sampled, found.asked, found.read, found.paraphrases) == (40, 30, 27, 25)
    assert found.share is not None
    assert found.share.count == 40 - 3, "ten were not asked about, three have no reply that can be read"
    assert found.share.mean == 25 / 37
    assert found.controls.trusted
    assert len(found.pairs) == 25
    assert len(found.first) == 20
    assert [pair.problem_id for pair in found.first] == [pair.problem_id for pair in found.pairs[:20]]
    for fooled in (asked.others, asked.other_numbers):
        assert not findings(
            "judge", 1, 40, pairs, {**known, **replies(fooled, Outcome.CORRECT)}, asked
        ).controls.trusted


def test_without_anything_to_ask_there_is_no_share_to_state() -> None:
    assert findings("judge", 0, 0, [], {}, ControlQuestions()).share is None
    nothing = findings("judge", 9, 200, [], {}, ControlQuestions())
    assert nothing.share is not None
    assert (nothing.share.mean, nothing.share.count) == (0, 200)


def test_a_question_of_a_pair_shows_both_statements() -> None:
    (pair,) = similar_pairs([a_problem("What is 6 * 7?")], items_of(["What is 6 * 7, Tom?"]))
    assert pair.question == paraphrase.question("What is 6 * 7?", "What is 6 * 7, Tom?")

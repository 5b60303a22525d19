"""Seeded arithmetic problems in three difficulties.

    easy    17 + 25, 90 - 34, 6 * 7
    medium  125 - 67, 15% of 200, 23 * 4
    hard    3 boxes of 12 items each, 7 are removed

Item i is a function of seed + i alone: an index into the fixed, shuffled list of the problems of its difficulty and
split, so that no problem repeats. A hash of the question decides the split, so that train and test are disjoint for any
seed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import zip_longest
from typing import NamedTuple

from reasonray.config import GeneratedSource
from reasonray.errors import UserError
from reasonray.problems.notes import Notes
from reasonray.records import Problem, Split, content_hash

_TEST_SHARE = 0.25


class Item(NamedTuple):
    """A question and its answer."""

    question: str
    answer: int


def _sums(first: range, second: range) -> list[Item]:
    return [Item(f"What is {a} + {b}?", a + b) for a in first for b in second]


def _differences(first: range, second: range) -> list[Item]:
    return [Item(f"What is {a} - {b}?", a - b) for a in first for b in second if b < a]


def _products(first: range, second: range) -> list[Item]:
    return [Item(f"What is {a} * {b}?", a * b) for a in first for b in second]


def _percentages() -> list[Item]:
    shares = (5, 10, 15, 20, 25, 30, 40, 50, 60, 75)
    return [
        Item(f"What is {share}% of {base}?", share * base // 100) for share in shares for base in range(20, 420, 20)
    ]


def _boxes() -> list[Item]:
    text = "There are {} boxes of {} items each. {} items are removed. How many items are left?"
    return [
        Item(text.format(boxes, items, removed), boxes * items - removed)
        for boxes in range(2, 10)
        for items in range(3, 16)
        for removed in range(2, 10)
        if removed < boxes * items
    ]


_KINDS: dict[str, Callable[[], list[list[Item]]]] = {
    "easy": lambda: [
        _sums(range(2, 60), range(2, 40)),
        _products(range(2, 10), range(2, 10)),
        _differences(range(12, 100), range(2, 90)),
    ],
    "medium": lambda: [
        _differences(range(101, 200), range(11, 100)),
        _percentages(),
        _sums(range(101, 200), range(11, 100)),
        _products(range(12, 50), range(3, 10)),
    ],
    "hard": lambda: [_boxes()],
}


def load(source: GeneratedSource, notes: Notes | None = None) -> list[tuple[Problem, str]]:
    """Return the problems of a source, each with its location.

    Raises:
        UserError: the source asks for more problems than there are.
    """
    problems = []
    for split, count in ((Split.TRAIN, source.train), (Split.TEST, source.test)):
        for number, difficulty in enumerate(source.difficulties):
            share = (count - number - 1) // len(source.difficulties) + 1
            if share > len(space(difficulty, split)):
                raise UserError(
                    f"source {source.name}: {share} {difficulty} {split.value} problems asked for, there are "
                    f"{len(space(difficulty, split))}; lower {split.value}"
                )
            for index in range(share):
                problem = generate(source.name, difficulty, split, source.seed + index)
                problems.append((problem, f"source {source.name}, {difficulty} {split.value} item {index}"))
    return problems


def generate(source: str, difficulty: str, split: Split, number: int) -> Problem:
    """Return the problem with a number (seed + i)."""
    items = space(difficulty, split)
    item = items[number % len(items)]
    return Problem.of(item.question, str(item.answer), source=source, difficulty=difficulty, split=split)


@cache
def space(difficulty: str, split: Split) -> tuple[Item, ...]:
    """Return all problems of a difficulty and a split, shuffled: one of each kind in turn, until the kinds run out."""
    kinds = [
        sorted(_of_split(items, split), key=lambda item: content_hash(item.question)) for items in _KINDS[difficulty]()
    ]
    turns = zip_longest(*kinds)
    return tuple(item for turn in turns for item in turn if item is not None)


def _of_split(items: list[Item], split: Split) -> list[Item]:
    # The tail of the hash decides the split, and the whole hash the order, so that the two are independent.
    bound = int(_TEST_SHARE * 0x10000)
    return [item for item in items if (int(content_hash(item.question)[-4:], 16) < bound) is (split is Split.TEST)]

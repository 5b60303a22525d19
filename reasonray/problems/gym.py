"""Problems from reasoning-gym, by the name of a task: procedural, endless, each with its task's own scorer."""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import Any

from reasonray.checkers.gym_rules import WITHOUT_GOLD
from reasonray.config import GymSource
from reasonray.errors import UserError
from reasonray.problems.notes import Notes
from reasonray.records import Problem, Split

_TEST_SEED = 1_000_003
"""The offset of held-out items' seeds, larger than any number of train items."""


def load(source: GymSource, notes: Notes | None = None) -> list[tuple[Problem, str]]:
    """Return the problems of a task, each with its location; the splits are disjoint.

    Raises:
        UserError: reasoning-gym is not installed, or the task is unknown or refuses its arguments.
    """
    test = _items(source, Split.TEST, source.test, source.seed + _TEST_SEED, set())
    held_out = {problem.question for problem, _ in test}
    return test + _items(source, Split.TRAIN, source.train, source.seed, held_out)


def _items(source: GymSource, split: Split, count: int, seed: int, seen: set[str]) -> list[tuple[Problem, str]]:
    """Return `count` items with distinct questions that are not in `seen`."""
    dataset = _dataset(source, seed, size=4 * count + 16)
    seen, problems = set(seen), list[tuple[Problem, str]]()
    for index in range(len(dataset)):
        if len(problems) == count:
            break
        entry = dataset[index]
        if entry["question"] not in seen:
            _refuse_without_gold(source.task, entry)
            seen.add(entry["question"])
            problems.append((_problem(source, split, entry), f"task {source.task}, {split.value} item {index}"))
    if len(problems) < count:
        raise UserError(
            f"task {source.task}: only {len(problems)} distinct {split.value} problems; lower {split.value}"
        )
    return problems


def _problem(source: GymSource, split: Split, entry: dict[str, Any]) -> Problem:
    plain = json.loads(json.dumps(entry, default=str))
    return Problem.of(
        entry["question"],
        str(entry["answer"]),
        source=source.name or source.task,
        checker="gym",
        split=split,
        metadata={"task": source.task, "entry": plain, **({"args": source.args} if source.args else {})},
    )


def _refuse_without_gold(task: str, entry: dict[str, Any]) -> None:
    if entry["answer"] is None:
        raise UserError(
            f"task {task}: its problems have no gold answer, so no scorer can be checked; the tasks without one are "
            f"{', '.join(WITHOUT_GOLD)}"
        )


def _dataset(source: GymSource, seed: int, size: int) -> Any:
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError:
        raise UserError("sources of kind gym need the `gym` extra: pip install 'reasonray[gym]'") from None
    if source.task not in DATASETS:
        close = get_close_matches(source.task, DATASETS, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else f"there are {len(DATASETS)}, such as basic_arithmetic"
        raise UserError(f"reasoning-gym has no task {source.task!r}; {hint}")
    try:
        return reasoning_gym.create_dataset(source.task, seed=seed, size=size, **source.args)
    except (TypeError, AssertionError, ValueError) as error:
        raise UserError(f"task {source.task} refuses its args: {error}") from None

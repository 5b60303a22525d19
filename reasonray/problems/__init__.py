"""Where problems come from. `load` reads every source of a configuration and checks them against one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from reasonray import checkers
from reasonray.config import Source
from reasonray.errors import UserError
from reasonray.records import Problem, Split

_SOURCES = {
    "generated": "reasonray.problems.generated",
    "files": "reasonray.problems.files",
    "hub": "reasonray.problems.hub",
    "gym": "reasonray.problems.gym",
}
"""Kind → module with `load(source) -> list[tuple[Problem, str]]`: problems, and where each stands; loaded on demand, as
some need heavy libraries."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The problems of a run, and how many repeated ones a source was told to drop."""

    problems: list[Problem]
    dropped: int = 0


def load(sources: Sequence[Source], *, to_distil: bool = True) -> Loaded:
    """Read all sources.

    Args:
        sources: of a configuration.
        to_distil: whether some problems must be, as they need not where models are only measured.

    Raises:
        UserError: a source cannot be read, a problem has no answer or an unknown checker, two are the same, or one
            stands among those to distil and those held out.
    """
    kept: dict[str, tuple[Problem, str]] = {}
    asked: dict[str, tuple[Split, str]] = {}
    dropped = 0
    for source in sources:
        for problem, where in _read(source):
            _refuse_unknown_checker(problem, where)
            question = " ".join(problem.question.casefold().split())
            fault = _repeats(problem, where, question, kept, asked)
            if fault and getattr(source, "on_duplicate", "error") == "error":
                raise UserError(f'{fault}; remove one, or set on_duplicate = "drop" for the source')
            if fault:
                dropped += 1
                continue
            kept[problem.id] = problem, where
            asked[question] = problem.split, where
    if to_distil and not any(problem.split is Split.TRAIN for problem, _ in kept.values()):
        raise UserError("the sources hold no problem to distil; give one of them a train part")
    if not kept:
        raise UserError("the sources hold no problem at all")
    return Loaded([problem for problem, _ in kept.values()], dropped)


def unverifiable(loaded: Sequence[Problem]) -> dict[str, str]:
    """Return why, by problem id, no completion of it could ever be judged: its gold answer cannot be read.

    A plain gold costs microseconds, LaTeX some milliseconds.
    """
    reasons = ((problem.id, checkers.unverifiable(problem)) for problem in loaded)
    return {identity: reason for identity, reason in reasons if reason}


def _read(source: Source) -> list[tuple[Problem, str]]:
    reader: Callable[[Any], list[tuple[Problem, str]]] = import_module(_SOURCES[source.kind]).load
    # Held-out problems first: where one repeats, it is the train one that goes.
    return sorted(reader(source), key=lambda it: it[0].split is Split.TRAIN)


def _repeats(
    problem: Problem,
    where: str,
    question: str,
    kept: dict[str, tuple[Problem, str]],
    asked: dict[str, tuple[Split, str]],
) -> str:
    if problem.id in kept:
        return f"{where} repeats {kept[problem.id][1]} (problem {problem.id}: {problem.question[:60]!r})"
    if question in asked and asked[question][0] is not problem.split:
        return (
            f"{where} is to distil, {asked[question][1]} is held out, and they ask the same: {problem.question[:60]!r}"
        )
    return ""


def _refuse_unknown_checker(problem: Problem, where: str) -> None:
    if problem.checker not in checkers.CHECKERS:
        raise UserError(f"{where}: no checker is called {problem.checker!r}; there are {', '.join(checkers.CHECKERS)}")

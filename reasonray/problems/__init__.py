"""Sources of problems. `load` reads every source of a configuration and checks them against one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from reasonray import checkers
from reasonray.checkers.consensus import is_same
from reasonray.config import FilesSource, HubSource, Source
from reasonray.errors import UserError
from reasonray.problems.notes import Notes
from reasonray.records import Problem, Split

_SOURCES = {
    "generated": "reasonray.problems.generated",
    "files": "reasonray.problems.files",
    "hub": "reasonray.problems.hub",
    "gym": "reasonray.problems.gym",
}
"""Kind → module. Modules are loaded on demand, because some need heavy libraries.

Each has `load(source, notes) -> list[tuple[Problem, str]]`: the problems, each with its location for messages. Notes
take what is left out or replaced."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The problems of a run."""

    problems: list[Problem]
    dropped: int = 0
    """The duplicates that sources with on_duplicate = "drop" left out."""
    notes: tuple[str, ...] = ()
    """Lines on what was left out or replaced, and on questions that have two gold answers."""


def load(sources: Sequence[Source], *, to_distil: bool = True) -> Loaded:
    """Read all sources.

    Args:
        sources: the sources of a configuration.
        to_distil: whether there must be problems to distil; measuring models needs none.

    Raises:
        UserError: a source cannot be read, a problem has no answer or an unknown checker, two problems are the same, or
            one is both to distil and held out.
    """
    kept: dict[str, tuple[Problem, str]] = {}
    questions: dict[str, tuple[Problem, str]] = {}
    dropped, notes = 0, Notes()
    for source in sources:
        drops = isinstance(source, FilesSource | HubSource) and source.on_duplicate == "drop"
        for problem, location in _read(source, notes):
            _refuse_unknown_checker(problem, location)
            question = " ".join(problem.question.casefold().split())
            duplicate = _duplicate(problem, location, question, kept, questions)
            if duplicate and not drops:
                raise UserError(f'{duplicate}; remove one, or set on_duplicate = "drop" for the source')
            if duplicate:
                dropped += 1
                continue
            kept[problem.id] = problem, location
            if question in questions and _has_another_gold(problem, questions[question][0]):
                notes.add("questions with two gold answers", f"{questions[question][1]} and {location}")
            questions.setdefault(question, (problem, location))
    if to_distil and not any(problem.split is Split.TRAIN for problem, _ in kept.values()):
        raise UserError("the sources hold no problem to distil; give one of them a train part")
    if not kept:
        raise UserError("the sources hold no problem at all")
    return Loaded([problem for problem, _ in kept.values()], dropped, tuple(notes.lines()))


def unverifiable(problems: Sequence[Problem]) -> dict[str, str]:
    """Return problem id → reason for the problems whose completions cannot be judged (an unreadable gold answer, …).

    A plain gold answer costs microseconds, LaTeX some milliseconds.
    """
    reasons = ((problem.id, checkers.unverifiable(problem)) for problem in problems)
    return {problem_id: reason for problem_id, reason in reasons if reason}


def _read(source: Source, notes: Notes) -> list[tuple[Problem, str]]:
    reader: Callable[[Any, Notes], list[tuple[Problem, str]]] = import_module(_SOURCES[source.kind]).load
    # Held-out problems first, so that a duplicate is dropped from the train part.
    return sorted(reader(source, notes), key=lambda pair: pair[0].split is Split.TRAIN)


def _duplicate(
    problem: Problem,
    location: str,
    question: str,
    kept: dict[str, tuple[Problem, str]],
    questions: dict[str, tuple[Problem, str]],
) -> str:
    """Return which problem a problem repeats, or "" if it is new."""
    if problem.id in kept:
        return f"{location} repeats {kept[problem.id][1]} (problem {problem.id}: {problem.question[:60]!r})"
    if question in questions and questions[question][0].split is not problem.split:
        other = questions[question][1]
        return f"{location} is to distil, {other} is held out, and they ask the same: {problem.question[:60]!r}"
    return ""


def _has_another_gold(problem: Problem, other: Problem) -> bool:
    """Return whether two problems with the same question ask for different answers."""
    if problem.answer is None or other.answer is None or problem.checker != other.checker:
        return False
    golds = [other.answer, *other.metadata.get("accepted", ())]
    return not any(is_same(problem, problem.answer, str(gold)) for gold in golds)


def _refuse_unknown_checker(problem: Problem, location: str) -> None:
    try:
        checkers.find_checker(problem.checker)
    except UserError as error:
        raise UserError(f"{location}: {error}") from None

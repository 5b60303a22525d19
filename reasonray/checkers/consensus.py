"""Which answers are the same answer, and what most samples of a problem say. Pure; microseconds, no algebra.

Where many samples agree with each other and none with the gold answer, the gold answer is a suspect (NeMo-Skills' and
OpenMathReasoning's audits found thousands so); where there is no gold answer, the majority can stand in for it (Wang et
al., "Self-Consistency", 2022).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from reasonray.checkers import find_checker
from reasonray.checkers.text_answer import normalised
from reasonray.records import Outcome, Problem

LEAST_VOTES = 3
"""Answers that a majority needs to be one."""


@dataclass(frozen=True, slots=True)
class Majority:
    """What most samples of a problem answer."""

    answer: str
    """As the first of them writes it."""
    votes: int
    of: int
    """Samples that have an answer."""

    @property
    def share(self) -> float:
        """The majority's share of the answers."""
        return self.votes / self.of


def majority(problem: Problem, answers: Sequence[str]) -> Majority | None:
    """Return the answer that most samples agree on, the earliest of equals; None if there is no answer."""
    groups = same_answers(problem, answers)
    if not groups:
        return None
    largest = max(groups, key=len)
    return Majority(answers[largest[0]], len(largest), len(answers))


def same_answers(problem: Problem, answers: Sequence[str]) -> list[list[int]]:
    """Return the indices of answers that are the same one together, in order of their first."""
    groups: list[list[int]] = []
    known: dict[str, int] = {}
    for index, answer in enumerate(answers):
        key = normalised(answer)
        if key not in known:
            alike = (at for at, group in enumerate(groups) if is_same(problem, answers[group[0]], answer))
            known[key] = next(alike, len(groups))
            if known[key] == len(groups):
                groups.append([])
        groups[known[key]].append(index)
    return groups


def is_same(problem: Problem, one: str, other: str) -> bool:
    """Say whether a problem's checker takes one answer for another at once, without algebra."""
    fast = getattr(find_checker(problem.checker), "fast", None)
    if fast is None or normalised(one) == normalised(other):
        return normalised(one) == normalised(other)
    finding = fast(replace(problem, answer=one), other)
    return finding is not None and finding[0] is Outcome.CORRECT


@dataclass(frozen=True, slots=True)
class Suspect:
    """A problem whose gold answer no sample gives, while most samples give another."""

    problem: Problem
    majority: Majority


def suspects(
    problems: Iterable[Problem],
    verdicts: Iterable[tuple[str, str, str | None]],
    *,
    least: int = LEAST_VOTES,
    share: float = 0.5,
) -> tuple[list[Suspect], int]:
    """Return the problems whose gold answers are suspects, the clearest first, and how many were looked at.

    Looked at are the problems with a gold answer, at least so many answers, and none of them correct. On problems that
    are too hard for a model its samples can agree on a mistake as well: a suspect is to be read, not to be dropped.

    Args:
        problems: those that were sampled.
        verdicts: of every rollout its problem's id, its outcome and the answer that was extracted.
        least: answers that a problem must have.
        share: of them that must agree.
    """
    answers: defaultdict[str, list[str]] = defaultdict(list)
    solved = set()
    for problem, outcome, answer in verdicts:
        if outcome == Outcome.CORRECT:
            solved.add(problem)
        elif answer is not None:
            answers[problem].append(answer)
    found, looked_at = [], 0
    for it in problems:
        given = answers.get(it.id, ())
        if it.answer is None or it.id in solved or len(given) < least:
            continue
        looked_at += 1
        most = majority(it, given)
        if most and most.votes >= least and most.share >= share:
            found.append(Suspect(it, most))
    return sorted(found, key=lambda it: (-it.majority.share, -it.majority.votes, it.problem.id)), looked_at

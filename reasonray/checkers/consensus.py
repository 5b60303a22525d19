"""Groups of equal answers, majorities, and suspect gold answers. Pure functions; microseconds, no algebra.

Where many samples agree with each other and none with the gold answer, the gold answer may be wrong (the audits of
NeMo-Skills and OpenMathReasoning found thousands of such answers). Where there is no gold answer, the majority can
stand in for it (Wang et al., "Self-Consistency", 2022).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from reasonray.checkers import find_checker, own
from reasonray.checkers.text_answer import normalised
from reasonray.records import Outcome, Problem

MIN_VOTES = 3
"""The answers that make a majority."""


@dataclass(frozen=True, slots=True)
class Majority:
    """The answer that most samples of a problem give."""

    answer: str
    """The first of the equal answers, verbatim."""
    votes: int
    num_answers: int
    """The samples with an answer."""

    @property
    def share(self) -> float:
        """The majority's share of the answers."""
        return self.votes / self.num_answers


def majority(problem: Problem, answers: Sequence[str]) -> Majority | None:
    """Return the answer that most samples agree on, the earliest on a tie, or None if there are no answers."""
    groups = same_answers(problem, answers)
    if not groups:
        return None
    largest = max(groups, key=len)
    return Majority(answers[largest[0]], len(largest), len(answers))


def same_answers(problem: Problem, answers: Sequence[str]) -> list[list[int]]:
    """Return the indices of the answers, equal answers in one group, the groups in the order of their first answer."""
    groups: list[list[int]] = []
    known: dict[str, int] = {}
    for index, answer in enumerate(answers):
        key = normalised(answer)
        if key not in known:
            equal = (number for number, group in enumerate(groups) if is_same(problem, answers[group[0]], answer))
            known[key] = next(equal, len(groups))
            if known[key] == len(groups):
                groups.append([])
        groups[known[key]].append(index)
    return groups


def is_same(problem: Problem, answer: str, other: str) -> bool:
    """Return whether two answers have the same text or are equal by the fast path of the problem's checker."""
    if normalised(answer) == normalised(other):
        return True
    if own.is_own(problem.checker):  # its code runs in processes that can be killed alone
        return False
    finding = find_checker(problem.checker).fast(replace(problem, answer=answer), other)
    return finding is not None and finding.outcome is Outcome.CORRECT


@dataclass(frozen=True, slots=True)
class Suspect:
    """A problem whose gold answer no sample gives, while most samples agree on another answer."""

    problem: Problem
    majority: Majority


def suspects(
    problems: Iterable[Problem],
    verdicts: Iterable[tuple[str, str, str | None]],
    *,
    min_votes: int = MIN_VOTES,
    min_share: float = 0.5,
) -> tuple[list[Suspect], int]:
    """Return the problems whose gold answers may be wrong, the clearest first, and the number of problems examined.

    A problem is examined if it has a gold answer and enough answers of which none is correct. The samples of a problem
    that is too hard for a model can agree on a mistake, too: read a suspect, do not drop it.

    Args:
        problems: the problems that were sampled.
        verdicts: the problem's id, the outcome and the extracted answer of every rollout.
        min_votes: the answers that a problem needs to be examined, and that must agree.
        min_share: the share of its answers that must agree.
    """
    answers: defaultdict[str, list[str]] = defaultdict(list)
    solved = set()
    for problem_id, outcome, answer in verdicts:
        if outcome == Outcome.CORRECT:
            solved.add(problem_id)
        elif answer is not None:
            answers[problem_id].append(answer)
    doubtful, num_examined = [], 0
    for problem in problems:
        wrong_answers = answers.get(problem.id, ())
        if problem.answer is None or problem.id in solved or len(wrong_answers) < min_votes:
            continue
        num_examined += 1
        most = majority(problem, wrong_answers)
        if most and most.votes >= min_votes and most.share >= min_share:
            doubtful.append(Suspect(problem, most))
    clearest_first = sorted(
        doubtful, key=lambda suspect: (-suspect.majority.share, -suspect.majority.votes, suspect.problem.id)
    )
    return clearest_first, num_examined

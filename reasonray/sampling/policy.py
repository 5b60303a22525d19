"""Who is asked a problem, and which attempts it is still owed, from what is drawn and in flight.

Pure: no clock, no Ray, no state.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from math import ceil, comb

from reasonray.config import Band, Fixed, Policy, Proportional, Teacher, UntilCorrect
from reasonray.records import Problem, hash_fraction


@dataclass(frozen=True, slots=True)
class SampleState:
    """Where one problem stands under one teacher."""

    done: Set[int]
    """Sample indices that are finished."""
    in_flight: Set[int]
    """Sample indices in flight."""
    correct: int
    judged: int
    """Finished ones whose outcome says something of the teacher: the denominator of its pass rate."""


def assign_problems(teachers: Sequence[Teacher], train: Sequence[Problem]) -> dict[str, list[Problem]]:
    """Deal the problems: each teacher's share is an arc of a circle on which ids lie by their hash, arc after arc."""
    starts = accumulate((teacher.share for teacher in teachers), initial=0.0)
    return {
        teacher.name: [it for it in train if (hash_fraction(it.id) - start) % 1.0 < teacher.share]
        for teacher, start in zip(teachers, starts, strict=False)
    }


def is_satisfied(policy: Policy, standing: SampleState) -> bool:
    """Say whether nothing more is wanted: then what still flies is aborted."""
    judged, correct = standing.judged, standing.correct
    if len(standing.done) >= most(policy):
        return True
    match policy:
        case Fixed():
            return False
        case UntilCorrect() | Proportional():
            given_up = correct == 0 and policy.give_up is not None and judged >= policy.give_up
            return given_up or correct >= wanted(policy, judged, correct)
        case Band(low=low, high=high, confidence=confidence):
            return below(low, judged, correct) >= confidence or 1 - below(high, judged, correct) >= confidence


def owed(policy: Policy, standing: SampleState) -> list[int]:
    """Return the sample indices to start now, lowest first."""
    if is_satisfied(policy, standing):
        return []
    limit = most(policy)
    room = _in_flight(policy, standing.judged, standing.correct) - len(standing.in_flight)
    free = (sample for sample in range(limit) if sample not in standing.done and sample not in standing.in_flight)
    # Samples in flight count towards the limit; indices beyond it (of a larger K once asked for) do not stand in.
    room = min(room, limit - len(standing.done) - len(standing.in_flight))
    return [sample for sample, _ in zip(free, range(room), strict=False)]


def most(policy: Policy) -> int:
    """Return the largest number of samples that a problem can cost."""
    match policy:
        case Fixed(samples=samples) | Band(samples=samples):
            return samples
        case UntilCorrect(max=maximum) | Proportional(max=maximum):
            return maximum


def wanted(policy: UntilCorrect | Proportional, judged: int, correct: int) -> int:
    """Return how many correct samples a problem should have, as far as is known."""
    match policy:
        case UntilCorrect(target=target):
            return target
        case Proportional(pilot=pilot, target=target, least=least):
            failing = 1 - correct / judged if judged >= pilot else 1.0
            return max(least, ceil(target * failing - 1e-9))


@lru_cache(maxsize=65536)
def below(rate: float, judged: int, correct: int) -> float:
    """Return the posterior probability that the pass rate is below `rate`, given a uniform prior.

    It is Beta(correct + 1, judged - correct + 1), whose distribution function for whole numbers is a binomial tail.
    """
    trials = judged + 1
    return sum(comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(correct + 1, trials + 1))


def _in_flight(policy: Policy, judged: int, correct: int) -> int:
    """Return how many attempts may fly together: few enough that what is aborted in the end is little.

    What is missing divided by the pass rate (Laplace's estimate) is what it will take; a wave never asks for more.
    """
    match policy:
        case Fixed(samples=samples):
            return samples
        case Band(wave=wave):
            return wave
        case Proportional(pilot=pilot, wave=wave) if judged < pilot:
            return min(pilot - judged, wave)
        case UntilCorrect(wave=wave) | Proportional(wave=wave):
            missing = wanted(policy, judged, correct) - correct
            expected = ceil(missing * (judged + 2) / (correct + 1))
            return max(1, min(wave, expected))

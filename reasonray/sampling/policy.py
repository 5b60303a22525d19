"""Sampling policies: which samples of a problem to start next, and when a problem has enough.

Pure functions of the configuration and of counts: no clock, no Ray, no state.
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
    """The samples of one problem by one model, as far as a policy needs to know them."""

    finished: Set[int]
    """Indices of finished samples."""
    in_flight: Set[int]
    """Indices of samples in flight."""
    correct: int
    """Finished samples that are correct."""
    judged: int
    """Finished samples whose outcome counts for or against the model: the denominator of its pass rate."""


def assign_problems(teachers: Sequence[Teacher], train: Sequence[Problem]) -> dict[str, list[Problem]]:
    """Return teacher → the problems that it samples, by the teachers' shares.

    The hashes of problem ids lie on a circle. Each teacher has an arc as long as its share, and each arc starts where
    the one before it ends.
    """
    starts = accumulate((teacher.share for teacher in teachers), initial=0.0)
    return {
        teacher.name: [problem for problem in train if (hash_fraction(problem.id) - start) % 1.0 < teacher.share]
        for teacher, start in zip(teachers, starts, strict=False)
    }


def is_satisfied(policy: Policy, state: SampleState) -> bool:
    """Return whether a problem needs no more samples; those still in flight are then aborted."""
    judged, correct = state.judged, state.correct
    if len(state.finished) >= max_samples(policy):
        return True
    match policy:
        case Fixed():
            return False
        case UntilCorrect() | Proportional():
            gives_up = correct == 0 and policy.give_up is not None and judged >= policy.give_up
            return gives_up or correct >= correct_wanted(policy, judged, correct)
        case Band(low=low, high=high, confidence=confidence):
            too_hard = probability_below(low, judged, correct) >= confidence
            return too_hard or 1 - probability_below(high, judged, correct) >= confidence


def next_samples(policy: Policy, state: SampleState) -> list[int]:
    """Return the indices of the samples to start now, lowest first."""
    if is_satisfied(policy, state):
        return []
    limit = max_samples(policy)
    room = _max_in_flight(policy, state.judged, state.correct) - len(state.in_flight)
    free = (sample for sample in range(limit) if sample not in state.finished and sample not in state.in_flight)
    # Samples in flight count towards the limit. So do finished samples with an index beyond it, left by a larger K.
    room = min(room, limit - len(state.finished) - len(state.in_flight))
    return [sample for sample, _ in zip(free, range(room), strict=False)]


def max_samples(policy: Policy) -> int:
    """Return the largest number of samples that a problem can get."""
    match policy:
        case Fixed(samples=samples) | Band(samples=samples):
            return samples
        case UntilCorrect(max=maximum) | Proportional(max=maximum):
            return maximum


def correct_wanted(policy: UntilCorrect | Proportional, judged: int, correct: int) -> int:
    """Return how many correct samples a problem should get, by its pass rate so far."""
    match policy:
        case UntilCorrect(target=target):
            return target
        case Proportional(pilot=pilot, target=target, least=least):
            failing = 1 - correct / judged if judged >= pilot else 1.0
            return max(least, ceil(target * failing - 1e-9))


@lru_cache(maxsize=65536)
def probability_below(rate: float, judged: int, correct: int) -> float:
    """Return the posterior probability that the pass rate is below `rate`, under a uniform prior.

    The posterior is Beta(correct + 1, judged - correct + 1). Its distribution function at whole parameters is the tail
    of a binomial.
    """
    trials = judged + 1
    return sum(comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(correct + 1, trials + 1))


def _max_in_flight(policy: Policy, judged: int, correct: int) -> int:
    """Return how many samples of a problem may be in flight together: few enough that few are aborted in the end.

    The samples expected to be necessary are the missing correct ones divided by the pass rate (Laplace's estimate).
    A policy's wave is the upper limit.
    """
    match policy:
        case Fixed(samples=samples):
            return samples
        case Band(wave=wave):
            return wave
        case Proportional(pilot=pilot, wave=wave) if judged < pilot:
            return min(pilot - judged, wave)
        case UntilCorrect(wave=wave) | Proportional(wave=wave):
            missing = correct_wanted(policy, judged, correct) - correct
            expected = ceil(missing * (judged + 2) / (correct + 1))
            return max(1, min(wave, expected))

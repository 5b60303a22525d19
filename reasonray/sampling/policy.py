"""Sampling policies: which samples of a problem to start next, and when a problem has enough.

Pure functions of the configuration and of counts: no clock, no Ray, no state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from math import ceil, comb

from reasonray.config import Band, Fixed, Policy, Proportional, Teacher, UntilCorrect
from reasonray.records import JUDGED, Outcome, hash_fraction


@dataclass(slots=True)
class ProblemState:
    """The samples of one problem by one model."""

    finished: set[int] = field(default_factory=set)
    """Indices of finished samples."""
    in_flight: set[int] = field(default_factory=set)
    """Indices of samples in flight."""
    correct: int = 0
    """Finished samples that are correct."""
    judged: int = 0
    """Finished samples whose outcome counts for or against the model: the denominator of its pass rate."""
    limit: int | None = None
    """Samples that there can be of the problem, where it is less than the policy allows; else None."""

    def record(self, sample: int, outcome: Outcome) -> None:
        """Add a finished sample."""
        self.finished.add(sample)
        self.in_flight.discard(sample)
        self.correct += outcome is Outcome.CORRECT
        self.judged += outcome in JUDGED


def assign_problems(teachers: Sequence[Teacher], problem_ids: Sequence[str]) -> dict[str, list[int]]:
    """Return teacher → the indices of the problems that it samples, by their shares.

    The hashes of problem ids lie on a circle. Each teacher has an arc as long as its share, and each arc starts where
    the one before it ends. A teacher that gets what others leave ("unsolved", "unfinished") has none yet.
    """
    shares = [0.0 if isinstance(teacher.share, str) else teacher.share for teacher in teachers]
    starts = accumulate(shares, initial=0.0)
    fractions = [hash_fraction(id_) for id_ in problem_ids]
    return {
        teacher.name: [index for index, fraction in enumerate(fractions) if (fraction - start) % 1.0 < share]
        for teacher, share, start in zip(teachers, shares, starts, strict=False)
    }


def is_satisfied(policy: Policy, state: ProblemState) -> bool:
    """Return whether a problem needs no more samples; those still in flight are then aborted."""
    return needs_none(policy, len(state.finished), state.correct, state.judged, state.limit)


def needs_none(policy: Policy, finished: int, correct: int, judged: int, limit: int | None = None) -> bool:
    """Return what `is_satisfied` returns, by the numbers of finished, correct and judged samples alone."""
    if finished >= max_samples(policy, limit):
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


def next_samples(policy: Policy, state: ProblemState) -> list[int]:
    """Return the indices of the samples to start now, lowest first."""
    counts = len(state.finished), state.correct, state.judged
    room = num_to_start(policy, *counts, in_flight=len(state.in_flight), limit=state.limit)
    indices = range(max_samples(policy, state.limit))
    free = (sample for sample in indices if sample not in state.finished and sample not in state.in_flight)
    return [sample for sample, _ in zip(free, range(room), strict=False)]


def num_to_start(
    policy: Policy, finished: int, correct: int, judged: int, *, in_flight: int = 0, limit: int | None = None
) -> int:
    """Return how many samples to start now, by the numbers of samples alone."""
    if needs_none(policy, finished, correct, judged, limit):
        return 0
    # Samples in flight count towards the limit. So do finished samples with an index beyond it, left by a larger K.
    room = min(_max_in_flight(policy, judged, correct), max_samples(policy, limit) - finished) - in_flight
    return max(0, room)


def max_samples(policy: Policy, limit: int | None = None) -> int:
    """Return the largest number of samples that a problem can get.

    Args:
        policy: of the job.
        limit: samples that there can be of the problem; None if there can be any number.
    """
    match policy:
        case Fixed(samples=samples) | Band(samples=samples):
            most = samples
        case UntilCorrect(max=maximum) | Proportional(max=maximum):
            most = maximum
    return most if limit is None else min(most, limit)


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


def probability_within(low: float, high: float, judged: int, correct: int) -> float:
    """Return the posterior probability that the pass rate lies between two rates, under a uniform prior."""
    return probability_below(high, judged, correct) - probability_below(low, judged, correct)


def frontier(band: tuple[float, float], judged: Sequence[int], correct: Sequence[int]) -> list[int]:
    """Return the indices of the problems whose pass rate probably lies within a band, the most probable ones first.

    A problem takes part if its posterior gives the band at least 1/2, so one that was never tried takes part in a band
    that is at least half as wide as all pass rates.

    Args:
        band: lowest and highest pass rate.
        judged: judged samples of each problem.
        correct: correct samples of each problem.
    """
    within = [probability_within(*band, *counts) for counts in zip(judged, correct, strict=True)]
    return sorted((index for index, share in enumerate(within) if share >= 0.5), key=lambda index: -within[index])


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

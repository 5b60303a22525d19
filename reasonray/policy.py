"""Which attempts a problem is still owed, from what is drawn and in flight. Pure: no clock, no Ray, no state."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from reasonray.config import Fixed, Policy, UntilCorrect


@dataclass(frozen=True, slots=True)
class Progress:
    """Where one problem stands under one teacher."""

    done: Set[int]
    """Sample indices that are finished."""
    flying: Set[int]
    """Sample indices in flight."""
    correct: int


def is_satisfied(policy: Policy, progress: Progress) -> bool:
    """Say whether nothing more is wanted: then what still flies is aborted."""
    match policy:
        case Fixed(samples=samples):
            return len(progress.done) >= samples
        case UntilCorrect(target=target, max=most):
            return progress.correct >= target or len(progress.done) >= most


def owed(policy: Policy, progress: Progress) -> list[int]:
    """Return the sample indices to start now, lowest first."""
    if is_satisfied(policy, progress):
        return []
    match policy:
        case Fixed(samples=samples):
            return _unused(progress, samples, samples)
        case UntilCorrect(target=_, max=most, wave=wave):
            return _unused(progress, most, max(0, wave - len(progress.flying)))


def most(policy: Policy) -> int:
    """Return the largest number of samples that a problem can cost."""
    match policy:
        case Fixed(samples=samples):
            return samples
        case UntilCorrect(max=maximum):
            return maximum


def _unused(progress: Progress, limit: int, count: int) -> list[int]:
    free = (sample for sample in range(limit) if sample not in progress.done and sample not in progress.flying)
    return [sample for sample, _ in zip(free, range(count), strict=False)]

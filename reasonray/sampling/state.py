"""The states of a job's problems, as arrays: some 20 bytes a problem, so that ten million of them fit into a driver.

A job may be given `Terms`: how many samples there can be of each problem, where that is limited (recorded completions),
and what earlier teachers' samples of it count for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from reasonray.config import Policy
from reasonray.records import JUDGED, Outcome
from reasonray.sampling.policy import ProblemState, max_samples, needs_none, num_to_start
from reasonray.store.sample_arrays import SampleArrays

Integers: TypeAlias = "np.ndarray[Any, np.dtype[np.integer[Any]]]"
Booleans: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """What a job has to respect besides its policy, of each problem by its index."""

    limits: Integers
    """Samples that there can be of the problem."""
    correct: Integers
    """Correct samples of earlier teachers, which count for the policy like the job's own."""
    judged: Integers
    """Judged samples of earlier teachers, which count for the policy like the job's own."""

    def take(self, indices: Integers) -> Terms:
        """Return the terms of some of the problems, in the given order."""
        return Terms(self.limits[indices], self.correct[indices], self.judged[indices])

    @staticmethod
    def up_to(limits: Integers) -> Terms:
        """Return the terms that only limit the samples."""
        none = np.zeros(len(limits), np.int32)
        return Terms(limits, none, none)


class ProblemStates:
    """Where the problems of one job stand, by their index: the committed samples only, none in flight."""

    def __init__(self, policy: Policy, problems: int, terms: Terms | None = None) -> None:
        self.policy = policy
        self._limit = max_samples(policy)
        self._limits = None if terms is None else np.minimum(terms.limits, self._limit).astype(np.int32)
        """Of each problem, where they differ."""
        self._finished = np.zeros((problems, -(-self._limit // 8)), np.uint8)
        """Bit s & 7 of byte s >> 3: sample s is finished. Samples beyond the limit are only counted."""
        self.num_finished: Integers = np.zeros(problems, np.int32)
        self.correct: Integers = np.zeros(problems, np.int32)
        self.judged: Integers = np.zeros(problems, np.int32)
        if terms is not None:
            self.correct += terms.correct
            self.judged += terms.judged
        self.deaths: Integers = np.zeros(problems, np.uint8)
        """Replica deaths while the problem was sampled."""
        self._resamples: dict[int, dict[int, int]] = {}

    def __len__(self) -> int:
        return len(self.num_finished)

    @staticmethod
    def stored(
        policy: Policy,
        samples: SampleArrays,
        raised_from: Collection[int],
        max_tokens: int,
        terms: Terms | None = None,
    ) -> ProblemStates:
        """Return the states of problems of which a ledger holds samples.

        Args:
            policy: when a problem has enough samples.
            samples: what the ledger holds, in the order of the problems.
            raised_from: earlier values of max_tokens: samples that one of them truncated count as not finished.
            max_tokens: the present value.
            terms: of the job, if it has any.
        """
        states = ProblemStates(policy, len(samples.finished), terms)
        width = min(states._finished.shape[1], samples.finished.shape[1])
        states._finished[:, :width] = samples.finished[:, :width]
        states.num_finished[:] = samples.num_finished
        states.correct += samples.num_correct.astype(np.int32)
        states.judged += samples.num_judged.astype(np.int32)
        for problem, sample, resample, tokens in samples.truncated.tolist():
            if tokens in raised_from and tokens < max_tokens:
                states._sample_again(problem, sample, resample + 1)
        return states

    def record(self, index: int, sample: int, outcome: Outcome) -> None:
        """Add a committed sample."""
        self._mark(index, sample)
        self.num_finished[index] += 1
        if outcome in JUDGED:
            self.judged[index] += 1
        if outcome is Outcome.CORRECT:
            self.correct[index] += 1

    def state(self, index: int) -> ProblemState:
        """Return the state of one problem."""
        finished = set(np.flatnonzero(np.unpackbits(self._finished[index], bitorder="little")).tolist())
        limit = None if self._limits is None else int(self._limits[index])
        return ProblemState(finished, set(), int(self.correct[index]), int(self.judged[index]), limit)

    def resamples(self, index: int) -> Mapping[int, int]:
        """Return sample → how many times it was generated before, for samples that are generated again."""
        return self._resamples.get(index, {})

    def is_satisfied(self, index: int) -> bool:
        """Return whether the problem needs no more samples."""
        finished, correct, judged = self.num_finished[index], self.correct[index], self.judged[index]
        return needs_none(self.policy, int(finished), int(correct), int(judged), self._limit_of(index))

    def first_wave(self, index: int) -> int:
        """Return how many samples start at once."""
        finished, correct, judged = self.num_finished[index], self.correct[index], self.judged[index]
        return num_to_start(self.policy, int(finished), int(correct), int(judged), limit=self._limit_of(index))

    def remaining(self, index: int) -> int:
        """Return how many samples the problem can still get."""
        return max(0, self._limit_of(index) - int(self.num_finished[index]))

    def total_remaining(self, mask: Booleans) -> int:
        """Return how many samples the problems of a mask can still get together."""
        limits = self._limit if self._limits is None else self._limits[mask]
        return int(np.maximum(0, limits - self.num_finished[mask]).sum(dtype=np.int64))

    def first_waves(self) -> Integers:
        """Return how many samples of each problem start at once; 0 for problems that need no more."""
        limits = np.full(len(self), self._limit, np.int32) if self._limits is None else self._limits
        counts = np.stack([self.num_finished, self.correct, self.judged, limits], axis=1)
        distinct, which = np.unique(counts, axis=0, return_inverse=True)  # few: most problems are alike
        waves = [num_to_start(self.policy, *row, limit=limit) for *row, limit in distinct.tolist()]
        by_problem: Integers = np.asarray(waves, np.int32)[which.reshape(-1)]
        return by_problem

    def _limit_of(self, index: int) -> int:
        return self._limit if self._limits is None else int(self._limits[index])

    def _mark(self, index: int, sample: int) -> None:
        if sample < self._limit:
            self._finished[index, sample >> 3] |= np.uint8(1 << (sample & 7))

    def _sample_again(self, index: int, sample: int, resample: int) -> None:
        """Count a finished sample that was truncated as not finished."""
        self.num_finished[index] -= 1
        self.judged[index] -= 1
        if sample < self._limit:
            self._finished[index, sample >> 3] &= np.uint8(~(1 << (sample & 7)) & 0xFF)
            self._resamples.setdefault(index, {})[sample] = resample

"""The states of a job's problems, as arrays: some 20 bytes a problem, so that ten million of them fit into a driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from reasonray.config import Policy
from reasonray.records import JUDGED, Outcome
from reasonray.sampling.policy import ProblemState, max_samples, needs_none, num_to_start

Integers: TypeAlias = "np.ndarray[Any, np.dtype[np.integer[Any]]]"
Booleans: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"

_WORD = 64
"""Samples in one word of the bitmap."""


class ProblemStates:
    """Where the problems of one job stand, by their index: the committed samples only, none in flight."""

    def __init__(self, policy: Policy, problems: int) -> None:
        self.policy = policy
        self._limit = max_samples(policy)
        self._finished = np.zeros((problems, -(-self._limit // _WORD)), np.uint64)
        """Bit s of row i: sample s of problem i is finished. Samples beyond the limit are only counted."""
        self.num_finished: Integers = np.zeros(problems, np.int32)
        self.correct: Integers = np.zeros(problems, np.int32)
        self.judged: Integers = np.zeros(problems, np.int32)
        self.deaths: Integers = np.zeros(problems, np.uint8)
        """Replica deaths while the problem was sampled."""
        self._resamples: dict[int, Mapping[int, int]] = {}

    def __len__(self) -> int:
        return len(self.num_finished)

    def restore(self, index: int, state: ProblemState, resamples: Mapping[int, int]) -> None:
        """Set what the ledger holds of a problem.

        Args:
            index: of the problem.
            state: its finished samples.
            resamples: sample → how many times it was generated before, for samples that are generated again.
        """
        for sample in state.finished:
            self._mark(index, sample)
        self.num_finished[index] = len(state.finished)
        self.correct[index], self.judged[index] = state.correct, state.judged
        if resamples:
            self._resamples[index] = resamples

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
        words = self._finished[index].tolist()
        finished = {
            number * _WORD + bit for number, word in enumerate(words) for bit in range(_WORD) if word >> bit & 1
        }
        return ProblemState(finished, set(), int(self.correct[index]), int(self.judged[index]))

    def resamples(self, index: int) -> Mapping[int, int]:
        """Return sample → how many times it was generated before, for samples that are generated again."""
        return self._resamples.get(index, {})

    def is_satisfied(self, index: int) -> bool:
        """Return whether the problem needs no more samples."""
        finished, correct, judged = self.num_finished[index], self.correct[index], self.judged[index]
        return needs_none(self.policy, int(finished), int(correct), int(judged))

    def first_wave(self, index: int) -> int:
        """Return how many samples start at once."""
        finished, correct, judged = self.num_finished[index], self.correct[index], self.judged[index]
        return num_to_start(self.policy, int(finished), int(correct), int(judged))

    def remaining(self, index: int) -> int:
        """Return how many samples the problem can still get."""
        return max(0, self._limit - int(self.num_finished[index]))

    def total_remaining(self, mask: Booleans) -> int:
        """Return how many samples the problems of a mask can still get together."""
        return int(np.maximum(0, self._limit - self.num_finished[mask]).sum(dtype=np.int64))

    def first_waves(self) -> Integers:
        """Return how many samples of each problem start at once; 0 for problems that need no more."""
        counts = np.stack([self.num_finished, self.correct, self.judged], axis=1)
        distinct, which = np.unique(counts, axis=0, return_inverse=True)  # few: most problems are alike
        waves = [num_to_start(self.policy, *row) for row in distinct.tolist()]
        by_problem: Integers = np.asarray(waves, np.int32)[which.reshape(-1)]
        return by_problem

    def _mark(self, index: int, sample: int) -> None:
        if sample < self._limit:
            self._finished[index, sample // _WORD] |= np.uint64(1 << sample % _WORD)

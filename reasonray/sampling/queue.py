"""The queue of unfinished problems, those expected to take longest first. Pure: no Ray, no clock.

Long problems start early, so that short ones fill the end of a stage. A problem's expected length is the mean length of
the rollouts of its job and difficulty so far. Groups without statistics go first.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from reasonray.sampling.state import Integers

Kind = tuple[int, int]
"""(job, difficulty): their numbers."""


@dataclass(slots=True)
class _Line:
    """The waiting problems of one kind: an array that is read from its start, and those that came back."""

    indices: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    position: int = 0
    returned: deque[int] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self.indices) - self.position + len(self.returned)

    def pop(self) -> int:
        if self.returned:
            return self.returned.popleft()
        self.position += 1
        return int(self.indices[self.position - 1])


class ProblemQueue:
    """Unfinished problems, as indices of their jobs, by job and difficulty."""

    def __init__(self, first_wave: Callable[[int, int], int]) -> None:
        """Create an empty queue.

        Args:
            first_wave: (job, index) → how many samples of the problem start at once.
        """
        self._first_wave_of = first_wave
        self._lines: dict[Kind, _Line] = {}
        self._rollouts: Counter[Kind] = Counter()
        self._tokens: Counter[Kind] = Counter()
        self._length = 0
        self.first_wave = 0
        """Samples that the queued problems start with."""
        self.quarantine: deque[tuple[int, int]] = deque()
        """(job, index) of problems that were sampled when several replicas died: each is sampled alone."""

    def __len__(self) -> int:
        """The number of queued problems, without those in quarantine."""
        return self._length

    def fill(self, job: int, difficulties: Integers, first_waves: Integers) -> None:
        """Add the unfinished problems of a job, in order.

        Args:
            job: number of the job.
            difficulties: number of each problem's difficulty.
            first_waves: samples of each problem that start at once; 0 for problems that need none.
        """
        unfinished = np.flatnonzero(first_waves)
        for difficulty in np.unique(difficulties[unfinished]).tolist():
            self._lines[job, difficulty] = _Line(unfinished[difficulties[unfinished] == difficulty])
        self._length += len(unfinished)
        self.first_wave += int(first_waves.sum())

    def put_back(self, job: int, difficulty: int, index: int) -> None:
        """Add a problem that a replica released or lost, in front of the others of its kind."""
        self._lines.setdefault((job, difficulty), _Line()).returned.append(index)
        self._length += 1
        self.first_wave += self._first_wave_of(job, index)

    def learn(self, job: int, difficulty: int, tokens: int) -> None:
        """Take a finished rollout into the estimate of its kind's length."""
        self._rollouts[job, difficulty] += 1
        self._tokens[job, difficulty] += tokens

    def pop(self, samples: int) -> tuple[int, list[int]]:
        """Remove problems of one kind that start with about `samples` samples, at least one problem.

        Returns:
            The job's number and the problems' indices.
        """
        kind = max((kind for kind, line in self._lines.items() if line), key=self._expected_tokens)
        job, line = kind[0], self._lines[kind]
        popped: list[int] = []
        first_wave = 0
        while line and (not popped or first_wave < samples):
            popped.append(line.pop())
            first_wave += self._first_wave_of(job, popped[-1])
        self._length -= len(popped)
        self.first_wave -= first_wave
        return job, popped

    def clear(self) -> None:
        """Remove all problems, those in quarantine included."""
        self._lines.clear()
        self.quarantine.clear()
        self._length = self.first_wave = 0

    def _expected_tokens(self, kind: Kind) -> float:
        rollouts = self._rollouts[kind]
        return self._tokens[kind] / rollouts if rollouts else float("inf")

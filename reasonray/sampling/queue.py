"""The queue of unfinished problems, those expected to take longest first. Pure: no Ray, no clock.

Long problems start early, so that short ones fill the end of a stage. A problem's expected length is the mean length of
the rollouts of its job and difficulty so far. Groups without statistics go first.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

from reasonray.sampling.work import Counts, ProblemState, ResolvedJob

Entry = tuple[ResolvedJob, ProblemState]


class ProblemQueue:
    """Unfinished problems by job and difficulty."""

    def __init__(self) -> None:
        self._queues: dict[tuple[str, str], deque[Entry]] = {}
        self._rollouts: Counter[tuple[str, str]] = Counter()
        self._tokens: Counter[tuple[str, str]] = Counter()
        self._length = 0
        self.first_wave = 0
        """Samples that the queued problems start with, without those in quarantine."""
        self.quarantine: deque[Entry] = deque()
        """Problems that were in flight when several replicas died: each is sampled alone."""

    def __len__(self) -> int:
        return self._length + len(self.quarantine)

    def __iter__(self) -> Iterator[Entry]:
        for queue in self._queues.values():
            yield from queue
        yield from self.quarantine

    def add(self, job: ResolvedJob, state: ProblemState, *, first: bool = False) -> None:
        """Add a problem at the end of its queue, or at the front (work that a replica returned or lost)."""
        queue = self._queues.setdefault((job.name, state.problem.difficulty), deque())
        (queue.appendleft if first else queue.append)((job, state))
        self._length += 1
        self.first_wave += state.first_wave(job.policy)

    def update_lengths(self, job: str, counts: Counts) -> None:
        """Estimate the lengths of a job's problems from its counts so far."""
        for difficulty, rollouts in counts.rollouts_by_difficulty.items():
            self._rollouts[job, difficulty] = rollouts
            self._tokens[job, difficulty] = counts.tokens_by_difficulty[difficulty]

    def pop(self, samples: int) -> list[Entry]:
        """Remove and return problems of one job and difficulty that start with about `samples` samples, at least one.

        Returns:
            The problems; none if only quarantined ones are left.
        """
        if not self._length:
            return []
        queue = self._queues[max((key for key, queue in self._queues.items() if queue), key=self._expected_tokens)]
        popped: list[Entry] = []
        first_wave = 0
        while queue and (not popped or (first_wave < samples and queue[0][0] is popped[0][0])):
            job, state = queue.popleft()
            popped.append((job, state))
            first_wave += state.first_wave(job.policy)
        self._length -= len(popped)
        self.first_wave -= first_wave
        return popped

    def _expected_tokens(self, key: tuple[str, str]) -> float:
        rollouts = self._rollouts[key]
        return self._tokens[key] / rollouts if rollouts else float("inf")

"""What is still owed, in the order in which it is best begun: the longest expected first. Pure: no Ray, no clock.

Problems that take long are begun early, so that the end of a stage is made of short ones. How long a problem takes is
told by its arm's and difficulty's mean length so far; what nothing is known of goes first, to be known.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

from reasonray.sampling.work import Arm, Counts, ProblemState

Entry = tuple[Arm, ProblemState]


class ProblemQueue:
    """Problems that are owed attempts, by arm and difficulty."""

    def __init__(self) -> None:
        self._queues: dict[tuple[str, str], deque[Entry]] = {}
        self._rollouts: Counter[tuple[str, str]] = Counter()
        self._tokens: Counter[tuple[str, str]] = Counter()
        self._length = 0
        self.starting = 0
        """Attempts with which its problems start, the suspects' aside."""
        self.suspects: deque[Entry] = deque()
        """Problems that were in flight at several deaths: they are drawn alone."""

    def __len__(self) -> int:
        return self._length + len(self.suspects)

    def __iter__(self) -> Iterator[Entry]:
        for queue in self._queues.values():
            yield from queue
        yield from self.suspects

    def add(self, arm: Arm, owed: ProblemState, *, first: bool = False) -> None:
        """Take a problem: at the end of its queue, or before the rest (work that was begun and came back)."""
        queue = self._queues.setdefault((arm.name, owed.problem.difficulty), deque())
        (queue.appendleft if first else queue.append)((arm, owed))
        self._length += 1
        self.starting += owed.opening(arm.policy)

    def learn(self, arm: str, figures: Counts) -> None:
        """Take an arm's counts so far, as the measure of what its problems take."""
        for difficulty, rollouts in figures.drawn.items():
            self._rollouts[arm, difficulty] = rollouts
            self._tokens[arm, difficulty] = figures.written[difficulty]

    def take(self, attempts: int) -> list[Entry]:
        """Take problems of one arm and difficulty that start with about so many attempts together, one at least."""
        if not self._length:
            return []
        queue = self._queues[max((key for key, it in self._queues.items() if it), key=self._expected)]
        taken: list[Entry] = []
        starting = 0
        while queue and (not taken or (starting < attempts and queue[0][0] is taken[0][0])):
            taken.append(queue.popleft())
            starting += taken[-1][1].opening(taken[-1][0].policy)
        self._length -= len(taken)
        self.starting -= starting
        return taken

    def _expected(self, key: tuple[str, str]) -> float:
        rollouts = self._rollouts[key]
        return self._tokens[key] / rollouts if rollouts else float("inf")

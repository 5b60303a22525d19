"""How many samples are still to come, over all jobs of a stage. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from reasonray.sampling.state import Booleans, ProblemStates


@dataclass(slots=True)
class Forecast:
    """Sums over the problems, kept up to date sample by sample."""

    most: int = 0
    """Samples that unfinished problems can still get."""
    samples: int = 0
    """Samples that unfinished problems have."""
    uncommitted: int = 0
    """Samples that are finished, but not committed yet."""
    unfinished: int = 0
    """Problems that need more samples."""
    finished: int = 0
    """Problems that were finished in this stage."""
    samples_of_finished: int = 0

    def add(self, states: ProblemStates, unfinished: Booleans) -> None:
        """Add a job's unfinished problems."""
        self.samples += int(states.num_finished[unfinished].sum())
        self.unfinished += int(unfinished.sum())
        self.most += states.total_remaining(unfinished)

    def finish(self, samples: int, remaining: int) -> None:
        """Take an unfinished problem as finished.

        Args:
            samples: that it has.
            remaining: samples that it could still have got.
        """
        self.unfinished -= 1
        self.most -= remaining
        self.samples -= samples
        self.finished += 1
        self.samples_of_finished += samples

    @property
    def most_to_come(self) -> int:
        """The largest number of samples that can still come."""
        return max(0, self.most - self.uncommitted)

    @property
    def expected_to_come(self) -> int:
        """The number of samples to come if unfinished problems need as many as the finished ones did on average."""
        if not self.finished:
            return self.most_to_come
        mean = self.samples_of_finished / self.finished
        expected = round(self.unfinished * mean) - self.samples - self.uncommitted
        return min(self.most_to_come, max(0, expected))

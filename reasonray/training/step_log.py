"""The steps that training workers report, collected for the driver in a Ray actor.

A module of its own, so that the actor does not import the rest of training.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepLogState:
    """A snapshot of the log."""

    steps: list[dict[str, float]]
    """The figures of all steps so far."""
    error: str
    """Message of a UserError that a worker raised; "" without one."""
    accelerators: int
    """GPUs that the workers hold; without GPUs, the number of workers."""


class StepLog:
    """The log; runs as a Ray actor."""

    def __init__(self) -> None:
        self._steps: list[dict[str, float]] = []
        self._error = ""
        self._accelerators = 0

    def restart(self, steps: list[dict[str, float]], accelerators: int) -> None:
        """Replace the steps by those of the checkpoint that a new group of workers resumes from."""
        self._steps = list(steps)
        self._accelerators = accelerators

    def add(self, figures: dict[str, float]) -> None:
        """Add the figures of one step."""
        self._steps.append(figures)

    def fail(self, message: str) -> None:
        """Store the message of a UserError."""
        self._error = message

    def state(self) -> StepLogState:
        """Return a snapshot."""
        return StepLogState(self._steps, self._error, self._accelerators)

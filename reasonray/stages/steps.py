"""Where the workers' steps come together; a module of its own, so that the actor does not import all of training."""

from __future__ import annotations


class StepLog:
    """What the workers tell the driver; a Ray actor."""

    def __init__(self) -> None:
        self._steps: list[dict[str, float]] = []
        self._fault = ""

    def restart(self, steps: list[dict[str, float]]) -> None:
        """Begin with the steps that a checkpoint stands for."""
        self._steps = list(steps)

    def add(self, figures: dict[str, float]) -> None:
        """Take one step's figures."""
        self._steps.append(figures)

    def fail(self, message: str) -> None:
        """Take a fault that the user can cure."""
        self._fault = message

    def state(self) -> tuple[list[dict[str, float]], str]:
        """Return all steps so far, and the fault if there is one."""
        return self._steps, self._fault

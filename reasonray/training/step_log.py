"""Where the workers' steps come together; a module of its own, so that the actor does not import all of training."""

from __future__ import annotations


class StepLog:
    """What the workers tell the driver; a Ray actor."""

    def __init__(self) -> None:
        self._steps: list[dict[str, float]] = []
        self._fault = ""
        self._accelerators = 0

    def restart(self, steps: list[dict[str, float]], accelerators: int) -> None:
        """Begin with the steps that a checkpoint stands for, on what the workers hold from now on."""
        self._steps = list(steps)
        self._accelerators = accelerators

    def add(self, figures: dict[str, float]) -> None:
        """Take one step's figures."""
        self._steps.append(figures)

    def fail(self, message: str) -> None:
        """Take a fault that the user can cure."""
        self._fault = message

    def state(self) -> tuple[list[dict[str, float]], str, int]:
        """Return all steps so far, the fault if there is one, and the GPUs (or workers without) that are held."""
        return self._steps, self._fault, self._accelerators

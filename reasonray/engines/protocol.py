"""What every engine is to the sampler: one attempt in, one completion out, as many at once as its capacity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from reasonray.config import Prompt, Sampling
from reasonray.records import Finish, Problem


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One sample to draw of one problem."""

    problem: Problem
    sample: int
    seed: int
    """63 bits, hashed from run, problem, fingerprint and sample: no two attempts share one."""
    prompt: Prompt
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Completion:
    """What came back. A request that the engine refuses is data too: finish ERROR, with the reason."""

    text: str
    finish: Finish
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life."""

    tokens: int
    """Generated since the engine started, those of aborted requests included."""
    at: float
    """When the last one came, by time.monotonic(); the engine's start before the first."""


class EngineDied(Exception):
    """The engine is gone; nothing more can be had of this process, which should end too."""


class EngineHung(EngineDied):
    """The engine has requests in flight and gives no token."""


class Engine(Protocol):
    """A running model."""

    capacity: int
    """Attempts in flight that keep it busy."""

    async def complete(self, attempt: SampleRequest) -> Completion:
        """Draw one sample. Cancelling the call aborts the request.

        Raises:
            EngineDied: the engine is gone.
        """

    async def swap(self, model: Path) -> bool:
        """Serve other weights from now on, nothing being in flight; False if only a new engine can."""

    def heartbeat(self) -> Heartbeat:
        """Return what the engine has generated and when it last did."""

    def close(self) -> None:
        """Free what the engine holds, its child processes included."""

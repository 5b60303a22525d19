"""The interface between the sampler and every engine: one request in, one completion out, many at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from reasonray.config import Prompt, Sampling
from reasonray.errors import UserError
from reasonray.prompts import FALLBACK_DATE, Message, messages, with_standard_tags
from reasonray.records import Finish, Problem, storable
from reasonray.store.storage import Place

_MOST_TOKENS = 2**31 - 1
"""The largest count that a ledger stores."""


def report_nothing(phase: str) -> None:
    """Ignore the phase of a start."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A model to serve and the hardware to serve it on."""

    model: str
    """The reference as configured, or the model's name on a server."""
    directory: Path | None
    """The model's local directory; None for an engine that needs no weights on this machine."""
    gpus: int
    """Tensor parallel size times `pipeline`; 0 computes on the CPU."""
    pipeline: int
    """Pipeline parallel stages."""
    spread: bool
    """Whether the GPUs belong to the placement group of this process, which may span several nodes."""
    seed: int
    trust_remote_code: bool = False
    """Whether the Python code that comes with the model and its tokenizer may run."""
    report: Callable[[str], None] = report_nothing
    """Gets what the engine is doing while it starts: loading weights, compiling, capturing graphs."""


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """A request for one sample of one problem."""

    problem: Problem
    sample: int
    """Index among the problem's K samples."""
    seed: int
    """63 bits, hashed from run, problem, fingerprint and sample index: no two requests share one."""
    prompt: Prompt
    sampling: Sampling
    today: date = FALLBACK_DATE
    """The date for chat templates that write it: that of the run's beginning."""
    prompt_number: int = 0
    """Index of the prompt among those of the model."""
    notes: Place | None = None
    """Where an engine may note what must outlive its process: the ledger that the sample is for."""

    @property
    def turns(self) -> list[Message]:
        """The chat; a prompt that shows the gold answer holds the problem's."""
        return messages(self.prompt, self.problem.question, self.problem.answer or "")


@dataclass(frozen=True, slots=True)
class Completion:
    """An engine's answer. A rejected request is data too: its finish is ERROR, and `error` holds the reason.

    Whatever an engine writes can be checked and stored: text that cannot be encoded and counts that no column holds
    are mended here, the one place that every engine's output passes.
    """

    text: str
    finish: Finish
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""
    opening: str = ""
    """What the prompt wrote of the answer, before `text`: see prompts.py."""
    tokens_estimated: bool = False
    """Whether the token counts are estimates, because the engine reported none."""
    token_ids: tuple[int, ...] | None = None
    """Of the completion, with its end; None unless sampling.logprobs asks, and if the engine does not give them."""
    logprobs: tuple[float, ...] | None = None
    """Of the completion's tokens; None unless sampling.logprobs asks, and if the engine does not give them."""

    def __post_init__(self) -> None:
        """Mend what could not be stored."""
        for name in ("text", "error", "opening"):
            object.__setattr__(self, name, storable(getattr(self, name)))
        for name in ("prompt_tokens", "completion_tokens"):
            object.__setattr__(self, name, min(max(0, getattr(self, name)), _MOST_TOKENS))

    def with_standard_tags(self, tags: tuple[str, str] | None) -> Completion:
        """Return the completion with the usual tags in place of the model's own (prompts.with_standard_tags)."""
        if not tags:
            return self
        return replace(self, text=with_standard_tags(self.text, tags), opening=with_standard_tags(self.opening, tags))


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life."""

    tokens: int
    """Tokens generated since the engine started, those of aborted requests included."""
    at: float
    """Time of the latest token by time.monotonic(); before the first one, time of the engine's start."""
    running: int = 0
    """Requests that the engine computes at the moment, without those that wait in its queue."""


@dataclass(frozen=True, slots=True, eq=False)
class Supply:
    """How many samples of each problem an engine can give, and what it leaves out."""

    samples: npt.NDArray[np.int32]
    """By the problem's index."""
    notes: tuple[str, ...] = ()
    """A line each, with numbers and first places."""
    cure: str = ""
    """What to do if there is no sample of any problem."""

    def refuse_empty(self) -> None:
        """Check that there are samples.

        Raises:
            UserError: there is none of any problem.
        """
        if not self.samples.any():
            raise UserError(f"{'; '.join(' '.join(note.split()) for note in self.notes)}; {self.cure}")


class EngineDied(Exception):
    """The engine is gone. This process cannot use it any more and should end too."""


class EngineHung(EngineDied):
    """The engine has requests in flight and generates no token."""


class Engine(Protocol):
    """A running model."""

    @property
    def capacity(self) -> int:
        """Requests in flight that keep the engine busy. It may grow while the engine works."""

    async def complete(self, request: SampleRequest) -> Completion:
        """Generate one sample. Cancelling the call aborts the request.

        Raises:
            EngineDied: the engine is gone.
        """

    async def swap(self, model: Path) -> bool:
        """Replace the weights while no request is in flight. Return False if that takes a new engine."""

    def heartbeat(self) -> Heartbeat:
        """Return how many tokens the engine has generated, and when it generated the latest one."""

    def close(self) -> None:
        """Free the engine's resources, its child processes included."""

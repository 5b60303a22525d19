"""An engine without a model: seeded, deterministic answers, with chosen rates of correct, wrong and faulty ones.

It takes the same path as a real engine (dry runs, tests, fault injection); only the text is written by rule. The kind
of an answer depends on the request's seed and the configured rates alone.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

from reasonray.config import ScriptedEngine
from reasonray.engines.protocol import Completion, Heartbeat, SampleRequest
from reasonray.records import Finish

FAULT = "REASONRAY_SCRIPTED_FAULT"
"""An environment variable. On a node that sets it the engine does not start; its value is the reason."""


class Scripted:
    """An engine that answers by rule; ScriptedEngine describes the rates."""

    def __init__(self, config: ScriptedEngine) -> None:
        """Start the engine.

        Raises:
            RuntimeError: the node is one on which it must not start.
        """
        if fault := os.environ.get(FAULT):
            raise RuntimeError(fault)
        self._config = config
        self._rates = {
            "correct": config.correct,
            "endless": config.endless,
            "unparseable": config.unparseable,
            "crash": config.crash,
            "error": config.error,
            "hang": config.hang,
        }
        self.capacity = config.max_num_seqs
        self._hung = False
        self._running = 0
        self._tokens, self._latest = 0, time.monotonic()

    async def complete(self, request: SampleRequest) -> Completion:
        """Answer as the request's seed decides. A `crash` ends this very process, as a dying engine does."""
        self._running += 1
        try:
            return await self._answer(request)
        finally:
            self._running -= 1

    async def _answer(self, request: SampleRequest) -> Completion:
        random_numbers = random.Random(request.seed)
        kind = self._kind(random_numbers.random())
        if self._config.seconds:
            await asyncio.sleep(random_numbers.expovariate(1 / self._config.seconds))
        if kind == "crash":
            os._exit(86)
        if kind == "hang" or self._hung:
            self._hung = True
            await asyncio.Event().wait()
        if kind == "error":
            return Completion("", Finish.ERROR, error="scripted: the request was refused")
        text = _write(kind, request, random_numbers)
        finish = Finish.LENGTH if kind == "endless" else Finish.STOP
        tokens = request.sampling.max_tokens if kind == "endless" else len(text.split())
        if self._config.journal:
            with (Path(self._config.journal) / str(os.getpid())).open("a") as journal:
                journal.write(f"{request.problem.id} {request.sample}\n")
        self._tokens, self._latest = self._tokens + tokens, time.monotonic()
        return Completion(text, finish, len(request.problem.question.split()), tokens)

    async def swap(self, model: Path) -> bool:
        """Return True: without weights, any model will do."""
        return True

    def heartbeat(self) -> Heartbeat:
        """Return the tokens of all answers so far; an answer's tokens count when it is complete."""
        return Heartbeat(self._tokens, self._latest, self._running)

    def close(self) -> None:
        """Do nothing: there is nothing to free."""

    def _kind(self, uniform: float) -> str:
        for kind, rate in self._rates.items():
            uniform -= rate
            if uniform < 0:
                return kind
        return "wrong"


def _write(kind: str, request: SampleRequest, random_numbers: random.Random) -> str:
    question, gold = request.problem.question, request.problem.answer or ""
    steps = [
        f"Step {number}: consider {question} ({random_numbers.randrange(10**6)})."
        for number in range(1, random_numbers.randint(2, 5))
    ]
    if random_numbers.random() < 0.3:
        steps.append("Wait, that's wrong. Let me recalculate.")
    if random_numbers.random() < 0.4:
        steps.append("Let me verify this.")
    reasoning = f"<think> {' '.join(steps)}"
    if kind == "endless":
        return f"{reasoning} And so on, and so on"
    if kind == "unparseable":
        return f"{reasoning} </think> It is what it is"
    answer = gold if kind == "correct" else f"{gold}1"
    return f"{reasoning} </think> The answer is {answer}."

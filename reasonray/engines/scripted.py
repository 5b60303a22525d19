"""An engine without a model: seeded, deterministic answers with chosen rates of right, wrong and faulty ones.

It is a real engine to everything around it (dry runs, tests, chaos), only the text is written by rule. Whatever the
rates, an attempt's kind depends on its seed alone.
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

_KINDS = ("correct", "endless", "unparseable", "crash", "error", "hang")


class Scripted:
    """Answers by rule; see ScriptedEngine for the rates."""

    def __init__(self, config: ScriptedEngine) -> None:
        self._config = config
        self.capacity = config.max_num_seqs
        self._hung = False
        self._pulse = Heartbeat(0, time.monotonic())

    async def complete(self, attempt: SampleRequest) -> Completion:
        """Answer as the attempt's seed decides; a `crash` ends this very process, as a dying engine does."""
        dice = random.Random(attempt.seed)
        kind = self._kind(dice.random())
        if self._config.seconds:
            await asyncio.sleep(dice.expovariate(1 / self._config.seconds))
        if kind == "crash":
            os._exit(86)
        if kind == "hang" or self._hung:
            self._hung = True
            await asyncio.Event().wait()
        if kind == "error":
            return Completion("", Finish.ERROR, error="scripted: the request was refused")
        text = _write(kind, attempt, dice)
        finish = Finish.LENGTH if kind == "endless" else Finish.STOP
        tokens = attempt.sampling.max_tokens if kind == "endless" else len(text.split())
        if self._config.journal:
            with (Path(self._config.journal) / str(os.getpid())).open("a") as journal:
                journal.write(f"{attempt.problem.id} {attempt.sample}\n")
        self._pulse = Heartbeat(self._pulse.tokens + tokens, time.monotonic())
        return Completion(text, finish, len(attempt.problem.question.split()), tokens)

    async def swap(self, model: Path) -> bool:
        """There are no weights: any model will do."""
        return True

    def heartbeat(self) -> Heartbeat:
        """Return the tokens of all answers so far; they come whole."""
        return self._pulse

    def close(self) -> None:
        """Nothing is held."""

    def _kind(self, draw: float) -> str:
        for kind in _KINDS:
            draw -= getattr(self._config, kind)
            if draw < 0:
                return kind
        return "wrong"


def _write(kind: str, attempt: SampleRequest, dice: random.Random) -> str:
    question, gold = attempt.problem.question, attempt.problem.answer or ""
    steps = [
        f"Step {number}: consider {question} ({dice.randrange(10**6)})." for number in range(1, dice.randint(2, 5))
    ]
    if dice.random() < 0.3:
        steps.append("Wait, that's wrong. Let me recalculate.")
    if dice.random() < 0.4:
        steps.append("Let me verify this.")
    reasoning = f"<think> {' '.join(steps)}"
    if kind == "endless":
        return f"{reasoning} And so on, and so on"
    if kind == "unparseable":
        return f"{reasoning} </think> It is what it is"
    answer = gold if kind == "correct" else f"{gold}1"
    return f"{reasoning} </think> The answer is {answer}."

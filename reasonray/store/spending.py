"""The money that a run's rollouts have cost so far, at the prices of its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from reasonray.config.models import Price
from reasonray.store.evaluations import models_under_evaluation
from reasonray.store.run import Run

_COLUMNS = ["prompt_tokens", "completion_tokens"]


@dataclass(frozen=True, slots=True)
class Spending:
    """The cost of the committed rollouts of one model in one stage."""

    stage: Literal["sample", "evaluate"]
    """Sample or evaluate."""
    model: str
    """Name of the teacher or the model under evaluation."""
    price: Price
    prompt_tokens: int
    completion_tokens: int

    @property
    def amount(self) -> float:
        """The cost, in the currency of the price."""
        return self.price.of(self.prompt_tokens, self.completion_tokens)

    def __str__(self) -> str:
        cost = f"{self.amount:,.2f} {self.price.currency}"
        tokens = f"{self.prompt_tokens:,} prompt and {self.completion_tokens:,} completion tokens of {self.model}"
        return f"{cost:>8} on {tokens}" + (", evaluated" if self.stage == "evaluate" else "")


def spending(run: Run) -> list[Spending]:
    """Return what each model with a price has cost: every teacher, and the models under evaluation with rollouts.

    Reads two narrow columns of the ledgers, and nothing of a run without prices.
    """
    return [*_on_samples(run), *_on_evaluation(run)]


def _on_samples(run: Run) -> list[Spending]:
    found = []
    priced = {teacher.name: teacher.price for teacher in run.config.teachers if teacher.price}
    if priced:
        rollouts = run.ledger.read(["teacher", *_COLUMNS])
        for name, price in priced.items():
            own = rollouts.filter(pc.equal(rollouts["teacher"], name))
            found.append(Spending("sample", name, price, *_tokens(own)))
    return found


def _on_evaluation(run: Run) -> list[Spending]:
    found = []
    for name, model in models_under_evaluation(run.config).items():
        if model.price and (rollouts := run.evaluation(name).read(_COLUMNS)).num_rows:
            found.append(Spending("evaluate", name, model.price, *_tokens(rollouts)))
    return found


def record_spending(run: Run, stage: Literal["sample", "evaluate"]) -> list[Spending]:
    """Write what a stage has cost so far to the run's events, and return it."""
    found = _on_samples(run) if stage == "sample" else _on_evaluation(run)
    if found:
        facts = [{"model": spent.model, "amount": spent.amount, "currency": spent.price.currency} for spent in found]
        run.events.emit("spent", of=stage, spent=facts)
    return found


def _tokens(rollouts: pa.Table) -> tuple[int, int]:
    prompt, completion = (pc.sum(rollouts[name]).as_py() or 0 for name in _COLUMNS)
    return prompt, completion

"""Records of a training: its summary as the workers return it, and the finished student as the run holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from reasonray.store.run import Run
from reasonray.store.storage import Place


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """The size of a training. Examples and tokens are those of one epoch."""

    steps: int
    examples: int
    tokens: int
    target_tokens: int
    """Tokens that the loss counts: completions and stop tokens."""
    overlong: list[str]
    """Ids of the examples that exceed training.max_tokens and were left out."""

    def as_json(self) -> dict[str, Any]:
        """Return the content of figures.json."""
        return {
            "steps": self.steps,
            "examples": self.examples,
            "overlong": self.overlong,
            "tokens": self.tokens,
            "loss_tokens": self.target_tokens,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read the content of figures.json."""
        return cls(
            steps=document["steps"],
            examples=document["examples"],
            tokens=document["tokens"],
            target_tokens=document["loss_tokens"],
            overlong=document["overlong"],
        )


@dataclass(frozen=True, slots=True)
class TrainedStudent:
    """A finished student: where it is, what it was trained on, and how its loss went."""

    directory: Place
    """The model in Hugging Face layout."""
    steps: int
    examples: int
    """Examples of one epoch."""
    target_tokens: int
    """Tokens of one epoch that the loss counts."""
    first_loss: float
    last_loss: float
    checkpoint: str
    """Name of the checkpoint that became the student."""


def trained_student(run: Run) -> TrainedStudent:
    """Return the record of a run's finished student, read from student/final/manifest.json and student/steps.jsonl."""
    final = run.final_student
    manifest = (final / "manifest.json").read_json()
    losses = [json.loads(line)["loss"] for line in (run.student / "steps.jsonl").read().decode().splitlines()]
    return TrainedStudent(
        directory=final,
        steps=len(losses),
        examples=manifest["examples"],
        target_tokens=manifest["loss_tokens"],
        first_loss=losses[0],
        last_loss=losses[-1],
        checkpoint=run.chosen_checkpoint(),
    )

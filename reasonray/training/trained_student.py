"""The record of a finished student, read from the files that `train` leaves in the run."""

from __future__ import annotations

import json
from dataclasses import dataclass

from reasonray.store.run import Run
from reasonray.store.storage import Place


@dataclass(frozen=True, slots=True)
class TrainedStudent:
    """What a student was trained on and how its loss went."""

    directory: Place
    """The model in Hugging Face layout."""
    steps: int
    examples: int
    """Examples of an epoch."""
    loss_tokens: int
    """Tokens of an epoch that the loss counts."""
    first_loss: float
    last_loss: float
    checkpoint: str
    """Name of the checkpoint that became the student."""


def trained_student(run: Run) -> TrainedStudent:
    """Return the record of a run's finished student."""
    final = run.student / "final"
    manifest = (final / "manifest.json").read_json()
    losses = [json.loads(line)["loss"] for line in (run.student / "steps.jsonl").read().decode().splitlines()]
    return TrainedStudent(
        directory=final,
        steps=len(losses),
        examples=manifest["examples"],
        loss_tokens=manifest["loss_tokens"],
        first_loss=losses[0],
        last_loss=losses[-1],
        checkpoint=run.chosen_checkpoint(),
    )

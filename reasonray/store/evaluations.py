"""The models of a run that have been evaluated, and how completely."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from reasonray.config import Config, PromptedModel
from reasonray.records import BASE, STUDENT, Split
from reasonray.store.run import Run


def models_under_evaluation(config: Config) -> dict[str, PromptedModel]:
    """Return name → how a model is asked, in the order of reports: base, teachers, arms, student."""
    named = {model.name: model for model in (*config.teachers, *config.evaluation.arms)}
    return {BASE: config.student, **named, STUDENT: config.student}


def evaluated_models(run: Run) -> list[str]:
    """Return the models under evaluation that have rollouts, in the order of reports."""
    return [name for name in models_under_evaluation(run.config) if run.evaluation(name).segments()]


def missing_samples(run: Run, rollouts: pa.Table) -> dict[str, int] | None:
    """Return how many samples of a model there are, and of how many; None if none is missing.

    Args:
        run: the run that the model is evaluated in.
        rollouts: the model's rollouts, with a column `problem_id`.
    """
    problems, samples = len(run.problems(Split.TEST)), run.config.evaluation.samples
    counts = rollouts["problem_id"].value_counts().field("counts")
    if len(counts) == problems and pc.min(counts).as_py() == samples:
        return None
    return {"samples": rollouts.num_rows, "of": problems * samples}


def evaluated_checkpoints(run: Run) -> list[str]:
    """Return the checkpoints that have rollouts, in order of training steps."""
    return [checkpoint.name for checkpoint in run.checkpoints() if run.evaluation(checkpoint.name).segments()]


def checkpoint_step(checkpoint: str) -> int:
    """Return the training step of a checkpoint, from its name."""
    return int(checkpoint.removeprefix("step-"))

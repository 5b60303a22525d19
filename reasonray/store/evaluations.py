"""Which models of a run are measured, and how completely."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from reasonray.records import BASE, STUDENT, Split
from reasonray.store.run import Run


def evaluated_models(run: Run) -> list[str]:
    """Return the arms that hold rollouts, in the order in which people read them."""
    further = (*run.config.teachers, *run.config.evaluation.arms)
    names = [BASE, *(it.name for it in further), STUDENT]
    return [name for name in names if run.evaluation(name).segments()]


def missing_samples(run: Run, rollouts: pa.Table) -> dict[str, int] | None:
    """Return how many samples of an arm are drawn, of how many; None where it is measured whole."""
    problems, samples = len(run.problems(Split.TEST)), run.config.evaluation.samples
    each = rollouts["problem_id"].value_counts().field("counts")
    if len(each) == problems and pc.min(each).as_py() == samples:
        return None
    return {"samples": rollouts.num_rows, "of": problems * samples}


def evaluated_checkpoints(run: Run) -> list[str]:
    """Return the arms of the checkpoints that hold rollouts, in order of training steps."""
    return [it.name for it in run.checkpoints() if run.evaluation(it.name).segments()]


def checkpoint_step(checkpoint: str) -> int:
    """Return the training step of a checkpoint."""
    return int(checkpoint.removeprefix("step-"))

"""The choice of the student among the checkpoints: the last, the best, or the average of several.

Averages are of weights (Izmailov et al. 2018, arXiv 1803.05407).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from reasonray.errors import UserError
from reasonray.store.checkpoints import best_checkpoint
from reasonray.store.run import Run
from reasonray.store.storage import Place

if TYPE_CHECKING:
    import torch


def refuse_other_choice(run: Run) -> None:
    """Refuse a configuration by which another checkpoint would be the student than the one that is.

    Raises:
        UserError: names the key.
    """
    stored = (run.final_student / "manifest.json").read_json()
    for key, before in (("student", run.config.training.student), ("average_last", 1)):
        was, configured = stored.get(key, before), getattr(run.config.training, key)
        if was != configured:
            raise UserError(
                f"run {run.name}: the student was chosen by training.{key} = {was}, now it is {configured}; set it "
                f"back, or take the model of a checkpoint below {run.student / 'checkpoints'}"
            )


def write_student(run: Run, steps: Sequence[Mapping[str, float]], target: Place) -> Place:
    """Write the model of the student, and return the checkpoint that it is, or the newest of those that it averages.

    Args:
        run: whose training has ended.
        steps: the figures of every step.
        target: directory of the model.
    """
    chosen, last = _chosen_checkpoint(run, steps), run.config.training.average_last
    (chosen / "model").copy(target)
    if last > 1:
        average([checkpoint / "model" for checkpoint in run.checkpoints()[-last:]], target)
    return chosen


def _chosen_checkpoint(run: Run, steps: Sequence[Mapping[str, float]]) -> Place:
    """Return the checkpoint that becomes the student; where several are averaged, the newest."""
    checkpoints = run.checkpoints()
    if run.config.training.student == "best":
        best = best_checkpoint(steps)
        return next((checkpoint for checkpoint in checkpoints if checkpoint.name == best), checkpoints[-1])
    return checkpoints[-1]


def average(models: Sequence[Place], target: Place) -> None:
    """Write the mean of models as a model, in their own precision; a file at a time is in memory.

    Args:
        models: directories of models of one training, the newest last; what is no weight is taken from the newest.
        target: directory of the new model, which holds the newest model already.
    """
    from safetensors.torch import load, save

    for name in target.names(".safetensors"):
        total: dict[str, torch.Tensor] = {}
        newest: dict[str, torch.Tensor] = {}
        for model in models:
            newest = load((model / name).read())
            for weight, values in newest.items():
                total[weight] = values.double() + total[weight] if weight in total else values.double()
        mean = {
            weight: (total[weight] / len(models)).to(values.dtype) if values.is_floating_point() else values
            for weight, values in newest.items()
        }
        (target / name).write(save(mean, metadata={"format": "pt"}))

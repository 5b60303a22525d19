"""Checkpoints on disk by torch.distributed.checkpoint: weights, optimiser and progress, for any number of workers.

A checkpoint continues exactly one plan. Whatever would change the remaining steps is compared on resuming, and the
first difference is reported by name.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from reasonray.config import Training
from reasonray.errors import UserError
from reasonray.training.model import Weights
from reasonray.training.optimiser import Optimiser

# A single process is supported on purpose.
warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)


def training_identity(training: Training, *, model: str, plan: str, examples: str, seed: int) -> dict[str, Any]:
    """Return the values that have to be equal on resuming.

    Args:
        training: of it the settings that shape a step.
        model: identity of the model's directory.
        plan: hash of the plan.
        examples: hash of the examples.
        seed: of the run.
    """
    return {f"training.{name}": value for name, value in training.step_settings.items()} | {
        "seed": seed,
        "model": model,
        "examples": examples,
        "plan": plan,
    }


def save(directory: Path, weights: Weights, optimiser: Optimiser, step: int, identity: dict[str, Any]) -> None:
    """Write the state after `step` steps. Every worker has to call it."""
    dcp.save(_state(weights, optimiser), checkpoint_id=str(directory / "state"), no_dist=not dist.is_initialized())
    if not dist.is_initialized() or dist.get_rank() == 0:
        (directory / "progress.json").write_text(json.dumps({"step": step, **identity}, indent=2))


def load(directory: Path, weights: Weights, optimiser: Optimiser, identity: dict[str, Any]) -> int:
    """Read a state into weights and optimiser and return the number of steps done. Every worker has to call it.

    Raises:
        UserError: the checkpoint has other settings, other examples or another plan; the message names the difference.
    """
    progress: dict[str, Any] = json.loads((directory / "progress.json").read_text())
    by_default = {f"training.{name}": value for name, value in Training().step_settings.items()}
    for field, value in identity.items():
        was = progress.get(field, by_default.get(field))  # a version without a setting did what is the default now
        if was != value:
            raise UserError(
                f"cannot resume from {directory.name}: {field} was {was!r} and is now {value!r}; "
                "restore it, or train elsewhere (another run name, or under torchrun another OUT)"
            )
    state = _state(weights, optimiser)
    dcp.load(state, checkpoint_id=str(directory / "state"), no_dist=not dist.is_initialized())
    for name, parameter in weights.named.items():
        optimiser.set_state(parameter, {key: state[key][name] for key in optimiser.state_of(parameter)})
    weights.refresh()
    return int(progress["step"])


def _state(weights: Weights, optimiser: Optimiser) -> dict[str, dict[str, torch.Tensor]]:
    """Return a checkpoint's tensors by kind and name. Before the first step the optimiser's are zeros."""
    state: dict[str, dict[str, torch.Tensor]] = {"weights": {}}
    for name, parameter in weights.named.items():
        state["weights"][name] = parameter.detach()
        for key, tensor in optimiser.state_of(parameter).items():
            state.setdefault(key, {})[name] = tensor
    return state

"""The message for a GPU whose memory is too small: settings that take less and are not set yet, the cheapest first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import ValidationError

from reasonray.config import Training
from reasonray.config.toml import written_value
from reasonray.errors import UserError

Remedy = dict[str, Any]
"""Settings of `training` with their values; None for one that is to be left out."""


@contextmanager
def memory_explained(training: Training) -> Iterator[None]:
    """Report that a GPU's memory is too small as one line that says what to change.

    Args:
        training: the settings of the job.

    Raises:
        UserError: the memory is too small.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        needed = str(error).partition(". GPU")[0].partition("\n")[0]
        raise UserError(f"the GPU's memory is too small ({needed}): {_advice(training)}") from error


def remedies_on_resuming(training: Training) -> list[Remedy]:
    """Return settings that take less memory and with which the training goes on, those that cost least first.

    The first ones cost communication, then operations are done again, then the same GPUs compute fewer packs at a time,
    then there are more of them, and last ever more waits for main memory.
    """
    least, most = training.process_bounds
    candidates: list[tuple[bool, Remedy]] = [
        (training.syncs_once_per_step and most > 1, {"zero_stage": 3}),
        (training.shard is not None and training.shard < most, {"shard": None}),
        (not training.recomputes_activations, {"activation_checkpointing": "selective"}),
        (training.recomputation != "all", {"activation_checkpointing": True}),
        (least == most, {"context": 2 * training.context}),
        (training.shard is None, {"workers": 2 * training.worker_bounds[1]}),
        (training.activation_checkpointing != "offload", {"activation_checkpointing": "offload"}),
        (not training.cpu_offload, {"cpu_offload": "optimiser"}),
        (not training.offloads_weights, {"cpu_offload": True}),
    ]
    return [remedy for helps, remedy in candidates if helps and _is_valid(training, remedy)]


def remedies_from_the_start(training: Training) -> list[Remedy]:
    """Return settings that take less memory and change the student, so that the training has to begin again.

    The first ones change the student least.
    """
    candidates: list[tuple[bool, Remedy]] = [
        (training.moments == "fp32" and not training.lora_rank, {"moments": "bf16"}),
        (not training.lora_rank, {"lora_rank": 16}),
        (training.max_tokens > 1, {"max_tokens": training.max_tokens // 2}),
    ]
    return [remedy for helps, remedy in candidates if helps and _is_valid(training, remedy)]


def _is_valid(training: Training, remedy: Remedy) -> bool:
    """Return whether the settings go with the others."""
    try:
        Training.model_validate(training.model_dump() | remedy)
    except ValidationError:
        return False
    return True


def _advice(training: Training) -> str:
    on_resuming, from_the_start = (
        ", ".join(map(_written, remedies))
        for remedies in (remedies_on_resuming(training), remedies_from_the_start(training))
    )
    cures = [f"resume with the first that helps of {on_resuming}"] if on_resuming else []
    cures += [f"begin again with {from_the_start}"] if from_the_start else []
    return "; or ".join(cures)


def _written(remedy: Remedy) -> str:
    return ", ".join(
        f"no training.{key}" if value is None else f"training.{key} = {written_value(value)}"
        for key, value in remedy.items()
    )

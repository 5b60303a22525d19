"""Checkpoints on disk by torch.distributed.checkpoint: weights, optimiser and progress, for any number of workers.

A checkpoint continues exactly one plan. Whatever would change the remaining steps is compared on resuming, and the
first difference is reported by name.
"""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import torch.distributed.checkpoint as dcp
from pyarrow import fs
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from reasonray.config import Training
from reasonray.errors import UserError
from reasonray.store.storage import Place, place
from reasonray.training.mesh import Mesh
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


class StateWriter:
    """Writes states, at once or in a thread of its own from a copy in main memory."""

    def __init__(self, mesh: Mesh, device: torch.device, *, in_background: bool) -> None:
        """Prepare the writer of one worker. Every worker has to make the same calls.

        Args:
            mesh: the workers.
            device: on which they compute; a copy is pinned if that is a GPU.
            in_background: whether `write` returns once the state is copied.
        """
        self._mesh = mesh
        self._stager = (
            DefaultStager(StagingOptions(device.type == "cuda", False, False, False)) if in_background else None
        )

    def write(
        self, directory: Path, weights: Weights, optimiser: Optimiser, progress: Mapping[str, Any]
    ) -> Future[Any]:
        """Write a state, and return what ends once all workers have written theirs.

        Before the next call that has to be waited for.

        Args:
            directory: of the checkpoint.
            weights: the trained weights.
            optimiser: of the weights.
            progress: `step`, the number of steps done; `validation_losses` so far; what has to be equal on resuming.
        """
        document = json.dumps(progress, indent=2)
        self._mesh.by_first(lambda: (directory / "progress.json").write_text(document))
        group, alone = self._mesh.states, self._mesh.world == 1
        state, target = _state(weights, optimiser), str(directory / "state")
        if self._stager is None:
            done: Future[Any] = Future()
            done.set_result(dcp.save(state, checkpoint_id=target, process_group=group, no_dist=alone))
            return done
        writing: Future[Any] = dcp.async_save(
            state,
            storage_writer=dcp.FileSystemWriter(target),
            process_group=group,
            async_stager=self._stager,
            no_dist=alone,
        )
        return writing

    def close(self) -> None:
        """Free the memory that states are copied to."""
        if self._stager is not None:
            self._stager.close()


class _Reader(dcp.FileSystemReader):  # type: ignore[misc]  # torch is not followed by mypy
    """A reader of states in any storage, which reads only the parts that this worker needs, each at once."""

    def __init__(self, state: Place) -> None:
        super().__init__(state.path)
        self.fs = _Files(state.filesystem)

    def _slice_file(self, file: pa.NativeFile, info: Any) -> io.BytesIO:
        file.seek(info.offset)
        return io.BytesIO(file.read(info.length))


class _Files(FileSystem):  # type: ignore[misc]
    def __init__(self, filesystem: fs.FileSystem) -> None:
        self._filesystem = filesystem

    def create_stream(self, path: str | os.PathLike[str], mode: str) -> AbstractContextManager[pa.NativeFile]:
        stream: AbstractContextManager[pa.NativeFile] = self._filesystem.open_input_file(os.fspath(path))
        return stream


def load(
    directory: Place | Path, weights: Weights, optimiser: Optimiser, identity: dict[str, Any]
) -> tuple[int, list[float]]:
    """Read a state into weights and optimiser. Every worker has to call it.

    Returns:
        The number of steps done, and the losses on the validation examples at the checkpoints so far.

    Raises:
        UserError: the checkpoint has other settings, other examples or another plan; the message names the difference.
    """
    saved = place(directory) if isinstance(directory, Path) else directory
    progress = (saved / "progress.json").read_json()
    by_default = {f"training.{name}": value for name, value in Training().step_settings.items()}
    for field, value in identity.items():
        was = progress.get(field, by_default.get(field))  # a version without a setting did what is the default now
        if was != value:
            raise UserError(
                f"cannot resume from {saved.name}: {field} was {was!r} and is now {value!r}; "
                "restore it, or train elsewhere (another run name, or under torchrun another OUT)"
            )
    state = _state(weights, optimiser)
    dcp.load(state, storage_reader=_Reader(saved / "state"), no_dist=True)
    for name, parameter in weights.named.items():
        optimiser.set_state(parameter, {key: state[key][name] for key in optimiser.state_of(parameter)})
    weights.refresh()
    return int(progress["step"]), progress.get("validation_losses", [])


def _state(weights: Weights, optimiser: Optimiser) -> dict[str, dict[str, torch.Tensor]]:
    """Return a checkpoint's tensors by kind and name. Before the first step the optimiser's are zeros."""
    state: dict[str, dict[str, torch.Tensor]] = {"weights": {}}
    for name, parameter in weights.named.items():
        state["weights"][name] = parameter.detach()
        for key, tensor in optimiser.state_of(parameter).items():
            state.setdefault(key, {})[name] = tensor
    return state

"""Checkpoints of a training: states and models, written by all workers together, states while training goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException

from reasonray.config import Training
from reasonray.errors import UserError
from reasonray.training import checkpoint
from reasonray.training.export import NotExported, export, probe_logits
from reasonray.training.mesh import Mesh
from reasonray.training.model import Weights
from reasonray.training.optimiser import Optimiser

_FAILURES = (OSError, CheckpointException, SafetensorError)


class NotSaved(UserError):
    """A checkpoint could not be written; those before it are untouched."""


@dataclass(frozen=True)
class _Writing:
    """A checkpoint whose state is being written."""

    step: int
    directory: Path
    state: Future[Any] | None
    """None if the writing has not begun."""
    fault: str
    """Why a file could not be written; "" if nothing failed so far."""
    unexported: str
    """Why the model cannot be exported; "" if it was, or if none was asked for."""


class Saver:
    """Writes the checkpoints of a training. Every worker has to make the same calls.

    With `training.saves_while_training` the state is copied to main memory and written from there; at most one is being
    written. A checkpoint is reported when all workers have written their parts. One that was interrupted was never
    reported, so the one before it is the newest.
    """

    def __init__(
        self,
        training: Training,
        weights: Weights,
        optimiser: Optimiser,
        mesh: Mesh,
        device: torch.device,
        *,
        identity: dict[str, Any],
        source: str | Path,
        directory: str | Path,
        chat_template: str = "",
        on_checkpoint: Callable[[int, Path], None],
    ) -> None:
        """Prepare the saving of one worker.

        Args:
            training: settings.
            weights: the trained weights.
            optimiser: of the weights.
            mesh: the workers.
            device: on which they compute.
            identity: what a training that resumes has to match.
            source: directory of the model that is trained.
            directory: to write checkpoints into; workers may share it.
            chat_template: of the exported models; "" for that of the source.
            on_checkpoint: gets the number of steps and the directory of each checkpoint when it is written.
        """
        self._training, self._weights, self._optimiser = training, weights, optimiser
        self._mesh, self._device, self._identity = mesh, device, identity
        self._source, self._directory, self._on_checkpoint = source, Path(directory), on_checkpoint
        self._chat_template = chat_template
        self._writer = checkpoint.StateWriter(mesh, device, in_background=training.saves_while_training)
        self._writing: _Writing | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, UserError):  # which all workers raise
            self.finish()
        self._writer.close()

    def save(self, step: int, validation_losses: Sequence[float] = (), *, with_model: bool = True) -> None:
        """Write a checkpoint after `step` steps; without a model it is a state, in the directory `states`.

        Raises:
            NotSaved: the disk is full, or the file system fails otherwise.
            NotExported: the model does not read back as it was trained; it is kept as a state.
        """
        self.finish()
        directory = self._directory.joinpath(*([] if with_model else ["states"])) / f"step-{step:06d}"
        state: Future[Any] | None = None
        fault, unexported = "", ""
        try:
            self._mesh.together(lambda: directory.mkdir(parents=True, exist_ok=True))
            progress = {"step": step, "validation_losses": list(validation_losses), **self._identity}
            state = self._writer.write(directory, self._weights, self._optimiser, progress)
            if with_model:
                self._export(directory)
        except NotExported as error:
            unexported = str(error)
        except _FAILURES as error:
            fault = _shortened(error)
        self._writing = _Writing(step, directory, state, fault, unexported)
        if fault or unexported or not self._training.saves_while_training:
            self.finish()

    def _export(self, directory: Path) -> None:
        logits = probe_logits(self._weights.student, self._device)
        self._weights.refresh()
        export(
            self._weights,
            self._source,
            directory,
            self._training,
            logits,
            self._mesh,
            self._device,
            chat_template=self._chat_template,
        )

    @property
    def is_writing(self) -> bool:
        """Whether this worker is still writing its part of a state; all workers have to agree before `finish`."""
        state = self._writing.state if self._writing else None
        return state is not None and not state.done()

    def finish(self) -> None:
        """Wait for the state that is being written, if there is one, and report the checkpoint.

        Raises:
            NotSaved, NotExported: as `save`.
        """
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        fault = writing.fault
        try:
            if writing.state is not None:
                writing.state.result()
        except _FAILURES as error:
            fault = fault or _shortened(error)
        if self._mesh.wait_for_files(bool(fault)):
            shutil.rmtree(writing.directory, ignore_errors=True)
            raise NotSaved(
                f"the checkpoint of step {writing.step} cannot be written to {writing.directory.parent} "
                f"({fault or 'another worker failed'}); the one before it stays: make room, and run the same command "
                "again"
            )
        directory = writing.directory
        if is_unexported := self._mesh.wait_for_files(bool(writing.unexported)):
            directory = self._as_state(directory)
        self._on_checkpoint(writing.step, directory)
        self._mesh.wait_for_files()  # an upload may take longer than the next step's collectives wait
        if is_unexported:
            why = writing.unexported or "the first worker cannot export the student"
            raise NotExported(f"{why}; the state and the model are kept in {directory.parent.name}/{directory.name}")

    def _as_state(self, directory: Path) -> Path:
        """Move a checkpoint to the states and return its new directory."""
        state = directory.parent / "states" / directory.name

        def move() -> None:
            if directory.exists():  # workers may share it
                shutil.rmtree(state, ignore_errors=True)
                state.parent.mkdir(exist_ok=True)
                directory.rename(state)

        self._mesh.in_turn(move)
        return state


def _shortened(error: Exception) -> str:
    return " ".join(str(error).split())[-160:]

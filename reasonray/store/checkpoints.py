"""Training checkpoints in the run's storage: uploaded while training goes on, complete by their manifest, then pruned.

<run>/student/checkpoints/step-<step>/         a model, and the training state while it is the newest
<run>/student/checkpoints/states/step-<step>/  a training state saved between checkpoints
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from reasonray.config import Training
from reasonray.store.run import Run
from reasonray.store.storage import Place, place

_POLL_SECONDS = 0.2
_EARLY = 0.2
"""Share of training.save_minutes by which a state is saved before the period is over, when new nodes are taken in."""


class CheckpointStore:
    """One training worker's access to the run's storage; uploads end before the context manager exits.

    On entry the first worker deletes what an earlier attempt left incomplete, because its parts would count as this
    attempt's. No other worker can save before that: each step needs all workers, the first one included.
    """

    def __init__(
        self,
        run: Run,
        data: str,
        rank: int,
        world: int,
        *,
        is_preempted: Callable[[], bool],
        report: Callable[[dict[str, float]], None],
    ) -> None:
        """Prepare the store of one worker.

        Args:
            run: the run that is trained.
            data: identity of the data set.
            rank: number of this worker.
            world: number of workers.
            is_preempted: returns whether a node of the workers is about to be taken away.
            report: gets the figures of the last step at each checkpoint.
        """
        self._run, self._data, self._rank, self._world = run, data, rank, world
        self._is_preempted, self._report = is_preempted, report
        self._uploads = ThreadPoolExecutor(1)
        self._last_upload: Future[None] | None = None
        self._begun = time.monotonic()
        self._periods = 0
        self._was_preempted = False

    def __enter__(self) -> Self:
        if self._rank == 0:
            delete_incomplete(self._run)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._uploads.shutdown()
        if kind is None and self._last_upload is not None:
            self._last_upload.result()

    def is_due(self) -> bool:
        """Return whether to save a state now: a node is about to be taken away, or training.save_minutes have passed.

        Every worker has to call this, and as often as the others.
        """
        preempted = self._is_preempted()
        is_first_notice, self._was_preempted = preempted and not self._was_preempted, preempted
        periods = (time.monotonic() - self._begun) / (60 * self._run.config.training.save_minutes)
        is_over, self._periods = int(periods + _EARLY) > self._periods, int(periods + _EARLY)
        return is_first_notice or (is_over and self._rank == 0)

    def save(self, step: int, path: Path, steps: list[dict[str, float]]) -> None:
        """Upload this worker's part of a checkpoint or state in the background; rank 0 then completes it.

        Args:
            step: number of training steps so far.
            path: local directory with the part, `checkpoints/step-…` or `states/step-…`.
            steps: figures of all steps so far.

        Raises:
            OSError: the previous upload failed.
        """
        if self._last_upload is not None:
            self._last_upload.result()
        folders = ["checkpoints", "states"] if path.parent.name == "states" else ["checkpoints"]
        target = self._run.student
        for folder in (*folders, path.name):
            target = target / folder
        self._report(steps[-1])
        if self._run.place.is_local:
            self._complete(step, target, steps)  # workers wrote in place, and all of them have reached this line
        else:
            self._last_upload = self._uploads.submit(self._upload, step, path, target, steps)

    def _upload(self, step: int, path: Path, target: Place, steps: list[dict[str, float]]) -> None:
        place(path).copy(target)
        shutil.rmtree(path)  # 13 bytes a weight, at every save
        (target / "parts" / str(self._rank)).write(b"")
        while self._rank == 0 and len((target / "parts").list()) < self._world:
            time.sleep(_POLL_SECONDS)
        self._complete(step, target, steps)

    def _complete(self, step: int, target: Place, steps: list[dict[str, float]]) -> None:
        if self._rank == 0:
            (target / "steps.json").write(json.dumps(steps).encode())
            inputs = {"data": self._data, "training": self._run.config.training.step_settings}
            (target / "manifest.json").write(json.dumps({"step": step} | inputs).encode())
            delete_superseded(self._run, steps, but=target)


def resumable_checkpoints(run: Run) -> list[Place]:
    """Return the complete checkpoints, and the states saved between them, in order of training steps."""
    return sorted([*run.checkpoints(), *run.states()], key=lambda checkpoint: checkpoint.name)


def trained_on_other(run: Run, data: str) -> dict[str, Any]:
    """Return the data set and settings of a stored student or state, if they differ from the present ones; else {}.

    Args:
        run: its configuration has the present settings.
        data: identity of the present data set.
    """
    present = {"data": data} | run.config.training.step_settings
    manifests = [folder / "manifest.json" for folder in (run.final_student, *resumable_checkpoints(run))]
    for manifest in filter(None, (file.read_json_or_none() for file in manifests)):
        settings = manifest.get("training", {})
        if settings:  # a version without a setting did what is the default now
            settings = Training().step_settings | settings
        inputs: dict[str, Any] = {"data": manifest["data"]} | settings
        if any(present.get(name) != value for name, value in inputs.items()):
            return inputs
    return {}


def delete_incomplete(run: Run) -> None:
    """Delete the checkpoints and states that have no manifest."""
    folder = run.student / "checkpoints"
    for checkpoint in [*folder.list(), *(folder / "states").list()]:
        if checkpoint.name.startswith("step-") and not (checkpoint / "manifest.json").exists():
            checkpoint.delete()


def delete_superseded(run: Run, steps: Sequence[Mapping[str, float]], but: Place | None) -> None:
    """Delete training states that nothing resumes from, and the models that training.keep leaves out.

    A state takes three times the space of the weights. Models that stay are the newest `keep`, and the best.

    Args:
        run: the run that is trained.
        steps: figures of all steps so far.
        but: the checkpoint or state whose training state stays; None for none.
    """
    for state in run.states():
        if but is None or state != but:
            state.delete()
    checkpoints = run.checkpoints()
    for checkpoint in checkpoints:
        if but is None or checkpoint != but:
            (checkpoint / "state").delete()
    keep, best = run.config.training.keep, best_checkpoint(steps)
    for checkpoint in checkpoints[: -keep if keep else 0]:
        if checkpoint.name != best:
            checkpoint.delete()


def best_checkpoint(steps: Sequence[Mapping[str, float]]) -> str | None:
    """Return the name of the checkpoint with the lowest loss on the held-out examples, None if none was measured."""
    measured = [step for step in steps if "validation_loss" in step]
    if not measured:
        return None
    best = min(measured, key=lambda step: step["validation_loss"])
    return f"step-{int(best['step']):06d}"


def newest_state(run: Run, data: str) -> Place | None:
    """Return the newest complete checkpoint or state of a training on this data set."""
    states = [checkpoint for checkpoint in resumable_checkpoints(run) if (checkpoint / "state").exists()]
    matching = [state for state in states if (state / "manifest.json").read_json()["data"] == data]
    return matching[-1] if matching else None

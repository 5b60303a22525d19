"""Checkpoints where the run lives: brought there beside the training, complete by their manifest, forgotten in time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from reasonray.store.run import Run
from reasonray.store.storage import Place, place

_LOOK_SECONDS = 0.2
_AHEAD = 0.2
"""Share of training.save_minutes by which a state is saved before they are over, when nodes that came are taken in."""


class CheckpointStore:
    """One worker's way to the run's storage; what is under way ends before the block does.

    The first worker begins by deleting what an earlier attempt left unfinished: its parts would count as this one's. No
    other can save before that, as it takes a step together with the first.
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
        self._run, self._data, self._rank, self._world = run, data, rank, world
        self._is_preempted, self._report = is_preempted, report
        self._uploads = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None
        self._begun = time.monotonic()
        self._periods = 0
        self._warned = False

    def __enter__(self) -> Self:
        if self._rank == 0:
            delete_incomplete(self._run)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._uploads.shutdown()
        if kind is None and self._last is not None:
            self._last.result()

    def is_due(self) -> bool:
        """Say whether to save at once: a node of the workers is about to be taken away, or it has been long enough.

        Every worker has to ask, and as often as the others.
        """
        warned = self._is_preempted()
        first, self._warned = warned and not self._warned, warned
        periods = (time.monotonic() - self._begun) / (60 * self._run.config.training.save_minutes)
        late, self._periods = int(periods + _AHEAD) > self._periods, int(periods + _AHEAD)
        return first or (late and self._rank == 0)

    def save(self, step: int, path: Path, steps: list[dict[str, float]]) -> None:
        """Bring this worker's part of a checkpoint to the run, in the background; rank 0 completes it with the steps.

        Raises:
            OSError: the one before could not be brought there.
        """
        if self._last is not None:
            self._last.result()
        kind = ["checkpoints", "states"] if path.parent.name == "states" else ["checkpoints"]
        target = self._run.student
        for part in (*kind, path.name):
            target = target / part
        self._report(steps[-1])
        if self._run.place.is_local:
            self._complete(step, target, steps)  # the parts are there, and every worker has come this far
        else:
            self._last = self._uploads.submit(self._upload, step, path, target, steps)

    def _upload(self, step: int, path: Path, target: Place, steps: list[dict[str, float]]) -> None:
        place(path).copy(target)
        (target / "parts" / str(self._rank)).write(b"")
        while self._rank == 0 and len((target / "parts").list()) < self._world:
            time.sleep(_LOOK_SECONDS)
        self._complete(step, target, steps)

    def _complete(self, step: int, target: Place, steps: list[dict[str, float]]) -> None:
        if self._rank == 0:
            (target / "steps.json").write(json.dumps(steps).encode())
            made_of = {"data": self._data, "training": self._run.config.training.step_settings}
            (target / "manifest.json").write(json.dumps({"step": step} | made_of).encode())
            delete_superseded(self._run, steps, but=target)


def resumable_checkpoints(run: Run) -> list[Place]:
    """Return the complete checkpoints and the states saved between them, in order of training steps."""
    return sorted([*run.checkpoints(), *run.states()], key=lambda it: it.name)


def trained_on_other(run: Run, data: str) -> dict[str, Any]:
    """Return the data set and settings that a student or a state was made of, if they are not those asked for."""
    asked = {"data": data} | run.config.training.step_settings
    marks = [it / "manifest.json" for it in (run.student / "final", *resumable_checkpoints(run))]
    for manifest in filter(None, (it.read_json_or_none() for it in marks)):
        made_of: dict[str, Any] = {"data": manifest["data"]} | manifest.get("training", {})
        if any(asked.get(name) != was for name, was in made_of.items()):
            return made_of
    return {}


def delete_incomplete(run: Run) -> None:
    """Delete the checkpoints and states that are not complete."""
    folder = run.student / "checkpoints"
    for it in [*folder.list(), *(folder / "states").list()]:
        if it.name.startswith("step-") and not (it / "manifest.json").exists():
            it.delete()


def delete_superseded(run: Run, steps: Sequence[Mapping[str, float]], but: Place | None) -> None:
    """Delete what nobody needs any more.

    That is the states before `but` (all of them, if that is None), three times the weights' size each, and where
    training.keep is set the models that are neither among the newest nor the best.
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
    """Return the name of the checkpoint with the least loss on the held-out examples, None without such."""
    measured = [it for it in steps if "validation_loss" in it]
    if not measured:
        return None
    best = min(measured, key=lambda it: it["validation_loss"])
    return f"step-{int(best['step']):06d}"

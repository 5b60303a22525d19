"""The steps' figures in TensorBoard, Weights & Biases or MLflow, by accelerate's trackers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from reasonray.config import Training
from reasonray.errors import UserError

__all__ = ["log", "tracking"]


@contextmanager
def tracking(training: Training, name: str, directory: Path) -> Iterator[Sequence[Any]]:
    """Open the configured trackers, and close them at the end.

    Args:
        training: names the trackers; they show it as the run's settings.
        name: of the run.
        directory: for trackers that write files.

    Raises:
        UserError: a tracker's package is not installed.
    """
    PartialState(cpu=True)  # accelerate's logger fails without it
    trackers = [_open(kind, name, directory) for kind in training.trackers]
    settings = {key: str(value) for key, value in training.model_dump(mode="json").items()}
    for tracker in trackers:
        tracker.store_init_configuration(settings)
    try:
        yield trackers
    finally:
        for tracker in trackers:
            tracker.finish()


def log(trackers: Sequence[Any], steps: Sequence[Mapping[str, float]]) -> None:
    """Log the figures of steps to trackers."""
    for figures in steps:
        values = {f"train/{name}": value for name, value in figures.items() if name != "step"}
        for tracker in trackers:
            tracker.log(values, step=int(figures["step"]))


def _open(kind: str, name: str, directory: Path) -> Any:
    if kind not in {str(available) for available in get_available_trackers()}:
        raise UserError(f"training.trackers: {kind} is not installed here; pip install {kind}, or leave it out")
    tracker_class = LOGGER_TYPE_TO_CLASS[kind]
    if tracker_class.requires_logging_directory:
        tracker = tracker_class(name, logging_dir=directory)
    else:
        tracker = tracker_class(name)
    tracker.start()
    return tracker

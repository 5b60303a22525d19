"""Trackers get the figures of every step, and a tracker that is not installed is reported in one line."""

import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from reasonray.config import Training, UserError
from reasonray.training.trackers import log, tracking


def scalars(directory: Path) -> dict[tuple[str, int], float]:
    """Read TensorBoard's files: records of a length, its checksum, an event, its checksum."""
    values = {}
    for file in directory.rglob("events.out.*"):
        content = file.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]
            values |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    return values


def test_tensorboard_holds_the_figures_of_every_step(tmp_path: Path) -> None:
    steps = [{"step": step, "loss": 1 / step, "learning_rate": 1e-3} for step in (1, 2, 3)]
    with tracking(Training(trackers=("tensorboard",)), "a-run", tmp_path) as trackers:
        log(trackers, steps[:2])
        log(trackers, steps[2:])
    logged = scalars(tmp_path)
    for step in steps:
        assert logged["train/loss", int(step["step"])] == pytest.approx(step["loss"])
        assert logged["train/learning_rate", int(step["step"])] == pytest.approx(1e-3)


def test_a_tracker_that_is_not_installed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reasonray.training.trackers.get_available_trackers", lambda: ["tensorboard"])
    with (
        pytest.raises(UserError, match=r"training.trackers: wandb is not installed here; pip install wandb"),
        tracking(Training(trackers=("wandb",)), "a-run", tmp_path),
    ):
        pass

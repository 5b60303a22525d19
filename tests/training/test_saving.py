"""States are written while training goes on, resume bit-equal, and each worker reads its shards only."""

import json
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager

from reasonray.config import Training
from reasonray.store.storage import place
from reasonray.training import checkpoint, loop
from reasonray.training.saving import NotSaved
from tests.store.test_s3 import s3_server
from tests.students import curve, in_workers, make_job, random_examples, train, train_as_worker

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def train_with_states(
    job: loop.TrainingJob, after_step: Any = lambda step: None
) -> tuple[list[dict[str, float]], dict[int, Path], list[int]]:
    """Save a state after each step; return the figures, the states and the steps taken when each was reported."""
    figures: list[dict[str, float]] = []
    saved: dict[int, Path] = {}
    reported: list[int] = []

    def on_step(row: dict[str, float]) -> None:
        figures.append(row)
        after_step(int(row["step"]))

    def on_checkpoint(step: int, path: Path) -> None:
        saved[step] = path
        reported.append(len(figures))

    loop.run(job, 0, 1, None, on_step, on_checkpoint, lambda: len(figures) == 2)
    return figures, saved, reported


def test_training_goes_on_while_a_state_is_written_and_the_state_is_that_of_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, batch=2, epochs=2, async_save=True)
    plain, _ = train(make_job(tmp_path / "plain", batch=2, epochs=2))
    may_write = threading.Event()
    write = dcp.FileSystemWriter.write_data

    def slow_write(*arguments: Any) -> Any:
        assert may_write.wait(60)
        return write(*arguments)

    monkeypatch.setattr(dcp.FileSystemWriter, "write_data", slow_write)
    figures, saved, reported = train_with_states(job, lambda step: step == 6 and may_write.set())
    assert list(saved) == [2, len(figures)]
    assert reported[0] >= 6, "four steps were taken while it was written"
    assert curve(figures) == curve(plain)
    rest, _ = train(job, resume_from=saved[2])
    assert curve(rest) == curve(figures[2:])


def test_control_a_state_that_is_not_copied_is_that_of_a_later_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, batch=2, epochs=2, async_save=True)
    may_write = threading.Event()
    write = dcp.FileSystemWriter.write_data

    def slow_write(*arguments: Any) -> Any:
        assert may_write.wait(60)
        return write(*arguments)

    monkeypatch.setattr(DefaultStager, "stage", lambda self, state: state)
    monkeypatch.setattr(dcp.FileSystemWriter, "write_data", slow_write)
    figures, saved, _ = train_with_states(job, lambda step: step == 6 and may_write.set())
    rest, _ = train(job, resume_from=saved[2])
    assert curve(rest) != curve(figures[2:])


def test_a_state_that_cannot_be_written_ends_training_and_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, batch=2, epochs=2, checkpoints=2, async_save=True)
    write = dcp.FileSystemWriter.write_data

    def full_disk(self: Any, *arguments: Any) -> Any:
        if "step-000004" not in str(self.path):
            raise OSError("No space left on device")
        return write(self, *arguments)

    monkeypatch.setattr(dcp.FileSystemWriter, "write_data", full_disk)
    saved: dict[int, Path] = {}
    figures: list[dict[str, float]] = []
    with pytest.raises(NotSaved, match=r"step 6 cannot be written to .*No space left on device"):
        loop.run(job, 0, 1, None, figures.append, saved.__setitem__, lambda: len(figures) == 6)
    assert list(saved) == [4]
    assert not (Path(job.checkpoint_directory) / "states" / "step-000006").exists()
    monkeypatch.undo()
    rest, _ = train(job, resume_from=saved[4])
    assert [row["step"] for row in rest] == [5, 6, 7, 8]


def test_a_training_that_diverges_completes_the_state_that_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, batch=2, epochs=2, async_save=True)
    take_step, figures, saved = loop.take_step, [], {}

    def diverge(session: loop.Session, index: int) -> dict[str, float]:
        if index == 2:
            raise loop.NonFinite("step 3: loss nan")
        return take_step(session, index)

    monkeypatch.setattr(loop, "take_step", diverge)
    with pytest.raises(loop.NonFinite):
        loop.run(job, 0, 1, None, figures.append, saved.__setitem__, lambda: len(figures) == 2)
    assert list(saved) == [2]
    assert (saved[2] / "state" / ".metadata").exists()


def test_states_are_written_in_the_background_on_gpus_unless_that_doubles_their_memory() -> None:
    assert Training(gpus=1).saves_while_training
    assert not Training(gpus=1, cpu_offload=True).saves_while_training
    assert not Training().saves_while_training
    assert Training(async_save=True).saves_while_training


def record_resuming(rank: int, world: int, job: loop.TrainingJob, state: Path, result: Path) -> None:
    """Write the bytes of the state that each worker reads on resuming, and the figures of the rest."""
    read = torch.zeros(world)
    slice_file = checkpoint._Reader._slice_file

    def counted(self: Any, file: Any, info: Any) -> Any:
        read[rank] += info.length
        return slice_file(self, file, info)

    checkpoint._Reader._slice_file = counted  # type: ignore[method-assign]
    train_as_worker(rank, world, job, result, state)
    checkpoint._Reader._slice_file = slice_file  # type: ignore[method-assign]
    torch.distributed.all_reduce(read)
    if rank == 0:
        result.with_suffix(".read").write_text(json.dumps(read.tolist()))


def train_with_slow_states(rank: int, world: int, job: loop.TrainingJob, result: Path) -> None:
    """Run a job whose states are only written after four further steps; rank 0 writes its figures."""
    write, figures, reported = dcp.FileSystemWriter.write_data, [], []

    def slow_write(*arguments: Any) -> Any:
        begun = len(figures)
        while len(figures) < min(begun + 3, 8):
            time.sleep(0.01)
        return write(*arguments)

    dcp.FileSystemWriter.write_data = slow_write
    loop.run(job, rank, world, None, figures.append, lambda step, _: reported.append((step, len(figures))))
    dcp.FileSystemWriter.write_data = write
    if rank == 0:
        assert reported[0][1] >= reported[0][0] + 3, "training went on"
        result.write_text(json.dumps(figures))


def test_two_workers_that_write_in_the_background_resume_bit_equal_and_read_their_shards_only(tmp_path: Path) -> None:
    rows = random_examples((9, 2, 14, 9, 23))
    job = make_job(tmp_path, rows, batch=3, max_tokens=24, checkpoints=2, async_save=True)
    rest = replace(job, checkpoint_directory=str(tmp_path / "rest"))
    half = Path(job.checkpoint_directory) / "step-000004"
    in_workers(
        2,
        (train_with_slow_states, (job, tmp_path / "all.json")),
        (record_resuming, (rest, half, tmp_path / "rest.json")),
    )
    figures, continued = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("all", "rest"))
    assert len(figures) == 8
    assert curve(continued) == curve(figures[4:])
    read = json.loads((tmp_path / "rest.read").read_text())
    stored = sum(file.stat().st_size for file in (half / "state").glob("*.distcp"))
    assert sum(read) < 1.1 * stored
    assert max(read) < 0.6 * stored


def test_a_state_in_an_object_store_is_read_from_there(tmp_path: Path) -> None:
    job = make_job(tmp_path, epochs=2, checkpoints=2)
    figures, saved = train(job)
    with s3_server() as url:
        urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT")).close()
        query = f"endpoint_override={url.removeprefix('http://')}&scheme=http&region=us-east-1"
        state = place(f"s3://testing:testing@bucket/state?{query}")
        place(saved[1]).copy(state)
        rest: list[dict[str, float]] = []
        loop.run(job, 0, 1, state, rest.append, lambda step, path: None)
    assert curve(rest) == curve(figures[1:])

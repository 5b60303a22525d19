"""The log of a run, on a disk and in an object store."""

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from reasonray.store import events as module
from reasonray.store.events import Events
from reasonray.store.storage import Place, place


@dataclass(frozen=True)
class SlowStore(Place):
    """An object store whose writes are counted, take a while, or fail."""

    writes: list[str] = field(default_factory=list, compare=False)
    faults: list[OSError] = field(default_factory=list, compare=False)
    seconds: float = 0.0

    def __hash__(self) -> int:
        return super().__hash__()

    def __truediv__(self, part: str) -> "SlowStore":
        return SlowStore(self.filesystem, f"{self.path}/{part}", self.writes, self.faults, self.seconds)

    @property
    def is_local(self) -> bool:
        return False

    def names(self, suffix: str = "") -> Sequence[str]:
        return Place(self.filesystem, self.path).names(suffix)

    def read(self) -> bytes:
        return Place(self.filesystem, self.path).read()

    def write(self, content: bytes | pa.Buffer) -> None:
        time.sleep(self.seconds)
        if self.faults:
            raise self.faults.pop()
        self.writes.append(self.name)
        Place(self.filesystem, self.path).write(content)


def a_store(tmp_path: Path, **options: Any) -> SlowStore:
    return SlowStore(place(tmp_path).filesystem, str(tmp_path), **options)


def test_events_of_an_object_store_are_written_together_and_each_once(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    for number in range(100):
        Events(store).emit("sample", number=number)
    assert [event["number"] for event in Events(store).read("sample")] == list(range(100))
    assert len(store.writes) == 1
    Events(store).emit("train")
    assert len(Events(store).read()) == 101
    assert len(store.writes) == 2, "what is written is not written again"


def test_emitting_does_not_wait_for_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FLUSH_SECONDS", 0.01)
    store = a_store(tmp_path, seconds=1.5)
    began = time.monotonic()
    for number in range(20):
        Events(store).emit("sample", number=number)
        time.sleep(0.005)
    assert time.monotonic() - began < 1.4, "one write of the store takes longer"
    assert len(Events(store).read()) == 20


def test_events_wait_while_the_store_is_away(tmp_path: Path) -> None:
    store = a_store(tmp_path, faults=[OSError("away")])
    Events(store).emit("sample", number=0)
    with pytest.raises(OSError, match="away"):
        Events(store).read()
    Events(store).emit("sample", number=1)
    assert [event["number"] for event in Events(store).read()] == [0, 1]


def test_events_of_many_threads_are_all_there(tmp_path: Path) -> None:
    store = a_store(tmp_path)

    def emit(worker: int) -> None:
        for number in range(50):
            Events(store).emit("sample", number=50 * worker + number)
            if number % 10 == 0:
                Events(store).read()

    threads = [threading.Thread(target=emit, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(event["number"] for event in Events(store).read()) == list(range(200))


def test_the_log_of_a_local_run_and_of_an_object_store_are_read_together(tmp_path: Path) -> None:
    Events(place(tmp_path)).emit("sample", number=0)
    Events(a_store(tmp_path)).emit("sample", number=1)
    Events(a_store(tmp_path)).read()
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"stage": "sam')
    assert [event["number"] for event in Events(place(tmp_path)).read("sample")] == [0, 1]
    assert json.loads((tmp_path / "events.jsonl").read_text().splitlines()[0])["number"] == 0

"""The law of the ledger: a reader sees every rollout that was committed before it began, once, and no other one.

It holds whatever is killed, and however writers, readers and compactions interleave.

Merges and reads run in threads that stop before each operation on the storage, until the test lets them take one more.
"""

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reasonray.records import Rollout
from reasonray.store import ledger as module
from reasonray.store.ledger import Ledger
from reasonray.store.storage import Place, place
from tests.factories import a_problem, a_rollout

SAMPLES = 8
KEY = tuple[int, int]
"""(sample, resample)"""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """A worker reads one file after the other, so that it stops at one place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_in_threads", lambda work, names, threads=1: [work(name) for name in names])
        yield


class Killed(BaseException):
    """The process ended."""


class Stepped:
    """Work in a thread that stops before each operation on the storage."""

    def __init__(self, work: Callable[["Stepped"], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self.is_done = self._is_killed = False
        self._may_go, self._has_stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()
        self._has_stopped.acquire()

    def _run(self, work: Callable[["Stepped"], Any]) -> None:
        try:
            self.before_operation()
            self.result = work(self)
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        self.is_done = True
        self._has_stopped.release()

    def before_operation(self) -> None:
        if self._is_killed:
            raise Killed
        self._has_stopped.release()
        self._may_go.acquire()
        if self._is_killed:
            raise Killed

    def step(self) -> None:
        self._may_go.release()
        self._has_stopped.acquire()

    def kill(self) -> None:
        self._is_killed = True
        self.step()

    def finish(self) -> None:
        while not self.is_done:
            self.step()


@dataclass(frozen=True)
class SteppedPlace(Place):
    """A place that asks before each operation."""

    worker: Any = field(compare=False)

    def __hash__(self) -> int:
        return super().__hash__()

    def __truediv__(self, part: str) -> "SteppedPlace":
        return SteppedPlace(self.filesystem, f"{self.path}/{part}", self.worker)

    def names(self, suffix: str = "") -> Any:
        self.worker.before_operation()
        first = super().names(suffix)
        self.worker.before_operation()  # a listing is not a snapshot
        second = super().names(suffix)
        middle = first[len(first) // 2] if first else ""
        return [*(name for name in first if name < middle), *(name for name in second if name >= middle)]

    def read(self) -> bytes:
        self.worker.before_operation()
        return super().read()

    def write(self, content: bytes | pa.Buffer) -> None:
        self.worker.before_operation()
        super().write(content)

    def delete(self) -> None:
        self.worker.before_operation()
        super().delete()


class SteppedLedger(Ledger):
    """A ledger that also asks before it reads a segment, which is no operation of a place."""

    place: SteppedPlace

    def _read_segment(self, *arguments: Any, **options: Any) -> pa.Table:
        self.place.worker.before_operation()
        return super()._read_segment(*arguments, **options)


def stepped(ledger: Ledger, worker: Stepped) -> Ledger:
    return SteppedLedger(SteppedPlace(ledger.place.filesystem, ledger.place.path, worker))


def content(table: pa.Table) -> dict[KEY, str]:
    """What a reader got, by sample and resample."""
    columns = (table[name].to_pylist() for name in ("sample", "resample", "completion"))
    rows = [((sample, resample), text) for sample, resample, text in zip(*columns, strict=True)]
    assert len(dict(rows)) == len(rows), "a rollout was read twice"
    return dict(rows)


class LedgerMachine(RuleBasedStateMachine):
    """Writers, merges and readers of one ledger, with a dictionary as the model."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.ledger = Ledger(place(self.folder))
        self.model: dict[KEY, str] = {}
        """The text of each (sample, resample) that was committed first."""
        self.merges: list[Stepped] = []
        self.readers: list[tuple[Stepped, dict[int, int]]] = []
        """Readers, with the newest resample of each sample when they began."""
        self.number = 0

    def a_segment(self, keys: list[KEY]) -> list[Rollout]:
        self.number += 1
        return [
            a_rollout(f"text of segment {self.number}", sample=sample, resample=resample) for sample, resample in keys
        ]

    @initialize()
    def begin_with_some_segments(self) -> None:
        for number in range(4):
            self.append([(number, 0), (number + 1, number % 2)])

    @rule(keys=st.lists(st.tuples(st.integers(0, SAMPLES - 1), st.integers(0, 2)), min_size=1, max_size=3, unique=True))
    def append(self, keys: list[KEY]) -> None:
        rollouts = self.a_segment(keys)
        self.ledger.append(rollouts)
        for rollout in rollouts:
            self.model.setdefault((rollout.sample, rollout.resample), rollout.completion)

    @rule(operations=st.integers(0, 1))
    def a_writer_dies(self, operations: int) -> None:
        rollouts = self.a_segment([(0, 0), (1, 2)])
        writer = Stepped(lambda worker: stepped(self.ledger, worker).append(rollouts))
        writer.step()
        for _ in range(operations):
            writer.step()
        writer.kill()

    @precondition(lambda self: len(self.merges) < 3)
    @rule(data=st.data())
    def start_merges(self, data: st.DataObject) -> None:
        groups = self.ledger.plan_compaction(min_segments=2)
        if groups and data.draw(st.booleans()):  # a part of a group: what another driver may have planned
            first = groups[0]
            groups = [first[: data.draw(st.integers(2, len(first)))]]
        for group in groups:
            self.merges.append(Stepped(lambda worker, group=group: stepped(self.ledger, worker).merge(group)))

    @rule()
    def start_clearing(self) -> None:
        self.merges.append(Stepped(lambda worker: stepped(self.ledger, worker).plan_compaction()))

    @precondition(lambda self: self.merges)
    @rule(data=st.data(), steps=st.integers(1, 9) | st.just(1000))
    def step_a_merge(self, data: st.DataObject, steps: int) -> None:
        merge = data.draw(st.sampled_from(self.merges))
        for _ in range(steps):
            if not merge.is_done:
                merge.step()
        if merge.is_done:
            self.merges.remove(merge)
            assert merge.error is None, merge.error

    @precondition(lambda self: self.merges)
    @rule(data=st.data())
    def kill_a_merge(self, data: st.DataObject) -> None:
        merge = data.draw(st.sampled_from(self.merges))
        self.merges.remove(merge)
        merge.kill()

    @precondition(lambda self: len(self.readers) < 2)
    @rule()
    def start_reading(self) -> None:
        names = ["sample", "resample", "completion"]
        reader = Stepped(lambda worker: stepped(self.ledger, worker).read(names))
        self.readers.append((reader, self.newest()))

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), steps=st.integers(1, 6))
    def step_a_reader(self, data: st.DataObject, steps: int) -> None:
        reader, before = data.draw(st.sampled_from(self.readers))
        for _ in range(steps):
            if not reader.is_done:
                reader.step()
        if reader.is_done:
            self.readers = [(other, newest) for other, newest in self.readers if other is not reader]
            self.check(reader, before)

    def newest(self) -> dict[int, int]:
        newest: dict[int, int] = {}
        for sample, resample in self.model:
            newest[sample] = max(resample, newest.get(sample, 0))
        return newest

    def check(self, reader: Stepped, before: dict[int, int]) -> None:
        assert reader.error is None, reader.error
        read = content(reader.result)
        for key, text in read.items():
            assert self.model[key] == text, "the first committed text counts"
        resamples = dict(read)
        for sample, resample in before.items():
            assert any(key[0] == sample and key[1] >= resample for key in resamples), f"sample {sample} is missing"

    @invariant()
    def all_that_is_committed_is_read(self) -> None:
        read = content(self.ledger.read(["sample", "resample", "completion"]))
        assert read == {(sample, resample): self.model[sample, resample] for sample, resample in self.newest().items()}
        arrays = self.ledger.sample_arrays([a_problem().id])
        finished = [samples for counted in arrays.values() for samples in counted.samples(0)]
        assert finished == sorted(self.newest())

    def teardown(self) -> None:
        for merge in self.merges:
            merge.finish()
        for reader, before in self.readers:
            reader.finish()
            self.check(reader, before)
        self.all_that_is_committed_is_read()
        self.ledger.compact(min_segments=2)
        self.all_that_is_committed_is_read()
        shutil.rmtree(self.folder)


def test_a_reader_may_be_overtaken_by_a_compaction_at_any_point(tmp_path: Path) -> None:
    names = ["sample", "resample", "completion"]
    for operations in count():
        ledger = Ledger(place(tmp_path / f"{operations}"))
        for sample in range(4):
            ledger.append([a_rollout(f"text {sample}", sample=sample)])
        reader = Stepped(lambda worker, ledger=ledger: stepped(ledger, worker).read(names))
        for _ in range(operations):
            if not reader.is_done:
                reader.step()
        is_over = reader.is_done
        if operations % 2:  # a compaction of a compaction
            ledger.merge(ledger.plan_compaction(min_segments=2)[0][1:3])
        ledger.compact(min_segments=2)
        reader.finish()
        assert reader.error is None, f"before operation {operations}: {reader.error!r}"
        assert content(reader.result) == {(sample, 0): f"text {sample}" for sample in range(4)}
        if is_over:
            break
    assert operations > 8


LedgerMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestLedger = pytest.mark.slow(LedgerMachine.TestCase)

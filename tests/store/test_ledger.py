import json
import random
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonray.errors import UserError
from reasonray.records import Finish, Outcome, Rollout
from reasonray.store.ledger import Ledger
from reasonray.store.sample_arrays import MAX_SAMPLES
from reasonray.store.schema import ROLLOUT_SCHEMA, rollouts_to_table, table_to_rollouts
from reasonray.store.storage import Place, place
from tests.factories import a_problem, a_rollout
from tests.store.rollouts import ROLLOUTS, StoredSamples, counted_one_by_one, stored_samples


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(place(tmp_path / "rollouts"))


def test_an_empty_ledger_reads_as_an_empty_table_of_the_schema(ledger: Ledger) -> None:
    assert ledger.read().schema.equals(ROLLOUT_SCHEMA)
    assert stored_samples(ledger) == {}


def test_what_is_appended_is_read_back_unchanged(ledger: Ledger) -> None:
    rollouts = [a_rollout(f"text {sample} \u2212 é", sample=sample) for sample in range(3)]
    ledger.append(rollouts[:2])
    ledger.append(rollouts[2:])
    assert table_to_rollouts(ledger.read()) == rollouts


def test_a_segment_without_a_manifest_is_not_read(ledger: Ledger) -> None:
    ledger.append([a_rollout(sample=0)])
    name = ledger.append([a_rollout(sample=1)])
    (ledger.place / "manifest" / f"{name}.json").delete()
    assert [rollout.sample for rollout in table_to_rollouts(ledger.read())] == [0]


def test_a_torn_segment_without_a_manifest_is_ignored(ledger: Ledger) -> None:
    ledger.append([a_rollout()])
    (ledger.place / "segments" / "99999-torn.parquet").write(b"PAR1 torn")
    assert ledger.read().num_rows == 1


def test_a_rollout_committed_twice_is_read_once(ledger: Ledger) -> None:
    ledger.append([a_rollout("first", sample=0), a_rollout(sample=1)])
    ledger.append([a_rollout("again", sample=0), a_rollout(sample=2)])
    read = table_to_rollouts(ledger.read())
    assert sorted(rollout.sample for rollout in read) == [0, 1, 2]
    assert [rollout.completion for rollout in read if rollout.sample == 0] == ["first"]
    assert ledger.read(["sample"]).num_rows == 3


def test_stored_samples_are_counted_by_problem_and_fingerprint(ledger: Ledger) -> None:
    other = a_problem("What is 2 + 2?", "4")
    ledger.append([a_rollout(sample=0), a_rollout(sample=3, outcome=Outcome.WRONG), a_rollout(problem=other)])
    ledger.append([a_rollout(sample=4, outcome=Outcome.FAILED)])
    key = (a_problem().id, "fingerprint")
    assert stored_samples(ledger) == {
        key: StoredSamples(frozenset({0, 3, 4}), correct=1, judged=2),
        (other.id, "fingerprint"): StoredSamples(frozenset({0}), correct=1, judged=1),
    }


def test_the_newest_resample_of_a_rollout_is_read_and_the_older_one_stays_stored(ledger: Ledger) -> None:
    cut = {"outcome": Outcome.TRUNCATED, "finish": Finish.LENGTH}
    ledger.append([a_rollout("and so on", sample=0, **cut), a_rollout("and on", sample=1, **cut)])
    assert stored_samples(ledger)[a_problem().id, "fingerprint"].truncated == {0: (0, 3), 1: (0, 2)}
    ledger.append([a_rollout(sample=0, resample=1)])
    ledger.append([a_rollout("and so on", sample=0, **cut)])
    counted = stored_samples(ledger)[a_problem().id, "fingerprint"]
    assert (counted.samples, counted.correct, counted.truncated) == (
        frozenset({0, 1}),
        1,
        {1: (0, 2)},
    )
    assert sorted(ledger.read(["resample"])["resample"].to_pylist()) == [0, 1]
    assert sum(pq.read_metadata(segment.path).num_rows for segment in ledger.segments()) == 4


def test_a_manifest_holds_the_number_of_rows_of_its_segment(ledger: Ledger) -> None:
    name = ledger.append([a_rollout(sample=sample) for sample in range(5)])
    manifest = json.loads((ledger.place / "manifest" / f"{name}.json").read())
    segment = ledger.segments()[0]
    assert manifest["rows"] == pq.read_metadata(segment.path).num_rows == 5
    assert manifest["bytes"] == Path(segment.path).stat().st_size


class Interrupted(Exception):
    """The machine stopped."""


@dataclass(frozen=True)
class DyingPlace(Place):
    """A place whose machine stops before its n-th change of storage."""

    left: list[int] = field(default_factory=list, compare=False)

    def __hash__(self) -> int:
        return super().__hash__()

    def __truediv__(self, part: str) -> "DyingPlace":
        return DyingPlace(self.filesystem, f"{self.path}/{part}", self.left)

    def _spend(self) -> None:
        self.left[0] -= 1
        if self.left[0] < 0:
            raise Interrupted

    def write(self, content: bytes | pa.Buffer) -> None:
        self._spend()
        super().write(content)

    def delete(self) -> None:
        self._spend()
        super().delete()


def many_small_segments(ledger: Ledger) -> Ledger:
    """Append small segments before and after one that is too large to be merged, with duplicates on both sides."""
    for number in range(3):
        ledger.append([a_rollout(f"first {number}", sample=2 * number), a_rollout(sample=2 * number + 1)])
    noise = random.Random(0).randbytes(40_000).hex()
    ledger.append([a_rollout("too late", sample=0), a_rollout(noise, sample=20)])
    ledger.append([a_rollout("later still", sample=0), a_rollout("again", sample=5, resample=1)])
    ledger.append([a_rollout("too late", sample=3), a_rollout(sample=5), a_rollout("too late", sample=20)])
    ledger.append([a_rollout("too late", sample=5, resample=1), a_rollout(sample=6)])
    return ledger


def content(ledger: Ledger) -> list[tuple[str, int, str]]:
    table = ledger.read(["id", "resample", "completion"])
    return sorted(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))


def names(ledger: Ledger, folder: str = "segments") -> set[str]:
    return {file.name.removesuffix(".parquet").removesuffix(".json") for file in (ledger.place / folder).list()}


def test_segments_of_an_earlier_schema_are_read_and_compacted(ledger: Ledger) -> None:
    rollouts = [a_rollout(sample=sample) for sample in range(8)]
    for rollout in rollouts:
        table = rollouts_to_table([rollout])
        ledger.append_table(table.drop_columns(["annotation_ngram_loop", "annotation_reasoning_format"]))
    assert table_to_rollouts(ledger.read()) == rollouts
    assert ledger.read(["annotation_ngram_loop"]).to_pylist() == [{"annotation_ngram_loop": None}] * 8
    assert ledger.compact(min_segments=2) == 8
    assert sorted(rollout.id for rollout in table_to_rollouts(ledger.read())) == sorted(
        rollout.id for rollout in rollouts
    )
    ledger.append_table(table.drop_columns(["completion"]))
    with pytest.raises(KeyError, match="completion"):
        ledger.read()


def test_a_segment_of_a_newer_schema_is_refused_and_not_merged_into_an_older_one(ledger: Ledger) -> None:
    ledger.append([a_rollout()])
    newer = rollouts_to_table([a_rollout(sample=1)]).replace_schema_metadata({"reasonray.schema": "99"})
    manifest = ledger.place / "manifest" / f"{ledger.append_table(newer)}.json"
    manifest.write(json.dumps(json.loads(manifest.read()) | {"schema": "99"}).encode())
    for act in (
        ledger.read,
        lambda: ledger.sample_arrays([a_problem().id]),
        ledger.count,
        ledger.segments,
        lambda: ledger.compact(min_segments=2),
    ):
        with pytest.raises(UserError, match=r"segment .*parquet is of schema 99, .*; update reasonray"):
            act()
    assert len(names(ledger)) == 2


def test_compaction_keeps_every_rollout_in_few_segments(ledger: Ledger) -> None:
    for sample in range(12):
        ledger.append([a_rollout(f"first {sample}", sample=sample), a_rollout("again", sample=sample // 2)])
    ledger.append([a_rollout("longer", sample=7, resample=1)])
    before, counted = content(ledger), stored_samples(ledger)
    assert ledger.count() == 25
    assert ledger.compact(min_segments=4) == 13
    assert (content(ledger), stored_samples(ledger)) == (before, counted)
    assert len(ledger.segments()) == len(names(ledger)) == 1, "what is replaced is deleted"
    assert ledger.count() == 13, "a superseded round stays, a double goes"
    ledger.append([a_rollout(sample=99)])
    assert ledger.compact(min_segments=4) == 0, "few small segments stay as they are"
    assert ledger.compact(min_segments=2) == 2, "a merged segment can be merged again"
    assert len(content(ledger)) == 13


def test_a_merged_segment_takes_the_place_of_its_first_part(ledger: Ledger) -> None:
    before = content(many_small_segments(ledger))
    assert not {"too late", "later still"} & {text for *_, text in before}
    assert ledger.compact(min_segments=2, target_bytes=60_000) == 6
    assert content(ledger) == before
    assert [segment.name.endswith(".merged.parquet") for segment in ledger.segments()] == [True, False, True]


@pytest.mark.slow
@pytest.mark.parametrize("target", [60_000, 64 << 20])
def test_compaction_may_be_killed_at_any_moment(tmp_path: Path, target: int) -> None:
    for operations in count():
        ledger = Ledger(place(tmp_path / f"rollouts{operations}"))
        before, counted = content(many_small_segments(ledger)), stored_samples(ledger)
        dying = Ledger(DyingPlace(ledger.place.filesystem, ledger.place.path, left := [operations]))
        with suppress(Interrupted):
            dying.compact(min_segments=2, target_bytes=target)
        assert (content(ledger), stored_samples(ledger)) == (before, counted), f"killed before change {operations + 1}"
        ledger.append([a_rollout(sample=50)])
        ledger.compact(min_segments=2, target_bytes=target)
        assert len(content(ledger)) == len(before) + 1
        live = {segment.name.removesuffix(".parquet") for segment in ledger.segments()}
        assert names(ledger, "manifest") == live
        assert len(names(ledger) - live) <= 1, "nothing is left lying about but what was being written"
        if left[0] >= 0:
            break
    assert operations >= 14, "compaction was killed before each of its changes"


def test_rollouts_appended_and_read_during_a_compaction_are_all_there(ledger: Ledger) -> None:
    for sample in range(40):
        ledger.append([a_rollout(sample=sample)])
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(lambda: [ledger.append([a_rollout(sample=40 + number)]) for number in range(40)])
        merging = pool.submit(lambda: [ledger.compact(min_segments=2) for _ in range(10)])
        while not (writing.done() and merging.done()):
            assert set(range(40)) <= set(ledger.read(["sample"])["sample"].to_pylist())
            assert ledger.count() >= 40
            assert next(iter(stored_samples(ledger).values())).samples >= set(range(40))
    assert writing.result()
    assert sum(merging.result()) > 40
    assert sorted(ledger.read(["sample"])["sample"].to_pylist()) == list(range(80))


def test_a_committed_segment_that_is_lost_is_a_fault(ledger: Ledger) -> None:
    ledger.append([a_rollout()])
    ledger.segments()[0].delete()
    for act in (ledger.read, lambda: list(ledger.tables())):
        with pytest.raises(FileNotFoundError):
            act()


@pytest.mark.slow
@given(st.lists(st.lists(ROLLOUTS, max_size=8), max_size=5))
@settings(max_examples=60, deadline=None)
def test_stored_samples_equal_a_count_one_by_one(segments: list[list[Rollout]]) -> None:
    segments = [[rollout for rollout in segment if rollout.sample < MAX_SAMPLES] for segment in segments]
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(place(folder))
        for rollouts in segments:
            ledger.append(rollouts)
        expected = counted_one_by_one(segments)
        assert stored_samples(ledger) == expected
        read = ledger.read()
        assert counted_one_by_one([table_to_rollouts(read)]) == expected
        assert read.num_rows == sum(len(stored.samples) for stored in expected.values())
        assert ledger.count() == sum(map(len, segments))
        ledger.compact(min_segments=1)
        assert stored_samples(ledger) == expected
        assert ledger.read().equals(read)


def test_small_files_are_read_in_threads_only_where_they_have_to_be_waited_for(ledger: Ledger) -> None:
    names = [str(number) for number in range(200)]
    readers: set[int] = set()

    def read(name: str, seconds: float) -> str:
        readers.add(threading.get_ident())
        time.sleep(seconds)
        return name

    assert ledger._each(lambda name: read(name, 0), names) == names
    assert readers == {threading.get_ident()}
    assert ledger._each(lambda name: read(name, 0.002), names) == names
    assert len(readers) > 8

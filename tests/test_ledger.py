import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import a_problem, a_rollout

from reasonray.ledger import Ledger, Tally
from reasonray.records import Finish, Outcome
from reasonray.storage import Place, place
from reasonray.tables import ROLLOUT_SCHEMA, table_to_rollouts


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(place(tmp_path / "rollouts"))


def test_an_empty_ledger_reads_as_an_empty_table_of_the_schema(ledger: Ledger) -> None:
    assert ledger.read().schema.equals(ROLLOUT_SCHEMA)
    assert ledger.tally() == {}


def test_what_is_appended_is_read_back_unchanged(ledger: Ledger) -> None:
    rollouts = [a_rollout(f"text {sample} \u2212 é", sample=sample) for sample in range(3)]
    ledger.append(rollouts[:2])
    ledger.append(rollouts[2:])
    assert table_to_rollouts(ledger.read()) == rollouts


def test_a_segment_that_no_manifest_names_does_not_exist(ledger: Ledger) -> None:
    ledger.append([a_rollout(sample=0)])
    name = ledger.append([a_rollout(sample=1)])
    (ledger.place / "manifest" / f"{name}.json").delete()
    assert [it.sample for it in table_to_rollouts(ledger.read())] == [0]


def test_a_torn_segment_without_its_manifest_does_no_harm(ledger: Ledger) -> None:
    ledger.append([a_rollout()])
    (ledger.place / "segments" / "99999-torn.parquet").write(b"PAR1 torn")
    assert ledger.read().num_rows == 1


def test_a_rollout_committed_twice_is_read_once(ledger: Ledger) -> None:
    ledger.append([a_rollout("first", sample=0), a_rollout(sample=1)])
    ledger.append([a_rollout("again", sample=0), a_rollout(sample=2)])
    read = table_to_rollouts(ledger.read())
    assert sorted(it.sample for it in read) == [0, 1, 2]
    assert [it.completion for it in read if it.sample == 0] == ["first"]
    assert ledger.read(["sample"]).num_rows == 3


def test_the_tally_counts_samples_and_correct_ones_by_problem_and_fingerprint(ledger: Ledger) -> None:
    other = a_problem("What is 2 + 2?", "4")
    ledger.append([a_rollout(sample=0), a_rollout(sample=3, outcome=Outcome.WRONG), a_rollout(problem=other)])
    assert ledger.tally() == {
        (a_problem().id, "fingerprint"): Tally(frozenset({0, 3}), 1, 26),
        (other.id, "fingerprint"): Tally(frozenset({0}), 1, 13),
    }


def test_the_newest_round_of_a_rollout_is_read_and_the_older_one_stays(ledger: Ledger) -> None:
    cut = {"outcome": Outcome.TRUNCATED, "finish": Finish.LENGTH}
    ledger.append([a_rollout("and so on", sample=0, **cut), a_rollout("and on", sample=1, **cut)])
    assert ledger.tally()[a_problem().id, "fingerprint"].cut == {0: (0, 3), 1: (0, 2)}
    ledger.append([a_rollout(sample=0, round=1)])
    ledger.append([a_rollout("and so on", sample=0, **cut)])
    tally = ledger.tally()[a_problem().id, "fingerprint"]
    assert (tally.samples, tally.correct, tally.cut) == (frozenset({0, 1}), 1, {1: (0, 2)})
    assert sorted(ledger.read(["round"])["round"].to_pylist()) == [0, 1]
    assert sum(pq.read_metadata(segment.path).num_rows for segment in ledger.segments()) == 4


def test_a_manifest_says_how_many_rows_its_segment_holds(ledger: Ledger) -> None:
    name = ledger.append([a_rollout(sample=sample) for sample in range(5)])
    manifest = json.loads((ledger.place / "manifest" / f"{name}.json").read())
    segment = ledger.segments()[0]
    assert manifest["rows"] == pq.read_metadata(segment.path).num_rows == 5
    assert manifest["bytes"] == Path(segment.path).stat().st_size


class Interrupted(Exception):
    """The machine went away."""


@dataclass(frozen=True)
class DyingPlace(Place):
    """A place whose machine goes away before its n-th change of storage."""

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
    for number in range(6):
        ledger.append([a_rollout(sample=2 * number), a_rollout(sample=2 * number + 1)])
    ledger.append([a_rollout(sample=3)])  # committed twice
    ledger.append([a_rollout("again", sample=5, round=1)])
    return ledger


def content(ledger: Ledger) -> list[tuple[str, int, str]]:
    table = ledger.read(["id", "round", "completion"])
    return sorted(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))


def test_compaction_keeps_every_rollout_in_few_segments(ledger: Ledger) -> None:
    before = content(many_small_segments(ledger))
    assert ledger.compact(least=4) == 8
    assert content(ledger) == before
    assert len(ledger.segments()) == 1
    assert len((ledger.place / "segments").list()) == 1, "what is replaced is deleted"
    assert pq.read_metadata(ledger.segments()[0].path).num_rows == 13, "a superseded round stays, a double goes"
    ledger.append([a_rollout(sample=99)])
    assert ledger.compact(least=4) == 0, "few small segments stay as they are"
    assert ledger.compact(least=2) == 2, "a merged segment can be merged again"
    assert len(content(ledger)) == 13


@pytest.mark.parametrize("operations", range(20))
def test_compaction_may_be_killed_at_any_moment(tmp_path: Path, operations: int) -> None:
    ledger = Ledger(place(tmp_path / "rollouts"))
    before = content(many_small_segments(ledger))
    dying = Ledger(DyingPlace(ledger.place.filesystem, ledger.place.path, [operations]))
    with suppress(Interrupted):
        dying.compact(least=4, target_bytes=60_000)
    assert content(ledger) == before
    ledger.append([a_rollout(sample=50)])
    ledger.compact(least=2, target_bytes=60_000)
    assert len(content(ledger)) == len(before) + 1
    named = {segment.name for segment in ledger.segments()}
    left = {file.name for file in (ledger.place / "segments").list()} - named
    assert len(left) <= 1, "nothing is left lying about but what was being written"
    assert len(named) < 9

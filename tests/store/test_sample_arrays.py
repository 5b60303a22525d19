"""Stored samples as arrays, and the tallies that they are counted from."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonray.records import Finish, Outcome, Rollout, content_hash
from reasonray.store import sample_arrays as module
from reasonray.store.ledger import Ledger
from reasonray.store.sample_arrays import MAX_SAMPLES, no_samples, sample_arrays
from reasonray.store.schema import rollouts_to_table
from reasonray.store.storage import place
from reasonray.store.tally import TALLIED_COLUMNS, Tally, problem_keys, tally_of
from tests.factories import a_problem, a_rollout
from tests.store.rollouts import ROLLOUTS, as_stored_samples, counted_one_by_one

PROBLEMS = [a_problem(question).id for question in ("3 + 3?", "1 + 1?", "never asked", "2 + 2?")]


def a_tally(rollouts: list[Rollout]) -> Tally:
    return tally_of(rollouts_to_table(rollouts).select(TALLIED_COLUMNS))


@given(st.lists(st.lists(ROLLOUTS, max_size=8), max_size=5), st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_arrays_equal_a_count_one_by_one(segments: list[list[Rollout]], batch: int) -> None:
    segments = [[rollout for rollout in segment if rollout.sample < MAX_SAMPLES] for segment in segments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BATCH_ROWS", batch)
        counted = sample_arrays(PROBLEMS, map(a_tally, segments))
    assert as_stored_samples(counted, PROBLEMS) == counted_one_by_one(segments)


@given(st.lists(ROLLOUTS, max_size=40), st.booleans())
@settings(max_examples=20, deadline=None)
def test_a_tally_is_read_as_it_was_written(rollouts: list[Rollout], is_inline: bool) -> None:
    tally = a_tally(rollouts)
    content = tally.content()
    stored = json.loads(json.dumps(tally.to_json(content if is_inline else None)))
    read = Tally.of_json(stored, None if is_inline else content)
    assert read.fingerprints == tally.fingerprints
    assert np.array_equal(read.rows, tally.rows)


def test_an_index_that_no_policy_asks_for_does_not_fill_memory() -> None:
    tally = a_tally([a_rollout(sample=2**31 - 1, problem=a_problem("1 + 1?")), a_rollout(problem=a_problem("1 + 1?"))])
    assert sample_arrays(PROBLEMS, [tally])["fingerprint"].finished.nbytes == len(PROBLEMS)


def test_problems_that_are_not_asked_about_are_left_out() -> None:
    assert sample_arrays(["another"], [a_tally([a_rollout()])]) == {}
    assert sample_arrays([], [a_tally([a_rollout()])]) == {}
    assert no_samples(2).num_finished.tolist() == [0, 0]


def test_the_same_problem_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="have the same key"):
        sample_arrays(["a", "b", "a"], [])


@given(st.lists(st.text(max_size=22) | st.integers(0, 9).map(content_hash)))
@settings(max_examples=50, deadline=None)
def test_a_problem_has_one_key_whatever_stands_next_to_it(ids: list[str]) -> None:
    together = problem_keys(ids).tolist()
    assert together == [problem_keys([problem]).item() for problem in ids]
    assert len(set(together)) == len(set(ids))
    sliced = pa.array(["0" * 20, *ids], pa.large_string()).slice(1)
    assert problem_keys(pa.chunked_array([sliced.slice(0, 1), sliced.slice(1)])).tolist() == together


def test_a_ledger_is_resumed_from_its_tallies_without_opening_a_segment(tmp_path: Path) -> None:
    ledger = Ledger(place(tmp_path))
    ledger.append([a_rollout(sample=0), a_rollout(sample=9, outcome=Outcome.WRONG)])
    ledger.append([a_rollout(sample=0, outcome=Outcome.WRONG), a_rollout(sample=1, outcome=Outcome.FAILED)])
    for segment in ledger.segments():
        segment.write(b"not a parquet file")
    (arrays,) = ledger.sample_arrays([a_problem().id]).values()
    assert (arrays.samples(0), arrays.num_correct[0], arrays.num_judged[0]) == ([0, 1, 9], 1, 2)
    (committed,) = ledger.counts().values()
    assert (committed.rollouts, committed.correct, committed.outcomes["wrong"]) == (4, 1, 2)


def test_the_tally_of_a_large_segment_is_a_file_that_goes_with_it(tmp_path: Path) -> None:
    ledger = Ledger(place(tmp_path))
    for _ in range(2):
        ledger.append_table(rollouts_to_table([a_rollout(sample=sample) for sample in range(300)]))
    small = len((ledger.place / "tallies").list())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reasonray.store.ledger.INLINE_ROWS", 299)
        assert ledger.compact(min_segments=2) == 2
        assert (small, len((ledger.place / "tallies").list())) == (0, 1)
        ledger.append([a_rollout(sample=400)])
        assert ledger.compact(min_segments=2) == 2
    assert len((ledger.place / "tallies").list()) == 1, "the tally of a replaced segment is deleted"
    (arrays,) = ledger.sample_arrays([a_problem().id]).values()
    assert arrays.samples(0) == [*range(300), 400]


def test_segments_of_a_version_without_tallies_are_counted_from_their_columns(tmp_path: Path) -> None:
    ledger = Ledger(place(tmp_path))
    rollouts = [a_rollout(sample=0), a_rollout(sample=3, outcome=Outcome.TRUNCATED, finish=Finish.LENGTH)]
    before = ledger.append(rollouts)
    expected = ledger.counts(), as_json(ledger)
    manifest = ledger.place / "manifest" / f"{before}.json"
    facts = manifest.read_json()
    manifest.write(json.dumps({name: facts[name] for name in ("segment", "rows", "bytes", "schema")}).encode())
    assert (ledger.counts(), as_json(ledger)) == expected


def as_json(ledger: Ledger) -> dict[str, list[list[object]]]:
    arrays = ledger.sample_arrays([a_problem().id])
    return {name: [counted.samples(0), counted.truncated.tolist()] for name, counted in arrays.items()}

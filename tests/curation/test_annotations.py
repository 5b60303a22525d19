"""Evaluation rollouts are annotated once; new ones, resampled ones and those of older detectors are annotated again."""

from pathlib import Path

import pyarrow as pa
import pytest

from reasonray.curation import annotations
from reasonray.curation.annotations import annotated
from reasonray.curation.behaviours import annotate_table
from reasonray.records import Rollout
from reasonray.store.ledger import Ledger
from reasonray.store.storage import place
from tests.factories import a_problem, a_rollout

CHECKED = "<think> Step 1: 6 * 7 = 42. Let me check this. </think> The answer is 42."


def a_sample(sample: int, text: str = CHECKED, resample: int = 0) -> Rollout:
    return a_rollout(text, problem=a_problem(), sample=sample, resample=resample)


def ledger_of(folder: Path, *rollouts: Rollout) -> Ledger:
    ledger = Ledger(place(folder))
    ledger.append(list(rollouts))
    return ledger


def stored(ledger: Ledger) -> Path:
    return Path(ledger.place.path) / "annotations.parquet"


def test_annotations_are_those_of_the_text(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, a_sample(0), a_sample(1, "The answer is 42."))
    rollouts, whole = annotated(ledger), annotate_table(ledger.read())
    assert rollouts["annotation_verification"].to_pylist() == [1, 0]
    assert "completion" not in rollouts.column_names
    for name in ("annotation_num_steps", "annotation_spans", "annotation_dropped_by"):
        assert rollouts[name].to_pylist() == whole[name].to_pylist()


def test_stored_annotations_are_used_and_only_new_texts_are_annotated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = ledger_of(tmp_path, a_sample(0))
    annotated(ledger)
    rows: list[int] = []

    def counting(table: pa.Table) -> pa.Table:
        rows.append(table.num_rows)
        return annotate_table(table)

    monkeypatch.setattr(annotations, "annotate_table", counting)
    before = stored(ledger).stat().st_mtime_ns
    annotated(ledger)
    assert (rows, stored(ledger).stat().st_mtime_ns) == ([], before)
    ledger.append([a_sample(1), a_sample(0, "The answer is 42.", resample=1)])
    assert annotated(ledger).sort_by("sample")["annotation_verification"].to_pylist() == [0, 1]
    assert rows == [2]


def test_another_version_of_the_detectors_annotates_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = ledger_of(tmp_path, a_sample(0))
    annotated(ledger)
    before = stored(ledger).stat().st_mtime_ns
    monkeypatch.setattr(annotations, "DETECTORS_VERSION", "other")
    assert annotated(ledger)["annotation_verification"].to_pylist() == [1]
    assert stored(ledger).stat().st_mtime_ns > before

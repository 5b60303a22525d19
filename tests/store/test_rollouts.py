"""Rollouts as typed records: filtered, read file by file, each sample once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import reasonray.store.run as run_module
from reasonray.errors import UserError
from reasonray.records import Annotation, Outcome, Rollout
from reasonray.store.ledger import Ledger
from reasonray.store.run import Run, begin_or_resume
from reasonray.store.schema import rollouts_to_table
from reasonray.store.storage import place
from tests.factories import a_problem, a_rollout, a_scripted_config

HARD = a_problem("What is 7 * 8?", "56", difficulty="hard")


def annotated(completion: str, outcome: Outcome, dropped_by: str, **changes: Any) -> Rollout:
    annotation = Annotation(dropped_by=dropped_by, selected=not dropped_by)
    return a_rollout(completion, outcome, annotation=annotation, **changes)


ROLLOUTS = [
    annotated("alpha", Outcome.CORRECT, ""),
    annotated("beta", Outcome.WRONG, "incorrect", sample=1),
    annotated("gamma", Outcome.CORRECT, "over_quota", sample=2, teacher="other"),
    annotated("delta", Outcome.CORRECT, "", problem=HARD),
]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return begin_or_resume(a_scripted_config(tmp_path))


@pytest.fixture
def curated(run: Run) -> Run:
    """A run with curated rollouts in two files; its ledger holds a rollout that came later."""
    for number, part in enumerate((ROLLOUTS[:2], ROLLOUTS[2:])):
        (run.curated / "rollouts" / f"{number}.parquet").write_table(rollouts_to_table(part))
    (run.curated / "manifest.json").write(json.dumps({"rollouts": ["0.parquet", "1.parquet"]}).encode())
    run.ledger.append([a_rollout("epsilon", sample=3)])
    return run


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, "alpha beta gamma delta"),
        ({"outcome": "wrong"}, "beta"),
        ({"outcome": Outcome.CORRECT}, "alpha gamma delta"),
        ({"outcome": "timeout"}, ""),
        ({"teacher": "other"}, "gamma"),
        ({"difficulty": "hard"}, "delta"),
        ({"dropped_by": "over_quota"}, "gamma"),
        ({"dropped_by": ""}, "alpha delta"),
        ({"selected": True}, "alpha delta"),
        ({"selected": False}, "beta gamma"),
        ({"problem": HARD.id}, "delta"),
        ({"problem": HARD.id[:8]}, ""),
        ({"outcome": "correct", "selected": True, "difficulty": "easy"}, "alpha"),
    ],
)
def test_rollouts_match_every_filter(curated: Run, filters: dict[str, Any], expected: str) -> None:
    assert [rollout.completion for rollout in curated.rollouts(**filters)] == expected.split()


def test_curated_rollouts_are_whole_records(curated: Run) -> None:
    assert list(curated.rollouts()) == ROLLOUTS


def test_without_curation_the_ledger_is_read_and_annotations_cannot_be_asked_for(run: Run) -> None:
    assert list(run.rollouts()) == []
    rollouts = [a_rollout(sample=sample) for sample in range(3)]
    run.ledger.append(rollouts)
    assert list(run.rollouts()) == rollouts
    for filters in ({"dropped_by": "incorrect"}, {"selected": True}):
        with pytest.raises(UserError, match=r"is not curated, .*; run jobs/curate.py first"):
            run.rollouts(**filters)  # type: ignore[arg-type]


def test_a_wrong_filter_is_refused_before_anything_is_read(run: Run) -> None:
    with pytest.raises(TypeError, match="verdict"):
        run.rollouts(verdict="wrong")  # type: ignore[call-arg]
    with pytest.raises(UserError, match="no outcome 'false'; there are correct, wrong, no_answer, truncated"):
        run.rollouts(outcome="false")
    with pytest.raises(UserError, match="no outcome 'false'"):
        run.evaluation_rollouts("base", outcome="false")


def test_the_rollouts_of_a_model_under_evaluation_are_its_own(run: Run) -> None:
    run.evaluation("base").append([a_rollout("right"), a_rollout("wrong", Outcome.WRONG, sample=1)])
    run.evaluation("student").append([a_rollout("better", problem=HARD)])
    assert [rollout.completion for rollout in run.evaluation_rollouts("base", outcome="wrong")] == ["wrong"]
    assert [rollout.completion for rollout in run.evaluation_rollouts("student", difficulty="hard")] == ["better"]
    assert list(run.evaluation_rollouts("nobody")) == []


def test_only_the_newest_resample_of_each_sample_is_read_whatever_segment_holds_it(run: Run) -> None:
    run.ledger.append([a_rollout("old", sample=0), a_rollout("kept", sample=1)])
    run.ledger.append([a_rollout("new", sample=0, resample=1), a_rollout("committed twice", sample=1)])
    run.ledger.append([a_rollout("older", sample=0)])
    assert [rollout.completion for rollout in run.rollouts()] == ["kept", "new"]
    assert list(run.rollouts(outcome="wrong")) == []


@pytest.mark.parametrize("read_before", range(1, 7))
def test_tables_are_those_of_read_even_if_segments_are_merged_meanwhile(tmp_path: Path, read_before: int) -> None:
    ledger = Ledger(place(tmp_path / "rollouts"))
    for sample in range(6):
        ledger.append([a_rollout(f"first {sample}", sample=sample), a_rollout("again", sample=sample // 2)])
    ledger.append([a_rollout("longer", sample=1, resample=1)])
    expected = sorted(ledger.read()["completion"].to_pylist())
    tables = ledger.tables(["completion"])
    parts = [next(tables) for _ in range(read_before)]
    assert ledger.compact(min_segments=2) == 7
    parts += tables
    assert sorted(text for part in parts for text in part["completion"].to_pylist()) == expected
    assert parts[0].schema.names == ["completion"]


def test_a_lost_segment_is_a_fault_for_tables_too(tmp_path: Path) -> None:
    ledger = Ledger(place(tmp_path / "rollouts"))
    ledger.append([a_rollout()])
    ledger.segments()[0].delete()
    with pytest.raises(FileNotFoundError):
        list(ledger.tables())


def test_files_are_opened_one_by_one_as_they_are_needed(curated: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    read: Callable[..., Any] = run_module.read_rollouts
    monkeypatch.setattr(run_module, "read_rollouts", lambda file: opened.append(file.name) or read(file))
    rollouts = curated.rollouts()
    assert opened == []
    next(rollouts)
    assert opened == ["0.parquet"]
    assert len(list(rollouts)) == 3
    assert opened == ["0.parquet", "1.parquet"]

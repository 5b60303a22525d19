"""Runs that earlier versions left on disk, one for each version of the schema, opened by this version.

Each archive holds stored.toml, the base model of the student, and runs/stored: two scripted teachers, one with a raised
max_tokens; a judge and a labeller; curation with a quota and validation; a student; a report.
"""

import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from reasonray.cli.show import Query, show
from reasonray.cli.status import describe
from reasonray.records import OVER_QUOTA, Split
from reasonray.store.run import Run, find_run
from reasonray.store.schema import SCHEMA_VERSION, read_rollouts, schema_version
from reasonray.store.verdicts import newer_verdicts, with_verdicts
from tests.commands import ROOT, run_python
from tests.store.rollouts import stored_samples

ARCHIVES = sorted((Path(__file__).parent / "archives").glob("schema-*.tar.gz"))
EXTENDED = "teachers.0.sampling.max_tokens=4096"
"""Overrides that had extended the run before it was stored."""


def _version(archive: Path) -> str:
    return archive.name.removesuffix(".tar.gz")


@pytest.fixture(params=ARCHIVES, ids=_version)
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Unpack an archive and return its directory."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def segment_columns(run: Run) -> list[list[str]]:
    return [pq.read_schema(segment.path).names for segment in run.ledger.segments()]


def resample_column(run: Run) -> str:
    """The name of the column `resample` in the archive: "round" up to schema 2."""
    return "round" if "round" in segment_columns(run)[0] else "resample"


def run_of(stored: Path) -> Run:
    return find_run(str(stored / "runs" / "stored"))


def command(stored: Path, *arguments: str) -> str:
    """Run a command of reasonray in the archive's directory and return its output."""
    main = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from reasonray.cli.main import main; sys.exit(main())"
    done = run_python("-c", main, *arguments, cwd=stored)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    return done.stdout


def test_there_is_a_stored_run_of_the_previous_version() -> None:
    names = {path.name for path in ARCHIVES}
    assert f"schema-{int(SCHEMA_VERSION) - 1}.tar.gz" in names


def test_the_rollouts_have_todays_columns_and_values(stored: Path, request: pytest.FixtureRequest) -> None:
    run = run_of(stored)
    segment = pq.read_schema(run.ledger.segments()[0].path)
    assert f"schema-{schema_version(segment)}" == request.node.callspec.id, "the archive has the schema of its name"
    assert ("opening" in segment.names) == (int(schema_version(segment)) >= 4)
    assert "logprobs" not in segment.names
    added = {"prompt": 0, "opening": "", "tokens_estimated": False, "token_ids": None, "logprobs": None}
    assert run.ledger.read(list(added)).to_pylist() == [added] * 12 * 6
    rollouts = run.ledger.read(["id", "resample", "sample", "completion_tokens"])
    assert rollouts.num_rows == 12 * 6
    assert set(rollouts["resample"].to_pylist()) == {0, 1}
    curated = [read_rollouts(file).to_pylist() for file in run.curated_rollouts() or ()]
    rows = [row for part in curated for row in part]
    assert len(rows) == 12 * 6
    assert OVER_QUOTA in {row["annotation_dropped_by"] for row in rows}
    assert "surplus" not in {row["annotation_dropped_by"] for row in rows}
    assert all(row["annotation_num_steps"] is not None for row in rows)


def test_status_and_show_read_the_run(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    run = run_of(stored)
    lines = [line.split() for line in describe(run).splitlines()]
    samples = {line[4]: int(line[1]) for line in lines if line[0] == "sample"}
    again = {line[4]: int(line[-3].strip("(")) for line in lines if line[0] == "sample" and line[-1] == "again)"}
    resampled = Counter(
        run.ledger.read(["teacher", "resample"]).filter(pc.field("resample") > 0)["teacher"].to_pylist()
    )
    assert samples == Counter(run.ledger.read(["teacher"])["teacher"].to_pylist())
    assert again == resampled != {}
    show(run, Query(rule=OVER_QUOTA), Console(force_terminal=False), limit=3)
    assert f"dropped by {OVER_QUOTA}" in capsys.readouterr().out


def test_stored_samples_are_counted_as_in_the_segments(stored: Path) -> None:
    run = run_of(stored)
    rows = [row for segment in run.ledger.segments() for row in pq.read_table(segment.path).to_pylist()]
    newest: dict[str, dict[str, Any]] = {}
    resample = resample_column(run)
    for row in rows:
        if row["id"] not in newest or row[resample] > newest[row["id"]][resample]:
            newest[row["id"]] = row
    expected = {
        (row["problem_id"], row["fingerprint"], row["sample"]): (row[resample], row["completion_tokens"])
        for row in newest.values()
        if row["finish"] == "length"
    }
    counted = stored_samples(run.ledger)
    assert sum(len(samples.samples) for samples in counted.values()) == len(newest) == 12 * 6
    truncated = {
        (*key, sample): facts for key, samples in counted.items() for sample, facts in samples.truncated.items()
    }
    assert truncated == expected != {}


def test_rollouts_are_records_of_this_version(stored: Path) -> None:
    run = run_of(stored)
    rollouts = list(run.rollouts())
    assert len(rollouts) == 12 * 6
    over_quota = [rollout for rollout in rollouts if rollout.annotation and rollout.annotation.dropped_by == OVER_QUOTA]
    assert list(run.rollouts(dropped_by=OVER_QUOTA)) == over_quota != []
    assert len(list(run.rollouts(selected=True))) == 24
    assert {rollout.resample for rollout in rollouts} == {0, 1}
    assert all(rollout.annotation and rollout.annotation.num_steps >= 0 for rollout in rollouts)
    (run.curated / "manifest.json").delete()
    committed = {rollout.id: rollout.completion for rollout in run.rollouts()}
    assert committed == {rollout.id: rollout.completion for rollout in rollouts}
    samples = run.config.evaluation.samples
    assert len(list(run.evaluation_rollouts("student"))) == len(run.problems(Split.TEST)) * samples


def test_verdicts_judgements_and_labels_are_read(stored: Path) -> None:
    run = run_of(stored)
    verdicts = newer_verdicts(run)
    assert verdicts.column_names[:2] == ["id", "resample"]
    rollouts = run.ledger.read()
    assert with_verdicts(rollouts, verdicts).num_rows == rollouts.num_rows
    assert run.judgements.read(["resample", "verdict_outcome"]).num_rows > 0
    assert run.labels.read(["resample"]).num_rows > 0


def test_segments_are_compacted_into_segments_of_this_version(stored: Path) -> None:
    run = run_of(stored)
    before = run.ledger.read().sort_by("id")
    assert run.ledger.compact(min_segments=2) > 1
    assert run.ledger.read().sort_by("id") == before
    assert all("round" not in columns and "logprobs" in columns for columns in segment_columns(run))


@pytest.mark.ray
def test_the_report_has_the_numbers_of_the_stored_one(stored: Path) -> None:
    before = json.loads((stored / "runs" / "stored" / "metrics.json").read_text())
    command(stored, "report", "runs/stored")
    after = json.loads((stored / "runs" / "stored" / "metrics.json").read_text())
    assert after["evaluation"] == before["evaluation"]
    assert after["difference"] == before["difference"]
    quota, steps = ("surplus", "depth") if "surplus" in before["funnel"] else ("over_quota", "num_steps")
    assert after["funnel"]["over_quota"] == before["funnel"][quota] > 0
    assert after["training"] == before["training"]
    for arm, figures in before["behaviours"].items():
        assert after["behaviours"][arm]["num_steps"] == figures[steps]


@pytest.mark.ray
@pytest.mark.parametrize("stored", [ARCHIVES[0], ARCHIVES[-1]], ids=_version, indirect=True)
def test_the_command_that_made_the_run_finds_it_done_and_then_the_run_extends_and_trains(stored: Path) -> None:
    run = stored / "runs" / "stored"
    final = run / "student" / "final" / "model.safetensors"
    weights = final.read_bytes()
    printed = [
        line for line in command(stored, "distill", "stored.toml", EXTENDED).splitlines() if "done before" in line
    ]
    stages = Counter(line.split()[0] for line in printed)
    assert (stages["sample"], stages["train"]) == (2, 1)
    assert final.read_bytes() == weights, "the same examples make the same student"
    command(stored, "distill", "stored.toml", EXTENDED, "policy.samples=8")
    assert run_of(stored).ledger.read(["id"]).num_rows == 12 * 8
    assert final.read_bytes() != weights
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["funnel"]["rollouts"] == 12 * 8
    assert metrics["funnel"]["selected"] == metrics["funnel"]["trained_examples"] + sum(
        metrics["funnel"]["left_out"].values()
    )
    assert (run / "earlier").is_dir(), "the student of the earlier data is kept"

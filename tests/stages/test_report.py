"""Reports of runs on disk: which files are written, what is left out, and the comparison of runs."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from reasonray.config import UserError
from reasonray.records import Split
from reasonray.reporting.compared import traced
from reasonray.stages.compare import compare
from reasonray.stages.report import report
from reasonray.store.run import Run, begin_or_resume, find_run
from tests.reporting.test_markdown import NUMBER
from tests.reporting.test_page import Page, resolve, shown_value
from tests.synthetic_run import a_config, arm_table, problems

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
ARCHIVE = ROOT / "tests/store/archives/schema-2.tar.gz"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def a_run(
    root: Path, name: str = "a-run", gain: float = 1.0, test: int = 12, samples: int = 4, **changes: object
) -> Run:
    """A run of 12 train problems whose base and student were measured."""
    run = begin_or_resume(a_config(root=str(root), name=name, **changes))
    train, held_out = problems(12, Split.TRAIN), problems(test, Split.TEST)
    run.store_problems([*train, *held_out])
    run.ledger.append_table(bare(arm_table("teacher", train, 4)))
    for arm in ("base", "student"):
        run.evaluation(arm).append_table(bare(arm_table(arm, held_out, samples, gain=gain)))
    return run


def bare(table: pa.Table) -> pa.Table:
    """Rollouts as sampling leaves them: not annotated."""
    for field in table.schema:
        if field.name.startswith("annotation_"):
            at = table.schema.get_field_index(field.name)
            table = table.set_column(at, field, pa.nulls(table.num_rows, field.type))
    return table


def read(run: Run, name: str) -> str:
    return (Path(run.place.path) / name).read_text()


def test_a_run_is_reported_in_three_files_with_the_same_numbers(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    written = report(run)
    metrics = json.loads(read(run, "metrics.json"))
    page = read(run, "report.html")
    numbers = Page(page).numbers
    assert len(numbers) > 100
    assert all(float(value) == resolve(metrics, pointer) for pointer, value, _ in numbers)
    assert re.sub("<[^>]+>", "", page.split("<h1>")[1].split("</h1>")[0]) in read(run, "report.md")
    assert json.loads(read(run, "evaluation/student/scores.json")) == metrics["evaluation"]["student"]
    assert "Every rollout of the run is here" in page
    assert written.headline == " ".join(re.sub("<[^>]+>", "", page.split("<h1>")[1].split("</h1>")[0]).split())
    assert "pass@1" in written.headline
    assert Path(written.path).read_text() == page


def test_accelerator_hours_sum_all_sessions_of_every_stage_that_uses_accelerators(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    for stage, session, seconds in (
        ("sample", 1, 1800.0),
        ("train", 2, 900.0),
        ("train", 2, 3600.0),
        ("train", 3, 7200.0),
        ("verify", 4, 360.0),
    ):
        run.events.emit(stage, session=session, seconds=seconds, accelerator_seconds=seconds)
    run.events.emit("curate", session=5, seconds=9.0)
    report(run)
    hours = {"sample": 0.5, "verify": 0.1, "train": 3.0}
    assert json.loads(read(run, "metrics.json"))["provenance"]["accelerator_hours"] == hours


def test_a_run_without_rollouts_and_one_of_a_single_problem_are_reported(tmp_path: Path) -> None:
    empty = begin_or_resume(a_config(root=str(tmp_path), name="empty"))
    with pytest.raises(UserError, match="holds nothing to report"):
        report(empty)
    empty.store_problems([*problems(3, Split.TRAIN), *problems(3, Split.TEST)])
    report(empty)
    assert "Nothing has been sampled yet" in read(empty, "report.md")
    single = a_run(tmp_path, "single", test=1)
    report(single)
    assert "measure on more" in read(single, "report.md")


def test_an_arm_that_is_not_finished_is_left_out_and_named(tmp_path: Path) -> None:
    run = a_run(tmp_path, evaluation={"samples": 4, "k": [1]})
    held_out = run.problems(Split.TEST)
    student = Path(run.evaluation("student").place.path)
    shutil.rmtree(student)
    run.evaluation("student").append_table(bare(arm_table("student", held_out, 4)).slice(0, 30))
    report(run)
    metrics = json.loads(read(run, "metrics.json"))
    assert list(metrics["evaluation"]) == ["base"]
    assert metrics["unfinished"] == {"student": {"samples": 30, "of": 48}}
    assert "Model student is left out: only 30 of its 48 samples exist" in read(run, "report.md")


def test_fewer_samples_than_are_stored_can_be_reported(tmp_path: Path) -> None:
    a_run(tmp_path)
    run = begin_or_resume(a_config(root=str(tmp_path), name="a-run", evaluation={"samples": 2, "k": [1]}))
    report(run)
    assert json.loads(read(run, "metrics.json"))["evaluation"]["student"]["all"]["samples"] == 2


def test_rollouts_that_the_page_cannot_hold_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(tmp_path, test=60)
    monkeypatch.setattr("reasonray.stages.report.BUDGET", 60_000)
    report(run)
    (shown,) = re.findall(r"data-shown>(\d+) of 528<", read(run, "report.html"))
    assert 50 < int(shown) < 200


def test_runs_are_paired_on_the_problems_that_both_hold_out(tmp_path: Path) -> None:
    runs = [a_run(tmp_path, "one", 0.3, test=12), a_run(tmp_path, "two", 1.5, test=24, samples=2, seed=3,
                                                        evaluation={"samples": 2, "k": [1]})]  # fmt: skip
    for run in runs:
        report(run)
    out = tmp_path / "out"
    compare([str(run.place) for run in runs], str(out))
    comparison = json.loads((out / "comparison.json").read_text())
    pair = comparison["pairs"]["two-one"]["slices"]
    assert pair["all"]["problems"] == 12
    assert pair["all"]["p_holm"] == pair["all"]["p"]
    assert comparison["config"]["seed"] == {"one": "0", "two": "3"}
    assert "evaluation.samples" in comparison["config"]
    assert "root" not in comparison["config"]
    page = (out / "comparison.html").read_text()
    numbers = Page(page).numbers
    assert len(numbers) > 40
    assert all(float(value) == resolve(comparison, pointer) for pointer, value, _ in numbers)
    assert [address for address in Page(page).loads if not address.startswith("#")] == ["data:,"]
    assert "default-src 'none'" in page
    printed = {pointer: text for pointer, _, text in numbers}
    in_markdown = NUMBER.findall(traced(comparison))
    assert printed.keys() == {pointer for _, pointer, _ in in_markdown}
    for value, pointer, text in in_markdown:
        assert printed[pointer] == text
        if "≤" not in text:
            shown, error = shown_value(text)
            assert min(abs(shown - float(value)), abs(shown - 100 * float(value))) <= error
    assert "## Student against student" in (out / "comparison.md").read_text()


def test_the_comparison_of_runs_has_the_intervals_of_their_templates(tmp_path: Path) -> None:
    test = [replace(problem, metadata={"template": i // 6}) for i, problem in enumerate(problems(24, Split.TEST))]
    before, after = (bare(arm_table(arm, test, 4)) for arm in ("base", "student"))
    runs = []
    for name, arms in (("one", {"student": before}), ("two", {"base": before, "student": after})):
        evaluation = {"samples": 4, "k": [1], "cluster": "template"}
        run = begin_or_resume(a_config(root=str(tmp_path), name=name, evaluation=evaluation))
        run.store_problems([*problems(3, Split.TRAIN), *test])
        for arm, table in arms.items():
            run.evaluation(arm).append_table(table)
        report(run)
        runs.append(run)
    compare([str(run.place) for run in runs], str(tmp_path / "out"))
    compared = json.loads((tmp_path / "out" / "comparison.json").read_text())["pairs"]["two-one"]["slices"]["all"]
    reported = json.loads(read(runs[1], "metrics.json"))["difference"]["student-base"]["all"]
    assert compared == reported | {"p_holm": reported["p"]}


def test_a_student_that_is_not_measured_whole_is_in_no_pair_and_named(tmp_path: Path) -> None:
    runs = [a_run(tmp_path, name) for name in ("one", "two", "three")]
    shutil.rmtree(Path(runs[1].evaluation("student").place.path))
    part = arm_table("student", runs[1].problems(Split.TEST), 4).slice(0, 46)
    runs[1].evaluation("student").append_table(bare(part))
    for run in runs:
        report(run)
    compare([str(run.place) for run in runs], str(tmp_path / "out"))
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert list(comparison["pairs"]) == ["three-one"]
    assert comparison["unfinished"] == {"two": {"samples": 46, "of": 48}}
    sentence = "The student of two is left out: only 46 of its 48 samples exist"
    assert sentence in (tmp_path / "out" / "comparison.md").read_text()


def test_several_runs_have_a_sentence_for_each_pair(tmp_path: Path) -> None:
    runs = [a_run(tmp_path, name, gain) for name, gain in (("one", 0.3), ("two", 1.5), ("three", 0.9))]
    for run in runs:
        report(run)
    compare([str(run.place) for run in runs], str(tmp_path / "out"))
    page, text = ((tmp_path / "out" / f"comparison.{suffix}").read_text() for suffix in ("html", "md"))
    pairs = ["two against one: ", "three against one: ", "three against two: "]
    assert re.findall("^- (.*?: )", text, flags=re.MULTILINE) == pairs
    assert re.findall("<li>([^<]*: )", page) == pairs
    assert "<h1>The runs’ students, pair by pair</h1>" in page


def test_runs_without_a_common_problem_are_shown_side_by_side(tmp_path: Path) -> None:
    one, two = a_run(tmp_path, "one"), begin_or_resume(a_config(root=str(tmp_path), name="two"))
    other = problems(6, Split.TEST, seed=9)
    two.store_problems([*problems(3, Split.TRAIN), *other])
    two.evaluation("student").append_table(bare(arm_table("student", other, 4)))
    for run in (one, two):
        report(run)
    compare([str(one.place), str(two.place)], str(tmp_path / "out"))
    assert "cannot be paired" in (tmp_path / "out" / "comparison.md").read_text()
    assert "nothing can be paired" in (tmp_path / "out" / "comparison.html").read_text()


def test_a_run_without_metrics_or_with_those_of_a_later_version_is_not_compared(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    with pytest.raises(UserError, match="no metrics"):
        compare([str(run.place), str(run.place)], str(tmp_path / "out"))
    report(run)
    (run.place / "metrics.json").write(json.dumps(json.loads(read(run, "metrics.json")) | {"schema": 99}).encode())
    with pytest.raises(UserError, match=r"metrics.json cannot be read \(it has schema 99"):
        compare([str(run.place), str(run.place)], str(tmp_path / "out"))


def test_a_run_that_an_earlier_version_reported_is_compared_under_todays_names(tmp_path: Path) -> None:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    old = find_run(str(tmp_path / "runs" / "stored"))
    stored = json.loads(read(old, "metrics.json"))
    new = a_run(tmp_path)
    report(new)
    compare([str(old.place), str(new.place)], str(tmp_path / "out"))
    compared = json.loads((tmp_path / "out" / "comparison.json").read_text())["runs"]["stored"]
    assert compared["funnel"]["over_quota"] == stored["funnel"]["surplus"]
    assert compared["behaviours"]["student"]["num_steps"] == stored["behaviours"]["student"]["depth"]
    assert compared["evaluation"] == stored["evaluation"]
    row = re.search(r"Reasoning steps .*", (tmp_path / "out" / "comparison.md").read_text())
    assert row is not None
    assert f"{stored['behaviours']['student']['depth']['mean']:.2f}" in row.group()


def test_the_job_reports_a_run_by_its_directory_and_refuses_one_that_holds_no_run(tmp_path: Path) -> None:
    run = a_run(tmp_path)

    def job(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "jobs/report.py"), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=100)

    done = job(str(run.place))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "pass@1 of student, 12 problems × 4" in done.stdout
    both = job(str(run.place), str(run.place), "out=side")
    assert both.returncode == 0, both.stderr[-2000:]
    assert (tmp_path / "side" / "comparison.html").exists()
    wrong = job(str(run.place), "nowhere")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert wrong.stderr.startswith("error: no run at nowhere")

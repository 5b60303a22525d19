"""Training under torchrun, without Ray: the same steps, resumed after a crash, mistakes in one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

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


def test_a_mistake_is_reported_in_one_line(tmp_path: Path) -> None:
    called = [sys.executable, *arguments(tmp_path)]
    nowhere = [*called[:4], str(tmp_path / "none"), called[5]]
    elsewhere = ["env", "RANK=1", "WORLD_SIZE=2", *nowhere]  # on one of two machines
    for changed, message in (
        (nowhere, "error: no examples at"),
        (elsewhere, "error: rank 1: no examples at"),
        ([*called, "training.max_tokens=1"], "nothing to train on: 8 examples, 8 of them beyond"),
        ([*called, "training.batches=1"], "batches"),
    ):
        ended = subprocess.run(changed, capture_output=True, text=True)
        assert ended.returncode == 2, ended.stderr
        assert ended.stderr.splitlines()[-1].startswith("error: ")
        assert message in ended.stderr.splitlines()[-1]
        assert "Traceback" not in ended.stderr

"""Training under Ray Train: two gloo workers, resumed after a death, and mistakes that are told in one line."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from factories import a_scripted_config
from students import write_model
from transformers import AutoModelForCausalLM

from reasonray.config import UserError
from reasonray.funnel import Trained
from reasonray.run import Run, open_run
from reasonray.stages.report import trained
from reasonray.stages.train import train

pytestmark = pytest.mark.ray

TEXTS = [f"<think> {a} plus {b} is {a + b}. </think> The answer is {a + b}." for a in range(6) for b in range(4)]


def curated(root: Path, texts: list[str] = TEXTS, *, model: Path | None = None, **training: Any) -> Run:
    """A run of a tiny student whose curation is done, its data set in two files."""
    model = model or write_model(root / "model", vocab=258)  # all that its tokenizer knows
    settings = {"precision": "fp32", "batch": 8, "max_tokens": 160, "epochs": 2, "learning_rate": 1e-3, "cpus": 1}
    student = {"model": str(model), "engine": {"kind": "scripted"}, "gpus": 0}
    config = a_scripted_config(root, student=student, training=settings | {"checkpoints": 2} | training)
    run = open_run(config)
    rows = [
        {"id": f"r{number:03}", "prompt": [{"role": "user", "content": f"q{number}"}], "completion_text": text}
        for number, text in enumerate(texts)
    ]
    data = Path(run.curated.path) / "data"
    data.mkdir(parents=True)
    for name, part in (("b.parquet", rows[::2]), ("a.parquet", rows[1::2])):
        if part:
            pq.write_table(pa.Table.from_pylist(part), data / name)
    names = [file.name for file in data.iterdir()]
    (run.curated / "manifest.json").write(json.dumps({"data": names, "selected": len(texts)}).encode())
    return run


def steps(run: Run) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run.student / "steps.jsonl").read().decode().splitlines()]


def weights(run: Run) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = AutoModelForCausalLM.from_pretrained(Path(run.student.path) / "final").state_dict()
    return state


def test_two_workers_train_once_and_leave_what_is_needed(ray_cluster: None, tmp_path: Path) -> None:
    overlong, torn = "<think> " + "very " * 60 + "</think>", "4!5"  # "!" is the token at which this model stops
    run = curated(tmp_path, [*TEXTS, overlong, torn], workers=2)
    train(run)
    manifest = json.loads((run.student / "final" / "manifest.json").read())
    assert (manifest["examples"], manifest["overlong"], manifest["refused"]) == (24, 1, 1)
    tokens = sum(len(text.encode()) + 1 for text in TEXTS)  # bytes, and a stop token each
    assert manifest["loss_tokens"] == tokens
    assert trained(run) == Trained(examples=24, tokens=tokens, left_out=2)  # what is selected has one fate
    figures = steps(run)
    assert [row["step"] for row in figures] == [1, 2, 3, 4, 5, 6]
    assert figures[-1]["loss"] < figures[0]["loss"]
    assert [event["step"] for event in run.events.read("train") if "step" in event][-1] == 6
    assert [it.name for it in run.checkpoints()] == ["step-000003", "step-000006"]
    for checkpoint in run.checkpoints():
        assert (checkpoint / "model" / "tokenizer_config.json").exists()
        assert not (checkpoint / "state").exists()
    before = {file: file.stat().st_mtime_ns for file in Path(run.student.path).rglob("*")}
    train(run)
    assert {file: file.stat().st_mtime_ns for file in Path(run.student.path).rglob("*")} == before


def kill_a_worker_after_a_checkpoint(run: Run, killed: list[int]) -> None:
    """SIGKILL one of this test's own training workers, as soon as there is something to resume from."""
    while not run.checkpoints():
        time.sleep(0.02)
    workers = [
        it for it in psutil.Process().children(recursive=True) if "RayTrainWorker" in it.name() + str(it.cmdline())
    ]
    workers[-1].send_signal(signal.SIGKILL)
    killed.append(len(steps_so_far(run)))


def steps_so_far(run: Run) -> list[dict[str, float]]:
    return list(json.loads((run.checkpoints()[-1] / "steps.json").read()))


def test_a_killed_worker_is_replaced_and_the_student_is_bit_equal(ray_cluster: None, tmp_path: Path) -> None:
    settings = {"workers": 2, "epochs": 30, "checkpoints": 5}
    alone = curated(tmp_path / "alone", **settings)
    train(alone)
    run = curated(tmp_path / "killed", model=tmp_path / "alone" / "model", **settings)
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker_after_a_checkpoint, args=(run, killed))
    killer.start()
    train(run)
    killer.join()
    assert 0 < killed[0] < 90
    assert [row["loss"] for row in steps(run)] == [row["loss"] for row in steps(alone)]
    assert all(torch.equal(weight, weights(alone)[name]) for name, weight in weights(run).items())


def test_a_diverging_run_ends_with_the_step_and_its_examples(ray_cluster: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"step \d+: loss .*Lower training.learning_rate.*r0"):
        train(curated(tmp_path, learning_rate=1e30, clip=1e30, warmup=0))


def test_what_cannot_be_trained_is_told_before_any_worker_starts(ray_cluster: None, tmp_path: Path) -> None:
    run = curated(tmp_path / "many", workers=99)
    with pytest.raises(UserError, match=r"the cluster has 8: lower training.workers"):
        train(run)
    with pytest.raises(UserError, match="the cluster has 0"):
        train(curated(tmp_path / "gpus", gpus=1))
    with pytest.raises(UserError, match="selected no rollout"):
        train(curated(tmp_path / "none", []))
    with pytest.raises(UserError, match="all 1 examples were refused"):
        train(curated(tmp_path / "refused", ["4!5"]))
    (run.curated / "manifest.json").delete()
    with pytest.raises(UserError, match=r"run jobs/curate\.py first"):
        train(run)


def test_ctrl_c_ends_the_job_and_keeps_what_it_can_resume_from(tmp_path: Path) -> None:
    run = curated(tmp_path, epochs=400, checkpoints=100)
    (tmp_path / "config.json").write_text(run.config.as_json())
    script = (
        "import sys; from reasonray import cli, config; from reasonray.stages.train import train\n"
        "run_config = config.parse(__import__('json').load(open(sys.argv[1])))\n"
        "sys.exit(cli._guarded(lambda: cli._work(run_config, train)))"
    )
    job = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "config.json")], stderr=subprocess.PIPE)
    while not run.checkpoints():
        time.sleep(0.1)
        assert job.poll() is None
    job.send_signal(signal.SIGINT)
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 130
    assert b"the same command goes on from there" in errors
    assert not (run.student / "final").exists()

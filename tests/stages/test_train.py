"""Training under Ray Train: two gloo workers, resumed after a crash, and mistakes reported in one line."""

import json
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.fs as fs
import pytest
import torch
from peft import PeftModel
from ray.train import TrainingFailedError
from transformers import AutoModelForCausalLM

from reasonray.analysis.funnel import Trained
from reasonray.cli.main import exit_status
from reasonray.config import Training, UserError
from reasonray.records import content_hash
from reasonray.stages.report import trained
from reasonray.stages.train import _scaling, train
from reasonray.store.run import Run, begin_or_resume
from reasonray.store.storage import Place, local_copy
from reasonray.training.trained_student import TrainedStudent
from tests.factories import a_scripted_config
from tests.store.test_s3 import s3_server
from tests.students import write_model

pytestmark = pytest.mark.ray

TEXTS = [f"<think> {a} plus {b} is {a + b}. </think> The answer is {a + b}." for a in range(6) for b in range(4)]


def curated(
    root: Path,
    texts: list[str] = TEXTS,
    *,
    model: Path | None = None,
    validation: int = 0,
    store: str | None = None,
    **training: Any,
) -> Run:
    """Return a run of a tiny student that is curated, its data set in two files; the last texts are for validation."""
    model = model or write_model(root / "model", vocab=258)  # as many as its tokenizer has
    settings = {"precision": "fp32", "batch": 8, "max_tokens": 160, "epochs": 2, "learning_rate": 1e-3, "cpus": 1}
    student = {"model": str(model), "engine": {"kind": "scripted"}, "gpus": 0}
    shares = {"validation": 0.1} if validation else {}
    config = a_scripted_config(
        root, student=student, training=settings | {"checkpoints": 2} | training, curation=shares
    )
    run = begin_or_resume(config.model_copy(update={"root": store}) if store else config)
    rows = [
        {"id": f"r{number:03}", "prompt": [{"role": "user", "content": f"q{number}"}], "completion_text": text}
        for number, text in enumerate(texts)
    ]
    names = []
    training_rows, validation_rows = (rows[:-validation], rows[-validation:]) if validation else (rows, [])
    for name, part in (
        ("b.parquet", training_rows[::2]),
        ("a.parquet", training_rows[1::2]),
        ("validation.parquet", validation_rows),
    ):
        if part:
            (run.curated / "data" / name).write_table(pa.Table.from_pylist(part))
            names += [name] if part is not validation_rows else []
    validation_names = ["validation.parquet"] if validation_rows else []
    document = {
        "examples": content_hash(*texts),
        "data": names,
        "selected": len(training_rows),
        "validation": validation_names,
    }
    (run.curated / "manifest.json").write(json.dumps(document).encode())
    return run


@pytest.mark.parametrize(
    ("settings", "processes", "resources"),
    [
        ({"gpus": 8}, 8, {"GPU": 1, "CPU": 2.0}),
        ({"gpus": 1, "workers": 8}, 8, {"GPU": 1, "CPU": 16.0}),
        ({"gpus": 4, "workers": [1, 3]}, (4, 12), {"GPU": 1, "CPU": 4.0}),
        ({"workers": 2}, 2, {"CPU": 16.0}),
    ],
)
def test_every_gpu_of_a_worker_has_a_process(
    settings: dict[str, Any], processes: object, resources: dict[str, float]
) -> None:
    scaling = _scaling(Training(cpus=16.0, **settings))
    assert scaling.num_workers == processes
    assert scaling.resources_per_worker == resources
    assert scaling.use_gpu == ("GPU" in resources)


def test_the_processes_of_a_machine_copy_examples_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "store" / "examples").mkdir(parents=True)
    (tmp_path / "store" / "examples" / "part.arrow").write_bytes(b"rows")
    store = fs.SubTreeFileSystem(str(tmp_path / "store"), fs.LocalFileSystem())  # not local to the code under test
    shared = tmp_path / "shared"
    (shared / "examples.partial").mkdir(parents=True)
    (shared / "examples.partial" / "torn.arrow").write_bytes(b"ro")
    copies: list[Place] = []
    copy = Place.copy

    def slow_copy(source: Place, target: Place) -> None:
        copies.append(source)
        time.sleep(0.2)
        copy(source, target)

    monkeypatch.setattr(Place, "copy", slow_copy)
    with ThreadPoolExecutor(8) as processes:
        places = set(processes.map(lambda _: local_copy(Place(store, "examples"), shared), range(8)))
    assert places == {shared / "examples"}
    assert [file.name for file in (shared / "examples").iterdir()] == ["part.arrow"]
    assert len(copies) == 1


def steps(run: Run) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run.student / "steps.jsonl").read().decode().splitlines()]


def weights(run: Run) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = AutoModelForCausalLM.from_pretrained(Path(run.student.path) / "final").state_dict()
    return state


def test_two_workers_train_once_and_delete_superseded_states(ray_cluster: None, tmp_path: Path) -> None:
    overlong, torn = "<think> " + "very " * 60 + "</think>", "4!5"  # "!" is the token at which this model stops
    run = curated(tmp_path, [*TEXTS, overlong, torn], workers=2)
    student = train(run)
    manifest = json.loads((run.student / "final" / "manifest.json").read())
    assert (manifest["examples"], manifest["overlong"], manifest["refused"]) == (24, 1, 1)
    tokens = sum(len(text.encode()) + 1 for text in TEXTS)  # bytes, and a stop token each
    assert manifest["loss_tokens"] == tokens
    assert trained(run) == Trained(examples=24, tokens=tokens, left_out={"overlong": 1, "refused": 1, "validation": 0})
    figures = steps(run)
    assert [row["step"] for row in figures] == [1, 2, 3, 4, 5, 6]
    assert figures[-1]["loss"] < figures[0]["loss"]
    (session,) = run.events.last_of_sessions("train")
    assert session["step"] == 6
    assert 2 * sum(row["seconds"] for row in figures) <= session["accelerator_seconds"] <= 2 * session["seconds"]
    assert [checkpoint.name for checkpoint in run.checkpoints()] == ["step-000003", "step-000006"]
    for checkpoint in run.checkpoints():
        assert (checkpoint / "model" / "tokenizer_config.json").exists()
        assert not (checkpoint / "state").exists()
    assert student == TrainedStudent(
        directory=run.student / "final",
        steps=6,
        examples=24,
        target_tokens=tokens,
        first_loss=figures[0]["loss"],
        last_loss=figures[-1]["loss"],
        checkpoint="step-000006",
    )
    before = {file: file.stat().st_mtime_ns for file in Path(run.student.path).rglob("*")}
    assert train(run) == student, "a student that is done is reported as it was"
    assert {file: file.stat().st_mtime_ns for file in Path(run.student.path).rglob("*")} == before
    curation = run.curated / "manifest.json"
    curation.write(json.dumps(json.loads(curation.read()) | {"examples": "others"}).encode())
    assert trained(run) is None, "this student learned from other examples"


def kill_workers(run: Run, killed: list[int]) -> None:
    """SIGKILL one of this test's own training workers as soon as there is something to resume from, and one later."""
    for checkpoints in (1, 3):
        while len(run.checkpoints()) < checkpoints:
            time.sleep(0.02)
        workers = [process for process in psutil.Process().children(recursive=True) if is_training(process)]
        random.Random(checkpoints).choice(workers).send_signal(signal.SIGKILL)
        killed.append(len(steps_so_far(run)))


def is_training(process: psutil.Process) -> bool:
    try:
        return "RayTrainWorker" in process.name() + str(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def steps_so_far(run: Run) -> list[dict[str, float]]:
    return list(json.loads((run.checkpoints()[-1] / "steps.json").read()))


LONG: dict[str, Any] = {"workers": 2, "epochs": 12, "checkpoints": 5, "validation": 2}


@pytest.fixture(scope="module")
def uninterrupted(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of two workers without a fault."""
    run = curated(tmp_path_factory.mktemp("uninterrupted"), **LONG)
    train(run)
    return run


def agree(run: Run, other: Run) -> bool:
    """Return whether two runs have the same steps, the same validation losses and the same student, bit for bit."""
    figures = [
        [(row["loss"], row["gradient_norm"], row.get("validation_loss")) for row in steps(each)]
        for each in (run, other)
    ]
    students = [(each.student / "final" / "model.safetensors").read() for each in (run, other)]
    return len(figures[0]) > 30 and figures[0] == figures[1] and students[0] == students[1]


@pytest.mark.timeout(480)
def test_two_killed_workers_are_replaced_and_the_student_is_bit_equal(uninterrupted: Run, tmp_path: Path) -> None:
    run = curated(tmp_path, model=Path(uninterrupted.config.student.model), **LONG | {"async_save": True})
    killed: list[int] = []
    killer = threading.Thread(target=kill_workers, args=(run, killed))
    killer.start()
    train(run)
    killer.join()
    assert 0 < killed[0] < killed[1] < len(steps(run))
    assert agree(run, uninterrupted)


@pytest.mark.timeout(480)
def test_other_workers_resume_from_a_state_between_checkpoints(uninterrupted: Run, tmp_path: Path) -> None:
    settings = LONG | {"checkpoints": 1, "save_minutes": 1 / 60, "max_failures": 0}
    run = curated(tmp_path, model=Path(uninterrupted.config.student.model), **settings)
    killer = threading.Thread(target=kill_one_between_checkpoints, args=(run,))
    killer.start()
    with pytest.raises(TrainingFailedError):
        train(run)
    killer.join()
    (state,) = run.states()
    taken = len(json.loads((state / "steps.json").read()))
    fewer = run.config.training.model_copy(update={"workers": 1})
    train(begin_or_resume(run.config.model_copy(update={"training": fewer})))
    losses, untouched = ([row["loss"] for row in steps(each)] for each in (run, uninterrupted))
    assert 0 < taken < len(losses)
    assert losses[:taken] == untouched[:taken], "the steps of two workers were not repeated"
    assert losses == pytest.approx(untouched, rel=1e-3)
    assert run.states() == []


def kill_one_between_checkpoints(run: Run) -> None:
    """SIGKILL one of this test's own training workers as soon as a state is saved."""
    while not run.states():
        time.sleep(0.02)
    workers = [process for process in psutil.Process().children(recursive=True) if is_training(process)]
    workers[-1].send_signal(signal.SIGKILL)


def test_other_settings_archive_the_student_and_train_it_again(
    ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = curated(tmp_path, epochs=1, validation=2)
    train(run)
    first = (run.student / "final" / "model.safetensors").read()
    changed = run.config.training.model_copy(update={"learning_rate": 1e-4, "activation_checkpointing": True})
    other = begin_or_resume(run.config.model_copy(update={"training": changed}))
    train(other)
    assert "training.learning_rate was 0.001, now it is 0.0001: the earlier student is below" in capsys.readouterr().out
    (earlier,) = (other.place / "earlier").list()
    assert (earlier / "student" / "final" / "model.safetensors").read() == first
    assert (other.student / "final" / "model.safetensors").read() != first
    best = begin_or_resume(run.config.model_copy(update={"training": changed.model_copy(update={"student": "best"})}))
    with pytest.raises(UserError, match=r"chosen by training\.student = last, now it is best; set it back"):
        train(best)


def test_a_student_of_adapters_is_the_model_with_the_adapters_merged_in(ray_cluster: None, tmp_path: Path) -> None:
    run = curated(tmp_path, workers=2, lora_rank=4, learning_rate=1e-2)
    train(run)
    source = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    initial = {name: weight.clone() for name, weight in source.state_dict().items()}
    adapted = PeftModel.from_pretrained(source, Path(run.student.path) / "adapter").merge_and_unload().state_dict()
    student = weights(run)
    assert all(torch.allclose(weight, adapted[name], atol=1e-6) for name, weight in student.items())
    moved = {name for name, weight in student.items() if not torch.equal(weight, initial[name])}
    assert {name.split(".")[-2] for name in moved} >= {"q_proj", "down_proj"}
    assert "model.embed_tokens.weight" not in moved


def test_the_best_checkpoint_becomes_the_student_and_others_are_deleted(ray_cluster: None, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 6, "checkpoints": 4, "keep": 1, "student": "best", "learning_rate": 3e-2}
    run = curated(tmp_path, validation=4, **settings)
    train(run)
    losses = {int(row["step"]): row["validation_loss"] for row in steps(run) if "validation_loss" in row}
    best = f"step-{min(losses, key=losses.__getitem__):06d}"
    assert len(losses) == 4
    assert {checkpoint.name for checkpoint in run.checkpoints()} == {best, f"step-{max(losses):06d}"}
    manifest = json.loads((run.student / "final" / "manifest.json").read())
    assert (manifest["checkpoint"], manifest["examples"]) == (best, 20)
    chosen = AutoModelForCausalLM.from_pretrained(Path(run.student.path) / "checkpoints" / best / "model").state_dict()
    assert all(torch.equal(weight, chosen[name]) for name, weight in weights(run).items())
    card = (run.student / "final" / "README.md").read().decode()
    assert f"this is {best}" in card
    assert f"{losses[min(losses)]:.3f} (step {min(losses)})" in card
    assert str(tmp_path) not in card.replace(str(tmp_path / "model"), "")


def test_a_run_in_an_object_store_trains_on_as_many_workers_as_fit(uninterrupted: Run, tmp_path: Path) -> None:
    with s3_server() as url:
        urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT")).close()
        query = f"endpoint_override={url.removeprefix('http://')}&scheme=http&region=us-east-1"
        store = f"s3://testing:testing@bucket/runs?{query}"
        run = curated(
            tmp_path, model=Path(uninterrupted.config.student.model), store=store, **LONG | {"workers": [1, 2]}
        )
        train(run)
        assert [checkpoint.name for checkpoint in run.checkpoints()] == [
            checkpoint.name for checkpoint in uninterrupted.checkpoints()
        ]
        assert agree(run, uninterrupted)


def test_a_diverging_training_reports_the_step_and_its_examples(ray_cluster: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"step \d+: loss .*Lower training.learning_rate.*r0"):
        train(curated(tmp_path, learning_rate=1e30, clip=1e30, warmup=0))


def test_a_training_that_cannot_work_fails_before_any_worker_starts(ray_cluster: None, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("fault", ["overlong", "no stop token", "another tokenizer"])
def test_a_mistake_that_only_tasks_and_workers_detect_is_one_line_too(
    ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    model = write_model(tmp_path / "model", vocab=100 if fault == "another tokenizer" else 258)
    if fault == "no stop token":
        for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
            document = json.loads((model / name).read_text())
            (model / name).write_text(json.dumps(document | {"eos_token_id": None, "eos_token": None}))
    run = curated(tmp_path, model=model, max_tokens=1 if fault == "overlong" else 160)
    assert exit_status(lambda: [train(run), 0][1]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert re.search(
        {
            "overlong": r"^error: nothing to train on: 24 examples, 24 of them beyond training.max_tokens = 1",
            "no stop token": r"^error: model model: no eos_token_id in generation_config.json; set one",
            "another tokenizer": r"^error: the examples hold token \d+, the model knows 100: the tokenizer next to it",
        }[fault],
        message,
    )
    assert not (run.student / "final").exists()


def test_ctrl_c_ends_the_job_and_keeps_its_checkpoints(tmp_path: Path) -> None:
    run = curated(tmp_path, epochs=400, checkpoints=100)
    (tmp_path / "config.json").write_text(run.config.as_json())
    script = textwrap.dedent(
        """
        import json, sys
        from reasonray.cli.main import exit_status
        from reasonray.config import parse
        from reasonray.pipeline import open_run, train

        def work():
            with open_run(parse(json.load(open(sys.argv[1])))) as run:
                train(run)

        sys.exit(exit_status(work))
        """
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

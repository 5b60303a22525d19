"""Curated samples → student: Ray Train runs the training loop on any number of workers, and it resumes.

<run>/student/examples.arrow              the tokenised examples
<run>/student/checkpoints/step-000123/    state/ and progress.json to resume from, model/ to measure, manifest.json last
<run>/student/final/                      the student in Hugging Face layout, manifest.json last
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import ray
import ray.train
from pyarrow import fs
from ray.train.torch import TorchTrainer

from reasonray import models
from reasonray.config import Training, UserError
from reasonray.console import Progress, duration, say
from reasonray.records import content_hash
from reasonray.run import Run
from reasonray.storage import Place, place


class StepLog:
    """What the workers tell the driver; a Ray actor."""

    def __init__(self) -> None:
        self._steps: list[dict[str, float]] = []
        self._fault = ""

    def restart(self, steps: list[dict[str, float]]) -> None:
        """Begin with the steps that a checkpoint stands for."""
        self._steps = list(steps)

    def add(self, figures: dict[str, float]) -> None:
        """Take one step's figures."""
        self._steps.append(figures)

    def fail(self, message: str) -> None:
        """Take a fault that the user can cure."""
        self._fault = message

    def state(self) -> tuple[list[dict[str, float]], str]:
        """Return all steps so far, and the fault if there is one."""
        return self._steps, self._fault


@dataclass(frozen=True)
class _Assignment:
    """What every worker is handed; pickles."""

    run: Run
    data: str
    """Hash of the data set, so that checkpoints of another are not taken up."""
    log: Any


def train(run: Run) -> None:
    """Fine-tune the student on the curated samples, or find it done.

    Raises:
        UserError: there is no data set, nothing to train on, or the cluster is too small; or see training/loop.py.
    """
    data, files = _data_set(run)
    final = run.student / "final" / "manifest.json"
    if final.exists() and json.loads(final.read())["data"] == data:
        say("train", "done before")
        return
    _refuse_too_small(run.config.training)
    with Progress("train", run.events) as progress:
        progress.show("tokenising", {"state": "tokenising"}, now=True)
        examples = ray.get(ray.remote(_tokenise).options(num_cpus=1).remote(run, files))
        log = ray.remote(StepLog).options(num_cpus=0).remote()
        _fit(_Assignment(run, data, log), progress, _planned_steps(run.config.training, examples))
        steps, fault = ray.get(log.state.remote())
    if fault:
        raise UserError(fault)
    _finish(run, data, steps, progress.seconds)


def _data_set(run: Run) -> tuple[str, list[Place]]:
    manifest = run.curated / "manifest.json"
    if not manifest.exists():
        raise UserError(f"run {run.name} has no data set yet; run jobs/curate.py first")
    files = json.loads(manifest.read())["data"]
    return content_hash(*files), [run.curated / "data" / name for name in files]


def _refuse_too_small(training: Training) -> None:
    if ray._private.state.state.get_cluster_config() is not None:  # an autoscaler may add what is missing
        return
    resources = ray.cluster_resources()
    for what, each in (("GPU", float(training.gpus)), ("CPU", training.cpus)):
        if each * training.workers > resources.get(what, 0):
            raise UserError(
                f"training asks for {training.workers} worker(s) with {each:g} {what}s each; the cluster has "
                f"{resources.get(what, 0):g}: lower training.workers or training.{what.lower()}s, or add nodes"
            )


def _tokenise(run: Run, files: list[Place]) -> list[int]:
    """Write student/examples.arrow and return the examples' lengths; one task, as tokenising outruns any training."""
    from transformers import AutoTokenizer

    from reasonray.training.examples import stop_token, tokenise, write

    directory = models.resolve(run.config.student.model, run.config.student.revision)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    stop = stop_token(directory, tokenizer)
    encode = partial(tokenise, tokenizer, template_args=run.config.student.prompt.template_args, stop=stop)
    columns = ["id", "prompt", "completion_text"]
    rows = [
        row for it in files for row in pq.read_table(it.path, columns=columns, filesystem=it.filesystem).to_pylist()
    ]
    rows.sort(key=lambda row: str(row["id"]))  # the order of blocks must not decide the order of training
    examples = [encode(turns=row["prompt"], completion=row["completion_text"], id=row["id"]) for row in rows]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "examples.arrow"
        write(file, examples)
        (run.student / "examples.arrow").write(file.read_bytes())
    return [len(example.ids) for example in examples]


def _planned_steps(training: Training, lengths: list[int]) -> int:
    fitting = sum(length <= training.max_tokens for length in lengths)
    return training.epochs * -(-fitting // training.batch)


def _fit(assignment: _Assignment, progress: Progress, steps: int) -> None:
    run, training = assignment.run, assignment.run.config.training
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    trainer = TorchTrainer(
        _work,
        train_loop_config={"assignment": assignment},
        scaling_config=ray.train.ScalingConfig(
            num_workers=training.workers,
            use_gpu=training.gpus > 0,
            resources_per_worker={"CPU": training.cpus} | ({"GPU": training.gpus} if training.gpus else {}),
        ),
        run_config=ray.train.RunConfig(
            # A new name each time: what to resume from is in our own checkpoints, complete by their manifests.
            name=f"fit-{time.time_ns()}",
            storage_path=(run.student / "ray").path,
            storage_filesystem=run.student.filesystem,
            failure_config=ray.train.FailureConfig(max_failures=training.max_failures),
        ),
    )
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(assignment.log, progress, steps, over), daemon=True)
    watcher.start()
    try:
        trainer.fit()
    finally:
        over.set()
        watcher.join()
        (run.student / "ray").delete()


def _watch(log: Any, progress: Progress, steps: int, over: threading.Event) -> None:
    """Show the newest step until training is over."""
    while True:
        ended = over.wait(1.0)
        done, _ = ray.get(log.state.remote())
        if not done:
            progress.show(f"starting workers  {duration(progress.seconds)}", {"state": "starting"})
        else:
            last = done[-1]
            left = (steps - last["step"]) * sum(it["seconds"] for it in done) / len(done)
            text = (
                f"step {last['step']:>5,.0f} of {steps:,}   loss {last['loss']:.3f}   "
                f"{last['tokens_per_second']:,.0f} tokens/s   {duration(progress.seconds)} gone, {duration(left)} left"
            )
            figures = {name: value for name, value in last.items() if name != "seconds"}
            progress.show(text, figures | {"steps": steps}, now=ended)
        if ended:
            return


def _work(config: dict[str, Any]) -> None:
    """Be one worker: the loop with this process's rank, resumed from the newest complete checkpoint."""
    assignment: _Assignment = config["assignment"]
    try:
        _train_here(assignment)
    except UserError as error:  # no retry would help
        ray.get(assignment.log.fail.remote(str(error)))


def _train_here(assignment: _Assignment) -> None:
    import torch

    from reasonray.training.loop import TrainingJob
    from reasonray.training.loop import run as run_loop

    run, log, context = assignment.run, assignment.log, ray.train.get_context()
    rank, world, training = context.get_world_rank(), context.get_world_size(), run.config.training
    if not training.gpus:
        torch.set_num_threads(max(1, int(training.cpus)))
    scratch = Path(run.student.path) if run.place.is_local else Path(tempfile.mkdtemp(prefix="reasonray-"))
    resume = _newest(run, assignment.data)
    steps: list[dict[str, float]] = json.loads((resume / "steps.json").read()) if resume else []
    if rank == 0:
        ray.get(log.restart.remote(steps))

    def on_step(figures: dict[str, float]) -> None:
        steps.append(figures)
        if rank == 0:
            log.add.remote(figures)

    job = TrainingJob(
        model_directory=str(models.resolve(run.config.student.model, run.config.student.revision)),
        examples_file=str(_fetched(run.student / "examples.arrow", scratch)),
        training=training,
        seed=run.config.seed,
        scratch=str(scratch / "checkpoints"),
    )
    figures = run_loop(
        job,
        rank,
        world,
        _fetched(resume, scratch / "resume") if resume else None,
        on_step,
        lambda step, path: _store(run, assignment.data, rank, step, path, steps),
    )
    if rank == 0:
        (run.student / "figures.json").write(json.dumps(figures | {"data": assignment.data}).encode())


def _store(run: Run, data: str, rank: int, step: int, path: Path, steps: list[dict[str, float]]) -> None:
    """Put a checkpoint where the run lives; each rank brings its part, rank 0 completes it."""
    target = run.student / "checkpoints" / path.name
    if not run.place.is_local:
        place(path).copy(target)
    ray.train.report({"step": step})  # a barrier: no manifest before every rank's part is there
    if rank == 0:
        (target / "steps.json").write(json.dumps(steps).encode())
        (target / "manifest.json").write(json.dumps({"step": step, "data": data}).encode())


def _newest(run: Run, data: str) -> Place | None:
    of_this_data = [it for it in run.checkpoints() if json.loads((it / "manifest.json").read())["data"] == data]
    return of_this_data[-1] if of_this_data else None


def _fetched(source: Place, scratch: Path) -> Path:
    """Return a local path to what a place holds, copying it where the run is remote."""
    if source.is_local:
        return Path(source.path)
    target = scratch / source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.filesystem.get_file_info(source.path).type is fs.FileType.Directory:
        source.copy(place(target))
    else:
        target.write_bytes(source.read())
    return target


def _finish(run: Run, data: str, steps: list[dict[str, float]], seconds: float) -> None:
    """Make the newest checkpoint's model the student; its manifest comes last."""
    newest = _newest(run, data)
    if newest is None or not steps:
        raise UserError("training ended without a checkpoint; Ray Train's log in its session directory says why")
    figures = json.loads((run.student / "figures.json").read())
    final = run.student / "final"
    final.delete()
    (newest / "model").copy(final)
    lines = "".join(json.dumps(step) + "\n" for step in steps)
    (run.student / "steps.jsonl").write(lines.encode())
    overlong = len(figures["overlong"])
    manifest = {
        "data": data,
        "examples": figures["examples"],
        "loss_tokens": figures["loss_tokens"],
        "overlong": overlong,
    }
    (final / "manifest.json").write(json.dumps(manifest | {"steps": figures["steps"], "seconds": seconds}).encode())
    left_out = f"   {overlong:,} too long, left out" if overlong else ""
    say(
        "train",
        f"{len(steps):>7,} steps on {figures['examples']:,} samples   loss {steps[0]['loss']:.3f} → "
        f"{steps[-1]['loss']:.3f}   {duration(seconds)}{left_out}",
    )
    run.events.emit("train", state="done", **manifest)

"""Curated samples → student: Ray Train runs the training loop on any number of workers, and it resumes.

<run>/student/examples/*.arrow            the tokenised examples
<run>/student/held-out/*.arrow            the tokenised validation examples (of curated/data/validation-*), if any
<run>/student/plan.arrow                  the packs of each step
<run>/student/checkpoints/step-000123/    state/ and progress.json to resume from, model/ to measure, manifest.json last
<run>/student/checkpoints/states/step-…/  the same without a model, saved in between; only the newest is kept
<run>/student/final/                      the student in Hugging Face layout, manifest.json last
<run>/student/adapter/                    with LoRA: the adapter by itself, in PEFT's layout
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import ray.train
import ray.train.collective
from ray.train.torch import TorchConfig, TorchTrainer

from reasonray import models
from reasonray.config import Training, UserError
from reasonray.prompts import FALLBACK_DATE
from reasonray.records import content_hash
from reasonray.sampling.pool import autoscales
from reasonray.store.checkpoints import (
    CheckpointStore,
    delete_superseded,
    newest_state,
    trained_on_other,
)
from reasonray.store.progress import Progress, duration, log_line
from reasonray.store.run import Run
from reasonray.store.storage import Place, local_copy
from reasonray.training import example_cache, plan
from reasonray.training.card import model_card
from reasonray.training.data_set import data_set, report_overlong, validation_files
from reasonray.training.example_cache import Tokenised
from reasonray.training.step_log import StepLog, StepLogState
from reasonray.training.student_choice import refuse_other_choice, write_student
from reasonray.training.trained_student import TrainedStudent, TrainingSummary, trained_student

if TYPE_CHECKING:
    from reasonray.training.loop import TrainingJob

_EXAMPLES_PER_TASK = 5000
_PLAN = "plan.arrow"


@dataclass(frozen=True)
class _WorkerInput:
    """The input of every worker; it pickles."""

    run: Run
    data: str
    """Hash of the data set, so that checkpoints of another one are not resumed from."""
    log: Any
    """Handle of the StepLog."""
    fit: str
    """Name of this call's training."""


def train(run: Run) -> TrainedStudent:
    """Fine-tune the student on the curated samples unless that is done, and return what it was trained on.

    Raises:
        UserError: there is no data set, nothing to train on, or the cluster is too small; a finished student was
            chosen by another rule; or see training/loop.py.
    """
    curated = data_set(run)
    other = trained_on_other(run, curated.hash)
    if not other and (run.final_student / "manifest.json").exists():
        refuse_other_choice(run)
        log_line("train", "done before")
        return trained_student(run)
    _refuse_too_small(run.config.training)
    if other:
        _archive(run, other)
    with Progress("train", run.events) as progress:
        progress.show("tokenising", {"state": "tokenising"}, now=True)
        (run.student / _PLAN).delete()
        made_from = ray.get(ray.remote(example_cache.inputs).options(num_cpus=1).remote(run, curated.hash))
        tokenised = _tokenise(run, "examples", made_from, curated.files, curated.rows)
        if curated.validation_files:
            _tokenise(run, "held-out", made_from, curated.validation_files, curated.rows)
        report_overlong(run.config.training, tokenised.lengths)
        steps = ray.get(ray.remote(_write_plan).options(num_cpus=1).remote(run))
        log = ray.remote(StepLog).options(num_cpus=0).remote()
        _fit(_WorkerInput(run, curated.hash, log, f"fit-{time.time_ns()}"), progress, steps)
        state: StepLogState = ray.get(log.state.remote())
    if state.error:
        raise UserError(state.error)
    _finish(run, curated.hash, state.steps, progress.seconds, tokenised.refused)
    return trained_student(run)


def _archive(run: Run, other: dict[str, Any]) -> None:
    """Archive a student of other data or other settings: the run was extended or curated again."""
    run.archive_student(content_hash(json.dumps(other, sort_keys=True)))
    now = run.config.training.step_settings
    changes = [
        f"training.{name} was {was}, now it is {now[name]}" for name, was in other.items() if now.get(name, was) != was
    ]
    why = changes[0] if changes else "the data set has changed"
    log_line("train", f"{why}: the earlier student is below {run.place / 'earlier'}")


def _refuse_too_small(training: Training) -> None:
    if autoscales():  # the cluster may add the missing resources
        return
    resources = ray.cluster_resources()
    workers = training.worker_bounds[0]
    for resource, each in (("GPU", float(training.gpus)), ("CPU", training.cpus)):
        if each * workers > resources.get(resource, 0):
            raise UserError(
                f"training asks for {workers} worker(s) with {each:g} {resource}s each; the cluster has "
                f"{resources.get(resource, 0):g}: lower training.workers or training.{resource.lower()}s, or add nodes"
            )


def _tokenise(run: Run, folder: str, made_from: str, files: list[Place], rows: int) -> Tokenised:
    """Write student/<folder>/ unless that is there already.

    Plain Ray tasks of some thousand rows each. The rows are independent and in files already, so Ray Data would add
    nothing but the ten seconds that one of its executions takes to start on a small machine.
    """
    target = run.student / folder
    if found := example_cache.find(target, made_from):
        return found
    target.delete()
    tasks = max(1, min(len(files), rows // _EXAMPLES_PER_TASK))
    task = ray.remote(_tokenise_part).options(num_cpus=1)
    parts = [[files[number] for number in part] for part in np.array_split(np.arange(len(files)), tasks)]
    results = ray.get([task.remote(run, target, number, part) for number, part in enumerate(parts)])
    lengths = [length for part_lengths, _ in results for length in part_lengths]
    refused = [reason for _, reasons in results for reason in reasons]
    if not lengths:
        raise UserError(f"nothing to train on: all {len(refused)} examples were refused, the first: {refused[0]}")
    tokenised = Tokenised(lengths, refused)
    example_cache.complete(target, made_from, tokenised)
    return tokenised


def _tokenise_part(run: Run, target: Place, number: int, files: list[Place]) -> tuple[list[int], list[str]]:
    from reasonray.training.tokenisation import tokenise_files

    with tempfile.TemporaryDirectory() as scratch:
        part = Path(scratch) / f"part-{number:05d}.arrow"
        lengths, refused = tokenise_files(run.config.student, files, part, run.begun_on or FALLBACK_DATE)
        (target / part.name).write(part.read_bytes())
    return lengths, refused


def _write_plan(run: Run) -> int:
    """Write student/plan.arrow, so that no worker has to plan, and return the number of steps."""
    from reasonray.training.loop import make_plan

    with tempfile.TemporaryDirectory() as scratch:
        made = make_plan(_training_job(run, Path(scratch), Path(scratch)))
        plan.write(Path(scratch) / _PLAN, made)
        (run.student / _PLAN).write((Path(scratch) / _PLAN).read_bytes())
    return len(made.steps)


def _fit(worker_input: _WorkerInput, progress: Progress, steps: int) -> None:
    run, training = worker_input.run, worker_input.run.config.training
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    trainer = TorchTrainer(
        _run_worker,
        train_loop_config={"worker_input": worker_input},
        torch_config=TorchConfig(backend=training.backend, timeout_s=int(training.COLLECTIVE_PATIENCE.total_seconds())),
        scaling_config=_scaling(training),
        run_config=ray.train.RunConfig(
            name=worker_input.fit,  # new each time: the run's own checkpoints, not Ray Train's, are resumed from
            storage_path=(run.student / "ray").path,
            storage_filesystem=run.student.filesystem,
            failure_config=ray.train.FailureConfig(max_failures=training.max_failures),
        ),
    )
    # In the main thread, Ray Train would replace the handler of Ctrl-C for good and end the job as if it had succeeded.
    with _tracked(run) as track:
        fitting = ThreadPoolExecutor(1).submit(trainer.fit)
        _watch(fitting, worker_input.log, progress, steps, track)
    (run.student / "ray").delete()
    fitting.result()


def _scaling(training: Training) -> ray.train.ScalingConfig:
    """Return Ray Train's workers: a process for each GPU, with its share of the CPUs; without GPUs, for each worker."""
    least, most = training.process_bounds
    per_worker = max(1, training.gpus)
    return ray.train.ScalingConfig(
        num_workers=least if least == most else (least, most),
        # A resized group resumes from the newest state, so a state is saved shortly before Ray Train resizes.
        elastic_resize_monitor_interval_s=60 * training.save_minutes,
        use_gpu=training.gpus > 0,
        resources_per_worker={"CPU": training.cpus / per_worker} | ({"GPU": 1} if training.gpus else {}),
    )


@contextmanager
def _tracked(run: Run) -> Iterator[Callable[[Sequence[Mapping[str, float]]], None]]:
    """Open the run's trackers, and yield a function that logs those of the given steps that are new."""
    if not run.config.training.trackers:
        yield lambda steps: None
        return
    from reasonray.training.trackers import log, tracking

    directory = Path(run.student.path if run.place.is_local else ".") / "tracked"
    with tracking(run.config.training, run.name, directory) as trackers:
        logged = 0

        def track(steps: Sequence[Mapping[str, float]]) -> None:
            nonlocal logged
            log(trackers, [step for step in steps if step["step"] > logged])
            logged = max([logged, *(int(step["step"]) for step in steps)])

        yield track


def _watch(
    fitting: Future[Any],
    log: Any,
    progress: Progress,
    planned: int,
    track: Callable[[Sequence[Mapping[str, float]]], None],
) -> None:
    """Show the newest step and log all steps to the trackers until training ends."""
    polled, accelerator_seconds = progress.seconds, 0.0
    while True:
        ended = bool(wait([fitting], timeout=1.0).done)
        state: StepLogState = ray.get(log.state.remote())
        track(state.steps)
        accelerator_seconds += state.accelerators * (progress.seconds - polled)
        polled = progress.seconds
        cost = {"accelerator_seconds": round(accelerator_seconds, 3)}
        if not state.steps:
            progress.show(f"starting workers  {duration(progress.seconds)}", {"state": "starting"} | cost)
        else:
            last = state.steps[-1]
            left = (planned - last["step"]) * sum(step["seconds"] for step in state.steps) / len(state.steps)
            text = (
                f"step {last['step']:>5,.0f} of {planned:,}   loss {last['loss']:.3f}   "
                f"{last['tokens_per_second']:,.0f} tokens/s   {duration(progress.seconds)} gone, {duration(left)} left"
            )
            figures = {name: value for name, value in last.items() if name != "seconds"}
            progress.show(text, figures | cost | {"steps": planned}, now=ended)
        if ended:
            return


def _run_worker(config: dict[str, Any]) -> None:
    """Run the training loop with this process's rank, resumed from the newest complete checkpoint."""
    worker_input: _WorkerInput = config["worker_input"]
    try:
        _train_here(worker_input)
    except UserError as error:  # a retry would fail again
        ray.get(worker_input.log.fail.remote(str(error)))


def _train_here(worker_input: _WorkerInput) -> None:
    import torch

    from reasonray.training.loop import run as run_loop

    run, log, context = worker_input.run, worker_input.log, ray.train.get_context()
    rank, world, training = context.get_world_rank(), context.get_world_size(), run.config.training
    if not training.gpus:
        torch.set_num_threads(max(1, int(training.cpus)))
    resume_from = newest_state(run, worker_input.data)
    steps: list[dict[str, float]] = json.loads((resume_from / "steps.json").read()) if resume_from else []
    if rank == 0:
        ray.get(log.restart.remote(steps, world))

    def on_step(figures: dict[str, float]) -> None:
        steps.append(figures)
        if rank == 0:
            log.add.remote(figures)

    with ExitStack() as stack:
        scratch, shared = Path(run.student.path), Path(run.student.path)
        if not run.place.is_local:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reasonray-")))
            shared = Path(tempfile.gettempdir()) / f"reasonray-{worker_input.fit}"
            if context.get_local_rank() == 0:
                stack.callback(shutil.rmtree, shared, ignore_errors=True)
        store = stack.enter_context(
            CheckpointStore(
                run,
                worker_input.data,
                rank,
                world,
                is_preempted=lambda: ray.train.get_preemption_info() is not None,
                report=ray.train.report,
            )
        )
        job = _training_job(run, shared, scratch)
        ray.train.collective.barrier()  # copying may take longer than workers wait in a collective
        summary = run_loop(
            job,
            rank,
            world,
            resume_from,
            on_step,
            lambda step, path: store.save(step, path, [figures for figures in steps if figures["step"] <= step]),
            store.is_due,
        )
    if rank == 0:
        figures = summary.as_json() | {"data": worker_input.data}
        (run.student / "figures.json").write(json.dumps(figures).encode())


def _training_job(run: Run, shared: Path, scratch: Path) -> TrainingJob:
    """Return the input of the training loop on this machine.

    Args:
        run: whose student is trained.
        shared: directory for copies of files that all processes of this machine read.
        scratch: directory for this process's checkpoints.
    """
    from reasonray.training.loop import TrainingJob

    return TrainingJob(
        model_directory=str(models.resolve(run.config.student.model, run.config.student.revision)),
        examples=str(local_copy(run.student / "examples", shared)),
        training=run.config.training,
        seed=run.config.seed,
        checkpoint_directory=str(scratch / "checkpoints"),
        validation=str(local_copy(run.student / "held-out", shared)) if validation_files(run) else "",
        plan=str(local_copy(run.student / _PLAN, shared)) if (run.student / _PLAN).exists() else "",
        chat_template=run.config.student.prompt.chat_template,
    )


def _finish(run: Run, data: str, steps: list[dict[str, float]], seconds: float, refused: list[str]) -> None:
    """Copy the chosen checkpoint's model to student/final, its manifest last, and delete superseded checkpoints."""
    if newest_state(run, data) is None or not steps:
        raise UserError("training ended without a checkpoint; Ray Train's log in its session directory says why")
    summary = TrainingSummary.from_json((run.student / "figures.json").read_json())
    final = run.final_student
    final.delete()
    chosen = write_student(run, steps, final)
    (run.student / "adapter").delete()
    if (chosen / "adapter" / "adapter_config.json").exists():
        (chosen / "adapter").copy(run.student / "adapter")
    lines = "".join(json.dumps(step) + "\n" for step in steps)
    (run.student / "steps.jsonl").write(lines.encode())
    overlong = len(summary.overlong)
    manifest = {
        "data": data,
        "examples": summary.examples,
        "loss_tokens": summary.target_tokens,
        "overlong": overlong,
        "refused": len(refused),
        "checkpoint": chosen.name,
        "student": run.config.training.student,
        "average_last": run.config.training.average_last,
    }
    (final / "README.md").write(model_card(run.config, summary, steps, chosen.name).encode())
    settings = {"steps": summary.steps, "seconds": seconds, "training": run.config.training.step_settings}
    (final / "manifest.json").write(json.dumps(manifest | settings).encode())
    delete_superseded(run, steps, but=None)
    left_out = f"   {overlong:,} too long, left out" if overlong else ""
    left_out += f"   {len(refused):,} refused, such as {refused[0]}" if refused else ""
    log_line(
        "train",
        f"{len(steps):>7,} steps on {summary.examples:,} samples   loss {steps[0]['loss']:.3f} → "
        f"{steps[-1]['loss']:.3f}   {duration(seconds)}{left_out}",
    )
    run.events.emit("train", state="done", **manifest)

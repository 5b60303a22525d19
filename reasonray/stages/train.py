"""Curated samples → student: Ray Train runs the training loop on any number of workers, and it resumes.

<run>/student/examples/*.arrow            the tokenised examples
<run>/student/held-out/*.arrow            those of curated/data/validation-*, if there are any: measured, never learnt
<run>/student/checkpoints/step-000123/    state/ and progress.json to resume from, model/ to measure, manifest.json last
<run>/student/checkpoints/states/step-…/  the same without a model, saved in between; only the newest is kept
<run>/student/final/                      the student in Hugging Face layout, manifest.json last
<run>/student/adapter/                    with LoRA: the adapter by itself, in PEFT's layout
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from reasonray import models
from reasonray.config import Training, UserError
from reasonray.records import content_hash
from reasonray.sampling.pool import autoscales
from reasonray.store.checkpoints import (
    CheckpointStore,
    best_checkpoint,
    delete_superseded,
    resumable_checkpoints,
    trained_on_other,
)
from reasonray.store.progress import Progress, duration, log_line
from reasonray.store.run import Run
from reasonray.store.storage import Place, place
from reasonray.training import plan
from reasonray.training.card import card
from reasonray.training.step_log import StepLog
from reasonray.training.trained_student import TrainedStudent, trained_student

if TYPE_CHECKING:
    from reasonray.training.examples import Example

_EXAMPLES_A_TASK = 5000


@dataclass(frozen=True)
class _Assignment:
    """What every worker is handed; pickles."""

    run: Run
    data: str
    """Hash of the data set, so that checkpoints of another are not taken up."""
    log: Any


def train(run: Run) -> TrainedStudent:
    """Fine-tune the student on the curated samples unless that is done, and return what it was trained on.

    Raises:
        UserError: there is no data set, nothing to train on, or the cluster is too small; the student is chosen
            already, and by another rule; or see training/loop.py.
    """
    data, files, selected = _data_set(run)
    other = trained_on_other(run, data)
    if not other and (run.student / "final" / "manifest.json").exists():
        _refuse_other_choice(run)
        log_line("train", "done before")
        return trained_student(run)
    _refuse_too_small(run.config.training)
    if other:
        _retire(run, other)
    with Progress("train", run.events) as progress:
        progress.show("tokenising", {"state": "tokenising"}, now=True)
        lengths, refused = _examples(run, "examples", files, selected)
        if held_out := _held_out(run):
            _examples(run, "held-out", held_out, selected)
        planned = _planned_steps(run.config.training, lengths)
        log = ray.remote(StepLog).options(num_cpus=0).remote()
        _fit(_Assignment(run, data, log), progress, planned)
        steps, fault, _ = ray.get(log.state.remote())
    if fault:
        raise UserError(fault)
    _finish(run, data, steps, progress.seconds, refused)
    return trained_student(run)


def _retire(run: Run, other: dict[str, Any]) -> None:
    """Put aside what was made of other data or by other settings: the run was extended, or curated anew."""
    run.archive_student(content_hash(json.dumps(other, sort_keys=True)))
    now = run.config.training.step_settings
    changes = [
        f"training.{name} was {was}, now it is {now[name]}" for name, was in other.items() if now.get(name, was) != was
    ]
    why = changes[0] if changes else "the data set has changed"
    log_line("train", f"{why}: the earlier student is below {run.place / 'earlier'}")


def _refuse_other_choice(run: Run) -> None:
    asked = run.config.training.student
    was = (run.student / "final" / "manifest.json").read_json().get("student", asked)
    if was != asked:
        raise UserError(
            f"run {run.name}: the student was chosen by training.student = {was}, now it is {asked}; set it back, or "
            f"take the model of a checkpoint below {run.student / 'checkpoints'}"
        )


def _data_set(run: Run) -> tuple[str, list[Place], int]:
    manifest = run.curated / "manifest.json"
    if not manifest.exists():
        raise UserError(f"run {run.name} has no data set yet; run jobs/curate.py first")
    document = manifest.read_json()
    if not document["data"]:
        raise UserError(f"run {run.name}: curation selected no rollout to train on; draw more, or loosen [curation]")
    files = document["data"]
    data = document.get("examples") or content_hash(*files)  # an earlier version knew them by the names of their files
    return data, [run.curated / "data" / name for name in files], document["selected"]


def _refuse_too_small(training: Training) -> None:
    if autoscales():  # and so may add what is missing
        return
    resources = ray.cluster_resources()
    workers = training.worker_bounds[0]
    for what, each in (("GPU", float(training.gpus)), ("CPU", training.cpus)):
        if each * workers > resources.get(what, 0):
            raise UserError(
                f"training asks for {workers} worker(s) with {each:g} {what}s each; the cluster has "
                f"{resources.get(what, 0):g}: lower training.workers or training.{what.lower()}s, or add nodes"
            )


def _held_out(run: Run) -> list[Place]:
    names = (run.curated / "manifest.json").read_json().get("validation", [])
    return [run.curated / "data" / name for name in names]


def _examples(run: Run, folder: str, files: list[Place], selected: int) -> tuple[list[int], list[str]]:
    """Write student/<folder>/ and return the examples' lengths and what was wrong with those that were refused.

    Plain tasks of some thousand rows each: the rows are independent and lie in files already, so Ray Data would add
    nothing but the ten seconds that one of its executions takes to start on a small machine.
    """
    target = run.student / folder
    target.delete()
    tasks = max(1, min(len(files), selected // _EXAMPLES_A_TASK))
    task = ray.remote(_tokenise).options(num_cpus=1)
    parts = [[files[number] for number in part] for part in np.array_split(np.arange(len(files)), tasks)]
    results = ray.get([task.remote(run, target, number, part) for number, part in enumerate(parts)])
    lengths = [length for lengths, _ in results for length in lengths]
    refused = [fault for _, faults in results for fault in faults]
    if not lengths:
        raise UserError(f"nothing to train on: all {len(refused)} examples were refused, the first: {refused[0]}")
    return lengths, refused


def _tokenise(run: Run, target: Place, number: int, files: list[Place]) -> tuple[list[int], list[str]]:
    """Write one part of the examples; return their lengths and the faults of those that were refused."""
    from transformers import AutoTokenizer

    from reasonray.training.examples import Refused, stop_token, tokenise, write

    directory = models.resolve(run.config.student.model, run.config.student.revision)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    stop = stop_token(directory, tokenizer)
    encode = partial(tokenise, tokenizer, template_args=run.config.student.prompt.template_args, stop=stop)
    lengths: list[int] = []
    refused: list[str] = []

    def tokenised() -> Iterator[Example]:
        for it in files:
            columns = ["id", "prompt", "completion_text"]
            for row in it.read_table(columns).to_pylist():
                try:
                    example = encode(turns=row["prompt"], completion=row["completion_text"], id=row["id"])
                except Refused as fault:
                    refused.append(str(fault))
                    continue
                lengths.append(len(example.ids))
                yield example

    with tempfile.TemporaryDirectory() as scratch:
        part = Path(scratch) / f"part-{number:05d}.arrow"
        write(part, tokenised())
        (target / part.name).write(part.read_bytes())
    return lengths, refused


def _planned_steps(training: Training, lengths: list[int]) -> int:
    return training.epochs * -(-len(plan.fitting(lengths, training.max_tokens)) // training.batch)


def _fit(assignment: _Assignment, progress: Progress, steps: int) -> None:
    run, training = assignment.run, assignment.run.config.training
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    trainer = TorchTrainer(
        _work,
        train_loop_config={"assignment": assignment},
        torch_config=TorchConfig(backend=training.backend, timeout_s=int(training.PATIENCE.total_seconds())),
        scaling_config=ray.train.ScalingConfig(
            num_workers=training.workers,
            # Other workers begin at the newest state: one is saved before Ray Train looks for nodes that came.
            elastic_resize_monitor_interval_s=60 * training.save_minutes,
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
    # Off the main thread, where Ray Train would take Ctrl-C for itself, for good, and end the job as if all were well.
    with _tracked(run) as told:
        fitting = ThreadPoolExecutor(1).submit(trainer.fit)
        _watch(fitting, assignment.log, progress, steps, told)
    (run.student / "ray").delete()
    fitting.result()


@contextmanager
def _tracked(run: Run) -> Iterator[Callable[[Sequence[Mapping[str, float]]], None]]:
    """Give what tells the run's trackers of steps that they do not know yet."""
    if not run.config.training.trackers:
        yield lambda steps: None
        return
    from reasonray.training.trackers import log, tracking

    directory = Path(run.student.path if run.place.is_local else ".") / "tracked"
    with tracking(run.config.training, run.name, directory) as trackers:
        known = 0

        def tell(steps: Sequence[Mapping[str, float]]) -> None:
            nonlocal known
            log(trackers, [it for it in steps if it["step"] > known])
            known = max([known, *(int(it["step"]) for it in steps)])

        yield tell


def _watch(
    fitting: Future[Any],
    log: Any,
    progress: Progress,
    steps: int,
    told: Callable[[Sequence[Mapping[str, float]]], None],
) -> None:
    """Show the newest step until training is over, and tell trackers of every one."""
    looked, accelerator_seconds = progress.seconds, 0.0
    while True:
        ended = bool(wait([fitting], timeout=1.0).done)
        done, _, accelerators = ray.get(log.state.remote())
        told(done)
        accelerator_seconds += accelerators * (progress.seconds - looked)
        looked = progress.seconds
        cost = {"accelerator_seconds": round(accelerator_seconds, 3)}
        if not done:
            progress.show(f"starting workers  {duration(progress.seconds)}", {"state": "starting"} | cost)
        else:
            last = done[-1]
            left = (steps - last["step"]) * sum(it["seconds"] for it in done) / len(done)
            text = (
                f"step {last['step']:>5,.0f} of {steps:,}   loss {last['loss']:.3f}   "
                f"{last['tokens_per_second']:,.0f} tokens/s   {duration(progress.seconds)} gone, {duration(left)} left"
            )
            figures = {name: value for name, value in last.items() if name != "seconds"}
            progress.show(text, figures | cost | {"steps": steps}, now=ended)
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
    resume = _newest(run, assignment.data)
    steps: list[dict[str, float]] = json.loads((resume / "steps.json").read()) if resume else []
    if rank == 0:
        ray.get(log.restart.remote(steps, world * max(1, training.gpus)))

    def on_step(figures: dict[str, float]) -> None:
        steps.append(figures)
        if rank == 0:
            log.add.remote(figures)

    with ExitStack() as stack:
        scratch = Path(run.student.path)
        if not run.place.is_local:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reasonray-")))
        store = stack.enter_context(
            CheckpointStore(
                run,
                assignment.data,
                rank,
                world,
                is_preempted=lambda: ray.train.get_preemption_info() is not None,
                report=ray.train.report,
            )
        )
        job = TrainingJob(
            model_directory=str(models.resolve(run.config.student.model, run.config.student.revision)),
            examples=str(_fetched(run.student / "examples", scratch)),
            training=training,
            seed=run.config.seed,
            scratch=str(scratch / "checkpoints"),
            held_out=str(_fetched(run.student / "held-out", scratch)) if _held_out(run) else "",
        )
        figures = run_loop(
            job,
            rank,
            world,
            _fetched(resume, scratch / "resume") if resume else None,
            on_step,
            lambda step, path: store.save(step, path, list(steps)),
            store.is_due,
        )
    if rank == 0:
        (run.student / "figures.json").write(json.dumps(figures | {"data": assignment.data}).encode())


def _newest(run: Run, data: str) -> Place | None:
    """Return what to resume from: the newest state of this data."""
    whole = [it for it in resumable_checkpoints(run) if (it / "state").exists()]
    of_this_data = [it for it in whole if (it / "manifest.json").read_json()["data"] == data]
    return of_this_data[-1] if of_this_data else None


def _fetched(source: Place, scratch: Path) -> Path:
    """Return a local path to what a place holds, copying it where the run is remote."""
    if source.is_local:
        return Path(source.path)
    target = scratch / source.name
    source.copy(place(target))
    return target


def _chosen(run: Run, steps: Sequence[Mapping[str, float]]) -> Place:
    """Return the checkpoint that becomes the student."""
    checkpoints = run.checkpoints()
    if run.config.training.student == "best":
        best = best_checkpoint(steps)
        return next((it for it in checkpoints if it.name == best), checkpoints[-1])
    return checkpoints[-1]


def _finish(run: Run, data: str, steps: list[dict[str, float]], seconds: float, refused: list[str]) -> None:
    """Make the newest checkpoint's model the student; its manifest comes last."""
    if _newest(run, data) is None or not steps:
        raise UserError("training ended without a checkpoint; Ray Train's log in its session directory says why")
    chosen = _chosen(run, steps)
    figures = (run.student / "figures.json").read_json()
    final = run.student / "final"
    final.delete()
    (chosen / "model").copy(final)
    (run.student / "adapter").delete()
    if (chosen / "adapter" / "adapter_config.json").exists():
        (chosen / "adapter").copy(run.student / "adapter")
    lines = "".join(json.dumps(step) + "\n" for step in steps)
    (run.student / "steps.jsonl").write(lines.encode())
    overlong = len(figures["overlong"])
    manifest = {
        "data": data,
        "examples": figures["examples"],
        "loss_tokens": figures["loss_tokens"],
        "overlong": overlong,
        "refused": len(refused),
        "checkpoint": chosen.name,
        "student": run.config.training.student,
    }
    (final / "README.md").write(card(run.config, figures, steps, chosen.name).encode())
    made = {"steps": figures["steps"], "seconds": seconds, "training": run.config.training.step_settings}
    (final / "manifest.json").write(json.dumps(manifest | made).encode())
    delete_superseded(run, steps, but=None)
    left_out = f"   {overlong:,} too long, left out" if overlong else ""
    left_out += f"   {len(refused):,} refused, such as {refused[0]}" if refused else ""
    log_line(
        "train",
        f"{len(steps):>7,} steps on {figures['examples']:,} samples   loss {steps[0]['loss']:.3f} → "
        f"{steps[-1]['loss']:.3f}   {duration(seconds)}{left_out}",
    )
    run.events.emit("train", state="done", **manifest)

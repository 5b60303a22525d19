"""Training without Ray, on examples that a run has written: the same steps, the same checkpoints, and it resumes.

torchrun --nproc-per-node 8 -m reasonray.training CONFIG runs/x/student/examples OUT [key=value …]

Checkpoints are written to OUT. A checkpoint is complete once it has its manifest.json, and none is deleted. No state is
saved in between and no validation loss is measured: training.keep, student, save_minutes and trackers are for
jobs/train.py.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from reasonray import models
from reasonray.config import Config, Training, load_config
from reasonray.errors import UserError
from reasonray.store.siblings import located, refuse_missing_students
from reasonray.store.storage import place
from reasonray.training import loop, plan
from reasonray.training.mesh import Mesh


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one worker of torchrun, or the only one, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m reasonray.training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", metavar="CONFIG", help="TOML file; only its [student], [training] and seed are used")
    parser.add_argument("examples", metavar="EXAMPLES", help="student/examples of a run, or one Arrow file")
    parser.add_argument(
        "target", metavar="OUT", type=Path, help="directory for steps.jsonl and checkpoints, visible to all workers"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override of one key of the configuration")
    options = parser.parse_args(arguments)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    try:
        config = load_config(options.config, options.overrides)
        refuse_missing_students(config)
        config = located(config, place(config.root) / config.name)
        _train(config, options.examples, options.target, rank, world)
    except UserError as error:  # every worker prints its own: only it knows what is wrong on its machine
        print(f"error: {f'rank {rank}: ' if rank else ''}{error}", file=sys.stderr)
        return 2
    return 0


def _train(config: Config, examples: str, target: Path, rank: int, world: int) -> None:
    if not Path(examples).exists():
        raise UserError(f"no examples at {examples}; `python jobs/train.py` writes them to <run>/student/examples")
    training = config.training.model_copy(update={"workers": world, "gpus": min(1, config.training.gpus)})
    _join_process_group(training, world)
    directory = models.resolve(config.student.model, config.student.revision)
    resume_from = _newest(target)
    log = target / "steps.jsonl"
    if rank == 0:
        _truncate(log, _steps_done(resume_from))

    def on_step(figures: dict[str, float]) -> None:
        if rank == 0:
            with log.open("a") as file:
                file.write(json.dumps(figures) + "\n")
            speed = f"{figures['tokens_per_second']:,.0f} tokens/s"
            print(f"step {figures['step']:,.0f}   loss {figures['loss']:.3f}   {speed}", flush=True)

    def on_checkpoint(step: int, path: Path) -> None:
        if rank == 0:
            (path / "manifest.json").write_text(json.dumps({"step": step}))

    steps = target / "plan.arrow"
    job = loop.TrainingJob(str(directory), examples, training, config.seed, str(target))
    if rank == 0:
        plan.write(steps, loop.make_plan(job))
    Mesh.open(training, rank, world).wait_for_files()
    job = replace(job, plan=str(steps))
    summary = loop.run(job, rank, world, resume_from, on_step, on_checkpoint)
    if rank == 0:
        overlong = summary.overlong
        left_out = f"   {len(overlong):,} too long, left out, such as {overlong[0]}" if overlong else ""
        print(f"{summary.steps:,} steps on {summary.examples:,} examples{left_out}", flush=True)
    if dist.is_initialized():
        dist.destroy_process_group()


def _join_process_group(training: Training, world: int) -> None:
    if training.gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if training.shards(world):
        alone = {} if "RANK" in os.environ else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
        dist.init_process_group(training.backend, timeout=training.COLLECTIVE_PATIENCE, **alone)


def _newest(target: Path) -> Path | None:
    """Return the newest complete checkpoint: the manifest is written after state and model."""
    return max((manifest.parent for manifest in target.glob("step-*/manifest.json")), default=None)


def _steps_done(checkpoint: Path | None) -> int:
    return int(json.loads((checkpoint / "progress.json").read_text())["step"]) if checkpoint else 0


def _truncate(log: Path, steps_done: int) -> None:
    """Remove the steps after the checkpoint that training resumes from: they will be taken again."""
    log.parent.mkdir(parents=True, exist_ok=True)
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    log.write_text("".join(line for line in lines if json.loads(line)["step"] <= steps_done))


if __name__ == "__main__":
    sys.exit(main())

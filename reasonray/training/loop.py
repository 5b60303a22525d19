"""The training loop: one process of it per worker, started by whoever owns the process group.

The loss of a step is the sum over all its learnt tokens divided by their number, which the plan knows beforehand. So
neither packing nor the number of workers enters the result, and no worker has to ask another for a count.
"""

from __future__ import annotations

import ctypes
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoTokenizer

from reasonray import models
from reasonray.config import Training
from reasonray.errors import UserError
from reasonray.training import checkpoint, lora, plan
from reasonray.training.attention import packs_safely, self_check
from reasonray.training.examples import Batch, Examples, collate, read
from reasonray.training.model import Student, Weights, expect, export, load, probed


class NotSaved(UserError):
    """A checkpoint could not be written; those before it are untouched."""


class NonFinite(UserError):
    """A gradient overflowed or is not a number; nothing was updated."""


@dataclass(frozen=True)
class TrainingJob:
    """What a worker needs to know; it pickles."""

    model_directory: str
    examples: str
    """A file of examples, or a directory of such files."""
    training: Training
    seed: int
    scratch: str
    """Directory for checkpoints, on this worker's machine."""
    held_out: str = ""
    """Examples as in `examples`, whose loss is measured and never learnt; "" if there are none."""


@dataclass(frozen=True)
class HeldOut:
    """Examples that are measured, all in one step of a plan."""

    examples: Examples
    plan: plan.Plan


@dataclass(frozen=True)
class Session:
    """A run in progress, as one worker sees it."""

    plan: plan.Plan
    examples: Examples
    training: Training
    seed: int
    student: Student
    weights: Weights
    optimiser: torch.optim.Optimizer
    device: torch.device
    rank: int
    world: int
    identity: dict[str, Any]
    """What a checkpoint of this run has to match."""


def run(
    job: TrainingJob,
    rank: int,
    world: int,
    resume_from: Path | None,
    on_step: Callable[[dict[str, float]], None],
    on_checkpoint: Callable[[int, Path], None],
    save_now: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Train, as worker `rank` of `world`; with several, the process group exists already.

    Args:
        job: what to train on what.
        rank: of this worker.
        world: number of workers.
        resume_from: a checkpoint's directory to continue from.
        on_step: gets the figures of every step: step, loss, learning_rate, gradient_norm, tokens, tokens_per_second,
            seconds; at a checkpoint validation_loss too, and at the first step validation_loss_before, if there are
            held-out examples.
        on_checkpoint: gets the number of steps done and the directory, which holds `state/`, `progress.json` and, at
            the checkpoints of the run and as written by rank 0, `model/` and with LoRA `adapter/`; the others lie in
            `states`.
        save_now: asked after each step, by every worker; where any of them says so the state is saved at once.

    Returns:
        The number of steps, the ids of the examples that were too long, and tokens and learnt tokens of an epoch.

    Raises:
        UserError: nothing to train on, a model that cannot be trained, a checkpoint that does not match.
        NonFinite: training diverged.
        NotSaved: a checkpoint could not be written.
    """
    session = open_session(job, rank, world)
    held_out = _held_out(job, session)
    start = 0
    if resume_from is not None:
        start = checkpoint.load(resume_from, session.weights, session.optimiser, session.identity)
    steps = len(session.plan.steps)
    due = {-(-steps * (part + 1) // job.training.checkpoints) for part in range(job.training.checkpoints)}
    for index in range(start, steps):
        before = {"validation_loss_before": validate(session, held_out)} if held_out and not index else {}
        figures = take_step(session, index) | before
        checkpointed = index + 1 in due
        if checkpointed and held_out:
            figures["validation_loss"] = validate(session, held_out)
        on_step(figures)
        if _any(session, save_now()) or checkpointed:
            on_checkpoint(index + 1, _save(session, job, index + 1, with_model=checkpointed))
    kept = [row for row, length in enumerate(session.plan.lengths) if length <= job.training.max_tokens]
    return {
        "steps": steps,
        "examples": len(kept),
        "overlong": [session.examples[row].id for row in session.plan.overlong],
        "tokens": int(session.examples.lengths[kept].sum()),
        "loss_tokens": int(session.examples.loss_lengths[kept].sum()),
    }


def open_session(job: TrainingJob, rank: int, world: int) -> Session:
    """Load model and examples, plan the steps, and prove that the model keeps packed examples apart.

    Raises:
        UserError: nothing to train on, or a model that cannot be trained.
    """
    training = job.training
    examples = read(job.examples)
    config = AutoConfig.from_pretrained(job.model_directory)
    steps = plan.build(
        examples.lengths,
        examples.loss_lengths,
        batch=training.batch,
        max_tokens=training.max_tokens,
        epochs=training.epochs,
        seed=job.seed,
        packing=packs_safely(config),
    )
    vocabulary = config.get_text_config().vocab_size
    if examples.largest_token >= vocabulary:
        raise UserError(
            f"the examples hold token {examples.largest_token}, the model knows {vocabulary}: the tokenizer beside it "
            "is another model's; put its own there"
        )
    device = torch.device("cuda", torch.cuda.current_device()) if training.gpus else torch.device("cpu")
    torch.manual_seed(job.seed)  # adapters begin at random
    student = load(job.model_directory, training, device, rank, world)
    weights = Weights.of(student, training.precision)
    student.eval()  # or dropout would be taken for a fault
    with torch.no_grad():
        self_check(
            lambda batch: student.logits(batch.to(device)),
            lambda batch: student.stock_logits(batch.to(device)),
            vocabulary,
            packing=steps.pack_tokens > 0,
        )
    student.train()
    optimiser = _optimiser(weights, training)
    identity = checkpoint.identity(
        training,
        model=models.identity(Path(job.model_directory)),
        plan=steps.sha256,
        examples=examples.sha256,
        seed=job.seed,
    )
    _give_back_memory()
    return Session(steps, examples, training, job.seed, student, weights, optimiser, device, rank, world, identity)


def _give_back_memory() -> None:
    """Return to the system what loading has freed: glibc keeps it in holes into which few of a step's tensors fit."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _optimiser(weights: Weights, training: Training) -> torch.optim.Optimizer:
    # Decay pulls matrices towards zero; a norm's scale or a bias has no reason to go there.
    matrices = [weight for weight in weights.named.values() if weight.ndim > 1]
    others = [weight for weight in weights.named.values() if weight.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": training.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=training.learning_rate, fused=True)


def take_step(session: Session, index: int) -> dict[str, float]:
    """Compute the gradient of one step, update the weights, and return the step's figures.

    Raises:
        NonFinite: instead of updating with a gradient that is not finite.
    """
    began = time.perf_counter()
    step = session.plan.steps[index]
    rate = plan.learning_rate(index, len(session.plan.steps), session.training)
    for group in session.optimiser.param_groups:
        group["lr"] = rate
    torch.manual_seed((session.seed * 1_000_003 + index) * 4096 + session.rank)  # dropout, the same when resumed
    loss = backward(session, index)
    parameters = list(session.weights.named.values())
    norm = torch.nn.utils.clip_grad_norm_(parameters, session.training.clip)
    gradient_norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    if not (torch.isfinite(loss) and gradient_norm < float("inf")):
        ids = ", ".join(session.examples[row].id for row in step.rows)
        raise NonFinite(
            f"step {index + 1}: loss {float(loss):g}, gradient norm {gradient_norm:g}; stopped before the update. "
            f"Lower training.learning_rate, or look at the step's examples: {ids}"
        )
    session.optimiser.step()
    session.optimiser.zero_grad(set_to_none=True)
    session.weights.refresh()
    seconds = time.perf_counter() - began
    tokens = sum(session.plan.lengths[row] for row in step.rows)
    return {
        "step": index + 1,
        "loss": float(loss),
        "learning_rate": rate,
        "gradient_norm": gradient_norm,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "seconds": seconds,
    }


def backward(session: Session, index: int) -> torch.Tensor:
    """Add up the gradients of this worker's packs and return the loss of the step, over all workers."""
    loss_tokens = session.plan.steps[index].loss_tokens
    loss = torch.zeros((), dtype=torch.float32, device=session.device)
    packs = session.plan.for_rank(index, session.rank, session.world)
    for left, pack in zip(range(len(packs) - 1, -1, -1), packs, strict=True):
        if session.training.syncs_once_per_step:
            expect(session.student, last_of_step=not left)
        batch: Batch = collate(session.examples, pack).to(session.device)
        part = session.student(batch) / loss_tokens
        part.backward()
        loss += part.detach()
    if session.world > 1:
        dist.all_reduce(loss)
    return loss


def _held_out(job: TrainingJob, session: Session) -> HeldOut | None:
    if not job.held_out:
        return None
    examples = read(job.held_out)
    size, most = len(examples), session.training.max_tokens
    if not (examples.lengths <= most).any():
        return None
    steps = plan.build(
        *(examples.lengths, examples.loss_lengths),
        batch=size, max_tokens=most, epochs=1, seed=0, packing=session.plan.pack_tokens > 0,
    )  # fmt: skip
    return HeldOut(examples, steps)


def validate(session: Session, held_out: HeldOut) -> float:
    """Return the loss on held-out examples, the mean over their learnt tokens; every worker calls it."""
    session.student.eval()
    loss = torch.zeros((), dtype=torch.float32, device=session.device)
    with torch.no_grad():
        for pack in held_out.plan.for_rank(0, session.rank, session.world):
            loss += session.student(collate(held_out.examples, pack).to(session.device))
    session.student.train()
    session.weights.refresh()
    if session.world > 1:
        dist.all_reduce(loss)
    return float(loss) / held_out.plan.steps[0].loss_tokens


def _any(session: Session, mine: bool) -> bool:
    """Say whether any worker says so; all of them ask."""
    if session.world == 1:
        return mine
    said = torch.tensor(float(mine), device=session.device)
    dist.all_reduce(said, dist.ReduceOp.MAX)
    return bool(said)


def _save(session: Session, job: TrainingJob, step: int, *, with_model: bool = True) -> Path:
    """Write a checkpoint; where one worker cannot, all of them stop, and what it wrote is gone.

    Raises:
        NotSaved: no space is left, or the file system refuses otherwise.
    """
    directory = Path(job.scratch, *([] if with_model else ["states"])) / f"step-{step:06d}"
    whole, logits = {}, torch.empty(0)
    if with_model:
        whole, logits = session.weights.whole(), probed(session.student, session.device)
        session.weights.refresh()
    fault = ""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        checkpoint.save(directory, session.weights, session.optimiser, step, session.identity)
        if with_model and session.rank == 0:
            if session.training.lora_rank:
                whole = lora.export(whole, job.model_directory, directory / "adapter", session.training)
            tokenizer = AutoTokenizer.from_pretrained(job.model_directory)
            target, precision = directory / "model", session.training.precision
            export(whole, tokenizer, job.model_directory, target, precision, logits)
    except (OSError, CheckpointException, SafetensorError) as error:
        fault = " ".join(str(error).split())[-160:]
    if _any(session, bool(fault)):
        shutil.rmtree(directory, ignore_errors=True)
        raise NotSaved(
            f"the checkpoint of step {step} cannot be written to {directory.parent} "
            f"({fault or 'another worker failed'}); the one before it stays: make room, and run the same command again"
        )
    return directory

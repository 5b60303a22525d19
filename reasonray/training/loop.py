"""The training loop: one process of it per worker, started by whoever owns the process group.

The loss of a step is the sum over all its learnt tokens divided by their number, which the plan knows beforehand. So
neither packing nor the number of workers enters the result, and no worker has to ask another for a count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoTokenizer

from reasonray.config import Training
from reasonray.errors import UserError
from reasonray.training import checkpoint, plan
from reasonray.training.attention import packs_safely, self_check
from reasonray.training.examples import Batch, Examples, collate, read
from reasonray.training.model import Student, Weights, export, load


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

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint of this run has to match."""
        return checkpoint.identity(self.training, plan=self.plan.sha256, examples=self.examples.sha256, seed=self.seed)


def run(
    job: TrainingJob,
    rank: int,
    world: int,
    resume_from: Path | None,
    on_step: Callable[[dict[str, float]], None],
    on_checkpoint: Callable[[int, Path], None],
) -> dict[str, Any]:
    """Train, as worker `rank` of `world`; with several, the process group exists already.

    Args:
        job: what to train on what.
        rank: of this worker.
        world: number of workers.
        resume_from: a checkpoint's directory to continue from.
        on_step: gets the figures of every step: step, loss, learning_rate, gradient_norm, tokens, tokens_per_second,
            seconds.
        on_checkpoint: gets the number of steps done and the directory, which holds `state/`, `progress.json` and, as
            written by rank 0, `model/`.

    Returns:
        The number of steps, the ids of the examples that were too long, and tokens and learnt tokens of an epoch.

    Raises:
        UserError: nothing to train on, a model that cannot be trained, a checkpoint that does not match.
        NonFinite: training diverged.
    """
    session = open_session(job, rank, world)
    start = 0
    if resume_from is not None:
        start = checkpoint.load(resume_from, session.weights, session.optimiser, session.identity)
    steps = len(session.plan.steps)
    due = {-(-steps * (part + 1) // job.training.checkpoints) for part in range(job.training.checkpoints)}
    for index in range(start, steps):
        on_step(take_step(session, index))
        if index + 1 in due:
            on_checkpoint(index + 1, _save(session, job, index + 1))
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
    if not steps.steps:
        raise UserError(
            f"nothing to train on: {len(examples)} examples, {len(steps.overlong)} of them beyond "
            f"training.max_tokens = {training.max_tokens}"
        )
    vocabulary = config.get_text_config().vocab_size
    if examples.largest_token >= vocabulary:
        raise UserError(
            f"the examples hold token {examples.largest_token}, the model knows {vocabulary}: the tokenizer beside it "
            "is another model's; put its own there"
        )
    device = torch.device("cuda", torch.cuda.current_device()) if training.gpus else torch.device("cpu")
    student = load(job.model_directory, training, device, world)
    weights = Weights.of(student, training.precision)
    if steps.pack_tokens:
        with torch.no_grad():
            self_check(lambda batch: student.logits(batch.to(device)), vocabulary)
    optimiser = _optimiser(weights, training, fused=device.type == "cuda" or world == 1)
    return Session(steps, examples, training, job.seed, student, weights, optimiser, device, rank, world)


def _optimiser(weights: Weights, training: Training, *, fused: bool) -> torch.optim.Optimizer:
    # Decay pulls matrices towards zero; a norm's scale or a bias has no reason to go there.
    matrices = [weight for weight in weights.named.values() if weight.ndim > 1]
    others = [weight for weight in weights.named.values() if weight.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": training.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=training.learning_rate, fused=fused)


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
    for pack in session.plan.for_rank(index, session.rank, session.world):
        batch: Batch = collate(session.examples, pack).to(session.device)
        part = session.student(batch) / loss_tokens
        part.backward()
        loss += part.detach()
    if session.world > 1:
        dist.all_reduce(loss)
    return loss


def _save(session: Session, job: TrainingJob, step: int) -> Path:
    directory = Path(job.scratch) / f"step-{step:06d}"
    directory.mkdir(parents=True, exist_ok=True)
    checkpoint.save(directory, session.weights, session.optimiser, step, session.identity)
    whole = session.weights.whole()
    if session.rank == 0:
        tokenizer = AutoTokenizer.from_pretrained(job.model_directory)
        export(whole, tokenizer, job.model_directory, directory / "model", session.training.precision)
    if session.world > 1:
        dist.barrier()
    return directory

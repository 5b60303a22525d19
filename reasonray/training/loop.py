"""The training loop. One process per worker runs it, started by the owner of the process group.

The loss of a step is the sum over all its target tokens, each times its weight, divided by the sum of the absolute
weights, which the plan knows beforehand (without weights, the number of target tokens). So neither packing nor the
number of workers affects the result, and no worker has to ask another for a count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from reasonray import models
from reasonray.config import Training
from reasonray.errors import UserError
from reasonray.store.storage import Place
from reasonray.training import checkpoint, plan
from reasonray.training.architecture import (
    check_positions,
    explained,
    read_config,
    supports_packing,
)
from reasonray.training.attention import use_fastest_kernel
from reasonray.training.device import product_rate, trim_heap
from reasonray.training.examples import Batch, Examples, collate, read
from reasonray.training.export import rehearse
from reasonray.training.losses import TokenSums
from reasonray.training.mesh import Mesh
from reasonray.training.model import Student, Weights, load, set_gradient_sync
from reasonray.training.optimiser import Optimiser
from reasonray.training.optimiser import make as make_optimiser
from reasonray.training.out_of_memory import memory_explained
from reasonray.training.packing import EARLIER_COST, Cost, Pack
from reasonray.training.prefetch import Prefetcher
from reasonray.training.saving import Saver
from reasonray.training.self_check import self_check
from reasonray.training.sizes import Sizes
from reasonray.training.step_figures import step_figures
from reasonray.training.surrogate import Clipping
from reasonray.training.trained_student import TrainingSummary


class NonFinite(UserError):
    """Loss or gradient overflowed or is not a number; the weights were not updated."""


@dataclass(frozen=True)
class TrainingJob:
    """A worker's input; it pickles."""

    model_directory: str
    examples: str
    """A file of examples, or a directory of such files."""
    training: Training
    seed: int
    checkpoint_directory: str
    """Directory for checkpoints, on this worker's machine."""
    validation: str = ""
    """Validation examples, like `examples`: their loss is measured and never trained on. "" if there are none."""
    plan: str = ""
    """File of the plan, from `make_plan`; "" if every worker makes it by itself."""
    chat_template: str = ""
    """Of the exported student; "" for that of the model."""


@dataclass(frozen=True)
class Validation:
    """The validation examples and their packs, as a plan of a single step."""

    examples: Examples
    plan: plan.Plan


@dataclass(frozen=True)
class Session:
    """A training in progress, as one worker sees it."""

    plan: plan.Plan
    examples: Examples
    training: Training
    seed: int
    student: Student
    weights: Weights
    optimiser: Optimiser
    device: torch.device
    mesh: Mesh
    sizes: Sizes
    product_rate: float | None
    """Operations per second of the matrix products of all workers' devices; None if unknown."""
    identity: dict[str, Any]
    """Values that a checkpoint has to match for this session to resume from it."""
    batches: Prefetcher[Pack, Batch]
    """What this process computes of each pack of the examples, in the CPU's memory."""


def run(
    job: TrainingJob,
    rank: int,
    world: int,
    resume_from: Place | Path | None,
    on_step: Callable[[dict[str, float]], None],
    on_checkpoint: Callable[[int, Path], None],
    save_now: Callable[[], bool] = lambda: False,
) -> TrainingSummary:
    """Train as worker `rank` of `world`. With several workers the process group has to exist already.

    Args:
        job: the model, the examples and the settings.
        rank: of this worker.
        world: number of workers.
        resume_from: directory of a checkpoint to continue from, in any storage.
        on_step: gets every step's figures: step, loss, learning_rate, gradient_norm, and those of `step_figures`. With
            validation examples the first step has validation_loss_before, and each step with a checkpoint, and every
            `validate_every`-th one, has validation_loss.
        on_checkpoint: gets the number of steps done and the directory of what was saved: `state/` and `progress.json`.
            Where states are written while training goes on, it is called some steps later.
            At the checkpoints of the plan rank 0 adds `model/` and, with LoRA, `adapter/`. States saved in between have
            neither and are in `states/`.
        save_now: called after each step by every worker. If it returns True for any of them, the state is saved.

    Raises:
        UserError: nothing to train on, a model that cannot be trained, or a checkpoint that does not match.
        NonFinite: the training diverged.
        NotSaved: a checkpoint could not be written.
        NotExported: a model does not read back as it was trained.
    """
    with memory_explained(job.training):
        return _run(job, rank, world, resume_from, on_step, on_checkpoint, save_now)


def _run(
    job: TrainingJob,
    rank: int,
    world: int,
    resume_from: Place | Path | None,
    on_step: Callable[[dict[str, float]], None],
    on_checkpoint: Callable[[int, Path], None],
    save_now: Callable[[], bool],
) -> TrainingSummary:
    session = open_session(job, rank, world)
    validation = _open_validation(job, session)
    done, losses = 0, list[float]()
    if resume_from is not None:
        done, losses = checkpoint.load(resume_from, session.weights, session.optimiser, session.identity)
    steps = len(session.plan.steps)
    checkpoint_steps = {-(-steps * (part + 1) // job.training.checkpoints) for part in range(job.training.checkpoints)}
    with session.batches, saver_of(session, job, on_checkpoint) as saver:
        while done < steps and not has_stalled(losses, job.training.patience):
            index, done = done, done + 1
            before = {"validation_loss_before": validate(session, validation)} if validation and not index else {}
            figures = take_step(session, index) | before
            is_checkpoint = done in checkpoint_steps
            if validation and (is_checkpoint or done % (job.training.validate_every or steps) == 0):
                figures["validation_loss"] = validate(session, validation)
                losses += [figures["validation_loss"]] * is_checkpoint
            on_step(figures)
            is_due, is_writing = session.mesh.any(save_now(), saver.is_writing, device=session.device)
            if not is_writing:
                saver.finish()
            if is_due or is_checkpoint:
                saver.save(done, losses, with_model=is_checkpoint)
    kept = plan.rows_that_fit(session.examples.lengths, job.training.max_tokens)
    return TrainingSummary(
        steps=done,
        examples=len(kept),
        tokens=int(session.examples.lengths[kept].sum()),
        target_tokens=int(session.examples.target_lengths[kept].sum()),
        overlong=[session.examples[row].id for row in session.plan.overlong],
    )


def has_stalled(losses: Sequence[float], patience: int | None) -> bool:
    """Return whether none of the last `patience` losses is below those before them."""
    return patience is not None and len(losses) > patience and min(losses[:-patience]) <= min(losses[-patience:])


def open_session(job: TrainingJob, rank: int, world: int) -> Session:
    """Load model and examples, plan the steps, and check that the model keeps packed examples apart.

    Raises:
        UserError: nothing to train on, or a model that cannot be trained.
    """
    training = job.training
    mesh = Mesh.open(training, rank, world)
    examples = read(job.examples)
    config = read_config(job.model_directory, training)
    steps = plan.read(job.plan) if job.plan else make_plan(job)
    vocabulary = config.get_text_config().vocab_size
    if steps.largest_token >= vocabulary:
        raise UserError(
            f"the examples hold token {steps.largest_token}, the model knows {vocabulary}: the tokenizer next to it "
            "is another model's; put its own there"
        )
    if training.objective == "policy_gradient" and not examples.have_logprobs:
        raise UserError('training.objective = "policy_gradient" needs examples with the log-probabilities of sampling')
    check_positions(config, int(examples.lengths[plan.rows_that_fit(examples.lengths, training.max_tokens)].max()))
    device = torch.device("cuda", torch.cuda.current_device()) if training.gpus else torch.device("cpu")
    if training.gpus:
        use_fastest_kernel(device)
    torch.manual_seed(job.seed)  # adapters are initialised at random
    student = load(job.model_directory, training, device, mesh)
    weights = Weights.of_student(student, training.precision)
    mesh.by_first(lambda: rehearse(job.model_directory, training, weights.named))
    student.eval()  # dropout would look like a fault
    with torch.no_grad(), explained("the student's architecture is not supported"):
        self_check(
            lambda batch: student.logits(batch.to(device)),
            lambda batch: student.stock_logits(batch.to(device)),
            vocabulary,
            packing=steps.pack_tokens > 0,
        )
    student.train()
    student.clipping = Clipping.of(training)
    optimiser = make_optimiser(weights, training)
    identity = checkpoint.training_identity(
        training,
        model=models.identity(Path(job.model_directory)),
        plan=steps.sha256,
        examples=steps.examples,
        seed=job.seed,
    )
    trim_heap()
    rate = product_rate(device, torch.bfloat16 if training.precision == "bf16" else torch.float32)
    return Session(
        *(steps, examples, training, job.seed, student, weights, optimiser, device, mesh),
        sizes=Sizes.of(config),
        product_rate=None if rate is None else rate * mesh.world,
        identity=identity,
        batches=Prefetcher(partial(_own_part, examples, mesh, device)),
    )


def saver_of(session: Session, job: TrainingJob, on_checkpoint: Callable[[int, Path], None]) -> Saver:
    """Return what writes the checkpoints of a session."""
    return Saver(
        session.training,
        session.weights,
        session.optimiser,
        session.mesh,
        session.device,
        identity=session.identity,
        source=job.model_directory,
        directory=job.checkpoint_directory,
        chat_template=job.chat_template,
        on_checkpoint=on_checkpoint,
    )


def make_plan(job: TrainingJob) -> plan.Plan:
    """Plan a training from its examples and the student's configuration; it takes a pass over all tokens.

    Raises:
        UserError: no example fits.
    """
    examples, training = read(job.examples), job.training
    config = read_config(job.model_directory, training)
    steps = plan.build(
        examples.lengths,
        examples.target_weights,
        max_tokens=training.max_tokens,
        epochs=training.epochs,
        seed=job.seed,
        batch=training.batch,
        step=training.step,
        packable=supports_packing(config),
        cost=Cost(Sizes.of(config).even_tokens) if training.step else EARLIER_COST,
        max_steps=training.max_steps,
    )
    return replace(steps, examples=examples.sha256, largest_token=examples.largest_token)


def take_step(session: Session, index: int) -> dict[str, float]:
    """Compute the gradient of one step, update the weights, and return the step's figures.

    Raises:
        NonFinite: loss or gradient is not finite; the weights are as before.
    """
    started = time.perf_counter()
    step = session.plan.steps[index]
    rate = plan.learning_rate(index, len(session.plan.steps), session.training)
    for group in session.optimiser.param_groups:
        group["lr"] = rate
    torch.manual_seed((session.seed * 1_000_003 + index) * 4096 + session.mesh.rank)  # equal dropout on resuming
    loss, sums = backward(session, index)
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
    session.optimiser.zero_grad()
    session.weights.refresh()
    seconds = time.perf_counter() - started
    figures = {"step": index + 1, "loss": float(loss), "learning_rate": rate, "gradient_norm": gradient_norm}
    return figures | step_figures(
        step,
        sums.tolist(),
        seconds,
        sizes=session.sizes,
        adapters=session.training.lora_rank > 0,
        sampled=session.training.objective == "policy_gradient",
        product_rate=session.product_rate,
        device=session.device,
    )


def backward(session: Session, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Accumulate the gradients of this worker's packs; return the step's loss and its TokenSums over all workers."""
    weight = session.plan.steps[index].weight
    loss = torch.zeros((), dtype=torch.float32, device=session.device)
    session.student.measured = measured = TokenSums.zero(session.device)
    packs = _own_packs(session, session.plan, index)
    is_last = index + 1 == len(session.plan.steps)
    following = [*packs[1:], None if is_last else _own_packs(session, session.plan, index + 1)[0]]
    for number, (pack, next_pack) in enumerate(zip(packs, following, strict=True), start=1):
        set_gradient_sync(session.student, session.training, last_of_step=number == len(packs))
        batch = session.batches.get(pack, next_pack).to(session.device)
        part = session.student(batch) / weight
        part.backward()
        loss += part.detach()
    sums = torch.cat([loss[None], measured.sums])
    if session.mesh.world > 1:
        dist.all_reduce(sums)
    return sums[0], sums[1:]


def _own_packs(session: Session, steps: plan.Plan, index: int) -> list[Pack]:
    """Return the packs of a step that this process computes, alone or with others."""
    return steps.for_rank(index, session.mesh.pack_group, session.mesh.pack_groups)


def _own_part(examples: Examples, mesh: Mesh, device: torch.device, pack: Pack) -> Batch:
    """Return the tokens of a pack that this process computes: all, unless others share the pack.

    They are in the CPU's memory, pinned if the device is a GPU.
    """
    batch, context = collate(examples, pack), mesh.context
    own = batch if context is None else batch.part(context.rank, context.size)
    return own.pinned() if device.type == "cuda" else own


def _open_validation(job: TrainingJob, session: Session) -> Validation | None:
    if not job.validation:
        return None
    examples = read(job.validation)
    max_tokens = session.training.max_tokens
    if not (examples.lengths <= max_tokens).any():
        return None
    packable = session.plan.pack_tokens > 0
    single_step = plan.of_all(examples.lengths, examples.target_weights, max_tokens=max_tokens, packable=packable)
    return Validation(examples, single_step)


def validate(session: Session, validation: Validation) -> float:
    """Return the mean loss over the target tokens of the validation examples, weighted as in training.

    Every worker has to call it.
    """
    session.student.eval()
    loss = torch.zeros((), dtype=torch.float32, device=session.device)
    with torch.no_grad():
        for pack in _own_packs(session, validation.plan, 0):
            batch = _own_part(validation.examples, session.mesh, session.device, pack)
            loss += session.student(batch.to(session.device))
    session.student.train()
    session.weights.refresh()
    if session.mesh.world > 1:
        dist.all_reduce(loss)
    return float(loss) / validation.plan.steps[0].weight

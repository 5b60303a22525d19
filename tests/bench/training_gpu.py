"""The training loop on one GPU: a student of 1.5 B parameters, bf16, packs of 8,192 tokens.

    python tests/bench/training_gpu.py [--device cuda] [--size 1.5b] [--pack 8192] [--steps 4] [--rounds 2]

The model has Qwen2.5-1.5B's configuration and random weights; examples are random tokens, 2,000 in the median. Torch's
kernel for packed examples (varlen) runs against scaled_dot_product_attention on one example at a time, each with and
without activation checkpointing, also with compiled layers, and once with each kind of offloading, in turns, every run
in a process of its own. `kernel` is FA3 or FA4 where such a package is installed. The limit is
the GPU's speed in one large bf16 product; share_of_products counts the model's own operations (`Sizes.operations`), mfu
is the same against the card's data sheet, as in the step log. table_gb is the peak by `memory.py`, with checkpointing.
Packs of 8k and of 32k: `--pack 8192`, then `--pack 32768` with
`--variants varlen_checkpointing,compiled_checkpointing,activation_offload,cpu_offload`.
`--device cpu --size tiny --pack 512` shows that the benchmark itself works.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
sys.path.insert(0, str(Path(__file__).parents[2]))
import numpy as np
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, Qwen2Config

from reasonray.config import Training
from reasonray.training import attention, examples, loop
from reasonray.training.examples import Example
from reasonray.training.memory import memory
from reasonray.training.sizes import Sizes
from tests.bench.printing import print_figures

BATCH = 16
SIZES = {
    "1.5b": {"vocab_size": 151_936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
             "num_attention_heads": 12, "num_key_value_heads": 2},
    "tiny": {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2},
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "varlen": {},
    "varlen_checkpointing": {"activation_checkpointing": True},
    "varlen_selective": {"activation_checkpointing": "selective"},
    "compiled": {"compile": True},
    "compiled_checkpointing": {"compile": True, "activation_checkpointing": True},
    "sdpa": {},
    "sdpa_checkpointing": {"activation_checkpointing": True},
    "activation_offload": {"activation_checkpointing": "offload"},
    "optimiser_offload": {"activation_checkpointing": True, "cpu_offload": "optimiser"},
    "cpu_offload": {"activation_checkpointing": True, "cpu_offload": True},
}
"""The settings of each variant; "sdpa" also leaves torch's kernel out."""


def main() -> None:
    """Measure and print the figures; with --run, be one of the runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--size", choices=list(SIZES), default="1.5b")
    parser.add_argument("--pack", type=int, default=8192, help="most tokens of a pack")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--variants", type=lambda names: names.split(","), default=list(VARIANTS))
    parser.add_argument("--run", nargs=2, metavar=("VARIANT", "ROOT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(run_variant(options.run[0], Path(options.run[1]), options)))
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: there is no GPU here; --device cpu --size tiny --pack 512 tries the benchmark itself")
    figures: dict[str, Any] = {"card": "cpu"}
    if options.device == "cuda":
        kernel = attention.use_fastest_kernel(torch.device("cuda", torch.cuda.current_device()))
        figures = {"card": torch.cuda.get_device_name(), "kernel": kernel}
    with tempfile.TemporaryDirectory() as scratch:
        root = prepare(Path(scratch), options)
        runs: dict[str, list[dict[str, float]]] = {variant: [] for variant in options.variants}
        for turn in range(options.rounds):
            for variant in options.variants if turn % 2 else reversed(options.variants):
                runs[variant].append(run_in_process(variant, root))
    for variant, variant_runs in runs.items():
        figures |= {
            f"{variant}_{name}": statistics.median(run[name] for run in variant_runs) for name in variant_runs[0]
        }
    if {"varlen", "sdpa"} <= runs.keys():
        figures["varlen_over_sdpa"] = figures["varlen_tokens_per_second"] / figures["sdpa_tokens_per_second"]
    figures["table_gb"] = table_gb(options)
    for variant in ("varlen_checkpointing", "sdpa_checkpointing"):
        if variant in runs and options.device == "cuda":
            figures[f"{variant}_peak_over_table"] = figures[f"{variant}_peak_gb"] / figures["table_gb"]
    print_figures("training_gpu", {"size": options.size, "pack": options.pack, "batch": BATCH} | figures)


def run_in_process(variant: str, root: Path) -> dict[str, float]:
    """Run one variant in a process of its own, with this process's arguments."""
    command = [sys.executable, __file__, *sys.argv[1:], "--run", variant, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{variant}: {done.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{variant:<21} {figures['tokens_per_second']:>9,.0f} tokens/s  {figures['peak_gb']:6.1f} GB", flush=True)
    return figures


def run_variant(variant: str, root: Path, options: argparse.Namespace) -> dict[str, float]:
    """Train some steps; return speed, its share of the limit, and peak memory."""
    cuda = options.device == "cuda"
    if variant.startswith("sdpa"):
        attention._varlen_supports = lambda *_: False
    settings = Training(
        gpus=int(cuda), batch=BATCH, max_tokens=options.pack, epochs=1, checkpoints=1, warmup=0.0, schedule="constant",
        **{"activation_checkpointing": False} | VARIANTS[variant],
    )  # fmt: skip
    if settings.offloads_weights:  # FSDP wants a process group of even one process
        dist.init_process_group(settings.backend, store=dist.HashStore(), rank=0, world_size=1)
    limit = product_rate("cuda" if cuda else "cpu")
    job = loop.TrainingJob(str(root / "model"), str(root / "examples.arrow"), settings, 0, str(root))
    session = loop.open_session(job, 0, 1)
    rates, shares, utilisations = [], [], []
    for index in range(options.steps):
        started = time.perf_counter()
        figures = loop.take_step(session, index)
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        rates.append(figures["tokens"] / seconds)
        shares.append(operations(session, index) / seconds / limit)
        utilisations.append(figures.get("mfu", float("nan")))  # of a card without a data sheet
    peak = torch.cuda.max_memory_allocated() if cuda else 0
    return {
        "tokens_per_second": statistics.median(rates[1:]),
        "share_of_products": statistics.median(shares[1:]),
        "mfu": statistics.median(utilisations[1:]),
        "peak_gb": peak / 1e9,
    }


def operations(session: loop.Session, index: int) -> float:
    """Return the floating-point operations of a step's products, forward and backward, each counted once."""
    rows = session.plan.steps[index].rows
    target_tokens = int(session.examples.target_lengths[rows].sum())
    return session.sizes.operations(session.examples.lengths[rows].tolist(), target_tokens)


def table_gb(options: argparse.Namespace) -> float:
    """Return the peak of a step with activation checkpointing by the memory table's arithmetic, in GB."""
    sizes = Sizes.of(configuration(options))
    return memory(sizes, shard=1, pack_tokens=options.pack).total / 1e9


def product_rate(device: str) -> float:
    """Return the operations per second of one large bf16 product, the median of nine."""
    size = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(seconds[1:])


def prepare(root: Path, options: argparse.Namespace) -> Path:
    """Write a model and its examples to a directory, and return the directory."""
    torch.manual_seed(0)
    config = configuration(options)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(root / "model")
    generator = np.random.default_rng(0)
    lengths = np.minimum(
        generator.lognormal(np.log(options.pack / 4), 0.6, options.steps * BATCH), options.pack
    ).astype(int)
    rows = (
        Example(f"{number:05d}", generator.integers(3, config.vocab_size, length).tolist(), max(1, length // 10))
        for number, length in enumerate(lengths.tolist())
    )
    examples.write(root / "examples.arrow", rows)
    return root


def configuration(options: argparse.Namespace) -> Qwen2Config:
    """Return the model's configuration."""
    return Qwen2Config(**SIZES[options.size], max_position_embeddings=32_768, tie_word_embeddings=True, eos_token_id=2)


if __name__ == "__main__":
    main()

"""GPU use of a training's plan by the number of GPUs, and what planning takes.

    python tests/bench/packing.py [--examples 20000]

GPU use is the work done, divided by GPUs × time, where a micro-step takes as long as its costliest pack (FSDP's
collectives align all GPUs at every layer). The cost of a pack is that of a 1.5 B or 7 B student: linear in its tokens
for matrix products, quadratic within each example for attention. Lengths are log-normal, as those of reasoning traces
are, and cut off at the pack's size. Steps of 64 packs are compared with steps of 16 examples, the default.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import Qwen2Config

sys.path.insert(0, str(Path(__file__).parents[2]))
from reasonray.config import StepSize
from reasonray.training import packing, plan
from reasonray.training.packing import Cost
from reasonray.training.sizes import Sizes
from tests.bench.printing import print_figures

LENGTHS = {"traces_of_5k": (5000, 0.7, 32_768), "traces_of_8k": (8000, 1.0, 32_768), "answers": (400, 0.6, 4096)}
"""Median and spread of the logarithm of the examples' tokens, and tokens of a pack."""
STUDENTS = {
    "1.5b": Qwen2Config(
        hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2,
        vocab_size=151_936, tie_word_embeddings=True,
    ),
    "7b": Qwen2Config(
        hidden_size=3584, intermediate_size=18_944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, vocab_size=152_064, tie_word_embeddings=False,
    ),
}  # fmt: skip
GPUS = (1, 8, 64)


def main() -> None:
    """Compute and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=20_000)
    options = parser.parse_args()
    figures: dict[str, Any] = {"examples": options.examples}
    for name, lengths in LENGTHS.items():
        for student, config in STUDENTS.items():
            cost = Cost(Sizes.of(config).even_tokens)
            for label, value in use_by_gpus(random_lengths(*lengths, options.examples), lengths[2], cost):
                figures[f"{name}_{student}_{label}"] = value
    print_figures("packing", figures | planning(options.examples))


def random_lengths(median: float, spread: float, most: int, count: int) -> NDArray[np.int64]:
    """Return lengths of examples, none above `most`."""
    lengths = np.random.default_rng(0).lognormal(np.log(median), spread, 2 * count).astype(np.int64)
    return lengths[(lengths >= 16) & (lengths <= most)][:count]


def use_by_gpus(lengths: NDArray[np.int64], max_tokens: int, cost: Cost) -> Iterator[tuple[str, float]]:
    """Yield the GPU use of steps of packs and of steps of examples, and how full the packs are."""
    settings: dict[str, Any] = {"max_tokens": max_tokens, "epochs": 1, "seed": 0, "cost": cost}
    in_packs = plan.build(lengths, lengths, step=StepSize(packs=64), **settings)
    in_examples = plan.build(lengths, lengths, batch=16, **settings)
    packs = sum(len(step.packs) for step in in_packs.steps)
    yield "packs_full", round(float(lengths.sum()) / packs / max_tokens, 3)
    for gpus in GPUS:
        yield f"64_packs_use_of_{gpus}_gpus", round(gpu_use(in_packs, lengths, gpus, max_tokens, cost), 3)
    for gpus in GPUS:
        yield f"16_examples_use_of_{gpus}_gpus", round(gpu_use(in_examples, lengths, gpus, max_tokens, cost), 3)


def gpu_use(steps: plan.Plan, lengths: NDArray[np.int64], gpus: int, max_tokens: int, cost: Cost) -> float:
    """Return the share of the GPUs' time in which they compute."""
    of_row = lengths.tolist()
    work = time_of_all = 0.0
    for step in steps.steps:
        shares = packing.deal(step.packs, of_row, gpus, max_tokens, steps.cost)
        costs = np.array([[cost.of_pack(pack, of_row) for pack in share] for share in shares])
        work += costs.sum()
        time_of_all += gpus * costs.max(axis=0).sum()
    return float(work / time_of_all)


def planning(examples: int) -> dict[str, Any]:
    """Return what planning three epochs takes, once, and what a worker takes to open the plan."""
    lengths = random_lengths(5000, 0.7, 32_768, examples)
    started = time.perf_counter()
    made = plan.build(lengths, lengths, max_tokens=32_768, epochs=3, seed=0, step=StepSize(packs=64))
    built = time.perf_counter()
    plan.of_all(lengths, lengths, max_tokens=32_768, packable=True)
    held_out = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "plan.arrow"
        plan.write(file, made)
        size, opening = file.stat().st_size, time.perf_counter()
        plan.read(file).for_rank(0, 0, 64)
        opened = time.perf_counter()
    return {
        "plan_seconds": round(built - started, 2),
        "validation_plan_seconds": round(held_out - built, 2),
        "plan_mb": round(size / 1e6, 2),
        "open_and_first_step_ms": round(1e3 * (opened - opening), 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }


if __name__ == "__main__":
    main()

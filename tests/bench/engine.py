"""reasonray's vLLM engine against `LLM.generate`, without Ray and checking: tokens per second of the same work.

    python tests/bench/engine.py [--problems 64] [--samples 4] [--rounds 5] [--seeded-rounds 3]

Both engines are up, and work in alternation on the same prompts with the same parameters. The seeded rounds send a seed
with each request. CPU seconds are those of all processes of an engine: on a machine that others use, too, they mean
more than the time that passes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))
from reasonray import models
from reasonray.config import Teacher
from reasonray.engines import start
from reasonray.engines.protocol import SampleRequest
from reasonray.engines.vllm_arguments import engine_arguments
from reasonray.problems import load
from reasonray.prompts import messages, prompt_ids
from reasonray.records import Problem
from tests.bench.printing import print_figures
from tests.bench.teacher import a_launch, teacher_config

ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


async def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeded-rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ |= ENVIRONMENT
    with tempfile.TemporaryDirectory() as root:
        config = teacher_config(Path(root), "engine", options.problems)
    teacher, problems = config.teachers[0], list(load(config.sources).problems)
    directory = models.resolve(teacher.model)
    ours = await start(teacher.engine, a_launch(directory))
    llm = bare_llm(teacher, directory)
    rates: dict[str, list[tuple[float, float]]] = {"raw": [], "reasonray": [], "raw_seeded": [], "reasonray_seeded": []}
    for number in range(-1, options.rounds + options.seeded_rounds):
        sampling = teacher.sampling.model_copy(update={"seeded": number >= options.rounds})
        asked = teacher.model_copy(update={"sampling": sampling})
        suffix = "_seeded" if sampling.seeded else ""
        with measured(rates["raw" + suffix]) as count:
            count(raw(llm, directory, asked, problems, options.samples))
        with measured(rates["reasonray" + suffix]) as count:
            count(await engine(ours, asked, problems, options.samples))
        if number < 0:  # the warm-up
            rates = {way: [] for way in rates}
    ours.close()
    report(rates)


def bare_llm(teacher: Teacher, directory: Path) -> Any:
    """Return vLLM's own engine for batches, with the arguments of ours."""
    from vllm import LLM

    return LLM(**engine_arguments(teacher.engine, a_launch(directory)))


def raw(llm: Any, directory: Path, teacher: Teacher, problems: Sequence[Problem], samples: int) -> int:
    """Generate with vLLM alone; return the tokens."""
    from vllm import SamplingParams, TokensPrompt

    sampling, tokenizer = teacher.sampling, models.load_tokenizer(directory)
    prompts = [prompt_ids(tokenizer, messages(teacher.prompt, problem.question), {}) for problem in problems]
    parameters = SamplingParams(
        n=samples,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=7 if sampling.seeded else None,
    )
    outputs = llm.generate([TokensPrompt(prompt_token_ids=ids) for ids in prompts], parameters, use_tqdm=False)
    return sum(len(completion.token_ids) for output in outputs for completion in output.outputs)


async def engine(ours: Any, teacher: Teacher, problems: Sequence[Problem], samples: int) -> int:
    """Generate with our engine, as a replica does; return the tokens."""
    slots = asyncio.Semaphore(ours.capacity)

    async def sample(problem: Problem, number: int) -> int:
        async with slots:
            request = SampleRequest(
                problem, number, hash((problem.id, number)) % 2**62, teacher.prompt, teacher.sampling
            )
            return int((await ours.complete(request)).completion_tokens)

    return sum(await asyncio.gather(*(sample(problem, number) for problem in problems for number in range(samples))))


class measured:
    """A block whose tokens per second and per CPU second are added to a list."""

    def __init__(self, rates: list[tuple[float, float]]) -> None:
        self._rates = rates

    def __enter__(self) -> Callable[[int], None]:
        self._tokens, self._start, self._cpu = 0, time.perf_counter(), cpu_seconds()
        return self._count

    def __exit__(self, *_: object) -> None:
        seconds, cpu = time.perf_counter() - self._start, cpu_seconds() - self._cpu
        self._rates.append((self._tokens / seconds, self._tokens / cpu))
        print(f"{self._tokens / seconds:.1f} tokens/s, {self._tokens / cpu:.1f} tokens per CPU second", flush=True)

    def _count(self, tokens: int) -> None:
        self._tokens = tokens


def cpu_seconds() -> float:
    """Return the CPU time of this process and all that it started."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def report(rates: dict[str, list[tuple[float, float]]]) -> None:
    """Print medians, and the medians of the ratios of neighbouring rounds."""
    figures: dict[str, float] = {}
    for index, unit in enumerate(("per_second", "per_cpu_second")):
        for way, pairs in rates.items():
            if pairs:
                figures[f"{way}_tokens_{unit}"] = round(statistics.median(pair[index] for pair in pairs), 1)
        for suffix in ("", "_seeded"):
            pairs = zip(rates["reasonray" + suffix], rates["raw" + suffix], strict=True)
            if ratios := [mine[index] / other[index] for mine, other in pairs]:
                figures[f"reasonray_over_raw{suffix}_{unit}"] = round(statistics.median(ratios), 3)
    print_figures("engine", figures)


if __name__ == "__main__":
    asyncio.run(main())

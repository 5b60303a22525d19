"""The sampler against the bare engine: tokens per second of the same work done in three ways.

    python tests/bench/throughput.py [--problems 100] [--samples 4] [--rounds 3]

In alternation: vLLM's own `LLM.generate(n=K)`, `ray.data.llm` (K rows per prompt), and the path of jobs/sample.py with
checking and commits. Model, prompts, K and sampling parameters are the same. Each way is timed from its first to its
last token. `ray.data.llm` starts a new engine in every round; that time is not counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from reasonray import models
from reasonray.config import Config
from reasonray.prompts import messages, prompt_ids, prompt_text
from reasonray.records import Problem, Split
from tests.bench.printing import print_figures
from tests.bench.teacher import a_launch, teacher_config

ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ |= ENVIRONMENT
    import ray

    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as scratch:
        rates = measure(Path(scratch), options.problems, options.samples, options.rounds)
    medians = {f"{way}_tokens_per_second": statistics.median(values) for way, values in rates.items()}
    ratios = {
        f"reasonray_over_{way}": statistics.median(
            ours / other for ours, other in zip(rates["reasonray"], rates[way], strict=True)
        )
        for way in ("raw", "ray_data_llm")
    }
    rounds = {f"{way}_rounds": [round(rate, 1) for rate in values] for way, values in rates.items()}
    print_figures("throughput", {"problems": options.problems, "samples": options.samples} | medians | ratios | rounds)


def measure(root: Path, problems: int, samples: int, rounds: int) -> dict[str, list[float]]:
    """Return way → tokens per second of each round."""
    from reasonray.sampling.pool import ReplicaPool
    from reasonray.stages.sample import load_problems
    from reasonray.store.run import begin_or_resume

    def new_run(name: str) -> Any:
        run = begin_or_resume(teacher_config(root, name, problems, policy={"kind": "fixed", "samples": samples}))
        load_problems(run)
        return run

    first = new_run("first")
    train = first.problems(Split.TRAIN)
    raw = Raw(first.config)
    rates: dict[str, list[float]] = {"raw": [], "ray_data_llm": [], "reasonray": []}
    with ReplicaPool(first) as pool:
        ours(new_run("warm"), pool)
        raw.rate(train[: problems // 4], samples)
        for number in range(rounds):
            rates["raw"].append(raw.rate(train, samples))
            rates["reasonray"].append(ours(new_run(f"round-{number}"), pool))
            rates["ray_data_llm"].append(ray_data_llm(first.config, train, samples))
            print({way: round(values[-1], 1) for way, values in rates.items()}, flush=True)
    return rates


def ours(run: Any, pool: Any) -> float:
    """Sample a run on replicas that are up; return tokens per second."""
    from reasonray.stages.sample import sample

    sample(run, pool)
    last = run.events.read("sample")[-1]
    return float(last["tokens"] / last["drawing_seconds"])


class Raw:
    """vLLM alone, in a separate process that stays up."""

    def __init__(self, configuration: Config) -> None:
        import ray

        # The actor only keeps two engines out of one process; the timed part does not involve Ray.
        self._engine = ray.remote(_Offline).options(num_cpus=1).remote(configuration)

    def rate(self, problems: Sequence[Problem], samples: int) -> float:
        """Generate, and return tokens per second."""
        import ray

        return float(ray.get(self._engine.rate.remote(list(problems), samples)))


class _Offline:
    def __init__(self, configuration: Config) -> None:
        from transformers import AutoTokenizer
        from vllm import LLM

        from reasonray.engines.vllm_arguments import engine_arguments

        self._teacher = configuration.teachers[0]
        directory = models.resolve(self._teacher.model)
        self._tokenizer = AutoTokenizer.from_pretrained(directory)
        self._llm = LLM(**engine_arguments(self._teacher.engine, a_launch(directory)))

    def rate(self, problems: Sequence[Problem], samples: int) -> float:
        from vllm import SamplingParams, TokensPrompt

        sampling = self._teacher.sampling
        prompts = [
            TokensPrompt(
                prompt_token_ids=prompt_ids(self._tokenizer, messages(self._teacher.prompt, problem.question), {})
            )
            for problem in problems
        ]
        parameters = SamplingParams(
            n=samples, temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=sampling.max_tokens
        )
        start = time.perf_counter()
        outputs = self._llm.generate(prompts, parameters, use_tqdm=False)
        seconds = time.perf_counter() - start
        return sum(len(completion.token_ids) for output in outputs for completion in output.outputs) / seconds


def ray_data_llm(configuration: Config, problems: Sequence[Problem], samples: int) -> float:
    """Generate with Ray Data's own batch inference, K rows per prompt, and return tokens per second."""
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig
    from transformers import AutoTokenizer

    from reasonray.engines.vllm_arguments import engine_arguments

    teacher = configuration.teachers[0]
    directory = models.resolve(teacher.model)
    arguments = engine_arguments(teacher.engine, a_launch(directory))
    del arguments["model"]
    tokenizer = AutoTokenizer.from_pretrained(directory)
    prompts = [prompt_text(tokenizer, messages(teacher.prompt, problem.question), {}) for problem in problems]
    sampling = teacher.sampling
    parameters = {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_tokens}
    processor = build_processor(
        vLLMEngineProcessorConfig(
            model_source=str(directory),
            engine_kwargs=arguments,
            batch_size=32,
            max_concurrent_batches=8,
            concurrency=1,
            chat_template_stage=False,
            tokenize_stage=True,
            detokenize_stage=False,
            log_engine_metrics=False,  # vLLM's exporter needs ray[serve]; reasonray runs without it, too
            accelerator_type=None,
            placement_group_config={"bundles": [{"CPU": 1}]},
            runtime_env={"env_vars": ENVIRONMENT},
        ),
        preprocess=lambda row: {"prompt": row["prompt"], "sampling_params": parameters},
        postprocess=lambda row: {
            "tokens": row["num_generated_tokens"],
            "end": time.time(),
            "start": time.time() - row["time_taken_llm"],
        },
    )
    rows = [{"prompt": prompt} for prompt in prompts for _ in range(samples)]
    outputs = processor(ray.data.from_items(rows, override_num_blocks=8)).take_all()
    seconds = max(row["end"] for row in outputs) - min(row["start"] for row in outputs)
    return sum(row["tokens"] for row in outputs) / seconds


if __name__ == "__main__":
    main()

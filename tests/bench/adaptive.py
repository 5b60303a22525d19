"""The tokens that adaptive policies save, compared with a fixed K of the same coverage and as many traces.

    python tests/bench/adaptive.py [--problems 90] [--max-samples 24] [--keep 1 2] [--config FILE]
        [--policies until_correct proportional]

The real SmolLM2 teacher samples easy, medium and hard problems; or the first teacher of a configuration samples the
first train problems of its first source, which is one of files. One run at a large fixed K shows the cost and the yield
of every smaller K. Then each adaptive policy runs for real; the tokens of aborted samples count. Its saving is relative
to the smallest K that covers as many problems and keeps as many distinct correct traces (`--keep` per problem).
Problems that the teacher never solves cost every policy the same, which bounds the saving: `bound` is the saving of an
oracle that takes one sample at a time and stops at the last trace it needs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from reasonray.records import Outcome, Rollout
from reasonray.store.run import Run, begin_or_resume
from reasonray.store.schema import table_to_rollouts
from tests.bench.printing import print_figures
from tests.bench.teacher import teacher_config


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=90)
    parser.add_argument("--max-samples", type=int, default=24, help="the largest K")
    parser.add_argument("--keep", type=int, nargs="+", default=[1, 2], help="traces kept per problem")
    parser.add_argument("--config", type=Path, help="whose teacher samples, in place of the quickstart's")
    parser.add_argument("--policies", nargs="+", default=["until_correct", "proportional"])
    options = parser.parse_args()
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    import ray

    from reasonray.sampling.pool import ReplicaPool
    from reasonray.stages.sample import sample

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    max_samples = options.max_samples
    adaptive: dict[tuple[str, int], dict[str, Any]] = {
        (kind, keep): {"kind": kind, "target": keep, "max": max_samples}
        | ({"pilot": 4, "least": 1} if kind == "proportional" else {})
        for keep in options.keep
        for kind in options.policies
    }
    with tempfile.TemporaryDirectory() as scratch:

        def new_run(name: str, policy: dict[str, Any]) -> Run:
            return begin_or_resume(teacher_config(Path(scratch), name, options.problems, options.config, policy=policy))

        fixed = new_run("fixed", {"kind": "fixed", "samples": max_samples})
        runs = {key: new_run(f"{key[0]}-{key[1]}", policy) for key, policy in adaptive.items()}
        with ReplicaPool(fixed) as pool:
            for run in (fixed, *runs.values()):
                sample(run, pool)
        figures = {f"{kind}_keep_{keep}": compare(fixed, run, max_samples, keep) for (kind, keep), run in runs.items()}
    flat = {f"{name}_{figure}": value for name, values in figures.items() for figure, value in values.items()}
    saving = max(values["saving"] for values in figures.values())
    print_figures("adaptive", {"problems": options.problems, "max_samples": max_samples} | flat | {"saving": saving})


def compare(fixed: Run, adaptive: Run, max_samples: int, keep: int) -> dict[str, Any]:
    """Return the cost and the yield of a policy, and its saving."""
    rollouts = table_to_rollouts(fixed.ledger.read())
    curve = {
        k: yield_of([rollout for rollout in rollouts if rollout.sample < k], keep) for k in range(1, max_samples + 1)
    }
    covered, kept, _ = yield_of(table_to_rollouts(adaptive.ledger.read()), keep)
    tokens = adaptive.events.read("sample")[-1]["generated_tokens"]
    enough = next((k for k, (c, n, _) in curve.items() if c >= covered and n >= kept), max_samples)
    cost = curve[enough][2]
    return {
        "covered": covered,
        "kept": kept,
        "tokens": tokens,
        "same_as_k": enough,
        "fixed_tokens": cost,
        "saving": 1 - tokens / cost,
        "bound": 1 - least_tokens(rollouts, max_samples, keep) / curve[max_samples][2],
    }


def least_tokens(rollouts: Sequence[Rollout], max_samples: int, keep: int) -> int:
    """Return the tokens of taking one sample at a time up to the last trace needed: no policy costs less."""
    correct: Counter[str] = Counter()
    tokens = 0
    for rollout in sorted(rollouts, key=lambda rollout: rollout.sample):
        if rollout.sample < max_samples and correct[rollout.problem.id] < keep:
            tokens += rollout.completion_tokens
            correct[rollout.problem.id] += rollout.verdict.outcome is Outcome.CORRECT
    return tokens


def yield_of(rollouts: Sequence[Rollout], keep: int) -> tuple[int, int, int]:
    """Return the number of covered problems and of kept distinct correct traces, and the tokens of all rollouts."""
    traces: dict[str, set[str]] = defaultdict(set)
    for rollout in rollouts:
        if rollout.verdict.outcome is Outcome.CORRECT:
            traces[rollout.problem.id].add(" ".join(rollout.completion.split()))
    kept = sum(min(keep, len(texts)) for texts in traces.values())
    return len(traces), kept, sum(rollout.completion_tokens for rollout in rollouts)


if __name__ == "__main__":
    main()

"""What adaptive policies save: tokens to cover as many problems and keep as many traces as a fixed K does.

    python tests/bench/adaptive.py [--problems 90] [--most 24] [--keep 1 2]

The real SmolLM2 teacher on easy, medium and hard problems. A run at a large fixed K tells what every smaller K would
have cost and brought; then each adaptive policy is run for real, the tokens of aborted siblings counted. Its saving is
against the smallest K that covers as many problems and keeps as many distinct correct traces (`--keep` a problem).
What a teacher never solves costs both the same, so the saving is bounded by what it does solve: `bound` is what an
oracle would save that draws one sample at a time and stops at the last trace wanted.
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
from reasonray.store.run import Run, open_run
from reasonray.store.schema import table_to_rollouts
from tests.bench.printing import print_figures
from tests.bench.teacher import teacher_config


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=90)
    parser.add_argument("--most", type=int, default=24, help="the largest K")
    parser.add_argument("--keep", type=int, nargs="+", default=[1, 2], help="traces kept of a problem")
    options = parser.parse_args()
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    import ray

    from reasonray.sampling.pool import ReplicaPool
    from reasonray.stages.sample import sample

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    most = options.most
    adaptive: dict[tuple[str, int], dict[str, Any]] = {
        (kind, keep): {"kind": kind, "target": keep, "max": most}
        | ({"pilot": 4, "least": 1} if kind == "proportional" else {})
        for keep in options.keep
        for kind in ("until_correct", "proportional")
    }
    with tempfile.TemporaryDirectory() as scratch:

        def begun(name: str, policy: dict[str, Any]) -> Run:
            return open_run(teacher_config(Path(scratch), name, options.problems, policy=policy))

        fixed = begun("fixed", {"kind": "fixed", "samples": most})
        runs = {key: begun(f"{key[0]}-{key[1]}", policy) for key, policy in adaptive.items()}
        with ReplicaPool(fixed) as pool:
            for run in (fixed, *runs.values()):
                sample(run, pool)
        figures = {f"{kind}_keep_{keep}": compare(fixed, run, most, keep) for (kind, keep), run in runs.items()}
    flat = {f"{name}_{figure}": value for name, them in figures.items() for figure, value in them.items()}
    saving = max(them["saving"] for them in figures.values())
    print_figures("adaptive", {"problems": options.problems, "most": most} | flat | {"saving": saving})


def compare(fixed: Run, adaptive: Run, most: int, keep: int) -> dict[str, Any]:
    """Return what a policy cost and brought, and its saving."""
    drawn = table_to_rollouts(fixed.ledger.read())
    curve = {k: worth([it for it in drawn if it.sample < k], keep) for k in range(1, most + 1)}
    covered, kept, _ = worth(table_to_rollouts(adaptive.ledger.read()), keep)
    tokens = adaptive.events.read("sample")[-1]["generated_tokens"]
    enough = next((k for k, (c, n, _) in curve.items() if c >= covered and n >= kept), most)
    cost = curve[enough][2]
    return {
        "covered": covered,
        "kept": kept,
        "tokens": tokens,
        "same_as_k": enough,
        "fixed_tokens": cost,
        "saving": 1 - tokens / cost,
        "bound": 1 - least_tokens(drawn, most, keep) / curve[most][2],
    }


def least_tokens(rollouts: Sequence[Rollout], most: int, keep: int) -> int:
    """Return what drawing one at a time and stopping at the last trace wanted would have cost: no policy costs less."""
    found: Counter[str] = Counter()
    tokens = 0
    for it in sorted(rollouts, key=lambda it: it.sample):
        if it.sample < most and found[it.problem.id] < keep:
            tokens += it.completion_tokens
            found[it.problem.id] += it.verdict.outcome is Outcome.CORRECT
    return tokens


def worth(rollouts: Sequence[Rollout], keep: int) -> tuple[int, int, int]:
    """Return problems covered, distinct correct traces kept of them, and the tokens that all of it took."""
    traces: dict[str, set[str]] = defaultdict(set)
    for it in rollouts:
        if it.verdict.outcome is Outcome.CORRECT:
            traces[it.problem.id].add(" ".join(it.completion.split()))
    kept = sum(min(keep, len(texts)) for texts in traces.values())
    return len(traces), kept, sum(it.completion_tokens for it in rollouts)


if __name__ == "__main__":
    main()

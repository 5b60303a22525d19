"""What adaptive policies save: tokens to cover as many problems and keep as many traces as a fixed K does.

    python tests/bench/adaptive.py [--problems 90] [--most 24]

The real SmolLM2 teacher on easy, medium and hard problems. A run at a large fixed K tells what every smaller K would
have cost and brought; then each adaptive policy is run for real, the tokens of aborted siblings counted. Its saving is
against the smallest K that covers as many problems and keeps as many distinct correct traces (`--keep` a problem).
Where a teacher solves few of the problems at all, what it cannot solve is most of the cost: giving up is what saves.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from report import tell
from teacher import config

from reasonray.records import Outcome, Rollout
from reasonray.run import Run, open_run
from reasonray.tables import table_to_rollouts


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=90)
    parser.add_argument("--most", type=int, default=24, help="the largest K")
    parser.add_argument("--keep", type=int, default=2, help="traces kept of a problem")
    parser.add_argument("--give-up", type=int, default=8, help="samples without a correct one, in two of the policies")
    options = parser.parse_args()
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    import ray

    from reasonray.stages.fleet import Fleet
    from reasonray.stages.sample import sample

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    most, keep = options.most, options.keep
    adaptive: dict[str, dict[str, Any]] = {
        "until_correct": {"kind": "until_correct", "target": keep, "max": most},
        "proportional": {"kind": "proportional", "pilot": 4, "target": keep, "least": 1, "max": most},
    }
    gives_up = {f"{name}_giving_up": policy | {"give_up": options.give_up} for name, policy in adaptive.items()}
    policies = {"fixed": {"kind": "fixed", "samples": most}} | adaptive | gives_up
    runs: dict[str, Run] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, policy in policies.items():
            runs[name] = open_run(config(Path(scratch), name, options.problems, policy=policy))
        with Fleet(runs["fixed"]) as fleet:
            for run in runs.values():
                sample(run, fleet)
        tell("adaptive", {"problems": options.problems, "most": most, "keep": keep} | compare(runs, most, keep))


def compare(runs: dict[str, Run], most: int, keep: int) -> dict[str, Any]:
    """Return what each policy cost and brought, and its saving."""
    rollouts = {name: table_to_rollouts(run.rollouts.read()) for name, run in runs.items()}
    curve = {k: worth([it for it in rollouts["fixed"] if it.sample < k], keep) for k in range(1, most + 1)}
    figures: dict[str, Any] = {}
    savings = []
    for name in (it for it in runs if it != "fixed"):
        covered, kept, _ = worth(rollouts[name], keep)
        tokens = runs[name].events.read("sample")[-1]["generated_tokens"]
        enough = next((k for k, (c, n, _) in curve.items() if c >= covered and n >= kept), most)
        cost = curve[enough][2]
        savings.append(1 - tokens / cost)
        figures |= {
            f"{name}_covered": covered,
            f"{name}_kept": kept,
            f"{name}_tokens": tokens,
            f"{name}_same_as_k": enough,
            f"{name}_fixed_tokens": cost,
            f"{name}_saving": savings[-1],
        }
    return figures | {"saving": max(savings)}


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

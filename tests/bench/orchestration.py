"""The speed of everything but the engine: 64 replicas whose engine answers at once lease, check and commit rollouts.

    python tests/bench/orchestration.py [--rollouts 120000] [--replicas 64] [--stored 1000000]

Then a run of a million rollouts is resumed, to find the samples that are missing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray

os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_enable_worker_prestart": "0"}
sys.path.insert(0, str(Path(__file__).parents[2]))
from reasonray.config import Config, parse
from reasonray.records import content_hash
from reasonray.sampling.pool import ReplicaPool
from reasonray.sampling.work import EngineSpec
from reasonray.stages.sample import sample
from reasonray.store.ledger import Ledger
from reasonray.store.run import begin_or_resume
from reasonray.store.storage import place
from tests.bench.memory import PeakMemory
from tests.bench.printing import print_figures
from tests.bench.stored import rollout_table
from tests.bench.sums import write_sums


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=120_000)
    parser.add_argument("--replicas", type=int, default=64)
    parser.add_argument("--stored", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        figures = throughput(root, options.rollouts, options.replicas)
        figures |= resume(root, options.stored)
    print_figures("orchestration", figures)


def throughput(root: Path, rollouts: int, replicas: int) -> dict[str, Any]:
    """Sample on replicas that are up; measure the rate from the first lease to the last commit."""
    ray.init(address="local", num_cpus=replicas, include_dashboard=False, log_to_driver=False)
    run = begin_or_resume(config(root, "throughput", rollouts // 8, replicas))
    peak = PeakMemory()
    spec = EngineSpec.of(run, run.config.teachers[0])
    with peak, ReplicaPool(run) as pool:
        bring_up(pool, spec, replicas)
        sample(run, pool)
    ray.shutdown()
    last = run.events.read("sample")[-1]
    assert run.ledger.read(["id"]).num_rows == rollouts // 8 * 8
    return {
        "replicas": replicas,
        "rollouts": last["rollouts"],
        "rollouts_per_second": last["rollouts"] / last["drawing_seconds"],
        "idle_fraction": last["idle_fraction"],
        "peak_rss_mb": peak.mb,
    }


def bring_up(pool: ReplicaPool, spec: EngineSpec, replicas: int) -> None:
    """Start replicas and wait until all are up, as after an earlier stage."""
    stage = pool.begin_stage([spec])
    actors = [pool.start_replica(spec) for _ in range(replicas)]
    for actor in actors:
        actor.serve.remote(stage, spec.model, None)
    for actor in actors:
        while not ray.get(actor.report.remote(stage, 0.1)).started:
            pass


def resume(root: Path, rollouts: int) -> dict[str, Any]:
    """Store a run, then read which samples it has; return the median of three times."""
    ledger = store(Ledger(place(root / "stored")), rollouts)
    seconds = []
    peak = PeakMemory()
    with peak:
        for _ in range(3):
            start = time.perf_counter()
            stored = ledger.stored_samples()
            seconds.append(time.perf_counter() - start)
    assert sum(len(problem.samples) for problem in stored.values()) == rollouts
    return {"stored": rollouts, "resume_seconds": statistics.median(seconds), "resume_peak_rss_mb": peak.mb}


def config(root: Path, name: str, problems: int, replicas: int) -> Config:
    """Return the configuration of a run on the scripted engine without latency."""
    engine = {"kind": "scripted", "correct": 0.4, "endless": 0.05, "unparseable": 0.05}
    teacher = {"model": "scripted", "engine": engine, "gpus": 0, "cpus": 1, "replicas": replicas}
    return parse(
        {
            "name": name,
            "root": str(root),
            "sources": [{"kind": "files", "train": str(write_sums(root / "sums.jsonl", problems))}],
            "teachers": [teacher],
            "policy": {"kind": "fixed", "samples": 8},
            "student": {"model": "scripted", "engine": {"kind": "scripted"}, "gpus": 0},
        }
    )


def store(ledger: Ledger, rollouts: int, per_problem: int = 8, per_segment: int = 5000) -> Ledger:
    """Commit rollouts of 300 characters, with all columns of real ones, some thousand per segment."""
    text = "Step 1: a plausible line of reasoning that goes on for a while. " * 5
    dice = np.random.default_rng(0)
    for start in range(0, rollouts, per_segment):
        numbers = range(start, min(start + per_segment, rollouts))
        size = len(numbers)
        problems = [content_hash("problem", number // per_problem) for number in numbers]
        samples = [number % per_problem for number in numbers]
        table = rollout_table(
            id=[content_hash(problem, "f", sample) for problem, sample in zip(problems, samples, strict=True)],
            problem_id=problems,
            problem_question=[text[:120]] * size,
            sample=samples,
            seed=dice.integers(2**62, size=size),
            completion=[f"{text} {number}" for number in numbers],
            finish=np.where(dice.random(size) < 0.05, "length", "stop"),
            completion_tokens=dice.integers(20, 400, size=size),
            verdict_outcome=np.where(dice.random(size) < 0.4, "correct", "wrong"),
        )
        ledger.append_table(table)
    return ledger


if __name__ == "__main__":
    main()

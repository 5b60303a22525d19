"""The speed of everything but the engine: replicas whose engine answers at once lease, check and commit rollouts.

    python tests/bench/orchestration.py [--rollouts 120000] [--replicas 64 2] [--stored 1000000]
        [--per-segment 50]

On a machine with fewer cores than replicas, Ray's own processes take a part of the cores even when no work is done:
`idle_cores` says how much. `driver_us_per_rollout` is the CPU time of the driver's process, the only part that all
replicas share: its inverse is the rate that no number of machines can exceed.

Then a run of a million rollouts, as replicas that finish one each second write them and not compacted, is resumed to
find the samples that are missing, and described as by `reasonray status`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import ray

os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_enable_worker_prestart": "0"}
sys.path.insert(0, str(Path(__file__).parents[2]))
from reasonray.cli.status import describe
from reasonray.config import Config, parse
from reasonray.records import Problem, Split, content_hash
from reasonray.sampling.pool import ReplicaPool
from reasonray.sampling.work import EngineSpec
from reasonray.stages.sample import sample
from reasonray.store.ledger import Ledger
from reasonray.store.run import begin_or_resume
from tests.bench.memory import PeakMemory
from tests.bench.printing import print_figures
from tests.bench.stored import rollout_table
from tests.bench.sums import write_sums

_PER_PROBLEM = 8
_WRITERS = 8
_SETTLING_SECONDS = 5
_IDLE_SECONDS = 10
_TEXT = "Step 1: a plausible line of reasoning that goes on for a while. " * 5


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=120_000)
    parser.add_argument("--replicas", type=int, nargs="+", default=[64, 2])
    parser.add_argument("--stored", type=int, default=1_000_000)
    parser.add_argument("--per-segment", type=int, default=50, help="rollouts of a commit of the stored run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        figures: dict[str, Any] = {}
        for replicas in options.replicas if options.rollouts else []:
            measured = throughput(root, options.rollouts, replicas)
            figures |= {f"{name}_with_{replicas}": figure for name, figure in measured.items()}
        figures |= resume(root, options.stored, options.per_segment)
    print_figures("orchestration", figures)


def throughput(root: Path, rollouts: int, replicas: int) -> dict[str, Any]:
    """Sample on replicas that are up; measure the rate from the first lease to the last commit."""
    ray.init(address="local", num_cpus=replicas, include_dashboard=False, log_to_driver=False)
    run = begin_or_resume(config(root, f"throughput-{replicas}", rollouts // 8, replicas))
    peak = PeakMemory()
    spec = EngineSpec.of(run, run.config.teachers[0])
    with peak, ReplicaPool(run) as pool:
        bring_up(pool, spec, replicas)
        idle_cores = busy_cores()
        cpu_before = time.process_time()
        sample(run, pool)
        driver_seconds = time.process_time() - cpu_before
    ray.shutdown()
    last = run.events.read("sample")[-1]
    assert run.ledger.read(["id"]).num_rows == rollouts // 8 * 8
    return {
        "rollouts": last["rollouts"],
        "rollouts_per_second": last["rollouts"] / last["drawing_seconds"],
        "driver_us_per_rollout": driver_seconds / last["rollouts"] * 1e6,
        "idle_cores": idle_cores,
        "replicas_idle": last["idle_fraction"],
        "peak_rss_mb": peak.mb,
    }


def busy_cores() -> float:
    """Return how many cores the whole machine keeps busy while nothing is sampled."""
    time.sleep(_SETTLING_SECONDS)
    before = psutil.cpu_times()
    time.sleep(_IDLE_SECONDS)
    after = psutil.cpu_times()
    return (sum(after) - after.idle - after.iowait - (sum(before) - before.idle - before.iowait)) / _IDLE_SECONDS


def bring_up(pool: ReplicaPool, spec: EngineSpec, replicas: int) -> None:
    """Start replicas and wait until all are up, as after an earlier stage."""
    stage = pool.begin_stage([spec])
    actors = [pool.start_replica(spec) for _ in range(replicas)]
    for actor in actors:
        actor.serve.remote(stage, spec.model, None)
    for actor in actors:
        while not ray.get(actor.report.remote(stage, 0.1)).started:
            pass


def resume(root: Path, rollouts: int, per_segment: int) -> dict[str, Any]:
    """Store a run; then read which samples it has, and describe it, three times each."""
    run = begin_or_resume(config(root, "stored", 100, 1))
    ids = [content_hash("problem", number) for number in range(rollouts // _PER_PROBLEM)]
    run.store_problems([_problem(problem_id, Split.TRAIN) for problem_id in ids] + [_problem("held out", Split.TEST)])
    store(run.ledger, ids, per_segment)
    resumed, described = [], []
    peak = PeakMemory()
    with peak:
        for _ in range(3):
            start = time.perf_counter()
            (stored,) = run.ledger.sample_arrays(ids).values()
            resumed.append(time.perf_counter() - start)
    for _ in range(3):
        start = time.perf_counter()
        status = describe(run)
        described.append(time.perf_counter() - start)
    assert stored.num_finished.sum() == len(ids) * _PER_PROBLEM
    assert f"{len(ids) * _PER_PROBLEM:,} rollouts by teacher" in status
    return {
        "stored": len(ids) * _PER_PROBLEM,
        "segments": len(run.ledger.segments()),
        "resume_seconds": statistics.median(resumed),
        "resume_peak_rss_mb": peak.mb,
        "status_seconds": statistics.median(described),
    }


def config(root: Path, name: str, problems: int, replicas: int) -> Config:
    """Return the configuration of a run on the scripted engine without latency."""
    engine = {"kind": "scripted", "correct": 0.4, "endless": 0.05, "unparseable": 0.05}
    teacher = {"model": "scripted", "engine": engine, "gpus": 0, "cpus": 1, "replicas": replicas}
    return parse(
        {
            "name": name,
            "root": str(root),
            "sources": [{"kind": "files", "train": str(write_sums(root / "sums.jsonl", problems))}],
            "teachers": [teacher | {"name": "teacher"}],
            "policy": {"kind": "fixed", "samples": _PER_PROBLEM},
            "student": {"model": "scripted", "engine": {"kind": "scripted"}, "gpus": 0},
        }
    )


def _problem(problem_id: str, split: Split) -> Problem:
    return Problem(id=problem_id, source="", question="?", answer="42", checker="math_answer", split=split)


def store(ledger: Ledger, problem_ids: Sequence[str], per_segment: int) -> None:
    """Commit rollouts of 300 characters, with all columns of real ones, in many segments."""
    rows = [(problem, sample) for problem in problem_ids for sample in range(_PER_PROBLEM)]
    parts = [rows[start : start + per_segment] for start in range(0, len(rows), per_segment)]
    with ThreadPoolExecutor(_WRITERS) as pool:
        for _ in pool.map(lambda part: ledger.append_table(_segment(part)), parts):
            pass


def _segment(rows: Sequence[tuple[str, int]]) -> pa.Table:
    size = len(rows)
    dice = np.random.default_rng(int(rows[0][0][:8], 16))
    return rollout_table(
        id=[content_hash(problem, "f", sample) for problem, sample in rows],
        problem_id=[problem for problem, _ in rows],
        problem_question=[_TEXT[:120]] * size,
        sample=[sample for _, sample in rows],
        seed=dice.integers(2**62, size=size),
        completion=[f"{_TEXT} {problem} {sample}" for problem, sample in rows],
        finish=np.where(dice.random(size) < 0.05, "length", "stop"),
        completion_tokens=dice.integers(20, 400, size=size),
        verdict_outcome=np.where(dice.random(size) < 0.4, "correct", "wrong"),
    )


if __name__ == "__main__":
    main()

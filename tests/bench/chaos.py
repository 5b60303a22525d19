"""Kill everything, at random, while a run is sampled: replicas, nodes, the driver. Nothing may be lost or doubled.

    python tests/bench/chaos.py [--rollouts 20000] [--kills 50]

A cluster of several nodes on this machine, jobs/sample.py as its driver, the scripted engine as the model. Every
answer of an engine leaves a line in a journal, so that what was drawn and lost with a kill is counted too.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.bench.printing import print_figures
from tests.bench.sums import write_sums

ROOT = Path(__file__).parent.parent.parent
K = 10


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print_figures("chaos", chaos(Path(scratch), options.rollouts, options.kills, seed=options.seed))


def chaos(scratch: Path, rollouts: int, kills: int, *, seed: int = 0, pause: float = 4.0) -> dict[str, Any]:
    """Sample so many rollouts under so many kills; return what was lost, doubled and wasted."""
    from ray.cluster_utils import Cluster

    os.environ |= {
        "RAY_health_check_initial_delay_ms": "0",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "3",
    }
    begun = time.monotonic()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 << 20})
    arena = Arena(cluster, scratch, rollouts, kills, pause)
    try:
        arena.fight(random.Random(seed), kills, pause)
    finally:
        arena.driver.kill()
        cluster.shutdown()
    return arena.figures() | {"seconds": round(time.monotonic() - begun, 1)}


@dataclass
class Arena:
    """The cluster, the driver at work on it, and what has been killed so far."""

    cluster: Any
    scratch: Path
    rollouts: int
    kills: int
    pause: float
    killed: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    """Drawn or being drawn and not committed, summed over the kills."""

    def __post_init__(self) -> None:
        self.journal = self.scratch / "journal"
        self.journal.mkdir()
        self.nodes = [self.add_node() for _ in range(3)]
        self.driver = self.drive()

    def add_node(self) -> Any:
        return self.cluster.add_node(num_cpus=2, object_store_memory=100 << 20)

    def drive(self) -> subprocess.Popen[bytes]:
        """Start jobs/sample.py, or start it again after a kill: the same command."""
        # Latency so that drawing lasts somewhat longer than the kills, with all slots of all replicas in use.
        seconds = 6 * 16 * self.kills * self.pause * 1.3 / self.rollouts
        rates = "kind='scripted', correct=0.4, endless=0.1, max_num_seqs=16"
        engine = f"{{{rates}, seconds={seconds:.4f}, journal='{self.journal}'}}"
        arguments = [
            "jobs/configs/smoke.toml",
            f"root={self.scratch}",
            f"sources=[{{kind='files', train='{write_sums(self.scratch / 'sums.jsonl', self.rollouts // K)}'}}]",
            f"policy={{kind='fixed', samples={K}}}",
            f"teachers=[{{model='scripted', gpus=0, cpus=1, replicas=[2, 6], engine={engine}}}]",
            "failures={in_a_row=30, deaths=1000, hang_seconds=60}",
        ]
        environment = os.environ | {"RAY_ADDRESS": self.cluster.address, "RAY_AUTH_MODE": "disabled"}
        with (self.scratch / "driver.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "jobs/sample.py", *arguments], cwd=ROOT, env=environment, stdout=log, stderr=log
            )

    def fight(self, dice: random.Random, kills: int, pause: float) -> None:
        """Kill, wait, kill, until enough is dead; then let the run end."""
        ways: list[Callable[[random.Random], bool]] = [
            self.kill_replica,
            self.kill_replica,
            self.kill_node,
            self.kill_driver,
        ]
        self.wait_for_rollouts(1)
        while self.killed.total() < kills and self.committed() < self.rollouts:
            time.sleep(dice.uniform(0.2, 2) * pause)
            way = dice.choice(ways)
            waiting = max(0, self.answered() - self.committed()) + 6 * 16
            if way(dice):
                self.killed[way.__name__] += 1
                self.in_flight += waiting
        while self.driver.wait() != 0:
            log = (self.scratch / "driver.log").read_text()
            raise RuntimeError(f"the driver ended with {self.driver.returncode}:\n{log[-3000:]}")

    def kill_replica(self, dice: random.Random) -> bool:
        ours = psutil.Process().children(recursive=True)  # never another cluster's
        replicas = [it for it in ours if is_replica(it)]
        if replicas:
            dice.choice(replicas).send_signal(signal.SIGKILL)
        return bool(replicas)

    def kill_node(self, dice: random.Random) -> bool:
        gone = self.nodes.pop(dice.randrange(len(self.nodes)))
        self.cluster.remove_node(gone, allow_graceful=False)
        self.nodes.append(self.add_node())
        return True

    def kill_driver(self, dice: random.Random) -> bool:
        self.driver.kill()
        self.driver.wait()
        self.driver = self.drive()
        self.wait_for_rollouts(self.committed() + 1)
        return True

    def wait_for_rollouts(self, count: int) -> None:
        while self.committed() < min(count, self.rollouts) and self.driver.poll() is None:
            time.sleep(0.3)

    def committed(self) -> int:
        """Return the rows that manifests name."""
        return self.ledger().read(["id"]).num_rows

    def ledger(self) -> Any:
        from reasonray.store.ledger import Ledger
        from reasonray.store.storage import place

        return Ledger(place(self.scratch / "smoke" / "rollouts"))

    def answered(self) -> int:
        """Return the answers that engines have given."""
        return sum(file.read_bytes().count(b"\n") for file in self.journal.iterdir())

    def figures(self) -> dict[str, Any]:
        """Return what became of every planned rollout."""
        import pyarrow.parquet as pq

        table = self.ledger().read(["id", "problem_id", "sample", "finish"])
        distinct = set(zip(table["problem_id"].to_pylist(), table["sample"].to_pylist(), strict=True))
        on_disk = sum(pq.read_metadata(it.path).num_rows for it in self.ledger().segments())
        return {
            "rollouts": self.rollouts,
            "kills": dict(self.killed),
            "lost": self.rollouts - len(distinct),
            "duplicated": table.num_rows - len(distinct),
            "blamed": table["finish"].to_pylist().count("error"),
            "drawn_beyond_plan": self.answered() - self.rollouts,
            "in_flight_at_kills": self.in_flight,
            "committed_twice": on_disk - table.num_rows,
        }


def is_replica(process: psutil.Process) -> bool:
    """Say whether a process holds a replica; one that has just ended does not."""
    try:
        return "ray::Replica" in "".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    main()

"""Random kills of replicas, nodes and the driver while a run is sampled: no rollout may be lost or duplicated.

    python tests/bench/chaos.py [--rollouts 20000] [--kills 50]

A cluster of several nodes on this machine, jobs/sample.py as its driver, three scripted teachers with up to eight
replicas, a run in an S3 store (moto), and an autoscaler as far as Ray's clients can tell: the nodes that it would add
are started here, some seconds after others were killed. The limits on deaths are the defaults. Every answer of an
engine adds a line to a journal, so that rollouts lost in a kill are counted, too.
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
from tests.s3_server import account, make_bucket, s3_server

ROOT = Path(__file__).parent.parent.parent
K = 10
NODES = 4
REPLICAS = 8
BUCKET = "chaos"
ROOT_OF_RUNS = f"s3://{BUCKET}/runs"


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
    """Sample rollouts under kills; return the numbers of lost, duplicated and wasted ones."""
    with s3_server() as url:
        os.environ |= account(url)
        make_bucket(url, BUCKET)
        return _chaos(scratch, rollouts, kills, seed, pause)


def _chaos(scratch: Path, rollouts: int, kills: int, seed: int, pause: float) -> dict[str, Any]:
    from ray.cluster_utils import Cluster

    os.environ |= {
        "RAY_health_check_initial_delay_ms": "0",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "3",
    }
    start = time.monotonic()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 << 20})
    report_autoscaler(cluster)
    chaos_run = ChaosRun(cluster, scratch, rollouts, kills, pause)
    try:
        chaos_run.kill_until_done(random.Random(seed), kills, pause)
    finally:
        chaos_run.driver.kill()
        cluster.shutdown()
    return chaos_run.figures() | {"seconds": round(time.monotonic() - start, 1)}


def report_autoscaler(cluster: Any) -> None:
    """Publish what an autoscaler publishes: that it may add nodes."""
    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig

    config = ClusterConfig(node_group_configs=[NodeGroupConfig(name="worker", resources={"CPU": 2}, max_count=NODES)])
    GcsClient(address=cluster.address).report_cluster_config(config.SerializeToString())


@dataclass
class ChaosRun:
    """The cluster, its driver, and the kills so far."""

    cluster: Any
    scratch: Path
    rollouts: int
    kills: int
    pause: float
    killed: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    """Rollouts generated or in flight but not committed, summed over the kills."""

    def __post_init__(self) -> None:
        self.journal = self.scratch / "journal"
        self.journal.mkdir()
        self.nodes = [self.add_node() for _ in range(NODES)]
        self.driver = self.start_driver()

    def add_node(self) -> Any:
        return self.cluster.add_node(num_cpus=2, object_store_memory=100 << 20)

    def start_driver(self) -> subprocess.Popen[bytes]:
        """Start jobs/sample.py; after a kill the same command starts it again."""
        # With this latency and all slots of all replicas in use, sampling lasts somewhat longer than the kills.
        seconds = REPLICAS * 16 * self.kills * self.pause * 1.3 / self.rollouts
        rates = "kind='scripted', correct=0.4, endless=0.1, max_num_seqs=16"
        engine = f"{{{rates}, seconds={seconds:.4f}, journal='{self.journal}'}}"
        teachers = [
            f"{{name='{name}', model='{name}', gpus=0, cpus=1, share={share}, replicas={replicas}, engine={engine}}}"
            for name, share, replicas in (("one", 0.4, [1, 3]), ("two", 0.3, [1, 3]), ("three", 0.3, [1, 2]))
        ]
        arguments = [
            "jobs/configs/smoke.toml",
            f"root={ROOT_OF_RUNS}",
            f"sources=[{{kind='files', train='{write_sums(self.scratch / 'sums.jsonl', self.rollouts // K)}'}}]",
            f"policy={{kind='fixed', samples={K}}}",
            f"teachers=[{', '.join(teachers)}]",
            "storage={commit_seconds=3}",
        ]
        environment = os.environ | {"RAY_ADDRESS": self.cluster.address, "RAY_AUTH_MODE": "disabled"}
        with (self.scratch / "driver.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "jobs/sample.py", *arguments], cwd=ROOT, env=environment, stdout=log, stderr=log
            )

    def kill_until_done(self, dice: random.Random, kills: int, pause: float) -> None:
        """Kill and wait until there were enough kills; then let the run end."""
        kinds: list[Callable[[random.Random], bool]] = [
            self.kill_replica,
            self.kill_replica,
            self.kill_node,
            self.kill_two_nodes,
            self.kill_driver,
        ]
        self.wait_for_rollouts(1)
        while self.killed.total() < kills and self.committed() < self.rollouts:
            time.sleep(dice.uniform(0.2, 2) * pause)
            kill = dice.choice(kinds)
            in_flight = max(0, self.answered() - self.committed()) + REPLICAS * 16
            if kill(dice):
                self.killed[kill.__name__] += 1
                self.in_flight += in_flight
        while self.driver.wait() != 0:
            log = (self.scratch / "driver.log").read_text()
            raise RuntimeError(f"the driver ended with {self.driver.returncode}:\n{log[-3000:]}")

    def kill_replica(self, dice: random.Random) -> bool:
        ours = psutil.Process().children(recursive=True)  # never another cluster's
        replicas = [process for process in ours if is_replica(process)]
        if replicas:
            dice.choice(replicas).send_signal(signal.SIGKILL)
        return bool(replicas)

    def kill_node(self, dice: random.Random) -> bool:
        return self.kill_nodes(dice, 1)

    def kill_two_nodes(self, dice: random.Random) -> bool:
        return self.kill_nodes(dice, 2)

    def kill_nodes(self, dice: random.Random, count: int) -> bool:
        for _ in range(count):
            node = self.nodes.pop(dice.randrange(len(self.nodes)))
            self.cluster.remove_node(node, allow_graceful=False)
        time.sleep(self.pause / 2)  # an autoscaler needs a while
        self.nodes += [self.add_node() for _ in range(count)]
        return True

    def kill_driver(self, dice: random.Random) -> bool:
        self.driver.kill()
        self.driver.wait()
        self.driver = self.start_driver()
        self.wait_for_rollouts(self.committed() + 1)
        return True

    def wait_for_rollouts(self, count: int) -> None:
        while self.committed() < min(count, self.rollouts) and self.driver.poll() is None:
            time.sleep(0.3)

    def committed(self) -> int:
        """Return the number of committed rollouts."""
        return self.ledger().read(["id"]).num_rows

    def ledger(self) -> Any:
        from reasonray.store.ledger import Ledger
        from reasonray.store.storage import place

        return Ledger(place(f"{ROOT_OF_RUNS}/smoke/rollouts"))

    def answered(self) -> int:
        """Return the number of answers that engines have generated."""
        return sum(file.read_bytes().count(b"\n") for file in self.journal.iterdir())

    def figures(self) -> dict[str, Any]:
        """Return the counts of planned, lost, duplicated and wasted rollouts."""
        import pyarrow.parquet as pq

        table = self.ledger().read(["id", "problem_id", "sample", "finish"])
        distinct = set(zip(table["problem_id"].to_pylist(), table["sample"].to_pylist(), strict=True))
        on_disk = sum(
            pq.read_metadata(segment.path, filesystem=segment.filesystem).num_rows
            for segment in self.ledger().segments()
        )
        return {
            "rollouts": self.rollouts,
            "kills": dict(self.killed),
            "lost": self.rollouts - len(distinct),
            "duplicated": table.num_rows - len(distinct),
            "blamed": table["finish"].to_pylist().count("error"),
            "generated_beyond_plan": self.answered() - self.rollouts,
            "in_flight_at_kills": self.in_flight,
            "committed_twice": on_disk - table.num_rows,
        }


def is_replica(process: psutil.Process) -> bool:
    """Return whether a process holds a replica; a process that has just ended does not."""
    try:
        return "ray::Replica" in "".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    main()

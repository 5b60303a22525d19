"""A driver on a cluster of simulated nodes with simulated GPUs; test_nodes.py runs it in a separate process.

    python nodes.py pipeline ROOT      a replica that needs the GPUs of two nodes
    python nodes.py drain ROOT         a node that drains while a run is sampled

Prints one line of JSON.
"""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group_table

sys.path.insert(0, str(Path(__file__).parents[2]))
from reasonray.config import Config, parse
from reasonray.sampling.pool import ReplicaPool, draining_nodes
from reasonray.stages.sample import sample
from reasonray.store.run import Run, begin_or_resume
from tests.factories import a_scripted_config


def with_teacher(config: Config, **changes: Any) -> Config:
    raw = config.model_dump(mode="json")
    raw["teachers"][0] |= changes
    return parse(raw)


def pipeline(root: Path) -> dict[str, Any]:
    config = with_teacher(a_scripted_config(root, train=6, samples=2), gpus=2, pipeline=2, cpus=1, replicas=1)
    run = begin_or_resume(config)
    with ReplicaPool(run) as pool:
        sample(run, pool)
        groups = [group["state"] for group in placement_group_table().values()]
        free = ray.available_resources().get("GPU", 0)
    time.sleep(1)
    return {
        "rollouts": run.ledger.read(["id"]).num_rows,
        "groups_during": groups,
        "free_gpus_during": free,
        "groups_after": [group["state"] for group in placement_group_table().values()],
        "free_gpus_after": ray.available_resources().get("GPU", 0),
    }


def drain(root: Path) -> dict[str, Any]:
    config = a_scripted_config(root, train=80, samples=10, engine={"seconds": 0.4, "max_num_seqs": 16})
    run = begin_or_resume(with_teacher(config, gpus=1, cpus=1, replicas=[1, 2]))
    drained: list[str] = []
    draining = threading.Thread(target=drain_a_node_with_a_replica, args=(run, drained))
    draining.start()
    with ReplicaPool(run) as pool:
        sample(run, pool)
    draining.join()
    return {
        "rollouts": run.ledger.read(["id"]).num_rows,
        "left": [event["state"] for event in run.events.read("replica")].count("left"),
        "deaths": len(run.events.read("death")),
        "gone": drained[0] not in {node["NodeID"] for node in ray.nodes() if node["Alive"]} - draining_nodes(),
    }


def drain_a_node_with_a_replica(run: Run, drained: list[str]) -> None:
    while not any(event.get("replicas") == 2 for event in run.events.read("sample")):
        time.sleep(0.2)
    node = next(node["NodeID"] for node in ray.nodes() if node["Resources"].get("GPU"))
    drain = ["drain-node", "--address", ray.get_runtime_context().gcs_address, "--node-id", node]
    reason = [
        "--reason",
        "DRAIN_NODE_REASON_PREEMPTION",
        "--reason-message",
        "spot",
        "--deadline-remaining-seconds",
        "300",
    ]
    subprocess.run([str(Path(sys.executable).parent / "ray"), *drain, *reason], check=True, capture_output=True)
    drained.append(node)


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
    for _ in range(2):
        cluster.add_node(num_cpus=2, num_gpus=1, object_store_memory=100 << 20)
    ray.init(address=cluster.address, log_to_driver=False)
    result = {"pipeline": pipeline, "drain": drain}[sys.argv[1]](Path(sys.argv[2]))
    ray.shutdown()
    cluster.shutdown()
    print(json.dumps(result))


if __name__ == "__main__":
    main()

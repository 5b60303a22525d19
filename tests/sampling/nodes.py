"""A driver on a cluster of simulated nodes with simulated GPUs; test_nodes.py runs it in a separate process.

    python nodes.py pipeline ROOT      a replica that needs the GPUs of two nodes, two on each
    python nodes.py drain ROOT         a node that drains while a run is sampled
    python nodes.py sick ROOT          a node on which no engine can start
    python nodes.py labels ROOT        a teacher that belongs on nodes with a label
    python nodes.py autoscaler ROOT    two teachers, and an autoscaler that may add room for one

Prints one line of JSON.
"""

import atexit
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
import ray.util.state
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig
from ray.util.placement_group import placement_group_table

sys.path.insert(0, str(Path(__file__).parents[2]))
from reasonray.config import Config, UserError, parse
from reasonray.engines.scripted import FAULT
from reasonray.sampling.pool import ReplicaPool, draining_nodes
from reasonray.stages.sample import sample
from reasonray.store.run import Run, begin_or_resume
from tests.factories import a_scripted_config

RAY = str(Path(sys.executable).parent / "ray")


def with_teacher(config: Config, **changes: Any) -> Config:
    raw = config.model_dump(mode="json")
    raw["teachers"][0] |= changes
    return parse(raw)


def pipeline(root: Path) -> dict[str, Any]:
    start_nodes({"num_gpus": 2}, {"num_gpus": 2})
    config = with_teacher(a_scripted_config(root, train=6, samples=2), gpus=4, pipeline=2, cpus=1, replicas=1)
    run = begin_or_resume(config)
    with ReplicaPool(run) as pool:
        sample(run, pool)
        (group,) = placement_group_table().values()
        free = ray.available_resources().get("GPU", 0)
    time.sleep(1)
    return {
        "rollouts": run.ledger.read(["id"]).num_rows,
        "groups_during": [group["state"]],
        "gpus_by_bundle": [bundle["GPU"] for bundle in group["bundles"].values()],
        "bundles_by_node": sorted(Counter(group["bundles_to_node_id"].values()).values()),
        "free_gpus_during": free,
        "groups_after": [group["state"] for group in placement_group_table().values()],
        "free_gpus_after": ray.available_resources().get("GPU", 0),
    }


def drain(root: Path) -> dict[str, Any]:
    start_nodes({"num_gpus": 1}, {"num_gpus": 1})
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
    subprocess.run([RAY, *drain, *reason], check=True, capture_output=True)
    drained.append(node)


def sick(root: Path) -> dict[str, Any]:
    start_nodes({"num_gpus": 1, "env_vars": {FAULT: "no driver"}}, {"num_gpus": 1}, {"num_gpus": 1})
    config = a_scripted_config(root, train=40, samples=10, engine={"seconds": 0.3, "max_num_seqs": 16})
    run = begin_or_resume(with_teacher(config, gpus=1, cpus=1, replicas=3))
    with ReplicaPool(run) as pool:
        sample(run, pool)
    return {"rollouts": run.ledger.read(["id"]).num_rows, "causes": {d["cause"] for d in run.events.read("death")}}


def labels(root: Path) -> dict[str, Any]:
    start_nodes({"num_gpus": 1, "labels": {"role": "trainer"}}, {"num_gpus": 1, "labels": {"role": "teacher"}})
    config = a_scripted_config(root, train=20, samples=5, engine={"seconds": 0.2, "max_num_seqs": 4})
    run = begin_or_resume(with_teacher(config, gpus=1, cpus=1, replicas=[1, 2], labels={"role": "teacher"}))
    with ReplicaPool(run) as pool:
        sample(run, pool)
        (actor,) = ray.util.state.list_actors(filters=[("class_name", "=", "Replica"), ("state", "=", "ALIVE")])
    roles = {node["NodeID"]: node["Labels"].get("role") for node in ray.nodes()}
    wrong = begin_or_resume(with_teacher(config.model_copy(update={"name": "b"}), labels={"role": "unknown"}))
    try:
        with ReplicaPool(wrong) as pool:
            sample(wrong, pool)
    except UserError as error:
        refusal = str(error)
    return {"rollouts": run.ledger.read(["id"]).num_rows, "role": roles[actor.node_id], "refusal": refusal}


def autoscaler(root: Path) -> dict[str, Any]:
    cluster = start_nodes()
    config = ClusterConfig(
        node_group_configs=[NodeGroupConfig(name="gpu", resources={"GPU": 1, "CPU": 2}, max_count=1)]
    )
    ray._private.worker.global_worker.gcs_client.report_cluster_config(config.SerializeToString())
    raw = a_scripted_config(root, train=30, samples=4, engine={"seconds": 0.1}).model_dump(mode="json")
    one = raw["teachers"][0] | {"gpus": 1, "cpus": 1, "replicas": [1, 3]}
    raw["teachers"] = [one | {"name": "one"}, one | {"name": "two", "model": "another"}]
    run = begin_or_resume(parse(raw))
    with ThreadPoolExecutor() as thread:
        sampling = thread.submit(sample, run)
        add_a_node_on_demand(cluster, run)  # only the main thread may start one
        result = sampling.result()
    last = run.events.read("sample")[-1]
    teachers = Counter(run.ledger.read(["teacher"])["teacher"].to_pylist())
    return {
        "rollouts": dict(teachers),
        "deaths": result.deaths,
        "accelerators": last["accelerator_seconds"] / last["seconds"],
    }


def add_a_node_on_demand(cluster: Cluster, run: Run) -> None:
    """Play an autoscaler that may add one node, some seconds after a replica waits for it."""
    while not run.events.read("replica"):
        time.sleep(0.5)
    time.sleep(3)
    cluster.add_node(num_cpus=2, num_gpus=1, object_store_memory=100 << 20)


def start_nodes(*nodes: dict[str, Any]) -> Cluster:
    """Connect to a cluster of a head without GPUs and the given nodes."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
    for node in nodes:
        cluster.add_node(num_cpus=2, object_store_memory=100 << 20, **node)
    ray.init(address=cluster.address, log_to_driver=False)
    atexit.register(cluster.shutdown)
    return cluster


def main() -> None:
    scenarios = {"pipeline": pipeline, "drain": drain, "sick": sick, "labels": labels, "autoscaler": autoscaler}
    result = scenarios[sys.argv[1]](Path(sys.argv[2]))
    ray.shutdown()
    print(json.dumps(result, default=sorted))


if __name__ == "__main__":
    main()

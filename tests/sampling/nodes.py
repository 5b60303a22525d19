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
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import ray
import ray.util.state
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group_table

sys.path.insert(0, str(Path(__file__).parents[2]))
from reasonray.config import Config, UserError, parse
from reasonray.engines.scripted import FAULT
from reasonray.sampling.pool import ReplicaPool, draining_nodes
from reasonray.stages.sample import sample
from reasonray.store.run import Run, begin_or_resume
from tests.factories import a_scripted_config

COMMANDS = (
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter"),
)
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
    workers = {"gpu": {"resources": {"CPU": 2, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 1}}
    with autoscaling_cluster(workers):
        raw = a_scripted_config(root, train=30, samples=4, engine={"seconds": 0.1}).model_dump(mode="json")
        one = raw["teachers"][0] | {"gpus": 1, "cpus": 1, "replicas": [1, 3]}
        raw["teachers"] = [one | {"name": "one"}, one | {"name": "two", "model": "another"}]
        run = begin_or_resume(parse(raw))
        with ReplicaPool(run) as pool:
            result = sample(run, pool)
        last = run.events.read("sample")[-1]
    teachers = Counter(run.ledger.read(["teacher"])["teacher"].to_pylist())
    return {
        "rollouts": dict(teachers),
        "deaths": result.deaths,
        "accelerators": last["accelerator_seconds"] / last["seconds"],
    }


@contextmanager
def autoscaling_cluster(workers: dict[str, Any]) -> Iterator[None]:
    """A cluster whose autoscaler starts nodes as processes on this machine. It touches no other Ray of the machine."""
    head_type = {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0}
    config = {
        "cluster_name": "fake_multinode",
        "max_workers": 4,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 10,
        "provider": {"type": "fake_multinode", "launch_multiple": True, "head_node_id": FAKE_HEAD_NODE_ID},
        "available_node_types": workers | {"ray.head.default": head_type},
        "head_node_type": "ray.head.default",
        **{section: {} for section in ("docker", "auth", "file_mounts")},
        **{commands: [] for commands in COMMANDS},
    }
    with socket.socket() as probe, tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        json.dump(config, file)
        file.flush()
        probe.close()
        command = [RAY, "start", "--head", "--block", f"--port={port}", "--num-cpus=1", "--include-dashboard=false"]
        command += [f"--autoscaling-config={file.name}", f"--object-store-memory={100 << 20}"]
        environment = os.environ | {
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        }
        log = Path(file.name).with_suffix(".log")
        with log.open("w") as output:
            head = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
        try:
            while "Ray runtime started" not in log.read_text():
                assert head.poll() is None, log.read_text()
                time.sleep(0.5)
            ray.init(address=f"127.0.0.1:{port}", log_to_driver=False)
            yield
        finally:
            ray.shutdown()
            processes = [head_process := psutil.Process(head.pid), *head_process.children(recursive=True)]
            for process in processes:
                process.kill()
            log.unlink()


def start_nodes(*nodes: dict[str, Any]) -> None:
    """Connect to a cluster of a head without GPUs and the given nodes."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
    for node in nodes:
        cluster.add_node(num_cpus=2, object_store_memory=100 << 20, **node)
    ray.init(address=cluster.address, log_to_driver=False)
    atexit.register(cluster.shutdown)


def main() -> None:
    scenarios = {"pipeline": pipeline, "drain": drain, "sick": sick, "labels": labels, "autoscaler": autoscaler}
    result = scenarios[sys.argv[1]](Path(sys.argv[2]))
    ray.shutdown()
    print(json.dumps(result, default=sorted))


if __name__ == "__main__":
    main()

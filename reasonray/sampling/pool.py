"""The pool of replicas: it starts, reuses and stops them, and knows the room that the cluster has for more."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from math import ceil
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from reasonray.config import UserError, VLLMEngine
from reasonray.engines.vllm import check_arguments
from reasonray.sampling.replica import Replica
from reasonray.sampling.work import EngineSpec
from reasonray.store.run import Run

_NODE_ID = "ray.io/node-id"
"""The label by which Ray knows a node."""
_UNLIMITED = 1_000_000
"""Room where an autoscaler adds nodes, or where a replica needs nothing."""


class ReplicaPool:
    """All replicas of a job. Stages follow each other and share them: a replica that is up outlives a stage."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._specs: dict[Any, EngineSpec] = {}
        """Replica → the spec that it serves."""
        self._free: list[Any] = []
        """Replicas that are up and belong to no stage."""
        self._placement_groups: dict[Any, PlacementGroup] = {}
        """Replica → its placement group, for replicas that span nodes."""
        self._checked: list[EngineSpec] = []
        """Specs whose engine accepts its arguments."""
        self._stage = 0

    def begin_stage(self, specs: Collection[EngineSpec]) -> int:
        """Begin a stage: stop the replicas that can serve none of its specs, so that their accelerators are free.

        Returns:
            The number of the stage, for its replicas.
        """
        self._stage += 1
        self._free = list(self._specs)
        self._stop_all([replica for replica in self._free if not self._can_serve_any(replica, specs)])
        return self._stage

    def keep(self, specs: Collection[EngineSpec]) -> None:
        """Stop the replicas that can serve none of the specs, between stages: what they hold, others may wait for."""
        self._stop_all([replica for replica in self._specs if not self._can_serve_any(replica, specs)])

    def check(self, spec: EngineSpec) -> None:
        """Check a spec's engine arguments, once, before an accelerator is taken.

        Raises:
            UserError: the engine refuses its arguments.
        """
        if spec not in self._checked:
            _refuse_wrong_arguments(spec)
            self._checked.append(spec)

    def start_replica(self, spec: EngineSpec, avoid: Collection[str] = (), others: Collection[EngineSpec] = ()) -> Any:
        """Return a replica for a spec: one that is free, else a new one, which Ray starts as soon as there is room.

        Args:
            spec: what the replica will serve.
            avoid: ids of nodes on which a new replica must not start.
            others: other specs of the stage; what serves one of these already is left to it.
        """
        replica = self._free_replica(spec, others)
        if replica is None:
            replica = self._create(spec, avoid)
        else:
            self._free.remove(replica)
        self._specs[replica] = spec
        return replica

    def give_back(self, replica: Any) -> None:
        """Make a replica free for other specs."""
        self._free.append(replica)

    def stop_replica(self, replica: Any) -> None:
        """Kill one replica: it is dead, or seems to be, or has nothing to do."""
        ray.kill(replica)
        if replica in self._placement_groups:
            remove_placement_group(self._placement_groups.pop(replica))
        del self._specs[replica]
        if replica in self._free:
            self._free.remove(replica)

    def stop_free(self) -> None:
        """Stop the replicas that belong to no group, because another group needs their place."""
        self._stop_all(list(self._free))

    def room(self, spec: EngineSpec, avoid: Collection[str], unplaced: int) -> int:
        """Return how many more replicas of a spec could be up, by what is free on the nodes.

        Args:
            spec: what they would serve.
            avoid: ids of nodes that do not count.
            unplaced: replicas that are started already and wait for a node.
        """
        adoptable = sum(self._specs[replica].can_serve(spec) for replica in self._free)
        if autoscales():
            return _UNLIMITED
        available = ray._private.state.available_resources_per_node()
        nodes = [
            available.get(node["NodeID"], {}) for node in nodes_with(dict(spec.labels)) if node["NodeID"] not in avoid
        ]
        if _spans_nodes(spec):
            free = int(sum(node.get("GPU", 0.0) for node in nodes) // spec.gpus)
        else:
            free = sum(_places(node, spec) for node in nodes)
        return adoptable + max(0, free - unplaced)

    def leaves_room(self, processes: int, cpus: float) -> bool:
        """Return whether processes of so many CPUs fit next to the replicas, wherever on the cluster these are."""
        if autoscales():
            return True
        places = sum(int(node["Resources"].get("CPU", 0.0) / cpus + 1e-6) for node in nodes_with({}))
        return places - sum(ceil(spec.cpus / cpus) for spec in self._specs.values()) >= processes

    def close(self) -> None:
        """Stop all replicas."""
        self._stop_all(list(self._specs))

    def __enter__(self) -> ReplicaPool:
        return self

    def __exit__(self, *_: object) -> None:
        if ray.is_initialized():
            self.close()

    def _can_serve_any(self, replica: Any, specs: Collection[EngineSpec]) -> bool:
        return any(self._specs[replica].can_serve(spec) for spec in specs)

    def _free_replica(self, spec: EngineSpec, others: Collection[EngineSpec]) -> Any | None:
        """Return a free replica that serves the spec, else one that can and serves no other spec of the stage."""
        same = [replica for replica in self._free if self._specs[replica] == spec]
        able = [
            replica
            for replica in self._free
            if self._specs[replica].can_serve(spec) and self._specs[replica] not in others
        ]
        return next(iter([*same, *able]), None)

    def _create(self, spec: EngineSpec, avoid: Collection[str]) -> Any:
        labels = _label_selector(spec, avoid)
        options: dict[str, Any] = {"max_restarts": 0, "max_concurrency": 1000, "num_cpus": spec.cpus}
        spread, group = _spans_nodes(spec), None
        if spread:  # vLLM's workers take one bundle each; the actor itself takes no GPU
            bundles = [{"GPU": 1.0} for _ in range(spec.gpus)]
            bundles[0]["CPU"] = max(1.0, spec.cpus)
            group = placement_group(bundles, strategy="PACK", bundle_label_selector=[labels] * spec.gpus)
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
            )
        else:
            options |= {"num_gpus": spec.gpus, "label_selector": labels}
        replica = ray.remote(Replica).options(**options).remote(spec, self._run.config, spread=spread)
        if group:
            self._placement_groups[replica] = group
        return replica

    def _stop_all(self, replicas: Collection[Any]) -> None:
        if replicas:
            ray.wait([replica.stop.remote() for replica in replicas], num_returns=len(replicas), timeout=30)
        for replica in replicas:
            self.stop_replica(replica)


@contextmanager
def pool_for(run: Run, pool: ReplicaPool | None = None) -> Iterator[ReplicaPool]:
    """Yield the given pool; without one, yield a new pool and close it at the end."""
    if pool is not None:
        yield pool
        return
    with ReplicaPool(run) as own:
        yield own


def autoscales() -> bool:
    """Return whether an autoscaler may add nodes."""
    return ray._private.state.state.get_cluster_config() is not None


def nodes_with(labels: Mapping[str, str]) -> list[Mapping[str, Any]]:
    """Return the nodes that are alive and have all of the labels."""
    return [node for node in ray.nodes() if node["Alive"] and labels.items() <= node["Labels"].items()]


def largest_node(resource: str, labels: Mapping[str, str] | None = None) -> float:
    """Return the largest amount of a resource on one node with the labels."""
    return max((float(node["Resources"].get(resource, 0)) for node in nodes_with(labels or {})), default=0.0)


def draining_nodes() -> frozenset[str]:
    """Return the ids (hex) of nodes that are draining."""
    draining = ray._private.worker.global_worker.gcs_client.get_draining_nodes(timeout=5)
    return frozenset(node if isinstance(node, str) else node.hex() for node in draining)


def lost_its_node(error: RayError, node: str) -> bool:
    """Return whether a replica died because its node was preempted or failed.

    Args:
        error: what Ray reports of the replica.
        node: id of its node; "" if it never had one.
    """
    if not isinstance(error, RayActorError):
        return False
    if error.preempted or "its node has died" in str(error):
        return True
    return bool(node) and all(other["NodeID"] != node for other in nodes_with({}))


def missing_resources(spec: EngineSpec) -> str:
    """Return what a replica of a spec needs and the cluster has free, for a message about a start that waits."""
    free = ray.available_resources()
    needs = [f"{amount:g} {name}s" for name, amount in _resources(spec) if amount]
    has = ", ".join(f"{free.get(name, 0):g} {name}s" for name, amount in _resources(spec) if amount)
    where = f" on nodes with {', '.join(map('='.join, spec.labels))}" if spec.labels else ""
    return f"{' and '.join(needs) or 'a node'}{where} each; free in the cluster: {has or 'nothing'}"


def refuse_impossible(sizes: Collection[tuple[EngineSpec, int]]) -> None:
    """Check that the cluster can hold the given number of replicas of each spec, one spec at a time.

    Raises:
        UserError: it cannot; the message lists what the cluster has.
    """
    if autoscales():
        return
    for spec, size in sizes:
        labels = dict(spec.labels)
        if not nodes_with(labels):
            written = ", ".join(f"{name} = {value}" for name, value in spec.labels)
            raise UserError(
                f"no node of the cluster has the labels of {spec.model} ({written}): start one, or drop them"
            )
        for name, amount in _resources(spec):
            on_one_node = 1.0 if name == "GPU" and amount and _spans_nodes(spec) else amount
            largest = largest_node(name, labels)
            total = sum(float(node["Resources"].get(name, 0)) for node in nodes_with(labels))
            if on_one_node > largest or amount * size > total:
                raise UserError(
                    f"{size} replica(s) of {spec.model} ask for {amount:g} {name}s each; the cluster has {total:g} "
                    f"(at most {largest:g} on one node): lower {name.lower()}s or replicas, or add nodes"
                )


def _refuse_wrong_arguments(spec: EngineSpec) -> None:
    """Check vLLM's arguments in a task without accelerators; other engines check theirs when they start."""
    if not (isinstance(spec.engine, VLLMEngine) and spec.gpus):
        return
    checking = ray.remote(check_arguments).options(num_cpus=1, num_gpus=0)
    hardware = {"gpus": spec.gpus, "pipeline": spec.pipeline, "trust_remote_code": spec.trust_remote_code}
    try:
        ray.get(checking.remote(spec.model, spec.revision, spec.engine, **hardware))
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, UserError) else error from None


def _spans_nodes(spec: EngineSpec) -> bool:
    """Return whether a replica needs the GPUs of several nodes."""
    return spec.gpus > 1 and spec.pipeline > 1 and spec.gpus > largest_node("GPU", dict(spec.labels))


def _label_selector(spec: EngineSpec, avoid: Collection[str]) -> dict[str, str]:
    """Return Ray's label selector for the nodes of a spec, but not those to avoid, unless there is no other node."""
    labels = dict(spec.labels)
    others = {node["NodeID"] for node in nodes_with(labels)} - set(avoid)
    return labels | ({_NODE_ID: f"!in({','.join(sorted(avoid))})"} if avoid and others else {})


def _places(free: Mapping[str, float], spec: EngineSpec) -> int:
    """Return how many replicas of a spec fit into what is free on a node."""
    fitting = [int(free.get(name, 0.0) / amount + 1e-6) for name, amount in _resources(spec) if amount]
    return min(fitting, default=_UNLIMITED)


def _resources(spec: EngineSpec) -> tuple[tuple[str, float], ...]:
    return ("GPU", float(spec.gpus)), ("CPU", spec.cpus)

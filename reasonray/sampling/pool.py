"""The pool of replicas: it starts, reuses and stops them, and knows the room that the cluster has for more."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from reasonray.config import UserError, VLLMEngine
from reasonray.engines.vllm import check_arguments
from reasonray.sampling.replica import Replica
from reasonray.sampling.work import EngineSpec
from reasonray.store.run import Run


class ReplicaPool:
    """All replicas of a job. Stages share them: a replica that is up serves every engine spec that it can load."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._replicas_by_spec: list[tuple[EngineSpec, list[Any]]] = []
        self._placement_groups: dict[Any, PlacementGroup] = {}
        """Replica → its placement group, for replicas that span nodes."""

    def prepare(self, specs: Collection[EngineSpec]) -> None:
        """Stop the replicas that can serve none of the specs, so that their accelerators are free."""
        kept = []
        for held, replicas in self._replicas_by_spec:
            if any(held.serves(spec) for spec in specs):
                kept.append((held, replicas))
            else:
                self._stop_all(replicas)
        self._replicas_by_spec = kept

    def replicas_for(self, spec: EngineSpec, size: int) -> list[Any]:
        """Return at least `size` replicas of a spec: those that are up, else new ones that are still starting.

        Raises:
            UserError: the cluster can never hold that many, or the engine refuses its arguments.
        """
        replicas = next((replicas for held, replicas in self._replicas_by_spec if held.serves(spec)), None)
        if replicas is None:
            refuse_impossible([(spec, size)])
            _refuse_wrong_arguments(spec)
            replicas = []
        others = [(held, group) for held, group in self._replicas_by_spec if group is not replicas]
        self._replicas_by_spec = [*others, (spec, replicas)]
        while len(replicas) < size:
            self.start_replica(spec)
        return list(replicas)

    def start_replica(self, spec: EngineSpec) -> Any:
        """Create one more replica of a spec; Ray starts it as soon as there is room."""
        replicas = next(replicas for held, replicas in self._replicas_by_spec if held == spec)
        options: dict[str, Any] = {"max_restarts": 0, "max_concurrency": 1000, "num_cpus": spec.cpus}
        spread = spec.gpus > 1 and spec.pipeline > 1 and spec.gpus > largest_node("GPU")
        group = None
        if spread:  # the engine's workers take the bundles' GPUs; the actor itself takes none
            bundle = {"GPU": float(spec.gpus // spec.pipeline), "CPU": max(1.0, spec.cpus)}
            group = placement_group([bundle] * spec.pipeline, strategy="PACK")
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
            )
        else:
            options["num_gpus"] = spec.gpus
        actor = ray.remote(Replica).options(**options)
        config = self._run.config
        replica = actor.remote(spec, config.checking, config.failures.hang_seconds, config.name, spread=spread)
        if group:
            self._placement_groups[replica] = group
        replicas.append(replica)
        return replica

    def stop_replica(self, replica: Any) -> None:
        """Kill one replica: it is dead, or seems to be, or has nothing to do."""
        ray.kill(replica)
        if replica in self._placement_groups:
            remove_placement_group(self._placement_groups.pop(replica))
        for _, replicas in self._replicas_by_spec:
            if replica in replicas:
                replicas.remove(replica)

    def close(self) -> None:
        """Stop all replicas."""
        for _, replicas in self._replicas_by_spec:
            self._stop_all(replicas)
        self._replicas_by_spec = []

    def __enter__(self) -> ReplicaPool:
        return self

    def __exit__(self, *_: object) -> None:
        if ray.is_initialized():
            self.close()

    def _stop_all(self, replicas: list[Any]) -> None:
        ray.wait([replica.stop.remote() for replica in replicas], num_returns=len(replicas), timeout=30)
        for replica in list(replicas):
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


def largest_node(resource: str) -> float:
    """Return the largest amount of a resource on one node."""
    return max((float(node["Resources"].get(resource, 0)) for node in ray.nodes() if node["Alive"]), default=0.0)


def draining_nodes() -> set[str]:
    """Return the ids (hex) of nodes that are draining."""
    draining = ray._private.worker.global_worker.gcs_client.get_draining_nodes(timeout=5)
    return {node if isinstance(node, str) else node.hex() for node in draining}


def has_room(spec: EngineSpec) -> bool:
    """Return whether one more replica could start now, or an autoscaler could add a node for it."""
    free = ray.available_resources()
    return autoscales() or all(free.get(name, 0) >= amount for name, amount in _resources(spec) if amount)


def fits(sizes: Collection[tuple[EngineSpec, int]]) -> bool:
    """Return whether the cluster can hold the given number of replicas of each spec at the same time."""
    return autoscales() or all(
        sum(dict(_resources(spec))[name] * size for spec, size in sizes) <= ray.cluster_resources().get(name, 0)
        for name in ("GPU", "CPU")
    )


def refuse_impossible(sizes: Collection[tuple[EngineSpec, int]]) -> None:
    """Check that the cluster can hold the given number of replicas of each spec, one spec at a time.

    Raises:
        UserError: it cannot; the message lists what the cluster has.
    """
    if autoscales():
        return
    for spec, size in sizes:
        for name, amount in _resources(spec):
            on_one_node = amount / spec.pipeline if name == "GPU" else amount
            largest, total = largest_node(name), ray.cluster_resources().get(name, 0)
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


def _resources(spec: EngineSpec) -> tuple[tuple[str, float], ...]:
    return ("GPU", float(spec.gpus)), ("CPU", spec.cpus)

"""The replicas that are up: hired, replaced, dismissed; their places in the cluster."""

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
    """All replicas of a job. Stages ask for a crew; a like engine spec finds the same replicas, already started."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._crews: list[tuple[EngineSpec, list[Any]]] = []
        self._groups: dict[Any, PlacementGroup] = {}
        """Placement groups of replicas that span nodes."""

    def prepare(self, specs: Collection[EngineSpec]) -> None:
        """Dismiss the crews that serve none of the specs, so that their accelerators are free."""
        for held, crew in self._crews:
            if not any(held.serves(spec) for spec in specs):
                self._stop_all(crew)
        self._crews = [(held, crew) for held, crew in self._crews if any(held.serves(spec) for spec in specs)]

    def replicas_for(self, spec: EngineSpec, size: int) -> list[Any]:
        """Return at least `size` replicas of a spec: those that are up, else new ones that are still starting.

        Raises:
            UserError: the cluster can never hold so many, or the engine refuses its arguments.
        """
        held = next((crew for other, crew in self._crews if other.serves(spec)), None)
        if held is None:
            refuse_impossible([(spec, size)])
            _refuse_wrong_arguments(spec)
            held = []
        self._crews = [(other, crew) for other, crew in self._crews if crew is not held] + [(spec, held)]
        while len(held) < size:
            self.start_replica(spec)
        return list(held)

    def start_replica(self, spec: EngineSpec) -> Any:
        """Return one more replica of a spec, starting as soon as there is room."""
        crew = next(crew for other, crew in self._crews if other == spec)
        options: dict[str, Any] = {"max_restarts": 0, "max_concurrency": 1000, "num_cpus": spec.cpus}
        spread = spec.gpus > 1 and spec.pipeline > 1 and spec.gpus > largest_node("GPU")
        group = None
        if spread:  # its engine's workers take the bundles' GPUs; the actor itself takes none
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
            self._groups[replica] = group
        crew.append(replica)
        return replica

    def stop_replica(self, replica: Any) -> None:
        """End one replica: a dead one, one that only seems dead, or one that has nothing to do."""
        ray.kill(replica)
        if replica in self._groups:
            remove_placement_group(self._groups.pop(replica))
        for _, crew in self._crews:
            if replica in crew:
                crew.remove(replica)

    def close(self) -> None:
        """Stop all replicas."""
        for _, crew in self._crews:
            self._stop_all(crew)
        self._crews = []

    def __enter__(self) -> ReplicaPool:
        return self

    def __exit__(self, *_: object) -> None:
        if ray.is_initialized():
            self.close()

    def _stop_all(self, crew: list[Any]) -> None:
        ray.wait([replica.stop.remote() for replica in crew], num_returns=len(crew), timeout=30)
        for replica in list(crew):
            self.stop_replica(replica)


@contextmanager
def pool_for(run: Run, pool: ReplicaPool | None = None) -> Iterator[ReplicaPool]:
    """Yield the pool given; without one, a pool of the caller's own that is closed at the end."""
    if pool is not None:
        yield pool
        return
    with ReplicaPool(run) as own:
        yield own


def autoscales() -> bool:
    """Say whether an autoscaler may add nodes."""
    return ray._private.state.state.get_cluster_config() is not None


def largest_node(resource: str) -> float:
    """Return the most of a resource that one node has."""
    return max((float(it["Resources"].get(resource, 0)) for it in ray.nodes() if it["Alive"]), default=0.0)


def draining_nodes() -> set[str]:
    """Return the ids (hex) of nodes that are about to go."""
    draining = ray._private.worker.global_worker.gcs_client.get_draining_nodes(timeout=5)
    return {node if isinstance(node, str) else node.hex() for node in draining}


def has_room(spec: EngineSpec) -> bool:
    """Say whether one more replica could start now, or an autoscaler could make room for it."""
    free = ray.available_resources()
    return autoscales() or all(free.get(what, 0) >= wanted for what, wanted in _needs(spec) if wanted)


def fits(crews: Collection[tuple[EngineSpec, int]]) -> bool:
    """Say whether the cluster can hold so many replicas of each spec at the same time."""
    return autoscales() or all(
        sum(dict(_needs(spec))[what] * size for spec, size in crews) <= ray.cluster_resources().get(what, 0)
        for what in ("GPU", "CPU")
    )


def refuse_impossible(crews: Collection[tuple[EngineSpec, int]]) -> None:
    """Check that every crew could run by itself.

    Raises:
        UserError: it could not; the message says what the cluster has.
    """
    if autoscales():
        return
    for spec, size in crews:
        for what, wanted in _needs(spec):
            on_one_node = wanted / spec.pipeline if what == "GPU" else wanted
            largest, total = largest_node(what), ray.cluster_resources().get(what, 0)
            if on_one_node > largest or wanted * size > total:
                raise UserError(
                    f"{size} replica(s) of {spec.model} ask for {wanted:g} {what}s each; the cluster has {total:g} "
                    f"(at most {largest:g} on one node): lower {what.lower()}s or replicas, or add nodes"
                )


def _refuse_wrong_arguments(spec: EngineSpec) -> None:
    """Check an engine's arguments where it costs no accelerator; an engine without any tells by itself."""
    if not (isinstance(spec.engine, VLLMEngine) and spec.gpus):
        return
    checking = ray.remote(check_arguments).options(num_cpus=1, num_gpus=0)
    try:
        ray.get(checking.remote(spec.model, spec.revision, spec.engine, gpus=spec.gpus, pipeline=spec.pipeline))
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, UserError) else error from None


def _needs(spec: EngineSpec) -> tuple[tuple[str, float], ...]:
    return ("GPU", float(spec.gpus)), ("CPU", spec.cpus)

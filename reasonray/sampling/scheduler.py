"""The driver's scheduler of one engine spec: it starts and stops replicas, assigns leases and handles deaths.

The ledger is the only truth. After a death the scheduler reads it again, and problems that lack samples there go back
into the queue (failures.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from reasonray.config import Fixed, UserError
from reasonray.engines.protocol import EngineDied
from reasonray.sampling.failures import FailureTracker
from reasonray.sampling.pool import ReplicaPool, draining_nodes, has_room
from reasonray.sampling.queue import Entry, ProblemQueue
from reasonray.sampling.replica import LeaseResult, Started
from reasonray.sampling.work import Counts, Isolation, Lease, ProblemState, ResolvedJob, SamplingJob, Snapshot, Usage
from reasonray.store.run import Run
from reasonray.store.stored_samples import StoredSamples

_RESIZE_SECONDS = 2.0
"""Between checks for draining nodes and for room for more replicas."""


@dataclass(slots=True, eq=False)
class HeldLease:
    """A lease that a replica holds."""

    lease: Lease
    """Without the problems that the replica released."""
    first_wave: int
    """Samples that the lease started with."""


@dataclass(slots=True, eq=False)
class ReplicaState:
    """What the driver knows of one replica."""

    actor: Any
    is_up: bool = False
    capacity: int = 0
    node: str = ""
    leases: list[HeldLease] = field(default_factory=list)
    is_releasing: bool = False
    """It was asked to release problems and has not answered yet."""
    is_leaving: bool = False
    """Its node is draining: it gets no more leases."""
    baseline: Snapshot = field(default_factory=Snapshot)
    """Its counts when this stage began; a replica outlives a stage."""
    latest: Snapshot = field(default_factory=Snapshot)
    """Its counts at the last poll."""


class Scheduler:
    """The replicas of one spec and the queue that they share."""

    def __init__(self, run: Run, jobs: Sequence[SamplingJob], pool: ReplicaPool) -> None:
        self.jobs, self.spec = jobs, jobs[0].spec
        self._run, self._pool = run, pool
        self._min_replicas, self._max_replicas = jobs[0].replicas
        self._resolved: dict[str, ResolvedJob] = {}
        """Name → job, once a replica has reported the identity of the model."""
        self._queue = ProblemQueue()
        self._replicas: list[ReplicaState] = []
        """Up or starting."""
        self._former: list[ReplicaState] = []
        """Dead or stopped; their counts still count."""
        self._pending: dict[Any, tuple[ReplicaState, Callable[[Any], None]]] = {}
        """Ray reference → its replica, and the function that handles its result."""
        self._failures = FailureTracker(run.config.failures)
        self._num_problems = self._max_rollouts = 0
        """Unfinished problems when the stage began, and the most samples that they can get."""
        self._resized_at = 0.0

    def start(self) -> None:
        """Start the minimum number of replicas."""
        for actor in self._pool.replicas_for(self.spec, self._min_replicas):
            self._start_replica(actor)

    @property
    def is_up(self) -> bool:
        """Whether a replica is up, so that the unfinished problems are known."""
        return bool(self._resolved)

    @property
    def is_busy(self) -> bool:
        """Whether problems are queued or leased, or not known yet."""
        return not self.is_up or bool(self._queue) or self.has_leases

    @property
    def has_leases(self) -> bool:
        """Whether a replica holds a lease."""
        return any(replica.leases for replica in self._replicas)

    @property
    def replicas_up(self) -> int:
        """The number of replicas that are up."""
        return len(self._up)

    @property
    def deaths(self) -> int:
        """The number of replicas that died."""
        return self._failures.total

    @property
    def accelerators(self) -> int:
        """GPUs that the replicas hold, up or starting; the number of replicas if they use no GPUs."""
        return len(self._replicas) * max(1, self.spec.gpus)

    def remaining(self) -> int:
        """Return the rollouts still to come: exact for policy "fixed", else extrapolated from finished problems."""
        rollouts = sum(counts.rollouts for counts in self.counts_by_job().values())
        if all(isinstance(job.policy, Fixed) for job in self._resolved.values()):
            return max(0, self._max_rollouts - rollouts)
        leased = sum(len(held.lease.problems) for replica in self._replicas for held in replica.leases)
        unfinished = len(self._queue) + leased
        finished = self._num_problems - unfinished
        return round(unfinished * rollouts / finished) if finished > 0 else self._max_rollouts

    def pending(self) -> list[Any]:
        """Return the Ray references that the scheduler waits for."""
        return list(self._pending)

    def receive(self, reference: Any) -> None:
        """Handle the result of a pending reference.

        Raises:
            UserError: the replica raised one, or too many replicas died.
        """
        if reference not in self._pending:  # its replica was removed by another result of the same wait
            return
        replica, handle = self._pending.pop(reference)
        try:
            result = ray.get(reference)
        except (RayActorError, OutOfMemoryError) as error:
            self._replace_dead(replica, str(error).splitlines()[0])
        except RayTaskError as error:
            if not isinstance(error.cause, EngineDied | OSError):
                raise error.cause if isinstance(error.cause, UserError) else error from None
            self._replace_dead(replica, f"{type(error.cause).__name__}: {error.cause}".splitlines()[0])
        else:
            handle(result)

    def assign_leases(self) -> None:
        """Assign queued problems to replicas that have room; rebalance when the queue is empty."""
        for replica in self._up:
            if replica.is_leaving or any(held.lease.isolation is not Isolation.NONE for held in replica.leases):
                continue
            if self._queue.quarantine and not replica.leases:
                job, state = self._queue.quarantine.popleft()
                self._lease(replica, [(job, state)], self._failures.isolation_for(job, state))
                continue
            samples = sum(held.first_wave for held in replica.leases)
            while samples < 2 * replica.capacity and (group := self._queue.pop(self._group_size(replica.capacity))):
                samples += self._lease(replica, group)
        self._rebalance()

    def resize(self) -> None:
        """Leave draining nodes, and start another replica if there is work and room; at most every few seconds."""
        if time.monotonic() - self._resized_at < _RESIZE_SECONDS:
            return
        self._resized_at = time.monotonic()
        draining = draining_nodes()
        for replica in self._up:
            if replica.node in draining and not replica.is_leaving:
                replica.is_leaving = True
                self._request_release(replica)
            if replica.is_leaving and not replica.leases:
                self._stop(replica)
        staying = sum(not replica.is_leaving for replica in self._replicas)
        has_more_work = self._queue.first_wave > sum(replica.capacity for replica in self._replicas)
        if staying < self._min_replicas or (staying < self._max_replicas and has_more_work and has_room(self.spec)):
            self._run.events.emit("replica", state="joined", count=staying + 1)
            self._start_replica(self._pool.start_replica(self.spec))

    def reconcile(self) -> int:
        """Read the ledgers again, queue what is unfinished, and return how many problems that is.

        Problems that the driver has lost track of come back in this way.
        """
        for job in self.jobs:
            resolved = self._resolved[job.name]
            for state in unfinished_problems(resolved, job):
                self._queue.add(resolved, state)
        return len(self._queue)

    def abort(self) -> None:
        """Empty the queue and abort all samples in flight; leases end with the samples that they have finished."""
        self._queue = ProblemQueue()
        aborts = [replica.actor.abort.remote() for replica in self._up]
        ray.wait(aborts, num_returns=len(aborts), timeout=5)

    def poll(self) -> None:
        """Request every replica's snapshot; a replica that does not answer keeps its last one."""
        requests = {replica.actor.snapshot.remote(): replica for replica in self._up}
        ready, _ = ray.wait(list(requests), num_returns=len(requests), timeout=1) if requests else ([], [])
        for reference in ready:
            try:
                requests[reference].latest = ray.get(reference)
            except RayActorError:
                continue  # the pending results of its leases report the death, too
        for job, counts in self.counts_by_job().items():
            self._queue.update_lengths(job, counts)

    def counts_by_job(self) -> dict[str, Counts]:
        """Return each job's counts since the stage began, as of the last poll."""
        total = {job: Counts() for job in self._resolved}
        for replica in (*self._replicas, *self._former):
            for job, counts in total.items():
                counts.add(replica.latest.counts_by_job.get(job, Counts()))
                counts.subtract(replica.baseline.counts_by_job.get(job, Counts()))
        return total

    def usage(self) -> Usage:
        """Return the usage of all replicas since the stage began, as of the last poll."""
        replicas = (*self._replicas, *self._former)
        return sum((replica.latest.usage - replica.baseline.usage for replica in replicas), Usage())

    @property
    def _up(self) -> list[ReplicaState]:
        return [replica for replica in self._replicas if replica.is_up]

    def _start_replica(self, actor: Any) -> None:
        replica = ReplicaState(actor)
        self._replicas.append(replica)
        reference = actor.start.remote(self.spec.model, self.spec.revision)
        self._pending[reference] = replica, lambda started: self._on_started(replica, started)

    def _on_started(self, replica: ReplicaState, started: Started) -> None:
        replica.is_up, replica.capacity, replica.node = True, started.capacity, started.node
        replica.baseline = replica.latest = started.snapshot
        if self._resolved:
            return
        self._run.record_model_identity(self.spec.model, self.spec.revision, started.identity)
        for job in self.jobs:
            resolved = self._resolved[job.name] = ResolvedJob.of(self._run, job, started.identity)
            for state in unfinished_problems(resolved, job):
                self._queue.add(resolved, state)
                self._num_problems += 1
                self._max_rollouts += state.remaining(resolved.policy)

    def _group_size(self, capacity: int) -> int:
        """Return how many samples a lease starts with: half a replica's capacity, less towards the end of a stage."""
        return max(1, min(capacity // 2, self._queue.first_wave // (2 * self.replicas_up)))

    def _lease(self, replica: ReplicaState, group: list[Entry], isolation: Isolation = Isolation.NONE) -> int:
        job = group[0][0]
        lease = Lease(job, tuple(state for _, state in group), isolation)
        held = HeldLease(lease, sum(state.first_wave(job.policy) for state in lease.problems))
        replica.leases.append(held)
        reference = replica.actor.run_lease.remote(lease)
        self._pending[reference] = replica, lambda result: self._on_finished(replica, held, result)
        return held.first_wave

    def _on_finished(self, replica: ReplicaState, held: HeldLease, result: LeaseResult) -> None:
        # Released problems count here too: a lease may end before the answer to the release request arrives.
        self._requeue_released([held], result.released)
        replica.leases.remove(held)
        self._failures.reset_streak()

    def _rebalance(self) -> None:
        """Have the busiest replica release half of its unstarted problems if another has nothing to do."""
        staying = [replica for replica in self._up if not replica.is_leaving]
        if self._queue or not staying or any(replica.is_releasing for replica in self._up):
            return
        busiest = max(staying, key=_shared_problems)
        problems = _shared_problems(busiest)
        if problems > 1 and min(map(_shared_problems, staying)) == 0:
            self._request_release(busiest, problems // 2)

    def _request_release(self, replica: ReplicaState, count: int | None = None) -> None:
        """Ask a replica to release up to `count` problems that it has not started, or all of them."""
        replica.is_releasing = True
        leases = list(replica.leases)  # a problem released here may be leased to the same replica again meanwhile

        def on_released(keys: Collection[tuple[str, str]]) -> None:
            replica.is_releasing = False
            self._requeue_released(leases, keys)

        self._pending[replica.actor.release.remote(count)] = replica, on_released

    def _requeue_released(self, leases: Sequence[HeldLease], keys: Collection[tuple[str, str]]) -> None:
        """Put the problems that a replica released back into the queue, and take them out of its leases."""
        for held in leases:
            job, problems = held.lease.job, held.lease.problems
            for state in problems:
                if (job.name, state.problem.id) in keys:
                    self._queue.add(job, state, first=True)
            kept = tuple(state for state in problems if (job.name, state.problem.id) not in keys)
            held.lease = replace(held.lease, problems=kept)

    def _stop(self, replica: ReplicaState) -> None:
        self._remove(replica)
        self._run.events.emit("replica", state="left", cause="its node is about to go")
        self._pool.stop_replica(replica.actor)

    def _remove(self, replica: ReplicaState) -> None:
        self._replicas.remove(replica)
        self._former.append(replica)
        self._pending = {
            reference: (owner, handle) for reference, (owner, handle) in self._pending.items() if owner is not replica
        }

    def _replace_dead(self, replica: ReplicaState, cause: str) -> None:
        """Requeue a dead replica's work, and start another one if too few are left."""
        self._failures.record(cause)
        self._remove(replica)
        lost = [held.lease for held in replica.leases]
        self._run.events.emit("death", cause=cause, problems=sum(len(lease.problems) for lease in lost))
        self._pool.stop_replica(replica.actor)
        self._failures.requeue(lost, cause, self._queue)
        self._failures.raise_on_crash_loop(self.spec.model)
        if len(self._replicas) < self._min_replicas:
            self._start_replica(self._pool.start_replica(self.spec))


def _shared_problems(replica: ReplicaState) -> int:
    return sum(len(held.lease.problems) for held in replica.leases if held.lease.isolation is Isolation.NONE)


def unfinished_problems(resolved: ResolvedJob, job: SamplingJob) -> list[ProblemState]:
    """Return the states of the job's problems that need more samples, by what its ledger holds."""
    stored = resolved.ledger.stored_samples()
    states = [
        resolved.problem_state(problem, stored.get((problem.id, resolved.fingerprint), StoredSamples()))
        for problem in job.problems
    ]
    return [state for state in states if not state.is_satisfied(resolved.policy)]

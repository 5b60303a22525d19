"""The driver's view of the replicas of one spec: what they are owed, what they hold, and what they die of.

The ledger is the only truth: after a death it is read again, and what it does not hold is owed again (deaths.py).
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
from reasonray.sampling.work import Arm, Counts, Isolation, Lease, ProblemState, SamplingJob, Snapshot
from reasonray.store.run import Run
from reasonray.store.stored_samples import StoredSamples

_RESIZE_SECONDS = 2.0
"""Between looks at nodes that go and room for more replicas."""


@dataclass(slots=True, eq=False)
class HeldLease:
    """A lease in a replica's hands."""

    lease: Lease
    """Without the problems that were handed back."""
    opening: int
    """The attempts that it started with."""


@dataclass(slots=True, eq=False)
class ReplicaState:
    """A replica of the crew, and what the driver knows of it."""

    replica: Any
    is_up: bool = False
    capacity: int = 0
    node: str = ""
    held: list[HeldLease] = field(default_factory=list)
    is_releasing: bool = False
    """It was asked to hand problems back and has not answered."""
    is_leaving: bool = False
    """Its node is about to go."""
    before: Snapshot = field(default_factory=Snapshot)
    """What it had done when this work began: a fleet outlives a stage."""
    seen: Snapshot = field(default_factory=Snapshot)
    """What it had done at the last look."""


class Scheduler:
    """Replicas of one spec and the backlog that they share."""

    def __init__(self, run: Run, orders: Sequence[SamplingJob], pool: ReplicaPool) -> None:
        self.orders, self.spec = orders, orders[0].spec
        self._run, self._pool = run, pool
        self._least, self._most = orders[0].replicas
        self.arms: dict[str, Arm] = {}
        self.backlog = ProblemQueue()
        self._members: list[ReplicaState] = []
        """Those that are up or starting."""
        self._former: list[ReplicaState] = []
        """Those that died or were let go; what they did counts."""
        self._awaited: dict[Any, tuple[ReplicaState, Callable[[Any], None]]] = {}
        """Reference → whose it is, and what takes its result."""
        self._deaths = FailureTracker(run.config.failures)
        self._problems = self._planned = 0
        """Problems owed when the work began, and the most attempts that they can cost."""
        self._resized = 0.0

    def open(self) -> None:
        """Ask for the least number of replicas."""
        for replica in self._pool.replicas_for(self.spec, self._least):
            self._await_start(replica)

    @property
    def is_up(self) -> bool:
        """Whether a replica is up, so that it is known what is owed."""
        return bool(self.arms)

    @property
    def is_busy(self) -> bool:
        """Whether work is owed or in hand."""
        return not self.is_up or bool(self.backlog) or self.has_leases

    @property
    def has_leases(self) -> bool:
        """Whether work is in hand."""
        return any(member.held for member in self._members)

    @property
    def replicas(self) -> int:
        """Replicas that are up."""
        return len(self._up)

    @property
    def deaths(self) -> int:
        """Replicas that died."""
        return self._deaths.total

    @property
    def accelerators(self) -> int:
        """GPUs that the replicas hold, up or starting; replicas where they use none."""
        return len(self._members) * max(1, self.spec.gpus)

    def left(self) -> int:
        """Return the attempts still to come: exact under `fixed`, else by what settled problems took."""
        gained = sum(it.rollouts for it in self.figures().values())
        if all(isinstance(arm.policy, Fixed) for arm in self.arms.values()):
            return max(0, self._planned - gained)
        in_hand = sum(len(held.lease.problems) for member in self._members for held in member.held)
        unsettled = len(self.backlog) + in_hand
        settled = self._problems - unsettled
        return round(unsettled * gained / settled) if settled > 0 else self._planned

    def references(self) -> list[Any]:
        """Return what is waited for."""
        return list(self._awaited)

    def take(self, reference: Any) -> None:
        """Take what has come of a reference.

        Raises:
            UserError: of the replica's own, or too many deaths.
        """
        if reference not in self._awaited:  # its replica was buried in this very round
            return
        member, take = self._awaited.pop(reference)
        try:
            result = ray.get(reference)
        except (RayActorError, OutOfMemoryError) as error:
            self._replace_dead(member, str(error).splitlines()[0])
        except RayTaskError as error:
            if not isinstance(error.cause, EngineDied | OSError):
                raise error.cause if isinstance(error.cause, UserError) else error from None
            self._replace_dead(member, f"{type(error.cause).__name__}: {error.cause}".splitlines()[0])
        else:
            take(result)

    def assign_leases(self) -> None:
        """Lease what is owed to replicas that have room, and ask busy ones for some where others have nothing."""
        for member in self._up:
            if member.is_leaving or any(held.lease.care is not Isolation.NONE for held in member.held):
                continue
            if self.backlog.suspects and not member.held:
                suspect = self.backlog.suspects.popleft()
                self._lease(member, [suspect], self._deaths.isolation_for(*suspect))
                continue
            opening = sum(held.opening for held in member.held)
            while opening < 2 * member.capacity and (group := self.backlog.take(self._group_size(member.capacity))):
                opening += self._lease(member, group)
        self._rebalance()

    def resize(self) -> None:
        """Now and then: leave nodes that go, and grow into room that is there."""
        if time.monotonic() - self._resized < _RESIZE_SECONDS:
            return
        self._resized = time.monotonic()
        going = draining_nodes()
        for member in self._up:
            if member.node in going and not member.is_leaving:
                member.is_leaving = True
                self._request_release(member)
            if member.is_leaving and not member.held:
                self._stop(member)
        here = sum(not member.is_leaving for member in self._members)
        more_than_enough = self.backlog.starting > sum(member.capacity for member in self._members)
        if here < self._least or (here < self._most and more_than_enough and has_room(self.spec)):
            self._run.events.emit("replica", state="joined", count=here + 1)
            self._await_start(self._pool.start_replica(self.spec))

    def reconcile(self) -> int:
        """Read the ledger again, put what is still owed into the backlog, and return how many problems that were.

        The ledger is the only truth: whatever the driver has lost sight of is found here.
        """
        for order in self.orders:
            arm = self.arms[order.name]
            for of in unfinished_problems(arm, order):
                self.backlog.add(arm, of)
        return len(self.backlog)

    def drop(self) -> None:
        """Hand out nothing more and abort what is in flight; the leases end with what they have."""
        self.backlog = ProblemQueue()
        dropping = [member.replica.drop.remote() for member in self._up]
        ray.wait(dropping, num_returns=len(dropping), timeout=5)

    def look(self) -> None:
        """Ask every replica for its snapshot; one that does not answer keeps its last."""
        asked = {member.replica.snapshot.remote(): member for member in self._up}
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=1) if asked else ([], [])
        for reference in ready:
            try:
                asked[reference].seen = ray.get(reference)
            except RayActorError:
                continue  # its lease will say so too
        for arm, figures in self.figures().items():
            self.backlog.learn(arm, figures)

    def figures(self) -> dict[str, Counts]:
        """Return what was done by arm, as of the last look."""
        total = {arm: Counts() for arm in self.arms}
        for member in self._ever:
            for arm, figures in total.items():
                figures.add(member.seen.arms.get(arm, Counts()))
                figures.add(member.before.arms.get(arm, Counts()), -1)
        return total

    def seconds(self) -> tuple[float, float, int]:
        """Return the replicas' seconds with nothing in flight, all their seconds, and the tokens they generated."""
        idle = sum(member.seen.idle_seconds - member.before.idle_seconds for member in self._ever)
        up = sum(member.seen.up_seconds - member.before.up_seconds for member in self._ever)
        return idle, up, sum(member.seen.generated - member.before.generated for member in self._ever)

    @property
    def _up(self) -> list[ReplicaState]:
        return [member for member in self._members if member.is_up]

    @property
    def _ever(self) -> list[ReplicaState]:
        return [*self._members, *self._former]

    def _await_start(self, replica: Any) -> None:
        member = ReplicaState(replica)
        self._members.append(member)
        reference = replica.start.remote(self.spec.model, self.spec.revision)
        self._awaited[reference] = member, lambda started: self._on_started(member, started)

    def _on_started(self, member: ReplicaState, started: Started) -> None:
        member.is_up, member.capacity, member.node = True, started.capacity, started.node
        member.before = member.seen = started.before
        if self.arms:
            return
        self._run.record_model_identity(self.spec.model, self.spec.revision, started.identity)
        for order in self.orders:
            arm = self.arms[order.name] = Arm.of(self._run, order, started.identity)
            for of in unfinished_problems(arm, order):
                self.backlog.add(arm, of)
                self._problems += 1
                self._planned += of.most(arm.policy)

    def _group_size(self, capacity: int) -> int:
        """Return how many attempts a lease starts with: half a replica's capacity, less towards the end."""
        return max(1, min(capacity // 2, self.backlog.starting // (2 * self.replicas)))

    def _lease(self, member: ReplicaState, group: list[Entry], care: Isolation = Isolation.NONE) -> int:
        lease = Lease(group[0][0], tuple(it for _, it in group), care)
        held = HeldLease(lease, sum(it.opening(lease.arm.policy) for it in lease.problems))
        member.held.append(held)
        reference = member.replica.work.remote(lease)
        self._awaited[reference] = member, lambda worked: self._on_finished(member, held, worked)
        return held.opening

    def _on_finished(self, member: ReplicaState, held: HeldLease, worked: LeaseResult) -> None:
        # What was released counts here too: the lease may end before the word of its release is heard.
        self._requeue_released([held], worked.released)
        member.held.remove(held)
        self._deaths.reset_streak()

    def _rebalance(self) -> None:
        """Have the busiest replica hand back half of what it has not begun, where another has nothing to do."""
        staying = [member for member in self._up if not member.is_leaving]
        if self.backlog or not staying or any(member.is_releasing for member in self._up):
            return
        busiest = max(staying, key=_shared_problems)
        most = _shared_problems(busiest)
        if most > 1 and min(map(_shared_problems, staying)) == 0:
            self._request_release(busiest, most // 2)

    def _request_release(self, member: ReplicaState, count: int | None = None) -> None:
        """Ask a replica for so many problems that it has not begun, or for all."""
        member.is_releasing = True
        asked = list(member.held)  # what it is handed from now on may well be what it hands back here

        def take(keys: Collection[tuple[str, str]]) -> None:
            member.is_releasing = False
            self._requeue_released(asked, keys)

        self._awaited[member.replica.release.remote(count)] = member, take

    def _requeue_released(self, them: Sequence[HeldLease], keys: Collection[tuple[str, str]]) -> None:
        """Put what a replica handed back into the backlog, and take it out of its leases."""
        for held in them:
            arm, problems = held.lease.arm, held.lease.problems
            for of in problems:
                if (arm.name, of.problem.id) in keys:
                    self.backlog.add(arm, of, first=True)
            kept = tuple(of for of in problems if (arm.name, of.problem.id) not in keys)
            held.lease = replace(held.lease, problems=kept)

    def _stop(self, member: ReplicaState) -> None:
        self._remove(member)
        self._run.events.emit("replica", state="left", cause="its node is about to go")
        self._pool.stop_replica(member.replica)

    def _remove(self, member: ReplicaState) -> None:
        self._members.remove(member)
        self._former.append(member)
        self._awaited = {reference: it for reference, it in self._awaited.items() if it[0] is not member}

    def _replace_dead(self, member: ReplicaState, cause: str) -> None:
        """Put a dead replica's work back, and replace it."""
        self._deaths.add(cause)
        self._remove(member)
        lost = [held.lease for held in member.held]
        self._run.events.emit("death", cause=cause, problems=sum(len(it.problems) for it in lost))
        self._pool.stop_replica(member.replica)
        self._deaths.requeue(lost, cause, self.backlog)
        self._deaths.raise_on_crash_loop(self.spec.model)
        if len(self._members) < self._least:
            self._await_start(self._pool.start_replica(self.spec))


def _shared_problems(member: ReplicaState) -> int:
    return sum(len(held.lease.problems) for held in member.held if held.lease.care is Isolation.NONE)


def unfinished_problems(arm: Arm, order: SamplingJob) -> list[ProblemState]:
    """Return the order's problems that the arm's policy is not satisfied with, by what the ledger holds."""
    tallies = arm.ledger.stored_samples()
    left = [
        arm.problem_state(problem, tallies.get((problem.id, arm.fingerprint), StoredSamples()))
        for problem in order.problems
    ]
    return [of for of in left if not of.is_satisfied(arm.policy)]

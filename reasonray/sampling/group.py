"""The scheduler's view of replicas, their leases and the group that they belong to. Pure: no Ray, no clock."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from math import ceil

from reasonray.sampling.events import GroupSpec, JobWork
from reasonray.sampling.failures import FailureTracker
from reasonray.sampling.queue import ProblemQueue
from reasonray.sampling.work import FinishedSample, Isolation, Usage

_LEASED_CAPACITIES = 2
"""Samples leased to a replica, as a multiple of its capacity: enough that it never waits for the driver."""


@dataclass(slots=True, eq=False)
class OpenLease:
    """A lease of which problems are still sampled or not committed."""

    job: int
    isolation: Isolation
    running: dict[int, int]
    """Problem → samples that it starts with."""
    ended: set[int] = field(default_factory=set)
    """Problems that are sampled, but not committed yet."""


@dataclass(slots=True, eq=False)
class ReplicaState:
    """What the scheduler knows of one replica."""

    number: int
    group: Group
    node: str = ""
    is_placed: bool = False
    is_up: bool = False
    capacity: int = 0
    leases: dict[int, OpenLease] = field(default_factory=dict)
    load: int = 0
    """Samples that its running problems start with."""
    running: int = 0
    """Problems that it samples or will sample."""
    is_isolated: bool = False
    """Its lease is isolated: it gets no other one."""
    is_releasing: bool = False
    """It was asked to release problems and has not answered yet."""
    has_none_to_release: bool = False
    """Its last answer was less than what it was asked for, and it got no lease since."""
    is_leaving: bool = False
    """Its node is draining: it gets no more leases."""
    is_failing: bool = False
    """Its death is about to be reported: what it got now would be blamed for it."""
    uncommitted: deque[FinishedSample] = field(default_factory=deque)
    committed: int = 0
    """Samples of its reports that are committed."""
    ended: deque[tuple[int, int, int]] = field(default_factory=deque)
    """(lease, problem, samples reported before) of problems that end with the next commits."""
    usage: Usage = field(default_factory=Usage)

    @property
    def has_room(self) -> bool:
        """Whether it can take another lease."""
        if not self.is_up or self.load >= _LEASED_CAPACITIES * self.capacity:
            return False
        return not (self.is_leaving or self.is_releasing or self.is_failing or self.is_isolated)


@dataclass(slots=True, eq=False)
class Group:
    """The replicas of one engine spec and the problems that they sample."""

    number: int
    spec: GroupSpec
    queue: ProblemQueue
    failures: FailureTracker
    replicas: dict[int, ReplicaState] = field(default_factory=dict)
    jobs: dict[int, JobWork] = field(default_factory=dict)
    is_loaded: bool = False
    unfinished: int = 0
    """Problems that need more samples."""
    capacity: int = 0
    """Of the replica that reported last."""
    num_up: int = 0
    may_have_room: bool = True
    """The queue was empty after the last assignment, so more than the replica that changed may have room."""

    @property
    def is_finished(self) -> bool:
        """Whether every problem has its samples."""
        return self.is_loaded and self.unfinished == 0

    @property
    def staying(self) -> list[ReplicaState]:
        """The replicas whose node is not draining."""
        return [replica for replica in self.replicas.values() if not replica.is_leaving]

    @property
    def wanted(self) -> int:
        """The number of replicas that the backlog is worth."""
        if self.is_finished:
            return 0
        if not self.capacity:
            return self.spec.least
        samples = self.queue.first_wave + sum(replica.load for replica in self.replicas.values())
        return min(self.spec.most, max(self.spec.least, ceil(samples / self.capacity)))

    @property
    def is_waiting(self) -> bool:
        """Whether the backlog is worth more replicas than have a node."""
        return self.wanted > sum(replica.is_placed for replica in self.staying)

    def superfluous(self) -> list[ReplicaState]:
        """Return the starting replicas beyond what the backlog is worth, the latest first."""
        starting = [replica for replica in reversed(self.staying) if not replica.is_up]
        return starting[: max(0, len(self.staying) - self.wanted)]

    def lease_samples(self, capacity: int) -> int:
        """Return how many samples a lease starts with: half a replica's capacity, less towards the end of a stage."""
        return max(1, min(capacity // 2, self.queue.first_wave // (2 * self.num_up)))

    def to_release(self) -> list[ReplicaState]:
        """Return the busiest replicas that should release problems, one for each replica that has nothing to do."""
        if self.queue:
            return []
        working = [
            replica for replica in self.staying if replica.is_up and not (replica.is_isolated or replica.is_failing)
        ]
        idle = sum(replica.running == 0 and not replica.is_releasing for replica in working)
        idle -= sum(replica.is_releasing for replica in working)  # one of them will get what is released
        busy = [
            replica
            for replica in working
            if replica.running > 1 and not (replica.is_releasing or replica.has_none_to_release)
        ]
        return heapq.nlargest(idle, busy, key=lambda replica: replica.running) if idle > 0 else []

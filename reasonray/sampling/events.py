"""The events that a scheduler takes and the actions that it answers with, and how it sees jobs. Pure records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reasonray.config import Policy
from reasonray.sampling.state import Integers, ProblemStates
from reasonray.sampling.work import Isolation, Report


@dataclass(slots=True, eq=False)
class JobWork:
    """One job as the scheduler sees it: no text, no model."""

    name: str
    states: ProblemStates
    difficulties: Integers
    """Of each problem, as indices of `difficulty_names`."""
    difficulty_names: Sequence[str]

    def difficulty_of(self, problem: int) -> str:
        """Return the difficulty of a problem."""
        return self.difficulty_names[int(self.difficulties[problem])]

    @property
    def policy(self) -> Policy:
        """When a problem has enough samples."""
        return self.states.policy


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """What the scheduler knows of an engine spec."""

    model: str
    """For messages."""
    least: int
    """Replicas that the group should have while it has work."""
    most: int
    accelerators: int = 1
    """Accelerators of one replica; 1 for a replica without any."""


# Events


@dataclass(frozen=True, slots=True)
class JobsLoaded:
    """The states of a group's jobs are known: job number → job."""

    group: int
    jobs: Mapping[int, JobWork]


@dataclass(frozen=True, slots=True)
class ReplicaPlaced:
    """A replica has its node, and so its accelerators; its engine is starting."""

    replica: int
    node: str


@dataclass(frozen=True, slots=True)
class ReplicaUp:
    """A replica's engine is up."""

    replica: int
    capacity: int
    """Requests in flight that keep the engine busy."""


@dataclass(frozen=True, slots=True)
class ReplicaReported:
    """A replica reported what it did since its last report."""

    replica: int
    report: Report


@dataclass(frozen=True, slots=True)
class ReplicaDied:
    """A replica is gone; the cause is anything but a mistake of the user."""

    replica: int
    cause: str
    now: float
    """Seconds, from any start."""
    lost_its_node: bool = False
    """Its node was preempted or failed: neither its engine nor its problems are to blame."""


@dataclass(frozen=True, slots=True)
class ClusterChanged:
    """The state of the cluster, every few seconds."""

    now: float
    room: Sequence[int]
    """Of each group: how many more of its replicas could be placed, or asked of an autoscaler."""
    draining: frozenset[str] = frozenset()
    """Nodes that will go soon."""


@dataclass(frozen=True, slots=True)
class BudgetSpent:
    """A limit of the budget is reached: abort what is in flight, and end."""


Event = JobsLoaded | ReplicaPlaced | ReplicaUp | ReplicaReported | ReplicaDied | ClusterChanged | BudgetSpent


# Actions


@dataclass(frozen=True, slots=True)
class Start:
    """Start a replica."""

    replica: int
    group: int
    avoid: frozenset[str] = frozenset()
    """Nodes on which replicas of this group failed to start."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop a replica, and free its accelerators."""

    replica: int
    reason: str


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Take a replica that is up and has nothing to do out of its group: another group waits for its place."""

    replica: int


@dataclass(frozen=True, slots=True)
class Assign:
    """Lease problems of one job to a replica."""

    lease: int
    replica: int
    job: int
    problems: tuple[int, ...]
    """Indices in the job."""
    isolation: Isolation = Isolation.NONE


@dataclass(frozen=True, slots=True)
class Release:
    """Ask a replica to return problems that it has not started."""

    replica: int
    count: int | None
    """At most so many; None for all."""


@dataclass(frozen=True, slots=True)
class Abort:
    """Abort a replica's samples in flight; it commits the finished ones, and its leases end."""

    replica: int


@dataclass(frozen=True, slots=True)
class RecordError:
    """Commit an ERROR for a sample that killed its replica while nothing else was in flight."""

    job: int
    problem: int
    sample: int
    resample: int
    reason: str


Action = Start | Stop | GiveBack | Assign | Release | Abort | RecordError

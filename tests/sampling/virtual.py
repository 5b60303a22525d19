"""A cluster in virtual time: simulated replicas that carry out a scheduler's actions, to test it without Ray.

The world obeys what the scheduler asks for, and nothing else happens but what a test makes happen: a replica finishes
a sample, commits, reports, dies; a node is lost or drains. It checks each action against what a real cluster allows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from reasonray.config import Failures, Policy
from reasonray.records import Outcome
from reasonray.sampling.events import (
    Abort,
    Action,
    Assign,
    BudgetSpent,
    ClusterChanged,
    Event,
    GiveBack,
    GroupSpec,
    JobsLoaded,
    JobWork,
    RecordError,
    Release,
    ReplicaDied,
    ReplicaPlaced,
    ReplicaReported,
    ReplicaUp,
    Start,
    Stop,
)
from reasonray.sampling.policy import ProblemState, is_satisfied, next_samples
from reasonray.sampling.scheduler import Scheduler
from reasonray.sampling.state import ProblemStates
from reasonray.sampling.work import FinishedSample, Isolation, Report

Key = tuple[int, int]
"""(job, problem)"""


@dataclass
class Sampled:
    """A leased problem on a simulated replica."""

    job: int
    state: ProblemState
    isolation: Isolation
    begun: bool = False


@dataclass
class SimulatedReplica:
    """What a replica does, without an engine: the test says when a sample finishes."""

    number: int
    group: int
    capacity: int
    node: str = ""
    is_up: bool = False
    problems: dict[tuple[int, int], Sampled] = field(default_factory=dict)
    """(lease, problem) → state"""
    news: list[FinishedSample] = field(default_factory=list)
    ended: list[tuple[int, int, int]] = field(default_factory=list)
    released: tuple[tuple[int, int], ...] | None = None
    uncommitted: list[tuple[int, FinishedSample]] = field(default_factory=list)
    """(job, sample)"""
    finished: int = 0
    committed: int = 0


class World:
    """Simulated replicas, the ledger that they commit to, and a scheduler that leads them."""

    def __init__(
        self,
        jobs: list[tuple[int, Policy, int]],
        *,
        groups: int = 1,
        replicas: tuple[int, int] = (1, 4),
        capacity: int = 4,
        room: int = 4,
        limits: Failures | None = None,
    ) -> None:
        """Create a world.

        Args:
            jobs: (group, policy, problems) of each job.
            groups: engine specs.
            replicas: of each group, the least and the most.
            capacity: of each replica.
            room: replicas that the cluster can hold.
            limits: of deaths; by default far away.
        """
        limits = limits or Failures(in_a_row=10_000, deaths=100_000)
        self.scheduler = Scheduler([GroupSpec(f"m{number}", *replicas) for number in range(groups)], limits)
        self.policies = [policy for _, policy, _ in jobs]
        self.groups = [group for group, _, _ in jobs]
        self.works = [self._work(number, policy, size) for number, (_, policy, size) in enumerate(jobs)]
        self.capacity, self.room = capacity, room
        self.replicas: dict[int, SimulatedReplica] = {}
        self.free = 0
        """Replicas that were given back and still hold their place."""
        self.ledger: dict[Key, dict[int, Outcome]] = {}
        """(job, problem) → sample → outcome of committed samples."""
        self.errors: dict[Key, list[str]] = {}
        self.leased: Counter[Key] = Counter()
        self.loaded: set[int] = set()
        self.now = 0.0
        self.lease_numbers: set[int] = set()
        self.draining: set[str] = set()
        self.poisonous: set[tuple[int, int, int]] = set()
        """(job, problem, sample) that kills its replica as it starts."""

    @staticmethod
    def _work(number: int, policy: Policy, size: int) -> JobWork:
        difficulties = np.arange(size, dtype=np.int32) % 3
        return JobWork(f"job-{number}", ProblemStates(policy, size), difficulties, ["easy", "medium", "hard"])

    def step(self, event: Event) -> None:
        """Pass an event on, and carry out what follows."""
        for action in self.scheduler.step(event):
            self.act(action)

    def act(self, action: Action) -> None:
        """Carry out an action; it must be possible."""
        match action:
            case Start(replica=number, group=group):
                assert number not in self.replicas
                self.replicas[number] = SimulatedReplica(number, group, self.capacity)
                self.free = max(0, self.free - 1)
            case Stop(replica=number):
                replica = self.replicas.pop(number)
                assert not replica.problems or self.scheduler.is_exhausted, "a replica at work was stopped"
            case GiveBack(replica=number):
                replica = self.replicas.pop(number)
                assert replica.is_up
                assert not replica.problems
                self.free += 1
            case Assign():
                self._assign(action)
            case Release(replica=number, count=count):
                self._release(self.replicas[number], count)
            case Abort(replica=number):
                self._abort(self.replicas[number])
            case RecordError(job=job, problem=problem, sample=sample, reason=reason):
                self.errors.setdefault((job, problem), []).append(reason)
                self._store(job, problem, sample, Outcome.FAILED)

    def _assign(self, action: Assign) -> None:
        replica = self.replicas[action.replica]
        assert replica.is_up, "a lease for a replica that is not up"
        assert action.lease not in self.lease_numbers, "a lease's number was used twice"
        self.lease_numbers.add(action.lease)
        assert self.groups[action.job] == replica.group, "a job reached a replica of another model"
        if action.isolation is not Isolation.NONE:
            assert not replica.problems
            assert len(action.problems) == 1
        for problem in action.problems:
            key = (action.job, problem)
            self.leased[key] += 1
            assert self.leased[key] == 1, "a problem was leased twice at once"
            state = self.works[action.job].states.state(problem)
            assert state.finished == set(self.ledger.get(key, {})), "the scheduler and the ledger differ"
            replica.problems[action.lease, problem] = Sampled(action.job, state, action.isolation)

    def _release(self, replica: SimulatedReplica, count: int | None) -> None:
        unstarted = [key for key in reversed(replica.problems) if not replica.problems[key].begun][:count]
        for key in unstarted:
            self.leased[replica.problems.pop(key).job, key[1]] -= 1
        replica.released = tuple(unstarted)

    def _abort(self, replica: SimulatedReplica) -> None:
        for key in list(replica.problems):
            self._end(replica, key)

    def _end(self, replica: SimulatedReplica, key: tuple[int, int]) -> None:
        sampled = replica.problems.pop(key)
        self.leased[sampled.job, key[1]] -= 1
        replica.ended.append((*key, replica.finished))

    def _store(self, job: int, problem: int, sample: int, outcome: Outcome) -> None:
        samples = self.ledger.setdefault((job, problem), {})
        assert sample not in samples, "a sample was committed twice"
        samples[sample] = outcome

    # What happens

    def tick(self) -> None:
        """Let the scheduler look at the cluster."""
        self.now += 2.0
        room = max(0, self.room - len(self.replicas) - self.free)
        adoptable = self.free
        self.step(ClusterChanged(self.now, [room + adoptable] * len(self.scheduler._groups), frozenset(self.draining)))

    def place(self, number: int, node: str) -> None:
        """Give a starting replica its node."""
        self.replicas[number].node = node
        self.step(ReplicaPlaced(number, node))

    def bring_up(self, number: int) -> None:
        """Finish the start of a replica."""
        replica = self.replicas[number]
        replica.is_up = True
        if replica.group not in self.loaded:
            self.loaded.add(replica.group)
            jobs = {job: work for job, work in enumerate(self.works) if self.groups[job] == replica.group}
            self.step(JobsLoaded(replica.group, jobs))
        self.step(ReplicaUp(number, self.capacity))

    def finish_sample(self, number: int, outcome: Outcome, which: int = 0) -> None:
        """Finish the next sample of one of the replica's problems; a poisonous one kills the replica."""
        replica = self.replicas[number]
        if not replica.problems:
            return
        key = list(replica.problems)[which % min(len(replica.problems), self.capacity)]
        sampled = replica.problems[key]
        sampled.begun = True
        lease, problem = key
        sample = next_samples(self.policies[sampled.job], sampled.state)[0]
        if (sampled.job, problem, sample) in self.poisonous:
            self.die(number)
            return
        sampled.state.record(sample, outcome)
        replica.finished += 1
        finished = FinishedSample(lease, problem, sample, outcome, 10)
        replica.news.append(finished)
        replica.uncommitted.append((sampled.job, finished))
        if is_satisfied(self.policies[sampled.job], sampled.state) or sampled.isolation is Isolation.SAMPLE:
            self._end(replica, key)

    def commit(self, number: int) -> None:
        """Commit what a replica has finished."""
        replica = self.replicas[number]
        for job, sample in replica.uncommitted:
            self._store(job, sample.problem, sample.sample, sample.outcome)
        replica.uncommitted.clear()
        replica.committed = replica.finished

    def report(self, number: int, *, is_failing: bool = False) -> None:
        """Report what a replica did since its last report."""
        replica = self.replicas[number]
        report = Report(
            samples=tuple(replica.news),
            ended=tuple(replica.ended),
            released=replica.released,
            committed=replica.committed,
            is_failing=is_failing,
        )
        replica.news, replica.ended, replica.released = [], [], None
        self.step(ReplicaReported(number, report))

    def die(self, number: int, *, lost_its_node: bool = False) -> None:
        """Kill a replica. What it committed and had not reported is reported first: `report` has one order."""
        if self.replicas[number].committed and self.replicas[number].is_up:
            self.report(number, is_failing=True)
        if number not in self.replicas:  # it was leaving, and its last report ended it
            return
        replica = self.replicas.pop(number)
        for key, sampled in replica.problems.items():
            self.leased[sampled.job, key[1]] -= 1
        self.step(ReplicaDied(number, "gone", self.now, lost_its_node))

    def lose_node(self, node: str) -> None:
        """Kill all replicas of a node."""
        self.draining.discard(node)
        for number in [number for number, replica in self.replicas.items() if replica.node == node]:
            self.die(number, lost_its_node=True)

    def late_message(self, number: int) -> None:
        """Deliver a message of a replica that is gone."""
        assert number not in self.replicas
        self.step(ReplicaReported(number, Report(committed=3)))
        self.step(ReplicaUp(number, self.capacity))

    def spend_budget(self) -> None:
        """Reach a limit of the budget."""
        self.step(BudgetSpent())

    def run_to_the_end(self, outcome: Outcome = Outcome.WRONG, most: int = 100_000) -> int:
        """Let everything happen that has to happen; return in how many rounds."""
        for round_ in range(most):
            if self.scheduler.is_finished:
                return round_
            self.start_all()
            self.work_all(outcome)
        raise AssertionError("the stage does not end")

    def start_all(self) -> None:
        """Bring up every replica that the scheduler asks for."""
        self.tick()
        for number in list(self.replicas):
            if number in self.replicas and not self.replicas[number].is_up:
                self.place(number, self.replicas[number].node or "node-0")
                self.bring_up(number)

    def work_all(self, outcome: Outcome) -> None:
        """Let every replica finish as many samples as its capacity, commit and report."""
        for number in list(self.replicas):
            for _ in range(self.capacity):
                if number in self.replicas:
                    self.finish_sample(number, outcome)
            if number in self.replicas:
                self.commit(number)
                self.report(number)

    def check_results(self) -> None:
        """Check that every problem has what its policy wants."""
        for job, work in enumerate(self.works):
            for problem in range(len(work.states)):
                samples = self.ledger.get((job, problem), {})
                state = ProblemState()
                for sample in sorted(samples):
                    state.record(sample, samples[sample])
                assert is_satisfied(self.policies[job], state), (job, problem, samples)

"""The scheduler of a sampling stage: a pure state machine that turns events into actions. No Ray, no clock, no files.

`Scheduler.step(event)` returns the actions that follow from an event (events.py). The driver (sampler.py) carries them
out on Ray. Tests and tests/bench/scale.py run the same machine in virtual time.

A *group* is the replicas of one engine spec and the jobs that they sample (group.py). Problems are leased to replicas.
A lease has a number that is never used again, so a message about an older lease or from a former replica changes
nothing. Only committed samples count: whatever a replica had not committed when it died is sampled again.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from reasonray.config import Failures, Fixed
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
from reasonray.sampling.failures import QUARANTINE_AFTER, Death, FailureTracker
from reasonray.sampling.forecast import Forecast
from reasonray.sampling.group import Group, OpenLease, ReplicaState
from reasonray.sampling.policy import next_samples
from reasonray.sampling.queue import ProblemQueue
from reasonray.sampling.work import Counts, FinishedSample, Isolation, Report, Usage


class Scheduler:
    """All groups of a stage: their replicas, their problems and the leases that connect the two."""

    def __init__(self, groups: Sequence[GroupSpec], limits: Failures) -> None:
        self._groups = [
            Group(number, spec, ProblemQueue(self._first_wave), FailureTracker(limits))
            for number, spec in enumerate(groups)
        ]
        self._jobs: dict[int, JobWork] = {}
        self._replicas: dict[int, ReplicaState] = {}
        self._next_replica = self._next_lease = 0
        self._forecast = Forecast()
        self._former_usage = Usage()
        self.counts: dict[int, Counts] = {}
        """Job number → counts of the samples finished in this stage; those not committed yet are included."""
        self.is_exhausted = False
        """The budget is spent."""

    def step(self, event: Event) -> list[Action]:
        """Return the actions that follow from an event; raise a UserError if replicas die again and again."""
        match event:
            case JobsLoaded():
                return self._on_loaded(event)
            case ClusterChanged():
                return self._on_cluster(event)
            case BudgetSpent():
                return self._on_budget_spent()
        replica = self._replicas.get(event.replica)
        if replica is None:  # a late message of a replica that was stopped or died
            return []
        match event:
            case ReplicaPlaced():
                replica.is_placed, replica.node = True, event.node
                return []
            case ReplicaUp():
                return self._on_up(replica, event.capacity)
            case ReplicaReported():
                return self._on_report(replica, event.report)
            case ReplicaDied():
                return self._on_death(replica, event)

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do: every problem has its samples, or the budget is spent and no lease open."""
        if self.is_exhausted:
            return not any(replica.leases for replica in self._replicas.values())
        return all(group.is_finished for group in self._groups)

    @property
    def replicas_up(self) -> int:
        """The number of replicas whose engine is up."""
        return sum(replica.is_up for replica in self._replicas.values())

    @property
    def accelerators(self) -> int:
        """Accelerators that replicas hold; a replica without a node holds none."""
        return sum(replica.group.spec.accelerators for replica in self._replicas.values() if replica.is_placed)

    @property
    def deaths(self) -> int:
        """The number of replicas that died."""
        return sum(group.failures.total for group in self._groups)

    def usage(self) -> Usage:
        """Return the usage of all replicas in this stage, as far as they reported it."""
        return sum((replica.usage for replica in self._replicas.values()), self._former_usage)

    def waiting(self) -> list[tuple[int, int]]:
        """Return (group, replicas) of groups with less replicas on a node than they should have at least."""
        missing = [
            (group.number, group.spec.least - sum(replica.is_placed for replica in group.staying))
            for group in self._groups
            if not group.is_finished and not self.is_exhausted
        ]
        return [(number, count) for number, count in missing if count > 0]

    def avoided_nodes(self, group: int) -> frozenset[str]:
        """Return the nodes on which replicas of a group failed to start repeatedly."""
        return self._groups[group].failures.avoided_nodes()

    def remaining(self) -> int:
        """Return how many samples are still to come; never more than the policies can still ask for.

        Exact for policy "fixed", else by the mean of the problems that are finished.
        """
        if all(isinstance(job.policy, Fixed) for job in self._jobs.values()):
            return self._forecast.most_to_come
        return self._forecast.expected_to_come

    def _on_loaded(self, event: JobsLoaded) -> list[Action]:
        group = self._groups[event.group]
        group.is_loaded, group.jobs = True, dict(event.jobs)
        for number, job in event.jobs.items():
            self._jobs[number], self.counts[number] = job, Counts()
            waves = job.states.first_waves()
            group.queue.fill(number, job.difficulties, waves)
            unfinished = waves > 0
            group.unfinished += int(unfinished.sum())
            self._forecast.add(job.states, unfinished)
        return self._assign(group)

    def _on_up(self, replica: ReplicaState, capacity: int) -> list[Action]:
        replica.is_placed = replica.is_up = True
        replica.capacity = capacity
        replica.group.capacity = replica.group.capacity or capacity
        replica.group.num_up += 1
        return [Abort(replica.number)] if self.is_exhausted else self._assign(replica.group, replica)

    def _on_report(self, replica: ReplicaState, report: Report) -> list[Action]:
        replica.usage = report.usage
        replica.is_failing = report.is_failing
        if report.started:
            replica.capacity = replica.group.capacity = report.started.capacity
        for sample in report.samples:
            self._count(replica, sample)
        for lease, problem, before in report.ended:
            self._end(replica, lease, problem, before)
        self._commit(replica, report.committed)
        if report.released is not None:
            replica.is_releasing = False
            replica.has_none_to_release = not report.released
            for lease, problem in report.released:
                self._take_back(replica, lease, problem)
        actions = self._assign(replica.group, replica)
        if replica.is_leaving and not replica.leases:
            actions.append(self._stop(replica, "its node is about to go"))
        return actions

    def _count(self, replica: ReplicaState, sample: FinishedSample) -> None:
        lease = replica.leases[sample.lease]
        job = self._jobs[lease.job]
        self.counts[lease.job].add_sample(sample.outcome, sample.tokens, job.difficulty_of(sample.problem))
        replica.group.queue.learn(lease.job, int(job.difficulties[sample.problem]), sample.tokens)
        replica.uncommitted.append(sample)
        self._forecast.uncommitted += 1

    def _end(self, replica: ReplicaState, number: int, problem: int, before: int) -> None:
        """Take a problem out of a replica's load; its lease ends with the commit of its last sample."""
        lease = replica.leases[number]
        replica.load -= lease.running.pop(problem)
        replica.running -= 1
        lease.ended.add(problem)
        replica.ended.append((number, problem, before))

    def _commit(self, replica: ReplicaState, committed: int) -> None:
        """Count a replica's samples up to the given number as committed, and finish the problems that end there."""
        while replica.committed < committed:
            sample = replica.uncommitted.popleft()
            replica.committed += 1
            self._forecast.uncommitted -= 1
            self._record(replica.leases[sample.lease].job, sample.problem, sample.sample, sample.outcome)
            replica.group.failures.reset_streak()
        while replica.ended and replica.ended[0][2] <= committed:
            number, problem, _ = replica.ended.popleft()
            lease = replica.leases[number]
            lease.ended.discard(problem)
            self._settle(replica.group, lease.job, problem)
            self._close_if_empty(replica, number)

    def _record(self, job: int, problem: int, sample: int, outcome: Outcome) -> None:
        states = self._jobs[job].states
        if outcome is Outcome.CORRECT and states.correct[problem] == 0:
            self.counts[job].covered += 1
        remaining = states.remaining(problem)
        states.record(problem, sample, outcome)
        self._forecast.most -= remaining - states.remaining(problem)
        self._forecast.samples += 1

    def _settle(self, group: Group, job: int, problem: int) -> None:
        """Finish a problem that has its samples; queue it again if it has not."""
        states = self._jobs[job].states
        if states.is_satisfied(problem):
            group.unfinished -= 1
            self._forecast.finish(int(states.num_finished[problem]), states.remaining(problem))
        elif not self.is_exhausted:
            self._put_back(group, job, problem)

    def _put_back(self, group: Group, job: int, problem: int) -> None:
        """Queue a problem that needs more samples."""
        work = self._jobs[job]
        if work.states.deaths[problem] >= QUARANTINE_AFTER:
            group.queue.quarantine.append((job, problem))
        else:
            group.queue.put_back(job, int(work.difficulties[problem]), problem)

    def _take_back(self, replica: ReplicaState, number: int, problem: int) -> None:
        """Queue a problem that a replica released without a sample started."""
        lease = replica.leases[number]
        replica.load -= lease.running.pop(problem)
        replica.running -= 1
        if not self.is_exhausted:
            self._put_back(replica.group, lease.job, problem)
        self._close_if_empty(replica, number)

    def _close_if_empty(self, replica: ReplicaState, number: int) -> None:
        lease = replica.leases[number]
        if not (lease.running or lease.ended):
            del replica.leases[number]
            replica.is_isolated = False

    def _on_death(self, replica: ReplicaState, event: ReplicaDied) -> list[Action]:
        group = replica.group
        death = Death(event.cause, event.now, replica.node, not replica.is_up, event.lost_its_node)
        group.failures.record(death)
        self._remove(replica)
        self._forecast.uncommitted -= len(replica.uncommitted)
        for sample in replica.uncommitted:
            job = self._jobs[replica.leases[sample.lease].job]
            difficulty = job.difficulty_of(sample.problem)
            self.counts[replica.leases[sample.lease].job].subtract_sample(sample.outcome, sample.tokens, difficulty)
        actions: list[Action] = []
        for lease in replica.leases.values():
            for problem in lease.ended:
                self._settle(group, lease.job, problem)
            for problem in lease.running:
                actions += self._lose(group, lease, problem, event)
        group.failures.raise_on_crash_loop(group.spec.model, event.now)
        return actions + self._assign(group)

    def _lose(self, group: Group, lease: OpenLease, problem: int, event: ReplicaDied) -> list[Action]:
        """Queue a problem that was sampled as its replica died; the deaths that it may have caused isolate it."""
        states = self._jobs[lease.job].states
        if states.is_satisfied(problem) or event.lost_its_node or self.is_exhausted:
            self._settle(group, lease.job, problem)
            return []
        actions: list[Action] = []
        deaths = min(255, int(states.deaths[problem]) + 1)
        states.deaths[problem] = deaths
        if lease.isolation is Isolation.SAMPLE:
            sample = next_samples(states.policy, states.state(problem))[0]
            reason = f"the engine died {deaths} times on this: {event.cause}"
            resample = states.resamples(problem).get(sample, 0)
            actions.append(RecordError(lease.job, problem, sample, resample, reason))
            self._record(lease.job, problem, sample, Outcome.FAILED)
            self.counts[lease.job].add_sample(Outcome.FAILED, 0, self._jobs[lease.job].difficulty_of(problem))
        self._settle(group, lease.job, problem)
        return actions

    def _on_budget_spent(self) -> list[Action]:
        self.is_exhausted = True
        for group in self._groups:
            group.queue.clear()
        pending = [replica for replica in self._replicas.values() if not replica.is_up]
        stops = [self._stop(replica, "the budget is spent") for replica in pending]
        return [*stops, *(Abort(number) for number in self._replicas)]

    def _on_cluster(self, event: ClusterChanged) -> list[Action]:
        if self.is_exhausted:
            return []
        actions: list[Action] = []
        for replica in list(self._replicas.values()):
            if replica.node in event.draining and not replica.is_leaving:
                replica.is_leaving = True
                actions += self._leave(replica)
        for group in self._groups:
            actions += self._give_back(group)
        started = 0
        for group in self._groups:
            missing = group.wanted - len(group.staying)
            count = min(missing, event.room[group.number] - started)  # what starts first leaves less room
            if not self._replicas:  # nothing of ours holds what this group waits for: Ray queues its replicas
                count = min(missing, group.spec.least)
            if count > 0 and group.failures.may_start(event.now):
                actions += [self._start(group) for _ in range(count)]
                started += count
        return actions

    def _leave(self, replica: ReplicaState) -> list[Action]:
        if not replica.leases:
            return [self._stop(replica, "its node is about to go")]
        replica.is_releasing = True
        return [Release(replica.number, None)]

    def _give_back(self, group: Group) -> list[Action]:
        """Stop starting replicas beyond what the backlog is worth; all of a finished group if another group waits."""
        actions: list[Action] = [self._stop(replica, "no work is left") for replica in group.superfluous()]
        if group.is_finished and any(other.is_waiting for other in self._groups):
            for replica in [replica for replica in group.replicas.values() if not replica.leases]:
                self._remove(replica)
                actions.append(GiveBack(replica.number))
        return actions

    def _start(self, group: Group) -> Start:
        number = self._next_replica
        self._next_replica += 1
        group.replicas[number] = self._replicas[number] = ReplicaState(number, group)
        return Start(number, group.number, group.failures.avoided_nodes())

    def _stop(self, replica: ReplicaState, reason: str) -> Stop:
        self._remove(replica)
        return Stop(replica.number, reason)

    def _remove(self, replica: ReplicaState) -> None:
        del self._replicas[replica.number], replica.group.replicas[replica.number]
        replica.group.num_up -= replica.is_up
        self._former_usage += replica.usage

    def _assign(self, group: Group, changed: ReplicaState | None = None) -> list[Action]:
        """Lease queued problems, to the emptiest replica first; share the last ones when the queue is empty.

        `changed` is the only replica that may have got room since the last call; None if others may have it, too.
        """
        if self.is_exhausted:
            return []
        actions = self._assign_quarantined(group) if group.queue.quarantine else []
        may_have_room = group.replicas.values() if changed is None or group.may_have_room else (changed,)
        emptiest = [(replica.load / replica.capacity, replica.number) for replica in may_have_room if replica.has_room]
        heapq.heapify(emptiest)
        while group.queue and emptiest:
            replica = group.replicas[emptiest[0][1]]
            job, problems = group.queue.pop(group.lease_samples(replica.capacity))
            actions.append(self._lease(replica, job, problems))
            if replica.has_room:
                heapq.heapreplace(emptiest, (replica.load / replica.capacity, replica.number))
            else:
                heapq.heappop(emptiest)
        group.may_have_room = not group.queue
        return actions or self._rebalance(group)

    def _assign_quarantined(self, group: Group) -> list[Action]:
        """Lease one problem in quarantine to each replica without leases."""
        actions: list[Action] = []
        for replica in group.replicas.values():
            if group.queue.quarantine and replica.has_room and not replica.leases:
                job, problem = group.queue.quarantine.popleft()
                is_sure = self._jobs[job].states.deaths[problem] > QUARANTINE_AFTER
                isolation = Isolation.SAMPLE if is_sure else Isolation.PROBLEM
                actions.append(self._lease(replica, job, [problem], isolation))
        return actions

    def _lease(
        self, replica: ReplicaState, job: int, problems: Sequence[int], isolation: Isolation = Isolation.NONE
    ) -> Assign:
        running = {problem: self._first_wave(job, problem) for problem in problems}
        number = self._next_lease
        self._next_lease += 1
        replica.leases[number] = OpenLease(job, isolation, running)
        replica.is_isolated = isolation is not Isolation.NONE
        replica.load += sum(running.values())
        replica.running += len(running)
        replica.has_none_to_release = False
        return Assign(number, replica.number, job, tuple(problems), isolation)

    def _first_wave(self, job: int, problem: int) -> int:
        return self._jobs[job].states.first_wave(problem)

    def _rebalance(self, group: Group) -> list[Action]:
        """Have the busiest replicas release half of their unstarted problems, one for each that has nothing to do."""
        releasing = group.to_release()
        for replica in releasing:
            replica.is_releasing = True
        return [Release(replica.number, replica.running // 2) for replica in releasing]

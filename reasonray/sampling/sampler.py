"""The sampling loop: it runs jobs on replicas until every policy is satisfied or the budget is spent.

Evaluation is sampling with another model, so every rollout of a run comes from here. The scheduler decides
(scheduler.py, pure); this loop waits for Ray, reports to the scheduler what happened, and carries out what it answers.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from reasonray.config import Budget, UserError
from reasonray.engines.protocol import Completion
from reasonray.records import Finish, Outcome, Verdict
from reasonray.sampling.display import StageDisplay
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
    RecordError,
    Release,
    ReplicaDied,
    ReplicaPlaced,
    ReplicaReported,
    ReplicaUp,
    Start,
    Stop,
)
from reasonray.sampling.loading import JobGroup, LoadedJob, load_job, load_known
from reasonray.sampling.pool import ReplicaPool, draining_nodes, lost_its_node, missing_resources, refuse_impossible
from reasonray.sampling.scheduler import Scheduler
from reasonray.sampling.work import (
    Counts,
    Lease,
    LeasedProblem,
    Report,
    SamplingJob,
    Started,
    make_rollout,
)
from reasonray.store.progress import Progress, duration, log_line
from reasonray.store.run import Run

_WAIT_SECONDS = 0.25
"""How long the loop waits for a report before it looks at the budget and the cluster."""
_CLUSTER_SECONDS = 2.0
"""Between looks at the cluster's nodes and free resources."""
_LONG_WAIT_SECONDS = 60.0
"""After that a group that waits for a node is reported, with what it waits for."""
_LEAST_REPORT_SECONDS = 0.25
"""Between the reports of a replica that has work."""
_REPORTS_PER_SECOND = 100.0
"""Of all replicas together: with more than some dozen, each reports less often."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run has cost so far."""

    tokens: int = 0
    accelerator_seconds: float = 0.0
    seconds: float = 0.0

    def exhausted(self, budget: Budget) -> str:
        """Return the name of a limit of the budget that is reached, "" if none is."""
        hours = self.accelerator_seconds / 3600
        limits = (
            ("tokens", self.tokens, budget.tokens),
            ("accelerator_hours", hours, budget.accelerator_hours),
            ("hours", self.seconds / 3600, budget.hours),
        )
        return next((name for name, spent, limit in limits if limit is not None and spent >= limit), "")


@dataclass(frozen=True, slots=True)
class SamplingResult:
    """The rollouts that one call of `run_jobs` added, as counts."""

    counts_by_job: dict[str, Counts] = field(default_factory=dict)
    seconds: float = 0.0
    """From the first lease to the last commit; the engine's start is not included."""
    deaths: int = 0
    """Replicas that died."""
    exhausted: str = ""
    """The limit of the budget that ended the call; "" if every job is finished."""

    @property
    def total(self) -> Counts:
        """The counts of all jobs together."""
        return sum(self.counts_by_job.values(), Counts())

    def followed_by(self, later: SamplingResult) -> SamplingResult:
        """Return the result of this call and a later one, of other jobs, together."""
        return SamplingResult(
            self.counts_by_job | later.counts_by_job,
            self.seconds + later.seconds,
            self.deaths + later.deaths,
            later.exhausted,
        )


def run_jobs(
    run: Run,
    stage: str,
    jobs: Sequence[SamplingJob],
    pool: ReplicaPool,
    *,
    budget: Budget | None = None,
    spent: Spent = Spent(),
) -> SamplingResult:
    """Sample the unfinished problems of all jobs; if there are none, start nothing.

    Args:
        run: the run.
        stage: the stage's name on the terminal and in the events.
        jobs: the work; jobs of one engine spec share replicas. All specs work at the same time if the cluster has room
            for their replicas; else one waits until another has finished.
        pool: the replicas.
        budget: limits; reaching one ends the call.
        spent: what the run has spent of the budget before.

    Raises:
        UserError: the cluster cannot hold the replicas, a model does not exist, or replicas keep dying.
    """
    known = {job.name: load_known(run, job) for job in jobs}
    unfinished = [job for job in jobs if (loaded := known[job.name]) is None or loaded.has_unfinished]
    if not unfinished:
        return SamplingResult()
    groups = [
        JobGroup(spec, [job for job in unfinished if job.spec == spec])
        for spec in dict.fromkeys(job.spec for job in unfinished)
    ]
    refuse_impossible([(group.spec, group.replicas[0]) for group in groups])
    for group in groups:
        pool.check(group.spec)
    with Progress(stage, run.events) as progress:
        return SamplingLoop(run, groups, known, pool, progress, budget or Budget(), spent).run()


@dataclass(slots=True, eq=False)
class _RunningReplica:
    number: int
    group: int
    actor: Any
    node: str = ""
    is_up: bool = False
    phase: str = ""
    in_flight: int = 0


class SamplingLoop:
    """One call of `run_jobs`: it turns what Ray reports into events, and the scheduler's actions into calls of Ray."""

    def __init__(
        self,
        run: Run,
        groups: Sequence[JobGroup],
        known: Mapping[str, LoadedJob | None],
        pool: ReplicaPool,
        progress: Progress,
        budget: Budget,
        spent: Spent,
    ) -> None:
        self._run, self._groups, self._known, self._pool = run, groups, known, pool
        self._progress, self._budget, self._spent = progress, budget, spent
        specs = [GroupSpec(group.spec.model, *group.replicas, accelerators=max(1, group.spec.gpus)) for group in groups]
        self._scheduler = Scheduler(specs, run.config.failures)
        self._display = StageDisplay(progress, self._scheduler, ", ".join(group.names for group in groups))
        self._stage = pool.begin_stage([group.spec for group in groups])
        self._loaded: dict[int, LoadedJob] = {}
        """Job number → job; the numbers count the jobs of all groups."""
        self._replicas: dict[int, _RunningReplica] = {}
        self._reports: dict[Any, _RunningReplica] = {}
        """The Ray reference of each replica's next report."""
        self._ever_up: set[int] = set()
        """Groups of which a replica was up."""
        self._polled_at = -_CLUSTER_SECONDS
        self._waiting_since: dict[int, float] = {}
        """Group → when it began to wait for a node."""
        self._reported_waiting_at = 0.0
        self._exhausted = ""

    def run(self) -> SamplingResult:
        """Sample until every policy is satisfied, or the budget is spent."""
        while not self._scheduler.is_finished:
            self._poll_cluster()
            self._receive()
            self._show()
            self._check_budget()
        self._show(now=True)
        return SamplingResult(self._counts_by_job(), self._display.seconds, self._scheduler.deaths, self._exhausted)

    def _step(self, event: Event) -> None:
        for action in self._scheduler.step(event):
            self._act(action)

    def _act(self, action: Action) -> None:
        match action:
            case Start(replica=number, group=group, avoid=avoid):
                self._start(number, group, avoid)
            case Stop(replica=number, reason=reason):
                replica = self._forget(number)
                self._run.events.emit("replica", state="left", cause=reason)
                self._pool.stop_replica(replica.actor)
            case GiveBack(replica=number):
                self._pool.give_back(self._forget(number).actor)
            case Assign():
                self._replicas[action.replica].actor.assign.remote(self._lease(action))
            case Release(replica=number, count=count):
                self._replicas[number].actor.release.remote(count)
            case Abort(replica=number):
                self._replicas[number].actor.abort.remote()
            case RecordError():
                self._record_error(action)

    def _start(self, number: int, group_number: int, avoid: Collection[str]) -> None:
        group = self._groups[group_number]
        actor = self._pool.start_replica(
            group.spec, avoid, [other.spec for other in self._groups if other is not group]
        )
        replica = self._replicas[number] = _RunningReplica(number, group_number, actor)
        self._run.events.emit("replica", state="joined", count=len(self._replicas))
        self._reports[actor.report.remote(self._stage, 0.0)] = replica  # it answers as soon as it has a node
        actor.serve.remote(self._stage, group.spec.model, group.spec.revision)

    def _forget(self, number: int) -> _RunningReplica:
        replica = self._replicas.pop(number)
        self._reports = {reference: owner for reference, owner in self._reports.items() if owner is not replica}
        return replica

    def _lease(self, action: Assign) -> Lease:
        loaded = self._loaded[action.job]
        states = loaded.work.states
        problems = tuple(
            LeasedProblem(index, loaded.job.problems[index], states.state(index), states.resamples(index))
            for index in action.problems
        )
        return Lease(action.lease, loaded.resolved, problems, action.isolation)

    def _record_error(self, action: RecordError) -> None:
        loaded = self._loaded[action.job]
        job, problem = loaded.resolved, loaded.job.problems[action.problem]
        verdict = Verdict(outcome=Outcome.FAILED, checker=problem.checker, detail=action.reason)
        completion = Completion("", Finish.ERROR, error=action.reason)
        request = job.request(problem, action.sample)
        job.ledger.append([make_rollout(job, request, completion, verdict, action.resample)])

    def _receive(self) -> None:
        """Wait a moment for reports, and pass them on."""
        references = list(self._reports)
        if not references:
            time.sleep(_WAIT_SECONDS)
            return
        ready, _ = ray.wait(references, num_returns=1, timeout=_WAIT_SECONDS)
        if ready:  # what else is ready, in one call
            ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        for reference in ready:
            if replica := self._reports.pop(reference, None):  # else it was stopped meanwhile
                self._receive_report(replica, reference)

    def _receive_report(self, replica: _RunningReplica, reference: Any) -> None:
        try:
            report: Report = ray.get(reference)
        except RayError as error:
            self._on_failure(replica, error)
            return
        interval = max(_LEAST_REPORT_SECONDS, len(self._replicas) / _REPORTS_PER_SECOND)
        self._reports[replica.actor.report.remote(self._stage, interval)] = replica
        replica.phase, replica.in_flight = report.phase, report.in_flight
        if not replica.node and report.node:
            replica.node = report.node
            self._step(ReplicaPlaced(replica.number, report.node))
        if report.started and not replica.is_up:
            self._on_started(replica, report.started)
        if replica.is_up:
            self._step(ReplicaReported(replica.number, report))

    def _on_started(self, replica: _RunningReplica, started: Started) -> None:
        replica.is_up = True
        group = self._groups[replica.group]
        identity = started.identity_as(self._run.model_identity(group.spec.known_as, group.spec.revision))
        if group.identity not in (None, identity):
            raise UserError(
                f"node {replica.node} has other files for {group.spec.model} than the first replica's node: "
                "make them the same, or name the model by a hub id with a revision"
            )
        if group.identity is None:
            self._load(replica.group, identity)
        self._ever_up.add(replica.group)
        self._display.begin()
        self._step(ReplicaUp(replica.number, started.capacity))

    def _load(self, group_number: int, identity: str) -> None:
        """Load the jobs of a group, whose model's weights are known now."""
        group = self._groups[group_number]
        group.identity = identity
        self._run.record_model_identity(group.spec.known_as, group.spec.revision, identity)
        loaded = {}
        for job in group.jobs:
            known = self._known[job.name]
            loaded[len(self._loaded)] = known if known is not None else load_job(self._run, job, identity)
            self._loaded |= loaded
        self._step(JobsLoaded(group_number, {number: job.work for number, job in loaded.items()}))

    def _on_failure(self, replica: _RunningReplica, error: RayError) -> None:
        """Let the scheduler replace a replica, unless the user has made a mistake that every replica would run into."""
        cause = error.cause if isinstance(error, RayTaskError) else None
        if isinstance(cause, UserError) and replica.group not in self._ever_up:
            raise cause
        text = str(error) if cause is None else f"{type(cause).__name__}: {cause}"
        line = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
        self._run.events.emit("death", cause=line, node=replica.node)
        self._forget(replica.number)
        self._pool.stop_replica(replica.actor)
        lost = lost_its_node(error, replica.node)
        self._step(ReplicaDied(replica.number, line, time.monotonic(), lost))
        self._polled_at = -_CLUSTER_SECONDS  # another one starts at once

    def _poll_cluster(self) -> None:
        """Report the state of the cluster every few seconds."""
        now = self._progress.seconds
        if now - self._polled_at < _CLUSTER_SECONDS:
            return
        self._polled_at = now
        unplaced = sum(not replica.node for replica in self._replicas.values())
        room = [
            self._pool.room(group.spec, self._scheduler.avoided_nodes(number), unplaced)
            for number, group in enumerate(self._groups)
        ]
        self._step(ClusterChanged(time.monotonic(), room, draining_nodes()))
        self._report_waiting(now)

    def _report_waiting(self, now: float) -> None:
        """Free what waiting groups cannot use, and report groups that wait for long, with what they wait for."""
        waiting = dict(self._scheduler.waiting())
        self._waiting_since = {group: self._waiting_since.get(group, now) for group in waiting}
        if any(now - since > _CLUSTER_SECONDS for since in self._waiting_since.values()):
            self._pool.stop_free()
        if now - self._reported_waiting_at < _LONG_WAIT_SECONDS:
            return
        for group, since in self._waiting_since.items():
            if now - since > _LONG_WAIT_SECONDS:
                self._reported_waiting_at = now
                names, needs = self._groups[group].names, missing_resources(self._groups[group].spec)
                what = f"{waiting[group]} replica(s) of {names} wait for a node, {duration(now - since)} by now"
                log_line("sample", f"{what}: {needs}")
                self._run.events.emit("waiting", group=names, replicas=waiting[group], needs=needs)

    def _check_budget(self) -> None:
        if not self._exhausted and (limit := self._spent_now().exhausted(self._budget)):
            self._exhausted = limit
            self._step(BudgetSpent())

    def _counts_by_job(self) -> dict[str, Counts]:
        return {self._loaded[number].job.name: counts for number, counts in self._scheduler.counts.items()}

    def _spent_now(self) -> Spent:
        return Spent(
            self._spent.tokens + self._scheduler.usage().generated_tokens,
            self._spent.accelerator_seconds + self._display.accelerator_seconds,
            self._spent.seconds + self._progress.seconds,
        )

    def _show(self, *, now: bool = False) -> None:
        replicas = self._replicas.values()
        phases = list(dict.fromkeys(replica.phase for replica in replicas if replica.phase))
        in_flight = sum(replica.in_flight for replica in replicas)
        self._display.show(self._counts_by_job(), phases, in_flight, now=now)

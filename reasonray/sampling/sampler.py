"""The sampling loop: it runs jobs on replicas until every policy is satisfied or the budget is spent.

Evaluation is sampling with another model, so every rollout of a run comes from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from reasonray.config import Budget
from reasonray.sampling.pool import ReplicaPool, refuse_impossible
from reasonray.sampling.scheduler import Scheduler, unfinished_problems
from reasonray.sampling.work import Counts, ResolvedJob, SamplingJob, Usage
from reasonray.store.progress import Progress, duration
from reasonray.store.run import Run

_FORECAST_AFTER = 20.0
"""Seconds of sampling before the time left is more than a guess."""
_POLL_SECONDS = 0.5
_MAX_RECONCILIATIONS = 3
"""How often the ledger may hold less than the driver expects, before that is a bug."""


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
        return _total(self.counts_by_job)

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
        jobs: the work; jobs of one engine spec share replicas, and all specs work at the same time.
        pool: the replicas.
        budget: limits; reaching one ends the call.
        spent: what the run has spent of the budget before.

    Raises:
        UserError: the cluster cannot hold the replicas, a model does not exist, or replicas keep dying.
    """
    unfinished = [job for job in jobs if _has_unfinished(run, job)]
    if not unfinished:
        return SamplingResult()
    specs = list(dict.fromkeys(job.spec for job in unfinished))
    pool.prepare(specs)
    schedulers = [Scheduler(run, [job for job in unfinished if job.spec == spec], pool) for spec in specs]
    refuse_impossible([(scheduler.spec, scheduler.jobs[0].replicas[0]) for scheduler in schedulers])
    with Progress(stage, run.events) as progress:
        loop = SamplingLoop(run, schedulers, progress, budget or Budget(), spent)
        loop.start()
        return loop.run()


class SamplingLoop:
    """One call of `run_jobs`: a loop that waits for replicas, assigns leases and shows the progress."""

    def __init__(
        self, run: Run, schedulers: Sequence[Scheduler], progress: Progress, budget: Budget, spent: Spent
    ) -> None:
        self._schedulers, self._progress = schedulers, progress
        self._budget, self._spent = budget, spent
        self._started_at = 0.0
        self._polled_at = 0.0
        self._accelerator_seconds = 0.0
        self._exhausted = ""
        self._reconciliations = 0

    def start(self) -> None:
        """Start replicas, and return when the first is up."""
        for scheduler in self._schedulers:
            scheduler.start()
        names = ", ".join(job.name for scheduler in self._schedulers for job in scheduler.jobs)
        while not any(scheduler.is_up for scheduler in self._schedulers):
            self._receive()
            text = f"starting the engine of {names}   {duration(self._progress.seconds)}"
            self._progress.show(text, {"state": "starting", **self._cost()})
        self._started_at = self._progress.seconds

    def run(self) -> SamplingResult:
        """Sample until every policy is satisfied, or the budget is spent."""
        while self._is_unfinished():
            for scheduler in self._schedulers:
                if not self._exhausted:
                    scheduler.assign_leases()
                    scheduler.resize()
            self._receive()
            self._poll()
        self._poll(now=True)
        deaths = sum(scheduler.deaths for scheduler in self._schedulers)
        seconds = self._progress.seconds - self._started_at
        return SamplingResult(self._counts_by_job(), seconds, deaths, self._exhausted)

    def _is_unfinished(self) -> bool:
        if self._exhausted:  # unfinished problems stay unfinished, even those that a dead replica lost
            return any(scheduler.has_leases for scheduler in self._schedulers)
        if any(scheduler.is_busy for scheduler in self._schedulers):
            return True
        problems = sum(scheduler.reconcile() for scheduler in self._schedulers)
        self._reconciliations += 1
        if problems and self._reconciliations > _MAX_RECONCILIATIONS:
            raise RuntimeError(f"{problems} problems still need samples after {_MAX_RECONCILIATIONS} passes")
        return problems > 0

    def _receive(self) -> None:
        owner = {reference: scheduler for scheduler in self._schedulers for reference in scheduler.pending()}
        if not owner:
            return
        ready, _ = ray.wait(list(owner), num_returns=len(owner), timeout=0.1)
        if not ready:
            ready, _ = ray.wait(list(owner), num_returns=1, timeout=0.4)
        for reference in ready:
            owner[reference].receive(reference)

    def _poll(self, *, now: bool = False) -> None:
        if not now and self._progress.seconds - self._polled_at < _POLL_SECONDS:
            return
        accelerators = sum(scheduler.accelerators for scheduler in self._schedulers)
        self._accelerator_seconds += accelerators * (self._progress.seconds - self._polled_at)
        self._polled_at = self._progress.seconds
        for scheduler in self._schedulers:
            scheduler.poll()
        self._show(now=now)
        if not self._exhausted and (limit := self._spent_now().exhausted(self._budget)):
            self._exhausted = limit
            for scheduler in self._schedulers:
                scheduler.abort()

    def _counts_by_job(self) -> dict[str, Counts]:
        return {job: counts for scheduler in self._schedulers for job, counts in scheduler.counts_by_job().items()}

    def _usage(self) -> Usage:
        return sum((scheduler.usage() for scheduler in self._schedulers), Usage())

    def _spent_now(self) -> Spent:
        return Spent(
            self._spent.tokens + self._usage().generated_tokens,
            self._spent.accelerator_seconds + self._accelerator_seconds,
            self._spent.seconds + self._progress.seconds,
        )

    def _cost(self) -> dict[str, Any]:
        usage = self._usage()
        return {
            "generated_tokens": usage.generated_tokens,
            "accelerator_seconds": round(self._accelerator_seconds, 3),
            "idle_seconds": round(usage.idle_seconds, 3),
            "replica_seconds": round(usage.replica_seconds, 3),
        }

    def _show(self, *, now: bool = False) -> None:
        counts_by_job = self._counts_by_job()
        total, seconds = _total(counts_by_job), self._progress.seconds - self._started_at
        remaining = sum(scheduler.remaining() for scheduler in self._schedulers)
        rate = total.tokens / seconds if seconds else 0.0
        too_early = seconds < _FORECAST_AFTER or not total.rollouts
        forecast = "?" if too_early else duration(seconds * remaining / total.rollouts)
        replicas = sum(scheduler.replicas_up for scheduler in self._schedulers)
        deaths = sum(scheduler.deaths for scheduler in self._schedulers)
        text = (
            f"{total.rollouts:>7,} of {total.rollouts + remaining:,} rollouts   {total.correct:>6,} correct "
            f"({total.correct / max(1, total.rollouts):6.1%})   {rate:7,.0f} tokens/s   "
            f"{duration(seconds)} gone, {forecast} left"
        )
        text += f"   {replicas} replicas" if replicas > 1 else ""
        text += f"   {deaths} died" if deaths else ""
        cost = self._cost()
        figures = {
            "rollouts": total.rollouts,
            "planned": total.rollouts + remaining,
            "correct": total.correct,
            "covered": total.covered,
            "outcomes": dict(total.outcomes),
            "tokens": total.tokens,
            "drawing_seconds": round(seconds, 3),
            "rollouts_per_second": round(total.rollouts / seconds, 3) if seconds else 0.0,
            "tokens_per_second": round(rate, 1),
            "tokens_per_correct": round(cost["generated_tokens"] / total.correct, 1) if total.correct else None,
            "idle_fraction": round(cost["idle_seconds"] / cost["replica_seconds"], 4) if cost["replica_seconds"] else 0,
            "replicas": replicas,
            "deaths": deaths,
            "arms": {job: _brief(counts, seconds) for job, counts in counts_by_job.items()},
        }
        self._progress.show(text, figures | cost, now=now)


def _total(counts_by_job: dict[str, Counts]) -> Counts:
    total = Counts()
    for counts in counts_by_job.values():
        total.add(counts)
    return total


def _brief(counts: Counts, seconds: float) -> dict[str, Any]:
    return {
        "rollouts": counts.rollouts,
        "correct": counts.correct,
        "covered": counts.covered,
        "tokens": counts.tokens,
        "tokens_per_second": round(counts.tokens / seconds, 1) if seconds else 0.0,
    }


def _has_unfinished(run: Run, job: SamplingJob) -> bool:
    identity = run.model_identity(job.spec.model, job.spec.revision)
    return identity is None or bool(unfinished_problems(ResolvedJob.of(run, job, identity), job))

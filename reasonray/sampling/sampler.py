"""Drawing: orders go to crews, crews to replicas, until nothing is owed or the budget is spent.

Evaluation is drawing with another model, so this is the one path on which rollouts come about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from reasonray.config import Budget
from reasonray.sampling.pool import ReplicaPool, refuse_impossible
from reasonray.sampling.scheduler import Scheduler, unfinished_problems
from reasonray.sampling.work import Arm, Counts, SamplingJob
from reasonray.store.progress import Progress, duration
from reasonray.store.run import Run

_FORECAST_AFTER = 20.0
"""Seconds of drawing before the time left is more than a guess."""
_LOOK_SECONDS = 0.5
_MOST_RECOUNTS = 3
"""How often the ledger may say that something is owed when the driver thinks that nothing is."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run has cost so far."""

    tokens: int = 0
    accelerator_seconds: float = 0.0
    seconds: float = 0.0

    def beyond(self, budget: Budget) -> str:
        """Return which limit of a budget is reached, "" if none."""
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
        total = Counts()
        for counts in self.counts_by_job.values():
            total.add(counts)
        return total

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
    orders: Sequence[SamplingJob],
    pool: ReplicaPool,
    *,
    budget: Budget | None = None,
    spent: Spent = Spent(),
) -> SamplingResult:
    """Draw what the orders are owed; nothing is started where nothing is owed.

    Args:
        run: the run.
        stage: what the terminal and the events call it.
        orders: what to draw; those of one spec share a crew, all crews work at the same time.
        fleet: the replicas.
        budget: limits; reaching one ends the call.
        spent: what counts against the budget from before.

    Raises:
        UserError: the cluster cannot hold the replicas, the model is not there, or replicas keep dying.
    """
    owing = [order for order in orders if _owes(run, order)]
    if not owing:
        return SamplingResult()
    specs = list(dict.fromkeys(order.spec for order in owing))
    pool.prepare(specs)
    crews = [Scheduler(run, [order for order in owing if order.spec == spec], pool) for spec in specs]
    refuse_impossible([(crew.spec, crew.orders[0].replicas[0]) for crew in crews])
    with Progress(stage, run.events) as progress:
        drawing = SamplingLoop(run, crews, progress, budget or Budget(), spent)
        drawing.open()
        return drawing.work()


class SamplingLoop:
    """One call of `draw` at work."""

    def __init__(self, run: Run, crews: Sequence[Scheduler], progress: Progress, budget: Budget, spent: Spent) -> None:
        self._crews, self._progress = crews, progress
        self._budget, self._spent = budget, spent
        self._begun = 0.0
        self._looked = 0.0
        self._accelerator_seconds = 0.0
        self._exhausted = ""
        self._recounts = 0

    def open(self) -> None:
        """Ask for replicas and return when the first is up."""
        for crew in self._crews:
            crew.open()
        whose = ", ".join(order.name for crew in self._crews for order in crew.orders)
        while not any(crew.is_up for crew in self._crews):
            self._collect()
            text = f"starting the engine of {whose}   {duration(self._progress.seconds)}"
            self._progress.show(text, {"state": "starting", **self._cost()})
        self._begun = self._progress.seconds

    def work(self) -> SamplingResult:
        """Draw until nothing is owed, or the budget is spent."""
        while self._is_unfinished():
            for crew in self._crews:
                if not self._exhausted:
                    crew.assign_leases()
                    crew.resize()
            self._collect()
            self._look()
        self._look(now=True)
        arms = {arm: figures for crew in self._crews for arm, figures in crew.figures().items()}
        deaths = sum(crew.deaths for crew in self._crews)
        return SamplingResult(arms, self._progress.seconds - self._begun, deaths, self._exhausted)

    def _is_unfinished(self) -> bool:
        if self._exhausted:  # what is owed stays owed, what died meanwhile too
            return any(crew.has_leases for crew in self._crews)
        if any(crew.is_busy for crew in self._crews):
            return True
        left = sum(crew.reconcile() for crew in self._crews)
        self._recounts += 1
        if left and self._recounts > _MOST_RECOUNTS:
            raise RuntimeError(f"{left} problems are still owed attempts after all was drawn {_MOST_RECOUNTS} times")
        return left > 0

    def _collect(self) -> None:
        owner = {reference: crew for crew in self._crews for reference in crew.references()}
        if not owner:
            return
        ready, _ = ray.wait(list(owner), num_returns=len(owner), timeout=0.1)
        if not ready:
            ready, _ = ray.wait(list(owner), num_returns=1, timeout=0.4)
        for reference in ready:
            owner[reference].take(reference)

    def _look(self, *, now: bool = False) -> None:
        if not now and self._progress.seconds - self._looked < _LOOK_SECONDS:
            return
        held = sum(crew.accelerators for crew in self._crews)
        self._accelerator_seconds += held * (self._progress.seconds - self._looked)
        self._looked = self._progress.seconds
        for crew in self._crews:
            crew.look()
        self._show(now=now)
        if not self._exhausted and (limit := self._spent_now().beyond(self._budget)):
            self._exhausted = limit
            for crew in self._crews:
                crew.drop()

    def _spent_now(self) -> Spent:
        generated = sum(crew.seconds()[2] for crew in self._crews)
        return Spent(
            self._spent.tokens + generated,
            self._spent.accelerator_seconds + self._accelerator_seconds,
            self._spent.seconds + self._progress.seconds,
        )

    def _cost(self) -> dict[str, Any]:
        idle, up, generated = (sum(column) for column in zip(*(crew.seconds() for crew in self._crews), strict=True))
        return {
            "generated_tokens": generated,
            "accelerator_seconds": round(self._accelerator_seconds, 3),
            "idle_seconds": round(idle, 3),
            "replica_seconds": round(up, 3),
        }

    def _show(self, *, now: bool = False) -> None:
        arms = {arm: figures for crew in self._crews for arm, figures in crew.figures().items()}
        total, seconds = Counts(), self._progress.seconds - self._begun
        for figures in arms.values():
            total.add(figures)
        left = sum(crew.left() for crew in self._crews)
        rate = total.tokens / seconds if seconds else 0.0
        early = seconds < _FORECAST_AFTER or not total.rollouts
        ahead = "?" if early else duration(seconds * left / total.rollouts)
        replicas, deaths = (sum(getattr(crew, name) for crew in self._crews) for name in ("replicas", "deaths"))
        text = (
            f"{total.rollouts:>7,} of {total.rollouts + left:,} rollouts   {total.correct:>6,} correct "
            f"({total.correct / max(1, total.rollouts):6.1%})   {rate:7,.0f} tokens/s   "
            f"{duration(seconds)} gone, {ahead} left"
        )
        text += f"   {replicas} replicas" if replicas > 1 else ""
        text += f"   {deaths} died" if deaths else ""
        cost = self._cost()
        recorded = {
            "rollouts": total.rollouts,
            "planned": total.rollouts + left,
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
            "arms": {arm: _brief(figures, seconds) for arm, figures in arms.items()},
        }
        self._progress.show(text, recorded | cost, now=now)


def _brief(figures: Counts, seconds: float) -> dict[str, Any]:
    return {
        "rollouts": figures.rollouts,
        "correct": figures.correct,
        "covered": figures.covered,
        "tokens": figures.tokens,
        "tokens_per_second": round(figures.tokens / seconds, 1) if seconds else 0.0,
    }


def _owes(run: Run, order: SamplingJob) -> bool:
    identity = run.model_identity(order.spec.model, order.spec.revision)
    return identity is None or bool(unfinished_problems(Arm.of(run, order, identity), order))

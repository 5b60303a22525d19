"""The driver's side of sampling: what is owed becomes leases, leases go to replicas, the dead are replaced.

The ledger is the only truth: after a death it is read again, and what it does not hold is owed again. A problem that
was in flight at two deaths is drawn alone, one sample at a time; the sample that kills its replica even then is
recorded as an ERROR, and the rest goes on.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from reasonray.config import Policy, Prompt, Sampling, UserError
from reasonray.console import Progress as Display
from reasonray.console import duration
from reasonray.engines.base import Attempt, Completion
from reasonray.ledger import Ledger, Tally
from reasonray.policy import Progress, is_satisfied, most, owed
from reasonray.records import Finish, Outcome, Problem, Verdict, content_hash
from reasonray.run import Run
from reasonray.stages.replicas import Arm, EngineSpec, Figures, Fleet, Lease, rollout_of, seed_of

_SUSPECT_AFTER = 2
"""Deaths with a problem in flight before it is drawn alone."""
_FORECAST_AFTER = 20.0
"""Seconds of drawing before the time left is more than a guess."""
_CRASH_LOOP = 8
"""Deaths in a row without one rollout gained before the stage gives up."""


@dataclass(frozen=True, slots=True)
class Order:
    """Problems to draw for one arm."""

    arm: str
    problems: Sequence[Problem]
    prompt: Prompt
    sampling: Sampling
    policy: Policy
    ledger: Ledger


@dataclass(frozen=True, slots=True)
class Drawn:
    """What one call of `draw` added."""

    rollouts: int = 0
    correct: int = 0
    tokens: int = 0
    seconds: float = 0.0
    """From the first lease to the last commit; the engine's start is not in it."""
    deaths: int = 0


def draw(run: Run, stage: str, orders: Sequence[Order], spec: EngineSpec, size: int, fleet: Fleet) -> Drawn:
    """Draw what the orders are owed, on `size` replicas of a spec; nothing is started where nothing is owed.

    Raises:
        UserError: the cluster cannot hold the replicas, the model is not there, or replicas keep dying.
    """
    identity = run.identity(spec.model, spec.revision)
    if identity is not None and not any(_what_is_owed(_arm(run, order, spec, identity), order) for order in orders):
        return Drawn()
    with Display(stage, run.events) as display:
        dispatcher = Dispatcher(run, orders, spec, fleet, display)
        dispatcher.open(size)
        return dispatcher.work()


class Dispatcher:
    """Hands out leases until nothing is owed."""

    def __init__(self, run: Run, orders: Sequence[Order], spec: EngineSpec, fleet: Fleet, display: Display) -> None:
        self._run, self._orders, self._spec, self._fleet, self._display = run, orders, spec, fleet, display
        self._arms: dict[str, Arm] = {}
        self._queue: deque[tuple[Arm, Problem, Tally]] = deque()
        self._suspects: deque[tuple[Arm, Problem, Tally]] = deque()
        self._deaths: Counter[tuple[str, str]] = Counter()
        self._starting: dict[Any, Any] = {}
        """start() reference → replica"""
        self._capacity: dict[Any, int] = {}
        """Replicas that are up, with the attempts in flight that keep each busy."""
        self._leases: dict[Any, tuple[Any, Lease]] = {}
        """work() reference → (replica, lease)"""
        self._seen: dict[Any, Figures] = {}
        """The last figures of every replica, of dead ones too."""
        self._before: dict[Any, Figures] = {}
        """Figures that replicas had when this work began: a fleet outlives a stage."""
        self._in_a_row = 0
        self._buried = 0
        self._begun = 0.0

    def open(self, size: int) -> None:
        """Ask for the replicas and return when the first is up and what is owed is known."""
        for replica in self._fleet.crew(self._spec, size):
            self._await_start(replica)
        while not self._capacity:
            self._collect()
            whose = ", ".join(order.arm for order in self._orders)
            self._display.show(
                f"starting the engine of {whose}   {duration(self._display.seconds)}", {"state": "starting"}
            )
        self._begun = self._display.seconds

    def work(self) -> Drawn:
        """Draw until nothing is owed."""
        total = sum(_attempts(arm.policy, tally) for arm, _, tally in self._queue)
        while self._queue or self._suspects or self._leases:
            self._hand_out()
            self._collect()
            self._show(total)
        self._show(total, now=True)
        gained = self._gained()
        seconds = self._display.seconds - self._begun
        return Drawn(gained.rollouts, gained.correct, gained.tokens, seconds, self._buried)

    def _await_start(self, replica: Any) -> None:
        self._starting[replica.start.remote(self._spec.model, self._spec.revision)] = replica

    def _hand_out(self) -> None:
        for replica, capacity in self._capacity.items():
            mine = [lease for holder, lease in self._leases.values() if holder == replica]
            if any(lease.alone for lease in mine):
                continue
            if self._suspects and not mine:
                self._lease(replica, [self._suspects.popleft()], alone=True)
                continue
            flying = sum(_attempts(lease.arm.policy, tally) for lease in mine for _, tally in lease.problems)
            while self._queue and flying < 2 * capacity:
                flying += self._lease(replica, self._next_group(capacity))

    def _next_group(self, capacity: int) -> list[tuple[Arm, Problem, Tally]]:
        """Take problems of one arm worth about half a replica's capacity, fewer towards the end to share the tail."""
        waiting = sum(_attempts(arm.policy, tally) for arm, _, tally in self._queue)
        wanted = max(1, min(capacity // 2, waiting // (2 * len(self._capacity))))
        group = [self._queue.popleft()]
        size = _attempts(group[0][0].policy, group[0][2])
        while self._queue and size < wanted and self._queue[0][0] is group[0][0]:
            group.append(self._queue.popleft())
            size += _attempts(group[-1][0].policy, group[-1][2])
        return group

    def _lease(self, replica: Any, group: list[tuple[Arm, Problem, Tally]], *, alone: bool = False) -> int:
        lease = Lease(group[0][0], tuple((problem, tally) for _, problem, tally in group), alone)
        self._leases[replica.work.remote(lease)] = (replica, lease)
        return sum(_attempts(lease.arm.policy, tally) for _, tally in lease.problems)

    def _collect(self) -> None:
        waiting = [*self._leases, *self._starting]
        ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0.5) if waiting else ([], [])
        for reference in ready:
            replica = self._starting.get(reference) or self._leases.get(reference, (None,))[0]
            if replica is None:  # its replica was buried in this very round
                continue
            try:
                result = ray.get(reference)
            except (RayActorError, OutOfMemoryError) as error:
                self._bury(replica, error)
                continue
            except RayTaskError as error:
                raise error.cause if isinstance(error.cause, UserError) else error from None
            if self._starting.pop(reference, None) is not None:
                self._welcome(replica, *result)
            else:
                del self._leases[reference]
                self._in_a_row = 0

    def _welcome(self, replica: Any, identity: str, capacity: int) -> None:
        first = not self._arms
        self._capacity[replica] = capacity
        self._before[replica] = self._seen[replica] = ray.get(replica.figures.remote())
        if first:
            self._run.remember(self._spec.model, self._spec.revision, identity)
            for order in self._orders:
                arm = self._arms[order.arm] = _arm(self._run, order, self._spec, identity)
                self._queue.extend((arm, problem, tally) for problem, tally in _what_is_owed(arm, order))

    def _bury(self, replica: Any, error: Exception) -> None:
        """Put a dead replica's work back, replace it, and single out what it keeps dying of."""
        self._buried += 1
        self._in_a_row += 1
        lost = [lease for holder, lease in self._leases.values() if holder == replica]
        self._leases = {ref: held for ref, held in self._leases.items() if held[0] != replica}
        self._starting = {ref: holder for ref, holder in self._starting.items() if holder != replica}
        self._capacity.pop(replica, None)
        self._run.events.emit("death", cause=str(error).splitlines()[0], problems=sum(len(it.problems) for it in lost))
        for lease in lost:
            self._put_back(lease, error)
        if self._in_a_row >= _CRASH_LOOP:
            raise UserError(
                f"replicas of {self._spec.model} died {self._in_a_row} times in a row without finishing anything; "
                f"the last: {str(error).splitlines()[0]} (their logs are in Ray's session directory; the run resumes)"
            )
        self._await_start(self._fleet.replace(replica))

    def _put_back(self, lease: Lease, error: Exception) -> None:
        tallies = lease.arm.ledger.tally()
        for problem, old in lease.problems:
            tally = tallies.get((problem.id, lease.arm.fingerprint), Tally())
            if tally != old:
                self._in_a_row = 0
            if is_satisfied(lease.arm.policy, Progress(tally.samples, frozenset(), tally.correct)):
                continue
            if lease.alone:
                tally = self._quarantine(lease.arm, problem, tally, error)
            self._deaths[lease.arm.name, problem.id] += 1
            suspect = self._deaths[lease.arm.name, problem.id] >= _SUSPECT_AFTER
            (self._suspects if suspect else self._queue).append((lease.arm, problem, tally))

    def _quarantine(self, arm: Arm, problem: Problem, tally: Tally, error: Exception) -> Tally:
        """Record the sample that kills its replica even when drawn alone, and go on without it."""
        sample = owed(arm.policy, Progress(tally.samples, frozenset(), tally.correct))[0]
        reason = f"the engine died {self._deaths[arm.name, problem.id] + 1} times on this: {str(error).splitlines()[0]}"
        attempt = Attempt(problem, sample, seed_of(arm, problem, sample), arm.prompt, arm.sampling)
        verdict = Verdict(outcome=Outcome.FAILED, checker=problem.checker, detail=reason)
        arm.ledger.append([rollout_of(arm, attempt, Completion("", Finish.ERROR, error=reason), verdict)])
        return replace(tally, samples=tally.samples | {sample})

    def _gained(self) -> Figures:
        for replica, reference in [(replica, replica.figures.remote()) for replica in self._capacity]:
            ready, _ = ray.wait([reference], timeout=1)
            if ready:
                try:
                    self._seen[replica] = ray.get(reference)
                except RayActorError:
                    continue  # its lease will say so too
        total = Figures()
        for replica, seen in self._seen.items():
            total.add(seen, minus=self._before[replica])
        return total

    def _show(self, total: int, *, now: bool = False) -> None:
        gained, seconds = self._gained(), self._display.seconds - self._begun
        pending = sum(_attempts(arm.policy, tally) for arm, _, tally in [*self._queue, *self._suspects])
        rate = gained.tokens / seconds if seconds else 0.0
        early = seconds < _FORECAST_AFTER or not gained.rollouts
        left = "?" if early else duration(seconds * (total - gained.rollouts) / gained.rollouts)
        text = (
            f"{gained.rollouts:>7,} of {total:,} rollouts   {gained.correct:>6,} correct "
            f"({gained.correct / max(1, gained.rollouts):6.1%})   {rate:7,.0f} tokens/s   "
            f"{duration(seconds)} gone, {left} left"
        )
        figures = {
            "rollouts": gained.rollouts,
            "planned": total,
            "waiting": pending,
            "correct": gained.correct,
            "outcomes": gained.outcomes,
            "tokens": gained.tokens,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(rate, 1),
            "replicas": len(self._capacity),
            "deaths": self._buried,
        }
        self._display.show(text, figures, now=now)


def _arm(run: Run, order: Order, spec: EngineSpec, identity: str) -> Arm:
    sampling = order.sampling.model_dump_json(exclude={"max_tokens"})
    fingerprint = content_hash(spec.model, identity, order.prompt.model_dump_json(), sampling)
    return Arm(
        order.arm, spec.model, fingerprint, order.prompt, order.sampling, order.policy, order.ledger, run.config.seed
    )


def _what_is_owed(arm: Arm, order: Order) -> list[tuple[Problem, Tally]]:
    tallies = arm.ledger.tally()
    drawn = [(problem, tallies.get((problem.id, arm.fingerprint), Tally())) for problem in order.problems]
    return [
        (problem, tally)
        for problem, tally in drawn
        if not is_satisfied(arm.policy, Progress(tally.samples, frozenset(), tally.correct))
    ]


def _attempts(policy: Policy, tally: Tally) -> int:
    return most(policy) - len(tally.samples)

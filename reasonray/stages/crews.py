"""The driver's view of the replicas of one spec: what they are owed, what they hold, and what they die of.

The ledger is the only truth: after a death it is read again, and what it does not hold is owed again. A problem that
was in flight at two deaths is drawn alone on its replica; if that dies too, one sample at a time; the sample that kills
its replica even then is recorded as an ERROR, and the rest goes on.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from reasonray.config import Fixed, UserError
from reasonray.engines.base import Attempt, Completion, EngineDied
from reasonray.ledger import Tally
from reasonray.policy import owed
from reasonray.records import Finish, Outcome, Verdict
from reasonray.run import Run
from reasonray.stages.backlog import Backlog, Entry
from reasonray.stages.fleet import Fleet, draining_nodes, has_room
from reasonray.stages.orders import Arm, Care, Figures, Lease, Order, Owed, Snapshot, rollout_of
from reasonray.stages.replicas import Started

_SUSPECT_AFTER = 2
"""Deaths with a problem in flight before it is drawn alone."""
_CARE_SECONDS = 2.0
"""Between looks at nodes that go and room for more replicas."""


class Crew:
    """Replicas of one spec and the backlog that they share."""

    def __init__(self, run: Run, orders: Sequence[Order], fleet: Fleet) -> None:
        self.orders, self.spec = orders, orders[0].spec
        self._run, self._fleet = run, fleet
        self._least, self._most = orders[0].crew
        self.arms: dict[str, Arm] = {}
        self.backlog = Backlog()
        self._starting: dict[Any, Any] = {}
        """start() reference → replica"""
        self._up: dict[Any, Started] = {}
        self._leases: dict[Any, tuple[Any, Lease]] = {}
        """work() reference → (replica, lease)"""
        self._started: dict[Any, int] = {}
        """work() reference → the attempts that the lease started with"""
        self._releasing: dict[Any, Any] = {}
        """release() reference → replica"""
        self._leaving: set[Any] = set()
        """Replicas on nodes that are about to go."""
        self._seen: dict[Any, Snapshot] = {}
        """The last snapshot of every replica, of dead ones too."""
        self._before: dict[Any, Snapshot] = {}
        """What replicas had done when this work began: a fleet outlives a stage."""
        self._suspicion: Counter[tuple[str, str]] = Counter()
        self._in_a_row = 0
        self._causes: deque[tuple[float, str]] = deque()
        """When replicas died, and of what."""
        self.deaths = 0
        self._problems = self._planned = 0
        """Problems owed when the work began, and the most attempts that they can cost."""
        self._cared = 0.0

    def open(self) -> None:
        """Ask for the least number of replicas."""
        for replica in self._fleet.crew(self.spec, self._least):
            self._await_start(replica)

    @property
    def is_up(self) -> bool:
        """Whether a replica is up, so that it is known what is owed."""
        return bool(self.arms)

    @property
    def is_busy(self) -> bool:
        """Whether work is owed or in hand."""
        return not self.is_up or bool(self.backlog) or bool(self._leases)

    @property
    def replicas(self) -> int:
        """Replicas that are up."""
        return len(self._up)

    @property
    def accelerators(self) -> int:
        """GPUs that the replicas hold, up or starting; replicas where they use none."""
        return (len(self._up) + len(self._starting)) * max(1, self.spec.gpus)

    def left(self) -> int:
        """Return the attempts still to come: exact under `fixed`, else by what settled problems took."""
        gained = sum(it.rollouts for it in self.figures().values())
        if all(isinstance(arm.policy, Fixed) for arm in self.arms.values()):
            return max(0, self._planned - gained)
        unsettled = len(self.backlog) + sum(len(lease.problems) for _, lease in self._leases.values())
        settled = self._problems - unsettled
        return round(unsettled * gained / settled) if settled > 0 else self._planned

    def references(self) -> list[Any]:
        """Return what is waited for."""
        return [*self._leases, *self._starting, *self._releasing]

    def take(self, reference: Any) -> None:
        """Take what has come of a reference.

        Raises:
            UserError: of the replica's own, or too many deaths.
        """
        replica = self._starting.get(reference) or self._releasing.get(reference)
        if reference in self._leases:
            replica = self._leases[reference][0]
        if replica is None:  # its replica was buried in this very round
            return
        try:
            result = ray.get(reference)
        except (RayActorError, OutOfMemoryError) as error:
            self._bury(replica, str(error).splitlines()[0])
            return
        except RayTaskError as error:
            if isinstance(error.cause, EngineDied | OSError):
                self._bury(replica, f"{type(error.cause).__name__}: {error.cause}".splitlines()[0])
                return
            raise error.cause if isinstance(error.cause, UserError) else error from None
        if self._starting.pop(reference, None) is not None:
            self._welcome(replica, result)
        elif self._releasing.pop(reference, None) is not None:
            self._take_back(replica, result)
        else:
            # What was released counts here too: the lease may end before the word of its release is heard.
            self._take_back(replica, result.released)
            del self._leases[reference], self._started[reference]
            self._in_a_row = 0

    def hand_out(self) -> None:
        """Lease what is owed to replicas that have room, and ask busy ones for some where others have nothing."""
        held: dict[Any, list[Any]] = {replica: [] for replica in self._up}
        for reference, (holder, _) in self._leases.items():
            held[holder].append(reference)
        for replica, started in self._up.items():
            mine = held[replica]
            if replica in self._leaving or any(self._leases[it][1].care is not Care.NONE for it in mine):
                continue
            if self.backlog.suspects and not mine:
                self._single_out(replica, *self.backlog.suspects.popleft())
                continue
            starting = sum(self._started[reference] for reference in mine)
            while starting < 2 * started.capacity and (group := self.backlog.take(self._group_size(started.capacity))):
                starting += self._lease(replica, group)
        self._level()

    def care(self) -> None:
        """Now and then: leave nodes that go, and grow into room that is there."""
        if time.monotonic() - self._cared < _CARE_SECONDS:
            return
        self._cared = time.monotonic()
        going = draining_nodes()
        for replica, started in list(self._up.items()):
            if started.node in going and replica not in self._leaving:
                self._leaving.add(replica)
                self._ask_back(replica, len(self.backlog) + 10**6)
            if replica in self._leaving and not any(holder == replica for holder, _ in self._leases.values()):
                self._let_go(replica)
        here = len(self._up) - len(self._leaving) + len(self._starting)
        capacity = sum(it.capacity for it in self._up.values())
        more_than_enough = self.backlog.starting > capacity
        if here < self._least or (here < self._most and more_than_enough and has_room(self.spec)):
            self._run.events.emit("replica", state="joined", count=here + 1)
            self._await_start(self._fleet.hire(self.spec))

    def recount(self) -> int:
        """Read the ledger again, put what is still owed into the backlog, and return how many problems that were.

        The ledger is the only truth: whatever the driver has lost sight of is found here.
        """
        for order in self.orders:
            arm = self.arms[order.arm]
            for of in what_is_owed(arm, order):
                self.backlog.add(arm, of)
        return len(self.backlog)

    def drop(self) -> None:
        """Hand out nothing more and abort what is in flight; the leases end with what they have."""
        self.backlog = Backlog()
        ray.wait([replica.drop.remote() for replica in self._up], num_returns=len(self._up), timeout=5)

    def look(self) -> None:
        """Ask every replica for its snapshot; one that does not answer keeps its last."""
        asked = {replica.snapshot.remote(): replica for replica in self._up}
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=1) if asked else ([], [])
        for reference in ready:
            try:
                self._seen[asked[reference]] = ray.get(reference)
            except RayActorError:
                continue  # its lease will say so too
        for arm, figures in self.figures().items():
            self.backlog.learn(arm, figures)

    def figures(self) -> dict[str, Figures]:
        """Return what was done by arm, as of the last look."""
        total = {arm: Figures() for arm in self.arms}
        for replica, seen in self._seen.items():
            for arm in self.arms:
                total[arm].add(seen.arms.get(arm, Figures()))
                total[arm].add(self._before[replica].arms.get(arm, Figures()), -1)
        return total

    def seconds(self) -> tuple[float, float, int]:
        """Return the replicas' seconds with nothing in flight, all their seconds, and the tokens they generated."""
        pairs = [(seen, self._before[replica]) for replica, seen in self._seen.items()]
        idle = sum(seen.idle_seconds - before.idle_seconds for seen, before in pairs)
        up = sum(seen.up_seconds - before.up_seconds for seen, before in pairs)
        return idle, up, sum(seen.generated - before.generated for seen, before in pairs)

    def _await_start(self, replica: Any) -> None:
        self._starting[replica.start.remote(self.spec.model, self.spec.revision)] = replica

    def _welcome(self, replica: Any, started: Started) -> None:
        self._up[replica] = started
        self._before[replica] = self._seen[replica] = ray.get(replica.snapshot.remote())
        if self.arms:
            return
        self._run.remember(self.spec.model, self.spec.revision, started.identity)
        for order in self.orders:
            arm = self.arms[order.arm] = Arm.of(self._run, order, started.identity)
            for of in what_is_owed(arm, order):
                self.backlog.add(arm, of)
                self._problems += 1
                self._planned += of.most(arm.policy)

    def _group_size(self, capacity: int) -> int:
        """Return how many attempts a lease starts with: half a replica's capacity, less towards the end."""
        return max(1, min(capacity // 2, self.backlog.starting // (2 * len(self._up))))

    def _single_out(self, replica: Any, arm: Arm, of: Owed) -> None:
        by_sample = self._suspicion[arm.name, of.problem.id] > _SUSPECT_AFTER
        self._lease(replica, [(arm, of)], Care.SAMPLE if by_sample else Care.PROBLEM)

    def _lease(self, replica: Any, group: list[Entry], care: Care = Care.NONE) -> int:
        lease = Lease(group[0][0], tuple(it for _, it in group), care)
        reference = replica.work.remote(lease)
        self._leases[reference] = (replica, lease)
        self._started[reference] = sum(it.opening(lease.arm.policy) for it in lease.problems)
        return self._started[reference]

    def _level(self) -> None:
        """Have the busiest replica hand back half of what it has not begun, where another has nothing to do."""
        if self.backlog or self._releasing or len(self._up) < 2:
            return
        holding = Counter({replica: 0 for replica in self._up if replica not in self._leaving})
        for holder, lease in self._leases.values():
            holding[holder] += len(lease.problems) if lease.care is Care.NONE else 0
        busiest, most = holding.most_common(1)[0]
        if min(holding.values()) == 0 and most > 1:
            self._ask_back(busiest, most // 2)

    def _ask_back(self, replica: Any, count: int) -> None:
        self._releasing[replica.release.remote(count)] = replica

    def _take_back(self, replica: Any, keys: Collection[tuple[str, str]]) -> None:
        """Put what a replica handed back into the backlog, and take it out of its leases."""
        for reference, (holder, lease) in list(self._leases.items()):
            if holder != replica:
                continue
            back = [it for it in lease.problems if (lease.arm.name, it.problem.id) in keys]
            kept = tuple(it for it in lease.problems if (lease.arm.name, it.problem.id) not in keys)
            self._leases[reference] = (holder, replace(lease, problems=kept))
            for of in back:
                self.backlog.add(lease.arm, of, first=True)

    def _let_go(self, replica: Any) -> None:
        self._leaving.discard(replica)
        del self._up[replica]
        self._run.events.emit("replica", state="left", cause="its node is about to go")
        self._fleet.dismiss(replica)

    def _bury(self, replica: Any, cause: str) -> None:
        """Put a dead replica's work back, replace it, and single out what it keeps dying of."""
        self.deaths += 1
        self._in_a_row += 1
        self._causes.append((time.monotonic(), cause))
        lost = [lease for holder, lease in self._leases.values() if holder == replica]
        self._leases = {ref: held for ref, held in self._leases.items() if held[0] != replica}
        self._starting = {ref: holder for ref, holder in self._starting.items() if holder != replica}
        self._releasing = {ref: holder for ref, holder in self._releasing.items() if holder != replica}
        self._leaving.discard(replica)
        self._up.pop(replica, None)
        self._run.events.emit("death", cause=cause, problems=sum(len(it.problems) for it in lost))
        self._fleet.dismiss(replica)
        self._put_back(lost, cause)
        self._refuse_crash_loop()
        if len(self._up) + len(self._starting) < self._least:
            self._await_start(self._fleet.hire(self.spec))

    def _refuse_crash_loop(self) -> None:
        limits = self._run.config.failures
        since = time.monotonic() - 60 * limits.minutes
        while self._causes and self._causes[0][0] < since:
            self._causes.popleft()
        if self._in_a_row >= limits.in_a_row:
            how = f"died {self._in_a_row} times in a row without finishing anything"
        elif len(self._causes) >= limits.deaths:
            how = f"died {len(self._causes)} times within {limits.minutes:g} minutes"
        else:
            return
        reasons = Counter(cause for _, cause in self._causes).most_common(3)
        told = "; ".join(f"{count} x {cause}" for cause, count in reasons)
        raise UserError(
            f"replicas of {self.spec.model} {how}: {told} (their logs are in Ray's session directory; the run resumes)"
        )

    def _put_back(self, leases: Sequence[Lease], cause: str) -> None:
        ledgers = {lease.arm.ledger: lease.arm.ledger.tally() for lease in leases}
        for lease in leases:
            for old in lease.problems:
                arm, problem = lease.arm, old.problem
                of = arm.what_is_left(problem, ledgers[arm.ledger].get((problem.id, arm.fingerprint), Tally()))
                if of.samples != old.samples:
                    self._in_a_row = 0
                if of.is_satisfied(arm.policy):
                    continue
                if lease.care is Care.SAMPLE:
                    of = self._quarantine(arm, of, cause)
                self._suspicion[arm.name, problem.id] += 1
                if self._suspicion[arm.name, problem.id] >= _SUSPECT_AFTER:
                    self.backlog.suspects.append((arm, of))
                else:
                    self.backlog.add(arm, of, first=True)

    def _quarantine(self, arm: Arm, of: Owed, cause: str) -> Owed:
        """Record the sample that kills its replica even when drawn alone, and go on without it."""
        sample = owed(arm.policy, of.progress())[0]
        deaths = self._suspicion[arm.name, of.problem.id] + 1
        reason = f"the engine died {deaths} times on this: {cause}"
        attempt = Attempt(of.problem, sample, arm.seed_of(of.problem, sample), arm.prompt, arm.sampling)
        verdict = Verdict(outcome=Outcome.FAILED, checker=of.problem.checker, detail=reason)
        completion = Completion("", Finish.ERROR, error=reason)
        arm.ledger.append([rollout_of(arm, attempt, completion, verdict, of.rounds.get(sample, 0))])
        return replace(of, samples=of.samples | {sample})


def what_is_owed(arm: Arm, order: Order) -> list[Owed]:
    """Return the order's problems that the arm's policy is not satisfied with, by what the ledger holds."""
    tallies = arm.ledger.tally()
    left = [
        arm.what_is_left(problem, tallies.get((problem.id, arm.fingerprint), Tally())) for problem in order.problems
    ]
    return [of for of in left if not of.is_satisfied(arm.policy)]

"""Teacher replicas: Ray actors that draw attempts, have them checked and commit them to a ledger.

A replica is an engine, a pool of checker processes and a writer. It is handed leases (a few problems, with what is
already drawn of each) and works on several at once. Data never flows through the driver: a lease's report holds counts.

Whatever breaks (engine dead or hung, storage gone) becomes one fault: what is finished is committed if it can be, every
lease in hand fails with the fault, and the driver puts another replica in this one's place; a fault that no other
replica would cure ends the run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import ray

from reasonray import engines, models
from reasonray.checkers import check_fast
from reasonray.checkers.pool import CheckerPool
from reasonray.config import Checking
from reasonray.engines.protocol import Completion, Engine, EngineDied, EngineHung, SampleRequest
from reasonray.records import JUDGED, Finish, Outcome, Problem, Rollout, Verdict
from reasonray.sampling.policy import SampleState, is_satisfied, owed
from reasonray.sampling.telemetry import Telemetry
from reasonray.sampling.work import Arm, Counts, EngineSpec, Isolation, Lease, ProblemState, Snapshot, make_rollout
from reasonray.store.ledger import Ledger
from reasonray.store.schema import rollouts_to_table

_COMMIT_SECONDS = 5.0

Key = tuple[str, str]
"""(arm, problem id)"""


@dataclass(frozen=True, slots=True)
class Started:
    """What a replica says of itself once it is up."""

    identity: str
    """Of the model's weights."""
    capacity: int
    """Attempts in flight that keep the engine busy."""
    node: str
    before: Snapshot
    """What it has done so far: a fleet outlives a stage."""


@dataclass(frozen=True, slots=True)
class LeaseResult:
    """What became of a lease."""

    rollouts: int
    """Drawn, and committed."""
    released: frozenset[Key] = frozenset()
    """Problems that were handed back, nothing of them begun."""


class Replica:
    """One engine with its checkers and its writer; runs as an async Ray actor."""

    def __init__(self, spec: EngineSpec, checking: Checking, hang_seconds: float, run: str, *, spread: bool) -> None:
        self._spec, self._spread, self._hang_seconds = spec, spread, hang_seconds
        rollouts_to_table(())  # pyarrow's first table costs a second of imports: now, not at the first commit
        self._pool = CheckerPool(checking)
        self._writer = Writer()
        self._meters = Telemetry(run)
        self._figures: dict[str, Counts] = {}
        self._settling: dict[Key, asyncio.Task[int]] = {}
        self._begun: set[Key] = set()
        """Problems with an attempt in the engine, or through it."""
        self._released: set[Key] = set()
        self._fault: BaseException | None = None
        self._minding: list[asyncio.Task[None]] = []
        """What goes on beside the leases, for as long as the replica is up."""
        self._in_flight = 0
        self._idle, self._up = 0.0, time.monotonic()
        self._since = time.monotonic()
        """When `_flying` last left or reached nothing."""
        self._engine: Engine | None = None
        self._served: tuple[str, str | None] | None = None

    async def start(self, model: str, revision: str | None) -> Started:
        """Serve a model.

        A replica that is up takes other weights of the same shape in a second, where a new engine takes a minute.

        Raises:
            UserError: the model is not there, or the engine refuses its arguments.
        """
        spec = self._spec
        directory = models.resolve(model, revision) if engines.needs_weights(spec.engine) else None
        if not self._minding:
            self._mind(self._commit_now_and_then())
            self._mind(self._watch())
        if (
            self._engine
            and self._served != (model, revision)
            and not (directory and await self._engine.swap(directory))
        ):
            self._engine.close()
            self._engine = None
        if self._engine is None:
            launch = engines.Launch(model, directory, spec.gpus, spec.pipeline, self._spread, spec.seed)
            self._engine = await engines.start(spec.engine, launch)
            self._slots = asyncio.Semaphore(self._engine.capacity)
        self._served = (model, revision)
        identity = engines.identity(spec.engine, directory)
        node = ray.get_runtime_context().get_node_id()
        return Started(identity, self._engine.capacity, node, await self.snapshot())

    async def work(self, lease: Lease) -> LeaseResult:
        """Draw what the lease's problems are owed.

        Raises:
            EngineDied: the engine is gone, or hangs.
            OSError: the storage is gone.
        """
        if self._fault:  # it came when no lease was in hand
            raise self._fault
        mine = {(lease.arm.name, it.problem.id): asyncio.create_task(self._settle(lease, it)) for it in lease.problems}
        self._settling |= mine
        results = await asyncio.gather(*mine.values(), return_exceptions=True)
        released = self._released & mine.keys()
        self._released -= released
        for key in mine:
            del self._settling[key]
            self._begun.discard(key)
        await self._writer.commit()
        if self._fault:
            raise self._fault
        for result in results:
            if isinstance(result, Exception):
                raise result
        return LeaseResult(sum(result for result in results if isinstance(result, int)), frozenset(released))

    async def release(self, count: int | None = None) -> list[Key]:
        """Hand back problems that no attempt was begun for, up to `count` or all, the last ones first."""
        waiting = [key for key in reversed(self._settling) if key not in self._begun and key not in self._released]
        for key in waiting[:count]:
            self._released.add(key)
            self._settling[key].cancel()
        return waiting[:count]

    async def drop(self) -> None:
        """Abort whatever is in flight; leases end with what they have."""
        for task in self._settling.values():
            task.cancel()

    async def snapshot(self) -> Snapshot:
        """Return the counts so far."""
        now = time.monotonic()
        idle = self._idle + (now - self._since if self._in_flight == 0 else 0.0)
        generated = self._engine.heartbeat().tokens if self._engine else 0
        return Snapshot(deepcopy(self._figures), generated, idle, now - self._up)

    async def stop(self) -> None:
        """Commit what is finished and free what is held."""
        await self._writer.commit()
        self._pool.close()
        if self._engine:
            self._engine.close()

    async def _settle(self, lease: Lease, of: ProblemState) -> int:
        """Draw one problem until its policy is satisfied, every verdict steering what follows."""
        arm, done, correct, judged, drawn = lease.arm, set(of.samples), of.correct, of.judged, 0
        in_flight: dict[asyncio.Task[Rollout], int] = {}

        def keep(task: asyncio.Task[Rollout]) -> None:
            """Take one finished rollout."""
            nonlocal correct, judged, drawn
            rollout = task.result()
            done.add(in_flight.pop(task))
            figures = self._figures.setdefault(arm.name, Counts())
            if rollout.verdict.outcome is Outcome.CORRECT:
                figures.covered += correct == 0
                correct += 1
            judged += rollout.verdict.outcome in JUDGED
            drawn += 1
            figures.count(rollout)
            self._writer.add(arm.ledger, rollout)

        try:
            while not is_satisfied(arm.policy, standing := SampleState(done, set(in_flight.values()), correct, judged)):
                for sample in _start_now(lease, standing):
                    in_flight[asyncio.create_task(self._draw(arm, of, sample))] = sample
                finished, _ = await asyncio.wait(in_flight, return_when=asyncio.FIRST_COMPLETED)
                for task in finished:
                    keep(task)
                if lease.care is Isolation.SAMPLE:
                    await self._writer.commit()
        finally:
            for task in in_flight:
                task.cancel()
            await asyncio.gather(*in_flight, return_exceptions=True)
            for task in [it for it in in_flight if not it.cancelled() and it.exception() is None]:
                keep(task)  # it ended in the same moment: what is drawn is kept
        return drawn

    async def _draw(self, arm: Arm, of: ProblemState, sample: int) -> Rollout:
        attempt = SampleRequest(of.problem, sample, arm.seed_of(of.problem, sample), arm.prompt, arm.sampling)
        assert self._engine is not None
        async with self._slots:
            self._begun.add((arm.name, of.problem.id))
            self._request_started()
            try:
                completion = await self._engine.complete(attempt)
            except EngineDied as error:
                self._fail(error)
                raise
            finally:
                self._request_ended()
        verdict = await self._judge(of.problem, completion)
        return make_rollout(arm, attempt, completion, verdict, of.rounds.get(sample, 0))

    async def _judge(self, problem: Problem, completion: Completion) -> Verdict:
        if completion.finish is Finish.ERROR:
            return Verdict(outcome=Outcome.FAILED, checker=problem.checker, detail=completion.error)
        fast = check_fast(problem, completion.text, completion.finish)
        return fast or await self._pool.check(problem, completion.text, completion.finish)

    def _request_started(self) -> None:
        if self._in_flight == 0:
            now = time.monotonic()
            self._idle += now - self._since
            self._since = now
        self._in_flight += 1

    def _request_ended(self) -> None:
        self._in_flight -= 1
        if self._in_flight == 0:
            self._since = time.monotonic()

    def _mind(self, what: Coroutine[Any, Any, None]) -> None:
        """Have something done beside the leases; whatever it dies of is the replica's fault."""

        def heed(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (fault := task.exception()):
                self._fail(fault)

        task = asyncio.create_task(what)
        task.add_done_callback(heed)
        self._minding.append(task)

    def _fail(self, fault: BaseException) -> None:
        """Give up: every lease in hand ends, with the fault."""
        self._fault = self._fault or fault
        for task in self._settling.values():
            task.cancel()

    async def _commit_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(_COMMIT_SECONDS)
            await self._writer.commit()
            self._meters.update(self._figures, self._in_flight)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(5.0, self._hang_seconds / 4))
            if self._engine is None or self._in_flight == 0:
                continue
            quiet = time.monotonic() - max(self._engine.heartbeat().at, self._since)
            if quiet > self._hang_seconds:
                raise EngineHung(f"no token for {quiet:.0f} s with {self._in_flight} requests in flight")


def _start_now(lease: Lease, standing: SampleState) -> list[int]:
    if lease.care is not Isolation.SAMPLE:
        return owed(lease.arm.policy, standing)
    return [] if standing.in_flight else owed(lease.arm.policy, standing)[:1]


class Writer:
    """Gathers finished rollouts and commits them, off the event loop."""

    def __init__(self) -> None:
        self._waiting: dict[Ledger, list[Rollout]] = {}
        self._one_at_a_time = asyncio.Lock()

    def add(self, ledger: Ledger, rollout: Rollout) -> None:
        """Take one rollout; it is safe once `commit` has returned."""
        self._waiting.setdefault(ledger, []).append(rollout)

    async def commit(self) -> None:
        """Commit everything taken so far; whatever this raises, nothing taken is forgotten.

        Raises:
            OSError: the storage still refuses after several tries.
        """
        async with self._one_at_a_time:
            for ledger, waiting in list(self._waiting.items()):
                if rollouts := list(waiting):
                    await _append(ledger, rollouts)
                    del waiting[: len(rollouts)]  # not before they are safe; others have come meanwhile


async def _append(ledger: Ledger, rollouts: list[Rollout]) -> None:
    for pause in (1, 4, 16, 60, 120, None):
        try:
            await asyncio.to_thread(ledger.append, rollouts)
            return
        except OSError:  # a full disk, a store that is away for a moment: what is drawn waits in memory
            if pause is None:
                raise
            await asyncio.sleep(pause)

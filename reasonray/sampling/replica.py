"""Replicas: Ray actors that generate samples, have them checked and commit them to a ledger.

A replica is an engine, a pool of checker processes and a ledger writer. It holds leases (a few problems each, with the
state of their samples) and works on several at once. Rollouts never flow through the driver: a lease's result holds
counts only.

Anything that breaks (the engine dies or hangs, the storage fails) becomes the replica's fault: it commits the finished
samples if it can, fails every lease with the fault, and is replaced by the driver. A fault that another replica would
have, too, ends the run.
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
from reasonray.checkers.pool import CheckerPool
from reasonray.config import Checking
from reasonray.engines.protocol import Completion, Engine, EngineDied, EngineHung
from reasonray.records import JUDGED, Finish, Outcome, Problem, Rollout, Verdict
from reasonray.sampling.ledger_writer import LedgerWriter
from reasonray.sampling.policy import SampleState, is_satisfied, next_samples
from reasonray.sampling.telemetry import Telemetry
from reasonray.sampling.work import (
    Counts,
    EngineSpec,
    Isolation,
    Lease,
    ProblemState,
    ResolvedJob,
    Snapshot,
    Usage,
    make_rollout,
)
from reasonray.store.schema import rollouts_to_table

_COMMIT_SECONDS = 5.0

Key = tuple[str, str]
"""(job, problem id)"""


@dataclass(frozen=True, slots=True)
class Started:
    """The report of a replica that is up."""

    identity: str
    """Of the model's weights."""
    capacity: int
    """Requests in flight that keep the engine busy."""
    node: str
    snapshot: Snapshot
    """What it has done so far: a replica outlives a stage."""


@dataclass(frozen=True, slots=True)
class LeaseResult:
    """The result of a finished lease."""

    rollouts: int
    """Sampled and committed."""
    released: frozenset[Key] = frozenset()
    """Problems that were returned without any sample started."""


class Replica:
    """One engine with its checkers and its ledger writer, as an async Ray actor."""

    def __init__(self, spec: EngineSpec, checking: Checking, hang_seconds: float, run: str, *, spread: bool) -> None:
        self._spec, self._spread, self._hang_seconds = spec, spread, hang_seconds
        rollouts_to_table(())  # pyarrow's first table costs a second of imports: now, not at the first commit
        self._checkers = CheckerPool(checking)
        self._writer = LedgerWriter()
        self._telemetry = Telemetry(run)
        self._counts_by_job: dict[str, Counts] = {}
        self._tasks: dict[Key, asyncio.Task[int]] = {}
        """The problems of all leases, each sampled by a task."""
        self._started: set[Key] = set()
        """Problems with a sample in the engine, or finished by it."""
        self._released: set[Key] = set()
        self._fault: BaseException | None = None
        self._background: list[asyncio.Task[None]] = []
        """Tasks that run as long as the replica is up."""
        self._in_flight = 0
        self._idle_seconds, self._created_at = 0.0, time.monotonic()
        self._idle_or_busy_since = time.monotonic()
        """When `_in_flight` last rose from 0 or fell to 0."""
        self._engine: Engine | None = None
        self._served: tuple[str, str | None] | None = None

    async def start(self, model: str, revision: str | None) -> Started:
        """Serve a model.

        A replica that is up loads other weights of the same shape in a second, where a new engine takes a minute.

        Raises:
            UserError: the model does not exist, or the engine refuses its arguments.
        """
        spec = self._spec
        directory = models.resolve(model, revision) if engines.needs_weights(spec.engine) else None
        if not self._background:
            self._run_in_background(self._commit_periodically())
            self._run_in_background(self._detect_hangs())
        if (
            self._engine
            and self._served != (model, revision)
            and not (directory and await self._engine.swap(directory))
        ):
            self._engine.close()
            self._engine = None
        if self._engine is None:
            launch = engines.Launch(
                model, directory, spec.gpus, spec.pipeline, self._spread, spec.seed, spec.trust_remote_code
            )
            self._engine = await engines.start(spec.engine, launch)
            self._slots = asyncio.Semaphore(self._engine.capacity)
        self._served = (model, revision)
        identity = engines.identity(spec.engine, directory)
        node = ray.get_runtime_context().get_node_id()
        return Started(identity, self._engine.capacity, node, await self.snapshot())

    async def run_lease(self, lease: Lease) -> LeaseResult:
        """Sample the lease's problems until the policy is satisfied with each.

        Raises:
            EngineDied: the engine is gone, or hangs.
            OSError: the storage is gone.
        """
        if self._fault:  # from a moment without leases
            raise self._fault
        tasks = {
            (lease.job.name, state.problem.id): asyncio.create_task(self._run_problem(lease, state))
            for state in lease.problems
        }
        self._tasks |= tasks
        results = await asyncio.gather(*tasks.values(), return_exceptions=True)
        released = self._released & tasks.keys()
        self._released -= released
        for key in tasks:
            del self._tasks[key]
            self._started.discard(key)
        await self._writer.commit()
        if self._fault:
            raise self._fault
        for result in results:
            if isinstance(result, Exception):
                raise result
        return LeaseResult(sum(result for result in results if isinstance(result, int)), frozenset(released))

    async def release(self, count: int | None = None) -> list[Key]:
        """Return problems without any sample started, up to `count` or all, the last ones first."""
        unstarted = [key for key in reversed(self._tasks) if key not in self._started and key not in self._released]
        for key in unstarted[:count]:
            self._released.add(key)
            self._tasks[key].cancel()
        return unstarted[:count]

    async def abort(self) -> None:
        """Abort all samples in flight; leases end with the samples that are finished."""
        for task in self._tasks.values():
            task.cancel()

    async def snapshot(self) -> Snapshot:
        """Return the counts and the usage so far."""
        now = time.monotonic()
        idle = self._idle_seconds + (now - self._idle_or_busy_since if self._in_flight == 0 else 0.0)
        tokens = self._engine.heartbeat().tokens if self._engine else 0
        return Snapshot(deepcopy(self._counts_by_job), Usage(idle, now - self._created_at, tokens))

    async def stop(self) -> None:
        """Commit the finished samples, and close checkers and engine."""
        await self._writer.commit()
        self._checkers.close()
        if self._engine:
            self._engine.close()

    async def _run_problem(self, lease: Lease, state: ProblemState) -> int:
        """Sample one problem until its policy is satisfied; every verdict decides what to start next.

        Returns:
            The number of samples that were finished.
        """
        job, finished, correct, judged, added = lease.job, set(state.finished), state.correct, state.judged, 0
        in_flight: dict[asyncio.Task[Rollout], int] = {}

        def record(task: asyncio.Task[Rollout]) -> None:
            nonlocal correct, judged, added
            rollout = task.result()
            finished.add(in_flight.pop(task))
            counts = self._counts_by_job.setdefault(job.name, Counts())
            if rollout.verdict.outcome is Outcome.CORRECT:
                counts.covered += correct == 0
                correct += 1
            judged += rollout.verdict.outcome in JUDGED
            added += 1
            counts.count(rollout)
            self._writer.add(job.ledger, rollout)

        try:
            while not is_satisfied(
                job.policy, samples := SampleState(finished, set(in_flight.values()), correct, judged)
            ):
                for sample in _samples_to_start(lease, samples):
                    in_flight[asyncio.create_task(self._sample(job, state, sample))] = sample
                done, _ = await asyncio.wait(in_flight, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    record(task)
                if lease.isolation is Isolation.SAMPLE:
                    await self._writer.commit()
        finally:
            for task in in_flight:
                task.cancel()
            await asyncio.gather(*in_flight, return_exceptions=True)
            for task in [task for task in in_flight if not task.cancelled() and task.exception() is None]:
                record(task)  # it finished before the cancellation reached it: a finished sample is kept
        return added

    async def _sample(self, job: ResolvedJob, state: ProblemState, sample: int) -> Rollout:
        problem = state.problem
        request = job.request(problem, sample)
        assert self._engine is not None
        async with self._slots:
            self._started.add((job.name, problem.id))
            self._request_started()
            try:
                completion = await self._engine.complete(request)
            except EngineDied as error:
                self._fail(error)
                raise
            finally:
                self._request_ended()
        verdict = await self._check(problem, completion)
        return make_rollout(job, request, completion, verdict, state.resamples.get(sample, 0))

    async def _check(self, problem: Problem, completion: Completion) -> Verdict:
        if completion.finish is Finish.ERROR:
            return Verdict(outcome=Outcome.FAILED, checker=problem.checker, detail=completion.error)
        return await self._checkers.check(problem, completion.opening + completion.text, completion.finish)

    def _request_started(self) -> None:
        if self._in_flight == 0:
            now = time.monotonic()
            self._idle_seconds += now - self._idle_or_busy_since
            self._idle_or_busy_since = now
        self._in_flight += 1

    def _request_ended(self) -> None:
        self._in_flight -= 1
        if self._in_flight == 0:
            self._idle_or_busy_since = time.monotonic()

    def _run_in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine next to the leases; its exception becomes the replica's fault."""

        def on_done(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (fault := task.exception()):
                self._fail(fault)

        task = asyncio.create_task(work)
        task.add_done_callback(on_done)
        self._background.append(task)

    def _fail(self, fault: BaseException) -> None:
        """Stop working: every lease ends with the fault."""
        self._fault = self._fault or fault
        for task in self._tasks.values():
            task.cancel()

    async def _commit_periodically(self) -> None:
        while True:
            await asyncio.sleep(_COMMIT_SECONDS)
            await self._writer.commit()
            self._telemetry.update(self._counts_by_job, self._in_flight)

    async def _detect_hangs(self) -> None:
        while True:
            await asyncio.sleep(min(5.0, self._hang_seconds / 4))
            if self._engine is None or self._in_flight == 0:
                continue
            quiet = time.monotonic() - max(self._engine.heartbeat().at, self._idle_or_busy_since)
            if quiet > self._hang_seconds:
                raise EngineHung(f"no token for {quiet:.0f} s with {self._in_flight} requests in flight")


def _samples_to_start(lease: Lease, state: SampleState) -> list[int]:
    if lease.isolation is not Isolation.SAMPLE:
        return next_samples(lease.job.policy, state)
    return [] if state.in_flight else next_samples(lease.job.policy, state)[:1]

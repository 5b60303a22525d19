"""Replicas: Ray actors that generate samples, have them checked and commit them to a ledger.

A replica is an engine, a pool of checker processes and a ledger writer. It holds leases (a few problems each, with the
state of their samples) and works on several at once. Rollouts never flow through the driver: a replica reports counts.
`report` is the only way back to the driver, so what happened on a replica has one order.

Anything that breaks (the engine dies or hangs, the storage fails) becomes the replica's fault: it commits the finished
samples if it can, its next report raises the fault, and the driver replaces it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import ray

from reasonray.checkers.pool import CheckerPool
from reasonray.config import Config
from reasonray.engines.protocol import Completion, EngineDied
from reasonray.records import Finish, Outcome, Problem, Rollout, Verdict
from reasonray.sampling.engine_host import EngineHost
from reasonray.sampling.ledger_writer import LedgerWriter
from reasonray.sampling.policy import ProblemState, is_satisfied
from reasonray.sampling.telemetry import Telemetry
from reasonray.sampling.work import (
    Counts,
    EngineSpec,
    FinishedSample,
    Isolation,
    Lease,
    LeasedProblem,
    Report,
    make_rollout,
)
from reasonray.store.schema import rollouts_to_table

_COMMIT_CHECK_SECONDS = 1.0
_TELEMETRY_SECONDS = 5.0
_HURRY = 5
"""How much sooner than at its usual interval a replica that waits for work reports."""

Key = tuple[int, int]
"""(lease, problem)"""


class WrongModel(Exception):
    """A lease of another model than the one that the replica serves."""


@dataclass(slots=True)
class _News:
    """What happened since the last report."""

    samples: list[FinishedSample] = field(default_factory=list)
    ended: list[tuple[int, int, int]] = field(default_factory=list)
    released: list[Key] | None = None

    def __bool__(self) -> bool:
        return bool(self.samples or self.ended or self.released is not None)


class Replica:
    """One engine with its checkers and its ledger writer, as an async Ray actor."""

    def __init__(self, spec: EngineSpec, config: Config, *, spread: bool) -> None:
        """Create a replica without an engine.

        Args:
            spec: what it serves.
            config: of the run.
            spread: whether its GPUs belong to a placement group, which may span several nodes.
        """
        # The first check and the first table cost up to a second of imports: now, not when answers wait for them.
        import_module("reasonray.checkers.math_answer")
        rollouts_to_table(())
        self._checkers = CheckerPool(config.checking)
        self._writer = LedgerWriter(config.storage)
        self._telemetry = Telemetry(config.name)
        self._counts_by_job: dict[str, Counts] = {}
        """Since the replica was created, for Ray's metrics."""
        self._host = EngineHost(spec, spread=spread, hang_seconds=config.failures.hang_seconds)
        self._node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
        self._fault: BaseException | None = None
        self._background: list[asyncio.Task[None]] = []
        """Tasks that run as long as the replica is up."""
        self._last_commit: asyncio.Task[None] | None = None
        """After a fault: the commit of what was finished."""
        self._begin(0)

    def _begin(self, stage: int) -> None:
        """Begin a stage: nothing leased, nothing reported."""
        self._stage = stage
        self._host.begin_stage()
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        """The problems of all leases, each sampled by a task."""
        self._begun: set[Key] = set()
        """Problems with a sample in the engine, or finished by it."""
        self._releasing: set[Key] = set()
        """Problems that are cancelled because the driver wants them back."""
        self._released: list[Key] = []
        """Those of them that ended without a sample."""
        self._news = _News()
        self._num_finished = self._num_committed = self._num_reported_committed = 0
        """Samples of the stage that are finished, committed, and reported as committed."""
        self._changed = asyncio.Event()

    async def serve(self, stage: int, model: str, revision: str | None) -> None:
        """Begin a stage in which the replica serves a model. The outcome is in the next reports.

        A replica that is up loads other weights of the same model configuration in seconds, where a new engine takes a
        minute.

        Args:
            stage: a number that no earlier stage of this replica had.
            model: a model reference, or its name on a server.
            revision: of a model on the hub.
        """
        self._begin(stage)
        if not self._background:
            self._run_in_background(self._commit_periodically())
            self._run_in_background(self._host.detect_hangs())
            self._run_in_background(self._export_telemetry())
        self._run_in_background(self._start_engine(model, revision))

    async def assign(self, lease: Lease) -> None:
        """Sample the lease's problems until the policy is satisfied with each."""
        if (lease.job.model, lease.job.revision) != self._host.served or not (started := self._host.started):
            self._fail(WrongModel(f"a lease of {lease.job.model} reached a replica that serves {self._host.served}"))
        elif lease.job.identity not in (started.identity, started.first_identity):
            self._fail(WrongModel(f"a lease of other weights than this replica's reached it ({lease.job.model})"))
        if self._fault:
            return
        for leased in lease.problems:
            key = (lease.number, leased.index)
            task = asyncio.create_task(self._run_problem(lease, leased))
            self._tasks[key] = task
            task.add_done_callback(partial(self._on_problem_done, key))

    async def release(self, count: int | None = None) -> None:
        """Return problems without any sample started, up to `count` or all, the last ones first."""
        unstarted = [key for key in reversed(self._tasks) if key not in self._begun][:count]
        tasks = [self._tasks[key] for key in unstarted]
        self._releasing |= set(unstarted)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._releasing -= set(unstarted)
        self._news.released, self._released = self._released, []
        self._changed.set()

    async def abort(self) -> None:
        """Abort all samples in flight; leases end with the samples that are finished."""
        for task in self._tasks.values():
            task.cancel()

    async def report(self, stage: int, after: float) -> Report:
        """Return what happened since the last report.

        After a fault one more report says what could still be committed; the next one raises the fault.

        Args:
            stage: the number of the stage that asks; a stage that is over learns nothing.
            after: seconds. The report comes earlier if the engine has idle slots and there is news.

        Raises:
            Exception: the replica's fault: the engine did not start, died or hangs, or the storage is gone.
        """
        now = time.monotonic()
        deadline, earliest = now + after, now + after / _HURRY
        while not self._fault and (left := deadline - time.monotonic()) > 0:
            if self._is_waiting_for_work() and (left := earliest - time.monotonic()) <= 0:
                break
            self._changed.clear()
            await _wait(self._changed, left)
        if stage != self._stage:
            return Report(self._node)
        if self._fault and self._last_commit is None:
            raise self._fault
        if is_failing := self._last_commit is not None:
            await asyncio.wait([self._last_commit])
            self._last_commit = None
        news, self._news, self._num_reported_committed = self._news, _News(), self._num_committed
        return Report(
            self._node,
            self._host.started,
            self._host.phase,
            tuple(news.samples),
            tuple(news.ended),
            None if news.released is None else tuple(news.released),
            self._num_committed,
            self._host.in_flight,
            self._host.usage(),
            is_failing,
        )

    async def stop(self) -> None:
        """Commit the finished samples, and close checkers and engine."""
        await self._writer.commit()
        self._checkers.close()
        self._host.close()

    def _is_waiting_for_work(self) -> bool:
        """Return whether the driver should hear from this replica now: slots are idle, and there is news."""
        has_news = bool(self._news) or self._num_committed > self._num_reported_committed
        return has_news and self._host.has_idle_slots

    async def _start_engine(self, model: str, revision: str | None) -> None:
        await self._host.start(model, revision)
        self._changed.set()

    async def _run_problem(self, lease: Lease, leased: LeasedProblem) -> None:
        """Sample one problem until its policy is satisfied; every verdict decides what to start next."""
        job, before = lease.job, leased.state
        state = ProblemState(set(before.finished), set(), before.correct, before.judged, before.limit)
        tasks: dict[asyncio.Task[Rollout], int] = {}

        def record(task: asyncio.Task[Rollout]) -> None:
            rollout, sample = task.result(), tasks.pop(task)
            outcome, tokens = rollout.verdict.outcome, rollout.completion_tokens
            counts = self._counts_by_job.setdefault(job.name, Counts())
            counts.covered += outcome is Outcome.CORRECT and state.correct == 0
            counts.add_sample(outcome, tokens, rollout.problem.difficulty)
            state.record(sample, outcome)
            self._writer.add(job.ledger, rollout)
            self._num_finished += 1
            self._news.samples.append(FinishedSample(lease.number, leased.index, sample, outcome, tokens))

        try:
            while not is_satisfied(job.policy, state):
                for sample in lease.samples_to_start(state):
                    state.in_flight.add(sample)
                    tasks[asyncio.create_task(self._sample(lease, leased, sample))] = sample
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    record(task)
                if lease.isolation is Isolation.SAMPLE:  # the driver must know of it before the next one starts
                    await self._commit()
                    return
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for task in [task for task in tasks if not task.cancelled() and task.exception() is None]:
                record(task)  # it finished before the cancellation reached it: a finished sample is kept

    def _on_problem_done(self, key: Key, task: asyncio.Task[None]) -> None:
        del self._tasks[key]
        if key in self._releasing and key not in self._begun:
            self._released.append(key)
        elif not self._fault:  # else its problem did not end: the replica's death ends its lease
            self._news.ended.append((*key, self._num_finished))
        self._begun.discard(key)
        if not task.cancelled() and (fault := task.exception()):
            self._fail(fault)
        if not self._tasks and not self._fault:
            self._run_in_background(self._commit())  # nothing else is to come that the commit could wait for
        self._changed.set()

    async def _sample(self, lease: Lease, leased: LeasedProblem, sample: int) -> Rollout:
        job, problem = lease.job, leased.problem
        request = job.request(problem, sample)
        try:
            completion = await self._host.complete(request, lambda: self._begun.add((lease.number, leased.index)))
        except EngineDied as error:
            self._fail(error)
            raise
        verdict = await self._check(problem, completion)
        return make_rollout(job, request, completion, verdict, leased.resamples.get(sample, 0))

    async def _check(self, problem: Problem, completion: Completion) -> Verdict:
        if completion.finish is Finish.ERROR:
            return Verdict(outcome=Outcome.FAILED, checker=problem.checker, detail=completion.error)
        return await self._checkers.check(problem, completion.opening + completion.text, completion.finish)

    def _run_in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine next to the leases; its exception becomes the replica's fault."""

        def on_done(task: asyncio.Task[None]) -> None:
            self._background.remove(task)
            if not task.cancelled() and (fault := task.exception()):
                self._fail(fault)

        task = asyncio.create_task(work)
        self._background.append(task)
        task.add_done_callback(on_done)

    def _fail(self, fault: BaseException) -> None:
        """Stop working: the next report raises the fault."""
        if self._fault:
            return
        self._fault = fault
        for task in self._tasks.values():
            task.cancel()
        if not isinstance(fault, OSError):  # the storage: the writer has tried for minutes
            self._last_commit = asyncio.create_task(self._commit_last(list(self._tasks.values())))
        self._changed.set()

    async def _commit_last(self, tasks: list[asyncio.Task[None]]) -> None:
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._commit()

    async def _commit(self) -> None:
        """Commit the samples that are finished now; the next report says so."""
        finished = self._num_finished
        await self._writer.commit()
        self._num_committed = max(self._num_committed, finished)
        self._changed.set()

    async def _commit_periodically(self) -> None:
        while True:
            await asyncio.sleep(_COMMIT_CHECK_SECONDS)
            if self._writer.due():
                await self._commit()

    async def _export_telemetry(self) -> None:
        while True:
            await asyncio.sleep(_TELEMETRY_SECONDS)
            self._telemetry.update(self._counts_by_job, self._host.in_flight)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, at most some time."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return

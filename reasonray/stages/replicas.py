"""Teacher replicas: Ray actors that draw attempts, have them checked and commit them to a ledger.

A replica is an engine, a pool of checker processes and a writer. It is handed leases (a few problems, with what is
already drawn of each) and works on several at once. Data never flows through the driver: a lease's report holds counts.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field, replace
from typing import Any

import ray

from reasonray import engines, models
from reasonray.checkers import check_fast
from reasonray.checkers.pool import CheckerPool
from reasonray.config import Checking, Policy, Prompt, Sampling, ScriptedEngine, UserError, VLLMEngine
from reasonray.engines.base import Attempt, Completion, Engine, EngineDied
from reasonray.ledger import Ledger, Tally
from reasonray.policy import Progress, is_satisfied, owed
from reasonray.records import Finish, Outcome, Problem, Rollout, Verdict, content_hash

_COMMIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Everything that decides what a replica runs and where."""

    model: str
    revision: str | None
    engine: VLLMEngine | ScriptedEngine
    gpus: int
    cpus: float
    seed: int

    def serves(self, other: EngineSpec) -> bool:
        """Say whether a replica of this spec can take the other's model instead of its own."""
        return replace(self, model=other.model, revision=other.revision) == other


@dataclass(frozen=True, slots=True)
class Arm:
    """A model under one prompt and one set of sampling parameters, and the ledger that its rollouts go to."""

    name: str
    model: str
    fingerprint: str
    prompt: Prompt
    sampling: Sampling
    policy: Policy
    ledger: Ledger
    seed: int


@dataclass(frozen=True, slots=True)
class Lease:
    """Problems of one arm, handed to one replica."""

    arm: Arm
    problems: tuple[tuple[Problem, Tally], ...]
    alone: bool = False
    """Draw one sample at a time and commit each, so that a death names its sample."""


@dataclass(slots=True)
class Figures:
    """Counts of what a replica did since it started."""

    rollouts: int = 0
    correct: int = 0
    tokens: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)

    def count(self, rollout: Rollout) -> None:
        """Add one finished rollout."""
        self.rollouts += 1
        self.tokens += rollout.completion_tokens
        outcome = rollout.verdict.outcome
        self.correct += outcome is Outcome.CORRECT
        self.outcomes[outcome.value] = self.outcomes.get(outcome.value, 0) + 1

    def add(self, other: Figures, *, minus: Figures) -> None:
        """Add what `other` has beyond `minus`."""
        self.rollouts += other.rollouts - minus.rollouts
        self.correct += other.correct - minus.correct
        self.tokens += other.tokens - minus.tokens
        for outcome, count in other.outcomes.items():
            gained = count - minus.outcomes.get(outcome, 0)
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + gained


class Replica:
    """One engine with its checkers and its writer; runs as an async Ray actor."""

    def __init__(self, spec: EngineSpec, checking: Checking) -> None:
        self._spec = spec
        self._pool = CheckerPool(processes=checking.processes, timeout_seconds=checking.timeout_seconds)
        self._writer = Writer()
        self._figures = Figures()
        self._engine: Engine | None = None
        self._served: tuple[str, str | None] | None = None

    async def start(self, model: str, revision: str | None) -> tuple[str, int]:
        """Serve a model; return its identity and the attempts in flight that keep the engine busy.

        A replica that is up takes other weights of the same shape in a second, where a new engine takes a minute.

        Raises:
            UserError: the model is not there, or the engine refuses its arguments.
        """
        spec = self._spec
        directory = None if isinstance(spec.engine, ScriptedEngine) else models.resolve(model, revision)
        if self._engine is None:
            self._committing = asyncio.create_task(self._writer.commit_every(_COMMIT_SECONDS))
            self._committing.add_done_callback(_die_with_it)
        elif self._served != (model, revision) and directory and not await self._engine.swap(directory):
            self._engine.close()
            self._engine = None
        if self._engine is None:
            self._engine = engines.start(spec.engine, directory, gpus=spec.gpus, seed=spec.seed)
            self._slots = asyncio.Semaphore(self._engine.capacity)
        self._served = (model, revision)
        return (models.identity(directory) if directory else "scripted"), self._engine.capacity

    async def work(self, lease: Lease) -> int:
        """Draw what the lease's problems are owed; return the number of rollouts, all of them committed."""
        drawn = await asyncio.gather(*(self._settle(lease, problem, tally) for problem, tally in lease.problems))
        await self._writer.commit()
        return sum(drawn)

    def figures(self) -> Figures:
        """Return the counts so far."""
        return self._figures

    async def stop(self) -> None:
        """Commit what is finished and free what is held."""
        await self._writer.commit()
        self._pool.close()
        if self._engine:
            self._engine.close()

    async def _settle(self, lease: Lease, problem: Problem, tally: Tally) -> int:
        """Draw one problem until its policy is satisfied, every verdict steering what follows."""
        arm, done, correct = lease.arm, set(tally.samples), tally.correct
        flying: dict[asyncio.Task[Rollout], int] = {}
        while not is_satisfied(arm.policy, progress := Progress(done, set(flying.values()), correct)):
            for sample in _start_now(lease, progress):
                flying[asyncio.create_task(self._draw(arm, problem, sample))] = sample
            finished, _ = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                rollout = task.result()
                done.add(flying.pop(task))
                correct += rollout.verdict.outcome is Outcome.CORRECT
                self._figures.count(rollout)
                self._writer.add(arm.ledger, rollout)
            if lease.alone:
                await self._writer.commit()
        for task in flying:
            task.cancel()
        await asyncio.gather(*flying, return_exceptions=True)
        return len(done) - len(tally.samples)

    async def _draw(self, arm: Arm, problem: Problem, sample: int) -> Rollout:
        attempt = Attempt(problem, sample, seed_of(arm, problem, sample), arm.prompt, arm.sampling)
        assert self._engine is not None
        try:
            async with self._slots:
                completion = await self._engine.complete(attempt)
        except EngineDied:
            os._exit(70)  # a half-dead actor would keep its GPU; a dead one is replaced and its leases go back
        return rollout_of(arm, attempt, completion, await self._judge(problem, completion))

    async def _judge(self, problem: Problem, completion: Completion) -> Verdict:
        if completion.finish is Finish.ERROR:
            return Verdict(outcome=Outcome.FAILED, checker=problem.checker, detail=completion.error)
        fast = check_fast(problem, completion.text, completion.finish)
        return fast or await self._pool.check(problem, completion.text, completion.finish)


def _start_now(lease: Lease, progress: Progress) -> list[int]:
    if lease.alone and progress.flying:
        return []
    return owed(lease.arm.policy, progress)[: 1 if lease.alone else None]


def _die_with_it(committing: asyncio.Task[None]) -> None:
    if not committing.cancelled():
        os._exit(74)  # storage is lost: better to hand the leases back than to draw what cannot be kept


class Writer:
    """Gathers finished rollouts and commits them, off the event loop."""

    def __init__(self) -> None:
        self._waiting: dict[Ledger, list[Rollout]] = {}
        self._one_at_a_time = asyncio.Lock()

    def add(self, ledger: Ledger, rollout: Rollout) -> None:
        """Take one rollout; it is safe once `commit` has returned."""
        self._waiting.setdefault(ledger, []).append(rollout)

    async def commit(self) -> None:
        """Commit everything taken so far.

        Raises:
            OSError: the storage still refuses after several tries.
        """
        async with self._one_at_a_time:
            waiting, self._waiting = self._waiting, {}
            for ledger, rollouts in waiting.items():
                await _append(ledger, rollouts)

    async def commit_every(self, seconds: float) -> None:
        """Commit now and then for as long as the actor lives."""
        while True:
            await asyncio.sleep(seconds)
            await self.commit()


async def _append(ledger: Ledger, rollouts: list[Rollout]) -> None:
    for pause in (1, 4, 16, 60, 120, None):
        try:
            await asyncio.to_thread(ledger.append, rollouts)
            return
        except OSError:  # a full disk, a store that is away for a moment: what is drawn waits in memory
            if pause is None:
                raise
            await asyncio.sleep(pause)


def rollout_of(arm: Arm, attempt: Attempt, completion: Completion, verdict: Verdict) -> Rollout:
    """Return the record of one finished attempt."""
    return Rollout(
        id=Rollout.identify(attempt.problem.id, arm.fingerprint, attempt.sample),
        problem=attempt.problem,
        teacher=arm.name,
        model=arm.model,
        fingerprint=arm.fingerprint,
        sample=attempt.sample,
        seed=attempt.seed,
        completion=completion.text,
        finish=completion.finish,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        verdict=verdict,
    )


def seed_of(arm: Arm, problem: Problem, sample: int) -> int:
    """Return the 63-bit seed of one attempt; hashed, so that no two attempts of a run share a stream."""
    return int(content_hash(arm.seed, arm.fingerprint, problem.id, sample)[:16], 16) >> 1


class Fleet:
    """The replicas that are up. Stages ask for a crew; a like engine spec finds the same replicas, already started."""

    def __init__(self, checking: Checking) -> None:
        self._checking = checking
        self._spec: EngineSpec | None = None
        self._crew: list[Any] = []

    def crew(self, spec: EngineSpec, size: int) -> list[Any]:
        """Return `size` replicas of a spec: those that are up, else new ones that are still starting.

        Raises:
            UserError: the cluster can never hold one such replica.
        """
        if self._spec is None or not self._spec.serves(spec):
            self.close()
            _refuse_impossible(spec, size)
        self._spec = spec
        while len(self._crew) < size:
            self._crew.append(self._hire(spec))
        return list(self._crew[:size])

    def replace(self, dead: Any) -> Any:
        """Return a new replica in the place of a dead one."""
        assert self._spec is not None
        ray.kill(dead)  # where it only seems dead
        fresh = self._hire(self._spec)
        self._crew[self._crew.index(dead)] = fresh
        return fresh

    def close(self) -> None:
        """Stop all replicas."""
        stopping = [replica.stop.remote() for replica in self._crew]
        ray.wait(stopping, num_returns=len(stopping), timeout=30) if stopping else None
        for replica in self._crew:
            ray.kill(replica)
        self._crew, self._spec = [], None

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        if ray.is_initialized():
            self.close()

    def _hire(self, spec: EngineSpec) -> Any:
        options = {"num_cpus": spec.cpus, "num_gpus": spec.gpus, "max_restarts": 0, "max_concurrency": 1000}
        return ray.remote(Replica).options(**options).remote(spec, self._checking)


def _refuse_impossible(spec: EngineSpec, size: int) -> None:
    autoscales = ray._private.state.state.get_cluster_config() is not None
    for what, wanted in (("GPU", spec.gpus), ("CPU", spec.cpus)):
        largest = max((node["Resources"].get(what, 0) for node in ray.nodes() if node["Alive"]), default=0)
        total = ray.cluster_resources().get(what, 0)
        if not autoscales and (wanted > largest or wanted * size > total):
            raise UserError(
                f"{size} replica(s) of {spec.model} ask for {wanted:g} {what}s each; the cluster has {total:g} "
                f"(at most {largest:g} on one node): lower {what.lower()}s or replicas, or add nodes"
            )

"""A replica by itself, without Ray: its reports, and how its failures reach the driver."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import fs

from reasonray.config import Failures, Fixed, Policy, UntilCorrect, parse
from reasonray.engines.protocol import Completion
from reasonray.records import Finish, Outcome, Problem
from reasonray.sampling.events import (
    Abort,
    Assign,
    ClusterChanged,
    GroupSpec,
    JobsLoaded,
    JobWork,
    Release,
    ReplicaDied,
    ReplicaPlaced,
    ReplicaReported,
    ReplicaUp,
    Start,
)
from reasonray.sampling.ledger_writer import LedgerWriter
from reasonray.sampling.replica import Replica, WrongModel
from reasonray.sampling.scheduler import Scheduler
from reasonray.sampling.state import ProblemStates
from reasonray.sampling.work import EngineSpec, Lease, LeasedProblem, Report, ResolvedJob, SamplingJob, make_rollout
from reasonray.store.ledger import Ledger
from reasonray.store.problem_table import ProblemTable
from reasonray.store.run import Run, begin_or_resume
from reasonray.store.storage import Place, place
from tests.factories import a_problem, a_rollout, a_scripted_config
from tests.store.rollouts import stored_samples

STAGE = 1


@dataclass(frozen=True)
class FaultyPlace(Place):
    """A place whose next writes fail with errors that are not the storage's."""

    faults: list[Exception] = field(default_factory=list, compare=False)

    def __hash__(self) -> int:
        return super().__hash__()

    def __truediv__(self, part: str) -> "FaultyPlace":
        return FaultyPlace(self.filesystem, f"{self.path}/{part}", self.faults)

    def write(self, content: bytes | pa.Buffer) -> None:
        if self.faults:
            raise self.faults.pop()
        super().write(content)


def a_run(root: Path, **engine: Any) -> Run:
    return begin_or_resume(a_scripted_config(root, engine=engine))


def a_replica(run: Run) -> Replica:
    return Replica(EngineSpec.of(run, run.config.teachers[0]), run.config, spread=False)


def resolved(run: Run, policy: Policy | None = None, ledger: Ledger | None = None) -> ResolvedJob:
    teacher = run.config.teachers[0]
    spec, policy = EngineSpec.of(run, teacher), policy or Fixed(samples=1)
    job = SamplingJob(
        "teacher", ProblemTable.of([]), teacher.asking, teacher.sampling, policy, ledger or run.ledger, spec
    )
    return ResolvedJob.of(run, job, "scripted")


def a_lease(job: ResolvedJob, *problems: Problem, number: int = 0) -> Lease:
    return Lease(number, job, tuple(LeasedProblem(index, problem) for index, problem in enumerate(problems)))


async def serving(run: Run) -> Replica:
    replica = a_replica(run)
    await replica.serve(STAGE, "scripted", None)
    while not (await replica.report(STAGE, 0.01)).started:
        pass
    return replica


async def reports_until(replica: Replica, is_enough: Callable[[list[Report]], bool]) -> list[Report]:
    reports: list[Report] = []
    while not is_enough(reports):
        reports.append(await replica.report(STAGE, 0.05))
    return reports


def run_briefly(work: Callable[[], Awaitable[None]]) -> None:
    async def within() -> None:
        await asyncio.wait_for(work(), 30)

    asyncio.run(within())


def test_rollouts_of_a_failed_commit_are_committed_by_the_next(tmp_path: Path) -> None:
    where = place(tmp_path)
    ledger = Ledger(FaultyPlace(where.filesystem, where.path, [ValueError("no row of the schema")]))

    async def write() -> None:
        writer = LedgerWriter()
        writer.add(ledger, a_rollout(sample=0))
        with pytest.raises(ValueError, match="no row"):
            await writer.commit()
        writer.add(ledger, a_rollout(sample=1))
        await writer.commit()
        await writer.commit()

    asyncio.run(write())
    assert ledger.read(["sample"])["sample"].to_pylist() == [0, 1]
    assert len(ledger.segments()) == 1, "a commit of nothing writes nothing"


def test_an_answer_is_checked_and_stored_with_what_the_prompt_opened(tmp_path: Path) -> None:
    run = begin_or_resume(a_scripted_config(tmp_path))
    teacher, problem = run.config.teachers[0], a_problem()
    job = ResolvedJob.of(run, SamplingJob.of(run, "teacher", teacher, [], Fixed(samples=1), run.ledger), "weights")
    request = job.request(problem, 0)
    completion = Completion("So it is 6 * 7, and \\boxed{42}", Finish.STOP, opening="<think>\n")
    verdict = asyncio.run(a_replica(run)._check(problem, completion))
    assert (verdict.outcome, verdict.detail) == (Outcome.NO_ANSWER, "the reasoning never ends")
    assert make_rollout(job, request, completion, verdict).answer == "<think>\n" + completion.text


def test_a_models_own_tags_are_stored_as_the_usual_ones(tmp_path: Path) -> None:
    config = a_scripted_config(tmp_path, engine={"correct": 1.0, "endless": 0.0, "unparseable": 0.0})
    raw = config.model_dump(mode="json")
    raw["teachers"][0]["prompt"] |= {"reasoning_tags": ["Step 1:", "The answer is"]}  # which the engine writes
    run = begin_or_resume(parse(raw))

    async def work() -> None:
        replica = await serving(run)
        await replica.assign(a_lease(resolved(run), a_problem()))
        await reports_until(replica, lambda reports: bool(reports) and reports[-1].committed == 1)

    run_briefly(work)
    (rollout,) = run.rollouts()
    assert "Step 1:" not in rollout.completion
    assert rollout.completion.count("<think>") == 2
    assert rollout.completion.endswith("</think> 42.")


def test_a_problem_ends_with_the_commit_of_its_last_sample(tmp_path: Path) -> None:
    run = a_run(tmp_path)

    async def work() -> None:
        replica = await serving(run)
        await replica.assign(
            a_lease(resolved(run, Fixed(samples=3)), a_problem("1 + 1?"), a_problem("2 + 2?"), number=7)
        )
        reports = await reports_until(replica, lambda reports: bool(reports) and reports[-1].committed == 6)
        samples = [sample for report in reports for sample in report.samples]
        ended = [entry for report in reports for entry in report.ended]
        assert sorted((sample.lease, sample.problem, sample.sample) for sample in samples) == [
            (7, problem, sample) for problem in (0, 1) for sample in range(3)
        ]
        assert sorted((lease, problem) for lease, problem, _ in ended) == [(7, 0), (7, 1)]
        assert run.ledger.count() == 6

    run_briefly(work)


def test_what_is_released_was_not_started_and_is_reported_once(tmp_path: Path) -> None:
    run = a_run(tmp_path, seconds=30, max_num_seqs=1)

    async def work() -> None:
        replica = await serving(run)
        await replica.assign(a_lease(resolved(run), *(a_problem(f"{number}?") for number in range(3))))
        await asyncio.sleep(0.05)
        await replica.release(5)
        assert (await replica.report(STAGE, 0.0)).released == ((0, 2), (0, 1)), "the first one is in the engine"
        assert (await replica.report(STAGE, 0.0)).released is None
        await replica.release(None)
        assert (await replica.report(STAGE, 0.0)).released == ()

    run_briefly(work)


def test_problems_that_come_back_while_their_old_lease_is_open_are_sampled(tmp_path: Path) -> None:
    run = a_run(tmp_path, seconds=0.2, max_num_seqs=1)

    async def work() -> None:
        replica, job, one, two = await serving(run), resolved(run), a_problem("1?"), a_problem("2?")
        await replica.assign(a_lease(job, one, two))
        await asyncio.sleep(0.02)
        await replica.release(1)
        await replica.assign(Lease(1, job, (LeasedProblem(1, two),)))
        reports = await reports_until(replica, lambda reports: bool(reports) and reports[-1].committed == 2)
        assert [entry[:2] for report in reports for entry in report.ended] == [(0, 0), (1, 1)]

    run_briefly(work)


def test_a_lease_of_another_model_is_refused(tmp_path: Path) -> None:
    run = a_run(tmp_path)

    async def work(changed: dict[str, Any]) -> None:
        from dataclasses import replace

        replica = await serving(run)
        await replica.assign(a_lease(replace(resolved(run), **changed), a_problem()))
        await replica.report(STAGE, 0.0)
        with pytest.raises(WrongModel):
            await replica.report(STAGE, 0.0)
        assert run.ledger.count() == 0

    for changed in ({"model": "another"}, {"revision": "main"}, {"identity": "other weights"}):
        run_briefly(lambda changed=changed: work(changed))


def test_a_commit_that_fails_with_any_exception_reaches_the_driver_at_once(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    # No program can write to such a path: Python raises a ValueError.
    ledger = Ledger(Place(fs.LocalFileSystem(), f"{tmp_path}/\0"))

    async def work() -> None:
        replica = await serving(run)
        await replica.assign(a_lease(resolved(run, ledger=ledger), a_problem()))
        with pytest.raises(ValueError, match="null byte"):
            await reports_until(replica, lambda reports: False)
        with pytest.raises(ValueError, match="null byte"):
            await replica.report(STAGE, 1.0)

    run_briefly(work)


def test_what_was_finished_before_a_fault_is_committed_and_reported(tmp_path: Path) -> None:
    run = a_run(tmp_path, seconds=0.01)

    async def work() -> None:
        replica = await serving(run)
        job = resolved(run, Fixed(samples=1))
        await replica.assign(a_lease(job, *(a_problem(f"{number}?") for number in range(20))))
        await asyncio.sleep(0.015)
        replica._fail(RuntimeError("a fault"))
        last = await replica.report(STAGE, 1.0)
        assert last.committed == len(last.samples) == run.ledger.count()
        with pytest.raises(RuntimeError, match="a fault"):
            await replica.report(STAGE, 1.0)

    run_briefly(work)


def test_a_stage_that_is_over_learns_nothing_of_the_next(tmp_path: Path) -> None:
    run = a_run(tmp_path)

    async def work() -> None:
        replica = await serving(run)
        left = asyncio.create_task(replica.report(STAGE, 0.2))  # as a driver leaves it when its stage is finished
        await asyncio.sleep(0)
        await replica.serve(STAGE + 1, "scripted", None)
        while not (await replica.report(STAGE + 1, 0.01)).started:
            pass
        await replica.assign(a_lease(resolved(run), a_problem()))
        assert (await left).samples == ()
        assert (await replica.report(STAGE + 1, 0.5)).samples

    run_briefly(work)


@pytest.mark.parametrize(
    ("problems", "policy", "capacity", "replicas"),
    [
        (500, Fixed(samples=1), 128, 4),
        (120, Fixed(samples=4), 64, 4),
        (200, UntilCorrect(kind="until_correct", target=2, max=16, wave=4), 32, 4),
        (400, Fixed(samples=2), 64, 8),
    ],
)
def test_a_storm_of_releases_loses_and_repeats_nothing(
    tmp_path: Path, problems: int, policy: Policy, capacity: int, replicas: int
) -> None:
    """Replicas come up one after the other, so the first ones give back most of what they got."""
    run = a_run(tmp_path, seconds=0.02, max_num_seqs=capacity)
    storm = Storm(run, problems, policy, replicas)
    asyncio.run(asyncio.wait_for(storm.run(), 60))
    stored = stored_samples(run.ledger)
    assert len(stored) == problems
    if isinstance(policy, Fixed):
        assert run.ledger.count() == problems * policy.samples, "and none was committed twice"
        assert all(len(samples.samples) == policy.samples for samples in stored.values())


class Storm:
    """The real scheduler and real replicas in one process, without Ray."""

    def __init__(self, run: Run, problems: int, policy: Policy, replicas: int) -> None:
        self.problems = [a_problem(f"{number}?", str(number)) for number in range(problems)]
        states = ProblemStates(policy, problems)
        self.work = JobWork("teacher", states, np.zeros(problems, np.int32), ["easy"])
        self.job, self.spec = resolved(run, policy), EngineSpec.of(run, run.config.teachers[0])
        self.scheduler = Scheduler([GroupSpec("m", replicas, replicas)], Failures())
        self.new = {number: a_replica(run) for number in range(replicas)}
        self.up: dict[int, Replica] = {}

    async def run(self) -> None:
        dice = random.Random(0)
        for action in self.scheduler.step(ClusterChanged(0.0, [len(self.new)])):
            assert isinstance(action, Start)
        reporting: dict[asyncio.Task[Report], int] = {}
        while not self.scheduler.is_finished:
            if self.new and (not self.up or dice.random() < 0.5):
                number = next(iter(self.new))
                reporting[await self.bring_up(number)] = number
            done, _ = await asyncio.wait(reporting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                number = reporting.pop(task)
                reporting[self.next_report(number)] = number
                await self.step(ReplicaReported(number, task.result()))

    def next_report(self, number: int) -> asyncio.Task[Report]:
        return asyncio.create_task(self.up[number].report(STAGE, 0.05))

    async def bring_up(self, number: int) -> asyncio.Task[Report]:
        replica = self.up[number] = self.new.pop(number)
        await replica.serve(STAGE, "scripted", None)
        while not (await replica.report(STAGE, 0.001)).started:
            pass
        await self.step(ReplicaPlaced(number, "node"))
        if number == 0:
            await self.step(JobsLoaded(0, {0: self.work}))
        await self.step(ReplicaUp(number, replica._host.capacity))
        return self.next_report(number)

    async def step(self, event: Any) -> None:
        assert not isinstance(event, ReplicaDied)
        for action in self.scheduler.step(event):
            match action:
                case Assign():
                    problems = tuple(
                        LeasedProblem(index, self.problems[index], self.work.states.state(index))
                        for index in action.problems
                    )
                    await self.up[action.replica].assign(Lease(action.lease, self.job, problems, action.isolation))
                case Release():
                    await self.up[action.replica].release(action.count)
                case Abort():
                    raise AssertionError("no budget was spent")

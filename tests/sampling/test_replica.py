"""A replica by itself: its failures reach the caller."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pytest
import ray
from pyarrow import fs

from reasonray.checkers.pool import CheckerPool
from reasonray.config import Fixed
from reasonray.engines.protocol import Completion, SampleRequest
from reasonray.records import Finish, Outcome
from reasonray.sampling.ledger_writer import LedgerWriter
from reasonray.sampling.pool import ReplicaPool
from reasonray.sampling.replica import Replica
from reasonray.sampling.work import EngineSpec, Lease, ProblemState, ResolvedJob, SamplingJob, make_rollout
from reasonray.store.ledger import Ledger
from reasonray.store.run import begin_or_resume
from reasonray.store.storage import Place, place
from tests.factories import a_problem, a_rollout, a_scripted_config


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
    request = SampleRequest(problem, 0, 1, job.prompt, job.sampling)
    completion = Completion("So it is 6 * 7, and \\boxed{42}", Finish.STOP, opening="<think>\n")
    replica = object.__new__(Replica)
    replica._checkers = CheckerPool(run.config.checking)
    verdict = asyncio.run(replica._check(problem, completion))
    replica._checkers.close()
    assert (verdict.outcome, verdict.detail) == (Outcome.NO_ANSWER, "the reasoning never ends")
    assert make_rollout(job, request, completion, verdict).answer == "<think>\n" + completion.text


@pytest.mark.ray
def test_a_commit_that_fails_with_any_exception_fails_the_lease_at_once(ray_cluster: None, tmp_path: Path) -> None:
    config = a_scripted_config(tmp_path, engine={"seconds": 30, "max_num_seqs": 64})
    run = begin_or_resume(config)
    spec = EngineSpec.of(run, config.teachers[0])
    # No program can write to such a path: Python raises a ValueError.
    ledger = Ledger(Place(fs.LocalFileSystem(), f"{tmp_path}/\0"))
    teacher = config.teachers[0]
    job = SamplingJob("teacher", [], teacher.prompt, teacher.sampling, Fixed(samples=64), ledger, spec)
    lease = Lease(ResolvedJob.of(run, job, "weights"), (ProblemState(a_problem()),))
    with ReplicaPool(run) as pool:
        (replica,) = pool.replicas_for(spec, 1)
        ray.get(replica.start.remote(spec.model, None))
        with pytest.raises(ValueError, match="null byte"):
            ray.get(replica.run_lease.remote(lease), timeout=20)
        with pytest.raises(ValueError, match="null byte"):
            ray.get(replica.run_lease.remote(lease), timeout=3)

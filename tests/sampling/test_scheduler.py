"""The scheduler: a replica that dies at a bad moment."""

from pathlib import Path

import pytest
import ray

from reasonray.config import Budget
from reasonray.sampling.pool import ReplicaPool
from reasonray.sampling.sampler import SamplingLoop, Spent
from reasonray.sampling.scheduler import Scheduler
from reasonray.sampling.work import EngineSpec, SamplingJob
from reasonray.store.progress import Progress
from reasonray.store.run import Run, begin_or_resume
from tests.factories import a_problem, a_scripted_config

pytestmark = [pytest.mark.ray, pytest.mark.timeout(90)]


def a_job(run: Run) -> SamplingJob:
    teacher = run.config.teachers[0]
    spec = EngineSpec.of(run, teacher)
    return SamplingJob("teacher", [a_problem()], teacher.prompt, teacher.sampling, run.config.policy, run.ledger, spec)


def test_a_replica_that_dies_as_the_budget_is_spent_does_not_keep_the_loop_going(
    ray_cluster: None, tmp_path: Path
) -> None:
    run = begin_or_resume(a_scripted_config(tmp_path, samples=8, engine={"seconds": 60}))

    class DyingOnAbort(Scheduler):
        def abort(self) -> None:
            for replica in pool.replicas_for(self.spec, 1):
                ray.kill(replica)
            super().abort()

    with ReplicaPool(run) as pool, Progress("sample", run.events) as progress:
        scheduler = DyingOnAbort(run, [a_job(run)], pool)
        loop = SamplingLoop(run, [scheduler], progress, Budget(tokens=5), Spent(tokens=5))
        loop.start()
        result = loop.run()
    assert (result.exhausted, result.deaths) == ("tokens", 1)

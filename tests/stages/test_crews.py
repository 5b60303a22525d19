"""The driver's view of replicas: one that dies at a bad moment."""

from pathlib import Path

import pytest
import ray
from factories import a_problem, a_scripted_config

from reasonray.config import Budget
from reasonray.console import Progress
from reasonray.run import Run, open_run
from reasonray.stages.crews import Crew
from reasonray.stages.draw import Drawing, Spent
from reasonray.stages.fleet import Fleet
from reasonray.stages.orders import EngineSpec, Order

pytestmark = [pytest.mark.ray, pytest.mark.timeout(90)]


def an_order(run: Run) -> Order:
    teacher = run.config.teachers[0]
    spec = EngineSpec.of(run, teacher)
    return Order("teacher", [a_problem()], teacher.prompt, teacher.sampling, run.config.policy, run.rollouts, spec)


def test_a_replica_that_dies_as_the_budget_is_spent_does_not_keep_the_work_going(
    ray_cluster: None, tmp_path: Path
) -> None:
    run = open_run(a_scripted_config(tmp_path, samples=8, engine={"seconds": 60}))

    class Doomed(Crew):
        def drop(self) -> None:
            for replica in fleet.crew(self.spec, 1):
                ray.kill(replica)
            super().drop()

    with Fleet(run) as fleet, Progress("sample", run.events) as progress:
        drawing = Drawing(run, [Doomed(run, [an_order(run)], fleet)], progress, Budget(tokens=5), Spent(tokens=5))
        drawing.open()
        drawn = drawing.work()
    assert (drawn.exhausted, drawn.deaths) == ("tokens", 1)

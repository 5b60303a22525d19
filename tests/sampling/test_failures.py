"""What happens to the work of dead replicas; no Ray."""

from pathlib import Path

import pytest

from reasonray.config import Failures, Fixed, Prompt, Sampling, UserError
from reasonray.records import Finish, Outcome
from reasonray.sampling.failures import FailureTracker
from reasonray.sampling.queue import ProblemQueue
from reasonray.sampling.work import Isolation, Lease, ProblemState, ResolvedJob
from reasonray.store.ledger import Ledger
from reasonray.store.schema import table_to_rollouts
from reasonray.store.storage import place
from tests.factories import a_problem


def a_job(tmp_path: Path, samples: int = 2) -> ResolvedJob:
    sampling, policy, ledger = Sampling(max_tokens=128), Fixed(samples=samples), Ledger(place(tmp_path))
    return ResolvedJob("a", "m", "f", Prompt(), sampling, policy, ledger, 0)


def test_a_problem_that_kills_replicas_is_isolated_step_by_step_and_its_sample_recorded(tmp_path: Path) -> None:
    job, failures, queue = a_job(tmp_path), FailureTracker(Failures()), ProblemQueue()
    lease = Lease(job, (ProblemState(a_problem()),))
    failures.requeue([lease], "gone", queue)
    assert not queue.quarantine
    assert [state.problem for _, state in queue.pop(100)] == [a_problem()]
    for isolation in (Isolation.PROBLEM, Isolation.SAMPLE):
        failures.requeue([lease], "gone", queue)
        quarantined, state = queue.quarantine.pop()
        assert failures.isolation_for(quarantined, state) is isolation
        lease = Lease(job, (state,), isolation)
    assert job.ledger.count() == 0
    failures.requeue([lease], "gone", queue)
    (recorded,) = table_to_rollouts(job.ledger.read())
    assert (recorded.sample, recorded.finish, recorded.verdict.outcome) == (0, Finish.ERROR, Outcome.FAILED)
    assert recorded.verdict.detail == "the engine died 4 times on this: gone"
    assert [state.finished for _, state in queue] == [frozenset({0})], "the rest of its problem goes on"


def test_a_crash_loop_is_refused_with_its_causes(tmp_path: Path) -> None:
    failures = FailureTracker(Failures(in_a_row=3, deaths=4))
    for cause in ("out of memory", "gone", "gone"):
        failures.raise_on_crash_loop("m")
        failures.record(cause)
    with pytest.raises(UserError, match=r"of m died 3 times in a row .*: 2 x gone; 1 x out of memory"):
        failures.raise_on_crash_loop("m")
    failures.reset_streak()
    failures.raise_on_crash_loop("m")
    failures.record("gone")
    with pytest.raises(UserError, match="died 4 times within"):
        failures.raise_on_crash_loop("m")

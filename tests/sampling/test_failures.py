"""What becomes of the work of replicas that died; no Ray."""

from pathlib import Path

import pytest

from reasonray.config import Failures, Fixed, Prompt, Sampling, UserError
from reasonray.records import Finish, Outcome
from reasonray.sampling.failures import FailureTracker
from reasonray.sampling.queue import ProblemQueue
from reasonray.sampling.work import Arm, Isolation, Lease, ProblemState
from reasonray.store.ledger import Ledger
from reasonray.store.schema import table_to_rollouts
from reasonray.store.storage import place
from tests.factories import a_problem


def an_arm(tmp_path: Path, samples: int = 2) -> Arm:
    return Arm("a", "m", "f", Prompt(), Sampling(max_tokens=128), Fixed(samples=samples), Ledger(place(tmp_path)), 0)


def test_what_replicas_keep_dying_of_is_singled_out_step_by_step_and_told_in_the_end(tmp_path: Path) -> None:
    arm, deaths, backlog = an_arm(tmp_path), FailureTracker(Failures()), ProblemQueue()
    lease = Lease(arm, (ProblemState(a_problem()),))
    deaths.requeue([lease], "gone", backlog)
    assert not backlog.suspects
    assert [of.problem for _, of in backlog.take(100)] == [a_problem()]
    for care in (Isolation.PROBLEM, Isolation.SAMPLE):
        deaths.requeue([lease], "gone", backlog)
        suspect = backlog.suspects.pop()
        assert deaths.isolation_for(*suspect) is care
        lease = Lease(arm, (suspect[1],), care)
    assert arm.ledger.count() == 0
    deaths.requeue([lease], "gone", backlog)
    (told,) = table_to_rollouts(arm.ledger.read())
    assert (told.sample, told.finish, told.verdict.outcome) == (0, Finish.ERROR, Outcome.FAILED)
    assert told.verdict.detail == "the engine died 4 times on this: gone"
    assert [of.samples for _, of in backlog] == [frozenset({0})], "the rest of its problem goes on"


def test_replicas_that_do_nothing_but_die_are_refused_with_what_they_died_of(tmp_path: Path) -> None:
    deaths = FailureTracker(Failures(in_a_row=3, deaths=4))
    for cause in ("out of memory", "gone", "gone"):
        deaths.raise_on_crash_loop("m")
        deaths.add(cause)
    with pytest.raises(UserError, match=r"of m died 3 times in a row .*: 2 x gone; 1 x out of memory"):
        deaths.raise_on_crash_loop("m")
    deaths.reset_streak()
    deaths.raise_on_crash_loop("m")
    deaths.add("gone")
    with pytest.raises(UserError, match="died 4 times within"):
        deaths.raise_on_crash_loop("m")

"""What follows from the deaths of replicas; no Ray. Quarantine is tested with the scheduler."""

import pytest

from reasonray.config import Failures, UserError
from reasonray.sampling.failures import Death, FailureTracker


def test_a_crash_loop_is_refused_with_its_causes() -> None:
    failures = FailureTracker(Failures(in_a_row=3, deaths=4))
    for cause in ("out of memory", "gone", "gone"):
        failures.raise_on_crash_loop("m", 0.0)
        failures.record(Death(cause, 0.0))
    with pytest.raises(UserError, match=r"of m died 3 times in a row .*: 2 x gone; 1 x out of memory"):
        failures.raise_on_crash_loop("m", 0.0)
    failures.reset_streak()
    failures.raise_on_crash_loop("m", 0.0)
    failures.record(Death("gone", 0.0))
    with pytest.raises(UserError, match="died 4 times within"):
        failures.raise_on_crash_loop("m", 0.0)
    failures.raise_on_crash_loop("m", 60.0 * 11)  # ten minutes later they are forgotten


def test_a_lost_node_is_a_death_that_counts_for_no_limit() -> None:
    failures = FailureTracker(Failures(in_a_row=1, deaths=1))
    for number in range(20):
        failures.record(Death("its node has died", float(number), "node", lost_its_node=True))
    failures.raise_on_crash_loop("m", 20.0)
    assert (failures.total, failures.avoided_nodes(), failures.may_start(20.0)) == (20, frozenset(), True)


def test_a_node_on_which_two_starts_failed_is_avoided() -> None:
    failures = FailureTracker(Failures())
    failures.record(Death("no such driver", 0.0, "sick", was_starting=True))
    assert failures.avoided_nodes() == frozenset()
    failures.record(Death("gone", 0.0, "sick"))
    failures.record(Death("no such driver", 0.0, "sick", was_starting=True))
    assert failures.avoided_nodes() == {"sick"}


def test_starts_that_keep_failing_pause_longer_each_time() -> None:
    failures = FailureTracker(Failures())
    pauses = []
    for _ in range(10):
        failures.record(Death("429 Too Many Requests", 0.0, "node", was_starting=True))
        pauses.append(next(second for second in range(100) if failures.may_start(second)))
    assert pauses == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]

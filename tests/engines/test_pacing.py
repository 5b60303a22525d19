"""When a server is asked again, and how often at all."""

from hypothesis import given
from hypothesis import strategies as st

from reasonray.engines.pacing import Pace, pause_before, seconds_told

DICE = st.floats(0, 1, exclude_max=True)


@given(st.integers(1, 100), DICE, st.one_of(st.none(), st.floats(0, 300)))
def test_a_pause_is_bounded_and_never_below_what_the_server_asks(
    attempt: int, dice: float, retry_after: float | None
) -> None:
    pause = pause_before(attempt, dice, retry_after)
    assert (retry_after or 0) <= pause <= (retry_after or 0) + 60


def test_a_server_names_its_pause_in_seconds_or_by_a_date() -> None:
    now = 1_792_497_600.0  # 2026-10-20 12:00 UTC
    assert seconds_told("1.5", now) == 1.5
    assert seconds_told("Tue, 20 Oct 2026 12:00:30 GMT", now) == 30
    assert seconds_told("Tue, 20 Oct 2026 11:00:00 GMT", now) == 0, "it is over"
    assert seconds_told("", now) is None
    assert seconds_told("soon", now) is None


@given(st.integers(1, 20), DICE)
def test_pauses_grow_and_jitter_spreads_them_from_nothing(attempt: int, dice: float) -> None:
    assert pause_before(attempt, 0.0) == 0
    assert pause_before(attempt, dice) <= pause_before(attempt + 1, dice)


@given(
    st.integers(1, 5),
    st.integers(10, 100),
    st.lists(st.tuples(st.floats(0, 20), st.integers(1, 60)), min_size=1, max_size=40),
)
def test_no_minute_holds_more_requests_or_tokens_than_allowed(
    requests: int, tokens: int, wishes: list[tuple[float, int]]
) -> None:
    pace, now, sent = Pace(requests, tokens), 0.0, []
    for gap, cost in wishes:
        now += gap
        while wait := pace.wait(now, cost):
            now += wait
        sent.append((now, cost))
    for at, _ in sent:
        minute = [cost for moment, cost in sent if at - 60 < moment <= at]
        assert len(minute) <= requests
        assert sum(minute) <= tokens or len(minute) == 1


def test_without_limits_nothing_waits() -> None:
    pace = Pace(None, None)
    assert not any(pace.wait(0.0, 10**9) for _ in range(1000))

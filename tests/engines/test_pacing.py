"""When a request to a server is retried, and how many requests it gets."""

from hypothesis import given
from hypothesis import strategies as st

from reasonray.engines.pacing import RateLimiter, backoff_seconds, retry_after_seconds

UNIFORM = st.floats(0, 1, exclude_max=True)


@given(st.integers(1, 100), UNIFORM, st.one_of(st.none(), st.floats(0, 300)))
def test_a_pause_is_bounded_and_never_below_the_retry_after(
    failures: int, uniform: float, retry_after: float | None
) -> None:
    pause = backoff_seconds(failures, uniform, retry_after)
    assert (retry_after or 0) <= pause <= (retry_after or 0) + 60


def test_a_retry_after_is_a_number_of_seconds_or_a_date() -> None:
    now = 1_792_497_600.0  # 2026-10-20 12:00 UTC
    assert retry_after_seconds("1.5", now) == 1.5
    assert retry_after_seconds("Tue, 20 Oct 2026 12:00:30 GMT", now) == 30
    assert retry_after_seconds("Tue, 20 Oct 2026 11:00:00 GMT", now) == 0, "a date in the past"
    assert retry_after_seconds("", now) is None
    assert retry_after_seconds("soon", now) is None


@given(st.integers(1, 20), UNIFORM)
def test_pauses_grow_with_failures_and_full_jitter_starts_at_zero(failures: int, uniform: float) -> None:
    assert backoff_seconds(failures, 0.0) == 0
    assert backoff_seconds(failures, uniform) <= backoff_seconds(failures + 1, uniform)


@given(
    st.integers(1, 5),
    st.integers(10, 100),
    st.lists(st.tuples(st.floats(0, 20), st.integers(1, 60)), min_size=1, max_size=40),
)
def test_no_minute_has_more_requests_or_tokens_than_allowed(
    requests: int, tokens: int, arrivals: list[tuple[float, int]]
) -> None:
    limiter, now, sent = RateLimiter(requests, tokens), 0.0, []
    for gap, cost in arrivals:
        now += gap
        while wait := limiter.try_acquire(now, cost):
            now += wait
        sent.append((now, cost))
    for at, _ in sent:
        minute = [cost for moment, cost in sent if at - 60 < moment <= at]
        assert len(minute) <= requests
        assert sum(minute) <= tokens or len(minute) == 1


def test_without_limits_no_request_waits() -> None:
    limiter = RateLimiter(None, None)
    assert not any(limiter.try_acquire(0.0, 10**9) for _ in range(1000))

"""When to retry a request to a server, and how many requests to send. Pure: clock and random numbers are passed in."""

from __future__ import annotations

import re
from collections import deque
from email.utils import parsedate_to_datetime

_FIRST_SECONDS, _LONGEST_SECONDS = 0.5, 60.0
_LONGEST_RETRY_AFTER = 600.0
"""Seconds of a server's Retry-After that are believed."""
_WINDOW_SECONDS = 60.0


def backoff_seconds(failures: int, uniform: float, retry_after: float | None = None) -> float:
    """Return the seconds to wait before a retry: exponential with full jitter, on top of the server's Retry-After.

    Full jitter desynchronises clients that failed at the same moment (Brooker, "Exponential Backoff And Jitter",
    2015). Clients that received the same Retry-After are synchronised as well.

    Args:
        failures: failed tries so far, 1 after the first.
        uniform: random number in [0, 1).
        retry_after: seconds named by the server's Retry-After header.
    """
    return min(retry_after or 0.0, _LONGEST_RETRY_AFTER) + uniform * min(
        _LONGEST_SECONDS, _FIRST_SECONDS * 2.0 ** min(failures, 16)
    )


def retry_after_seconds(header: str, now: float) -> float | None:
    """Return the seconds that a Retry-After header names, as a number or as a date (RFC 9110); None if neither.

    Args:
        header: value of the header.
        now: by time.time().
    """
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", header):
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now)
    except (ValueError, OverflowError):  # a date outside of the calendar
        return None


class RateLimiter:
    """A sliding-window limit on the requests and tokens of any minute."""

    def __init__(self, requests: int | None, tokens: int | None) -> None:
        self._requests, self._tokens = requests, tokens
        self._window: deque[tuple[float, int]] = deque()
        """(time, tokens) of each request of the last minute, oldest first."""

    def try_acquire(self, now: float, tokens: int) -> float:
        """Count a request as sent and return 0 if the limit allows it now, else return the seconds to wait.

        Args:
            now: by time.monotonic().
            tokens: the most that the request may cost.
        """
        while self._window and self._window[0][0] <= now - _WINDOW_SECONDS:
            self._window.popleft()
        sent, spent = len(self._window), sum(cost for _, cost in self._window)
        if self._allows(sent, spent, tokens):
            self._window.append((now, tokens))
            return 0.0
        for at, cost in self._window:
            sent, spent = sent - 1, spent - cost
            if self._allows(sent, spent, tokens):
                return max(at + _WINDOW_SECONDS - now, 1e-3)
        return _WINDOW_SECONDS

    def _allows(self, sent: int, spent: int, tokens: int) -> bool:
        fewer = self._requests is None or sent < self._requests
        # A request above the whole token limit is sent when no other is in the window; else it never would be.
        return fewer and (self._tokens is None or spent == 0 or spent + tokens <= self._tokens)

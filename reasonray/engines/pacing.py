"""When to ask a server again, and how often to ask it at all. Pure: the clock and the dice are handed in."""

from __future__ import annotations

import re
from collections import deque
from email.utils import parsedate_to_datetime

_FIRST, _LONGEST = 0.5, 60.0


def pause_before(attempt: int, dice: float, retry_after: float | None = None) -> float:
    """Return the seconds to wait before asking again: exponential with full jitter, on top of what the server asks.

    Full jitter spreads clients that a fault has brought into step (Brooker, "Exponential Backoff And Jitter", 2015);
    those that were told the same Retry-After are in step, too.

    Args:
        attempt: how often it has failed, 1 the first time.
        dice: uniform in [0, 1).
        retry_after: seconds that the server's Retry-After header names.
    """
    return (retry_after or 0.0) + dice * min(_LONGEST, _FIRST * 2.0 ** min(attempt, 16))


def seconds_told(retry_after: str, now: float) -> float | None:
    """Return the seconds that a Retry-After header names, as a number or as a date (RFC 9110); None if it is neither.

    Args:
        retry_after: the header.
        now: by time.time().
    """
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", retry_after):
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - now)
    except ValueError:
        return None


class Pace:
    """No more than so many requests and tokens in any minute."""

    def __init__(self, requests: int | None, tokens: int | None) -> None:
        self._requests, self._tokens = requests, tokens
        self._log: deque[tuple[float, int]] = deque()
        """When what was asked for, oldest first; of the last minute."""

    def wait(self, now: float, tokens: int) -> float:
        """Return the seconds until a request that may cost `tokens` is allowed; 0 takes it as sent."""
        while self._log and self._log[0][0] <= now - 60:
            self._log.popleft()
        if self._fits(len(self._log), sum(count for _, count in self._log), tokens):
            self._log.append((now, tokens))
            return 0.0
        asked, spent = len(self._log), sum(count for _, count in self._log)
        for at, count in self._log:
            asked, spent = asked - 1, spent - count
            if self._fits(asked, spent, tokens):
                return max(at + 60 - now, 1e-3)
        return 60.0

    def _fits(self, asked: int, spent: int, tokens: int) -> bool:
        fewer = self._requests is None or asked < self._requests
        # A request above the whole limit goes when nothing else is under way, or it would never go.
        return fewer and (self._tokens is None or spent == 0 or spent + tokens <= self._tokens)

"""Replica deaths: whom they blame, which nodes to avoid, and when to stop the run. Pure: no Ray, no clock.

A problem that was sampled when two replicas died is sampled alone on a replica. If that one dies too, the problem is
sampled one sample at a time. The sample that kills a replica even then is recorded as an ERROR, and the problem goes on
without it. A replica whose node was lost or preempted blames nothing. The run ends if replicas die again and again
without finishing anything.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

from reasonray.config import Failures, UserError

QUARANTINE_AFTER = 2
"""Deaths while a problem was sampled after which it is sampled alone."""
_AVOID_AFTER = 2
"""Failed starts on a node after which replicas start elsewhere."""
_LONGEST_PAUSE = 60.0
"""Seconds between the starts of replicas that keep failing."""


@dataclass(frozen=True, slots=True)
class Death:
    """The death of a replica."""

    cause: str
    at: float
    """Seconds."""
    node: str = ""
    was_starting: bool = False
    lost_its_node: bool = False


class FailureTracker:
    """The deaths of one group's replicas."""

    def __init__(self, limits: Failures) -> None:
        self._limits = limits
        self.total = 0
        """Deaths, lost nodes included."""
        self._in_a_row = 0
        self._recent: deque[Death] = deque()
        self._failed_starts: Counter[str] = Counter()
        """Node → failed starts there."""
        self._paused_until = 0.0

    def record(self, death: Death) -> None:
        """Record a death."""
        self.total += 1
        if death.lost_its_node:
            return
        self._in_a_row += 1
        self._recent.append(death)
        if death.was_starting:
            self._failed_starts[death.node] += 1
            pause = 2.0 ** (self._in_a_row - 2) if self._in_a_row > 1 else 0.0
            self._paused_until = death.at + min(_LONGEST_PAUSE, pause)

    def reset_streak(self) -> None:
        """Start counting deaths in a row from 0, because something was finished since the last one."""
        self._in_a_row = 0

    def avoided_nodes(self) -> frozenset[str]:
        """Return the nodes on which replicas failed to start repeatedly."""
        return frozenset(node for node, failures in self._failed_starts.items() if node and failures >= _AVOID_AFTER)

    def may_start(self, now: float) -> bool:
        """Return whether a replica may start now; after failed starts there is a pause, longer with each."""
        return now >= self._paused_until

    def raise_on_crash_loop(self, model: str, now: float) -> None:
        """Check that the number of deaths is within the configured limits.

        Raises:
            UserError: too many replicas died in a row or within some minutes; the message lists the causes.
        """
        while self._recent and self._recent[0].at < now - 60 * self._limits.minutes:
            self._recent.popleft()
        if self._in_a_row >= self._limits.in_a_row:
            how = f"died {self._in_a_row} times in a row without finishing anything"
        elif len(self._recent) >= self._limits.deaths:
            how = f"died {len(self._recent)} times within {self._limits.minutes:g} minutes"
        else:
            return
        counted = Counter(death.cause for death in self._recent).most_common(3)
        causes = "; ".join(f"{count} x {cause}" for cause, count in counted)
        raise UserError(
            f"replicas of {model} {how}: {causes} (their logs are in Ray's session directory; the run resumes)"
        )

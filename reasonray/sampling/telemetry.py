"""A replica's counts as Ray metrics, exported by Ray's Prometheus endpoint next to vLLM's own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from copy import deepcopy

from ray.util.metrics import Counter, Gauge

from reasonray.sampling.work import Counts


class Telemetry:
    """Ray counters that follow a replica's counts; `update` is called every few seconds, never per rollout."""

    def __init__(self, run: str) -> None:
        self._rollouts = Counter("reasonray_rollouts", "Finished rollouts.", tag_keys=("run", "arm", "outcome"))
        self._tokens = Counter("reasonray_tokens", "Tokens of finished rollouts.", tag_keys=("run", "arm"))
        self._covered = Counter(
            "reasonray_problems_covered", "Problems with a first correct rollout.", tag_keys=("run", "arm")
        )
        self._in_flight = Gauge("reasonray_requests_in_flight", "Requests in the engine.", tag_keys=("run",))
        for metric in (self._rollouts, self._tokens, self._covered, self._in_flight):
            metric.set_default_tags({"run": run})
        self._exported: dict[str, Counts] = {}

    def update(self, counts_by_job: Mapping[str, Counts], in_flight: int) -> None:
        """Raise the counters to the counts."""
        self._in_flight.set(in_flight)
        for job, counts in counts_by_job.items():
            before, self._exported[job] = self._exported.get(job, Counts()), deepcopy(counts)
            for outcome, count in counts.outcomes.items():
                if count > before.outcomes[outcome]:
                    self._rollouts.inc(count - before.outcomes[outcome], {"arm": job, "outcome": outcome})
            if counts.tokens > before.tokens:
                self._tokens.inc(counts.tokens - before.tokens, {"arm": job})
            if counts.covered > before.covered:
                self._covered.inc(counts.covered - before.covered, {"arm": job})


class BusyClock:
    """Measures how long nothing is in flight."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.began_at = self.changed_at = time.monotonic()
        """`changed_at`: when `in_flight` last rose from 0 or fell to 0."""
        self._idle_seconds = 0.0

    def begin(self) -> None:
        """Count one more request in flight."""
        if self.in_flight == 0:
            self._idle_seconds, self.changed_at = self.idle_seconds, time.monotonic()
        self.in_flight += 1

    def end(self) -> None:
        """Count one request less."""
        self.in_flight -= 1
        if self.in_flight == 0:
            self.changed_at = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """Seconds with nothing in flight."""
        return self._idle_seconds + (time.monotonic() - self.changed_at if self.in_flight == 0 else 0.0)

    @property
    def seconds(self) -> float:
        """Seconds since the clock was started."""
        return time.monotonic() - self.began_at

"""A replica's figures as Ray metrics: Ray's Prometheus endpoint has them, beside what vLLM says of itself."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

from reasonray.sampling.work import Counts


class Telemetry:
    """Counters that follow a replica's figures; `update` is called every few seconds, never per rollout."""

    def __init__(self, run: str) -> None:
        self._rollouts = Counter("reasonray_rollouts", "Finished rollouts.", tag_keys=("run", "arm", "outcome"))
        self._tokens = Counter("reasonray_tokens", "Tokens of finished rollouts.", tag_keys=("run", "arm"))
        self._covered = Counter(
            "reasonray_problems_covered", "Problems with a first correct rollout.", tag_keys=("run", "arm")
        )
        self._in_flight = Gauge("reasonray_requests_in_flight", "Attempts in the engine.", tag_keys=("run",))
        for metric in (self._rollouts, self._tokens, self._covered, self._in_flight):
            metric.set_default_tags({"run": run})
        self._said: dict[str, Counts] = {}

    def update(self, arms: Mapping[str, Counts], in_flight: int) -> None:
        """Raise the counters to the figures."""
        self._in_flight.set(in_flight)
        for arm, figures in arms.items():
            said = self._said.setdefault(arm, Counts())
            fresh = Counts()
            fresh.add(figures)
            fresh.add(said, -1)
            said.add(fresh)
            for outcome, count in fresh.outcomes.items():
                if count:
                    self._rollouts.inc(count, {"arm": arm, "outcome": outcome})
            if fresh.tokens:
                self._tokens.inc(fresh.tokens, {"arm": arm})
            if fresh.covered:
                self._covered.inc(fresh.covered, {"arm": arm})

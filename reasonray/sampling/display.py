"""What a sampling stage shows while it runs: one line on the terminal, and its figures in the run's events."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from typing import Any

from reasonray.sampling.scheduler import Scheduler
from reasonray.sampling.work import Counts
from reasonray.store.progress import Progress, duration

_FORECAST_AFTER = 20.0
"""Seconds of sampling before the time left is more than a guess."""
_RATE_SECONDS = 10.0
"""The tokens a second on the terminal are the mean of the last seconds."""
_SHOW_SECONDS = 0.5


class StageDisplay:
    """The figures of one stage: what its scheduler counts, over the time that passes."""

    def __init__(self, progress: Progress, scheduler: Scheduler, names: str) -> None:
        """Create a display.

        Args:
            progress: where to show.
            scheduler: of the stage.
            names: of the jobs, as shown while their engines start.
        """
        self._progress, self._scheduler, self._names = progress, scheduler, names
        self._began_at: float | None = None
        """When the first engine was up."""
        self._shown_at = 0.0
        self.accelerator_seconds = 0.0
        """Of replicas that have a node."""
        self._generated: deque[tuple[float, int]] = deque()
        """(seconds, tokens that the engines had generated then)."""

    def begin(self) -> None:
        """Start counting the time of sampling: an engine is up."""
        self._began_at = self._progress.seconds if self._began_at is None else self._began_at

    @property
    def seconds(self) -> float:
        """Time since the first engine was up."""
        return 0.0 if self._began_at is None else self._progress.seconds - self._began_at

    def show(
        self, counts_by_job: Mapping[str, Counts], phases: Collection[str], in_flight: int, *, now: bool = False
    ) -> None:
        """Show the stage, at most twice a second.

        Args:
            counts_by_job: of the finished samples.
            phases: what engines say that they are doing: loading weights, waiting for a batch.
            in_flight: requests in the engines.
            now: show it, however short the last time ago.
        """
        passed = self._progress.seconds - self._shown_at
        if not now and passed < _SHOW_SECONDS:
            return
        self._shown_at = self._progress.seconds
        self.accelerator_seconds += self._scheduler.accelerators * passed
        if self._began_at is None:
            text = f"starting the engine of {self._names}   {duration(self._progress.seconds)}   {', '.join(phases)}"
            self._progress.show(text.rstrip(), {"state": "starting", **self._cost()})
        else:
            self._show_sampling(counts_by_job, phases, in_flight, now=now)

    def _cost(self) -> dict[str, Any]:
        usage = self._scheduler.usage()
        return {
            "generated_tokens": usage.generated_tokens,
            "accelerator_seconds": round(self.accelerator_seconds, 3),
            "idle_seconds": round(usage.idle_seconds, 3),
            "replica_seconds": round(usage.replica_seconds, 3),
        }

    def _tokens_per_second(self) -> float:
        """Return the rate of the last seconds by the engines' own counts: tokens of unfinished samples are included."""
        now, tokens = self._progress.seconds, self._scheduler.usage().generated_tokens
        self._generated.append((now, tokens))
        while len(self._generated) > 2 and self._generated[1][0] < now - _RATE_SECONDS:
            self._generated.popleft()
        since, before = self._generated[0]
        return (tokens - before) / (now - since) if now > since else 0.0

    def _show_sampling(
        self, counts_by_job: Mapping[str, Counts], phases: Collection[str], in_flight: int, *, now: bool
    ) -> None:
        scheduler, seconds = self._scheduler, self.seconds
        total = sum(counts_by_job.values(), Counts())
        # Where hard problems come last, the finished ones let expect less than what is being written already.
        remaining = max(scheduler.remaining(), in_flight)
        too_early = seconds < _FORECAST_AFTER or not total.rollouts
        forecast = "?" if too_early else duration(seconds * remaining / total.rollouts)
        generating = self._tokens_per_second()
        text = (
            f"{total.rollouts:>7,} of {total.rollouts + remaining:,} rollouts   {total.correct:>6,} correct "
            f"({total.correct / max(1, total.rollouts):6.1%})   {generating:7,.0f} tokens/s   "
            f"{in_flight:,} in flight   {duration(seconds)} gone, {forecast} left"
        )
        text += f"   {scheduler.replicas_up} replicas" if scheduler.replicas_up > 1 else ""
        text += f"   {scheduler.deaths} died" if scheduler.deaths else ""
        text += "".join(f"   {phase}" for phase in phases)
        cost = self._cost()
        figures = {
            "rollouts": total.rollouts,
            "planned": total.rollouts + remaining,
            "correct": total.correct,
            "covered": total.covered,
            "outcomes": dict(total.outcomes),
            "tokens": total.tokens,
            "in_flight": in_flight,
            "drawing_seconds": round(seconds, 3),
            "rollouts_per_second": round(total.rollouts / seconds, 3) if seconds else 0.0,
            "tokens_per_second": round(total.tokens / seconds, 1) if seconds else 0.0,
            "generated_per_second": round(generating, 1),
            "tokens_per_correct": round(cost["generated_tokens"] / total.correct, 1) if total.correct else None,
            "idle_fraction": round(cost["idle_seconds"] / cost["replica_seconds"], 4) if cost["replica_seconds"] else 0,
            "replicas": scheduler.replicas_up,
            "deaths": scheduler.deaths,
            "arms": {job: _brief(counts, seconds) for job, counts in counts_by_job.items()},
        }
        self._progress.show(text, figures | cost, now=now)


def _brief(counts: Counts, seconds: float) -> dict[str, Any]:
    return {
        "rollouts": counts.rollouts,
        "correct": counts.correct,
        "covered": counts.covered,
        "tokens": counts.tokens,
        "tokens_per_second": round(counts.tokens / seconds, 1) if seconds else 0.0,
    }

"""The engine of a replica: started, given other weights or replaced as stages ask for other models.

It takes as many requests at a time as the engine has capacity, and measures how long none is in flight.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from reasonray import engines, models
from reasonray.engines.protocol import Completion, Engine, EngineHung, SampleRequest
from reasonray.sampling.telemetry import BusyClock
from reasonray.sampling.work import EngineSpec, Started, Usage


class EngineHost:
    """At most one running engine."""

    def __init__(self, spec: EngineSpec, *, spread: bool, hang_seconds: float) -> None:
        """Create a host without an engine.

        Args:
            spec: of the engine.
            spread: whether its GPUs belong to a placement group, which may span several nodes.
            hang_seconds: time without a token after which an engine with requests in flight hangs.
        """
        self._spec, self._spread, self._hang_seconds = spec, spread, hang_seconds
        self._engine: Engine | None = None
        self._slots, self._num_slots = asyncio.Semaphore(0), 0
        self.served: tuple[str, str | None] | None = None
        """The model, and its revision."""
        self.begin_stage()

    def begin_stage(self) -> None:
        """Begin a stage: nothing started, no time and no tokens used."""
        self.started: Started | None = None
        """What the engine serves, once it is up in this stage."""
        self.phase = ""
        """What it is doing; mostly that of a start."""
        self._busy = BusyClock()
        self._tokens_before = self._engine.heartbeat().tokens if self._engine else 0

    @property
    def capacity(self) -> int:
        """Requests at a time; 0 without an engine."""
        return self._engine.capacity if self._engine else 0

    @property
    def in_flight(self) -> int:
        """Requests in the engine."""
        return self._busy.in_flight

    @property
    def has_idle_slots(self) -> bool:
        """Whether the engine could take more requests."""
        return self.started is None or self._busy.in_flight < self._num_slots

    def usage(self) -> Usage:
        """Return what was used since the stage began."""
        tokens = self._engine.heartbeat().tokens - self._tokens_before if self._engine else 0
        return Usage(self._busy.idle_seconds, self._busy.seconds, tokens)

    async def start(self, model: str, revision: str | None) -> None:
        """Serve a model: with the running engine if it is the same, or takes its weights, else with a new one.

        Raises:
            Exception: whatever a start can die of.
        """
        spec, directory = self._spec, None
        if engines.needs_weights(spec.engine):
            self._set_phase("fetching the weights")
            directory = await asyncio.to_thread(models.resolve, model, revision, self._set_phase)
        serves_another = self._engine is not None and self.served != (model, revision)
        if self._engine and serves_another and not (directory and await self._engine.swap(directory)):
            self._engine.close()
            self._engine = None
        if self._engine is None:
            self._set_phase("starting")
            launch = engines.Launch(
                model,
                directory,
                spec.gpus,
                spec.pipeline,
                self._spread,
                spec.seed,
                spec.trust_remote_code,
                report=self._set_phase,
            )
            self._engine = await engines.start(spec.engine, launch)
            self._slots, self._num_slots, self._tokens_before = asyncio.Semaphore(0), 0, 0
        self._set_phase("")
        self.served = (model, revision)
        identity = await asyncio.to_thread(engines.identity, spec.engine, directory)
        first_identity = await asyncio.to_thread(engines.first_identity, spec.engine, directory)
        self.started = Started(identity, first_identity, self._engine.capacity)
        self._grow()

    async def complete(self, request: SampleRequest, on_begin: Callable[[], None]) -> Completion:
        """Generate one sample, with the usual tags around its reasoning.

        Args:
            request: for the sample.
            on_begin: called when the engine gets it.

        Raises:
            EngineDied: the engine is gone.
        """
        assert self._engine is not None
        async with self._slots:
            on_begin()
            self._busy.begin()
            try:
                completion = await self._engine.complete(request)
            finally:
                self._busy.end()
        self._grow()
        return completion.with_standard_tags(request.prompt.reasoning_tags)

    async def detect_hangs(self) -> None:
        """Watch the engine for ever.

        Raises:
            EngineHung: requests are in flight, and no token comes.
        """
        while True:
            await asyncio.sleep(min(5.0, self._hang_seconds / 4))
            if self._engine is None or self._busy.in_flight == 0:
                continue
            quiet = time.monotonic() - max(self._engine.heartbeat().at, self._busy.changed_at)
            if quiet > self._hang_seconds:
                raise EngineHung(f"no token for {quiet:.0f} s with {self._busy.in_flight} requests in flight")

    def close(self) -> None:
        """Close the engine."""
        if self._engine:
            self._engine.close()

    def _grow(self) -> None:
        """Have as many slots as the engine has capacity, and report it."""
        if self._engine is None or self.started is None:  # the sample belongs to a stage that is over
            return
        for _ in range(self._num_slots, self._engine.capacity):
            self._slots.release()
        if self._engine.capacity != self._num_slots:
            self._num_slots = self._engine.capacity
            self.started = replace(self.started, capacity=self._num_slots)

    def _set_phase(self, phase: str) -> None:
        self.phase = phase

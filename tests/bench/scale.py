"""The driver at scale, in virtual time: the real scheduler and a thousand simulated replicas.

    python tests/bench/scale.py [--replicas 1000] [--problems 10000000] [--minutes 30]

Three parts of one long stage: loading the problems' states from what a ledger holds, a window in the middle with every
replica at work and some dying, and the end from the last problems on. Nothing sleeps and nothing is generated; the time
that counts is the processor time of the scheduler. All replicas together send at most 100 reports a second.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import resource
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from reasonray.config import Failures, Fixed
from reasonray.records import Outcome
from reasonray.sampling.events import (
    Action,
    Assign,
    ClusterChanged,
    Event,
    GroupSpec,
    JobsLoaded,
    JobWork,
    Release,
    ReplicaDied,
    ReplicaPlaced,
    ReplicaReported,
    ReplicaUp,
    Start,
)
from reasonray.sampling.scheduler import Scheduler
from reasonray.sampling.state import ProblemStates
from reasonray.sampling.work import FinishedSample, Report, Usage
from reasonray.store.sample_arrays import TRUNCATED_ROW, SampleArrays
from tests.bench.printing import print_figures

SAMPLES = 16
CAPACITY = 256
TOKENS = 8000
"""Mean length of a rollout; the lengths are log-normal."""
SPREAD = 0.7
"""Standard deviation of a length's logarithm."""
TOKENS_PER_SECOND = 40.0
"""Of one request in flight."""
MTBF_HOURS = 8.0
RESTART_SECONDS = 120.0
COMMIT_SECONDS = 60.0
REPORTS_PER_SECOND = 100.0
POLICY = Fixed(samples=SAMPLES)


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, default=1000)
    parser.add_argument("--problems", type=int, default=10_000_000)
    parser.add_argument("--minutes", type=float, default=30.0)
    options = parser.parse_args()
    started = time.process_time()
    half = np.arange(options.problems) < options.problems // 2
    window = World(options.replicas, options.problems, finished=half)
    loading = time.process_time() - started
    window.run(until=60 * options.minutes)
    figures = window.figures()
    per_second = window.finished_samples / (60 * options.minutes)
    stage_seconds = options.problems * SAMPLES / per_second
    last = np.arange(options.problems) < options.problems - 100 * options.replicas
    end = World(options.replicas, options.problems, finished=last)
    end.run(until=float("inf"))
    idle = end.idle_seconds / (options.replicas * stage_seconds)
    print_figures(
        "scale",
        {
            "replicas": options.replicas,
            "problems": options.problems,
            "loading_seconds": loading,
            **figures,
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
            "stage_hours": stage_seconds / 3600,
            "tail_idle_share": idle,
            "tail_minutes": (end.now - end.first_idle_at) / 60,
        },
    )


@dataclass(slots=True)
class Replica:
    """A simulated replica: requests in flight, each with the time of its end."""

    number: int
    dies_at: float
    in_flight: list[tuple[float, int, int, int, int]] = field(default_factory=list)
    """A heap of (end, lease, problem, sample, tokens)."""
    waiting: deque[tuple[int, int, int]] = field(default_factory=deque)
    """(lease, problem, sample) without a slot."""
    missing: dict[tuple[int, int], int] = field(default_factory=dict)
    """(lease, problem) → samples to come."""
    news: list[FinishedSample] = field(default_factory=list)
    ended: list[tuple[int, int, int]] = field(default_factory=list)
    released: tuple[tuple[int, int], ...] | None = None
    finished: int = 0
    committed: int = 0
    committed_at: float = 0.0
    uncommitted_tokens: int = 0
    idle_since: float | None = None


class World:
    """A stage of one job of which some problems are finished."""

    def __init__(self, replicas: int, problems: int, finished: Any) -> None:
        self.dice = random.Random(0)
        self.now, self.scheduling = 0.0, 0.0
        self.finished_samples = self.deaths = 0
        self.lost_tokens = self.lost_uncommitted = 0.0
        self.idle_seconds, self.first_idle_at = 0.0, 0.0
        self.replicas: dict[int, Replica] = {}
        self.events: list[tuple[float, int, str, int]] = []
        self.counter = itertools.count()
        self.interval = max(0.25, replicas / REPORTS_PER_SECOND)
        bits = np.where(finished[:, None], np.uint8(255), np.uint8(0)) * np.ones((1, SAMPLES // 8), np.uint8)
        stored = SampleArrays(bits, bits & np.uint8(0b01010101), bits, np.empty(0, TRUNCATED_ROW))
        states = ProblemStates.stored(POLICY, stored, (), TOKENS)
        difficulties = np.arange(problems, dtype=np.int32) % 5
        self.scheduler = Scheduler([GroupSpec("m", replicas, replicas)], Failures(in_a_row=10**6, deaths=10**9))
        self.step(JobsLoaded(0, {0: JobWork("teacher", states, difficulties, list("abcde"))}))
        self.scheduling = 0.0
        self.capacity = replicas
        self.step(ClusterChanged(0.0, [replicas]))

    def step(self, event: Event) -> None:
        """Pass an event to the scheduler, on the clock, and carry out what follows."""
        start = time.process_time()
        actions = self.scheduler.step(event)
        self.scheduling += time.process_time() - start
        for action in actions:
            self.act(action)

    def act(self, action: Action) -> None:
        """Carry out an action."""
        match action:
            case Start(replica=number):
                delay = 0.0 if self.now == 0 else RESTART_SECONDS
                self.at(self.now + delay, "up", number)
            case Assign():
                replica = self.replicas[action.replica]
                for problem in action.problems:
                    replica.missing[action.lease, problem] = SAMPLES
                    replica.waiting.extend((action.lease, problem, sample) for sample in range(SAMPLES))
                self.fill(replica)
            case Release(replica=number, count=count):
                self.release(self.replicas[number], count)
            case _:
                return

    def at(self, moment: float, what: str, number: int) -> None:
        """Let something happen to a replica later."""
        heapq.heappush(self.events, (moment, next(self.counter), what, number))

    def run(self, until: float) -> None:
        """Let time pass, until a moment or the end of the stage."""
        while self.events and not self.scheduler.is_finished:
            moment, _, what, number = heapq.heappop(self.events)
            if moment > until:
                break
            self.now = moment
            if what == "up":
                self.bring_up(number)
            elif number in self.replicas:
                self.report(self.replicas[number])
        for replica in self.replicas.values():
            if replica.idle_since is not None:
                self.idle_seconds += self.now - replica.idle_since

    def bring_up(self, number: int) -> None:
        """Start a replica's work; it dies some time later."""
        dies_at = self.now + self.dice.expovariate(1 / (3600 * MTBF_HOURS))
        replica = self.replicas[number] = Replica(number, dies_at, committed_at=self.now)
        self.step(ReplicaPlaced(number, f"node-{number}"))
        self.step(ReplicaUp(number, CAPACITY))
        self.at(self.now + self.interval * self.dice.random(), "report", replica.number)

    def fill(self, replica: Replica) -> None:
        """Put waiting samples into free slots."""
        while replica.waiting and len(replica.in_flight) < CAPACITY:
            lease, problem, sample = replica.waiting.popleft()
            tokens = int(TOKENS * self.dice.lognormvariate(-SPREAD * SPREAD / 2, SPREAD)) + 1
            end = self.now + tokens / TOKENS_PER_SECOND
            heapq.heappush(replica.in_flight, (end, lease, problem, sample, tokens))
        if replica.in_flight and replica.idle_since is not None:
            self.idle_seconds += self.now - replica.idle_since
            replica.idle_since = None

    def release(self, replica: Replica, count: int | None) -> None:
        """Return problems of which no sample has a slot."""
        started = {(lease, problem) for _, lease, problem, _, _ in replica.in_flight}
        unstarted = [
            key for key in reversed(replica.missing) if key not in started and replica.missing[key] == SAMPLES
        ][:count]
        gone = set(unstarted)
        for key in unstarted:
            del replica.missing[key]
        replica.waiting = deque(entry for entry in replica.waiting if entry[:2] not in gone)
        replica.released = tuple(unstarted)

    def report(self, replica: Replica) -> None:
        """Let a replica's requests end up to now, and report."""
        now = self.now
        while replica.in_flight and replica.in_flight[0][0] <= now:
            self.now, lease, problem, sample, tokens = heapq.heappop(replica.in_flight)
            outcome = Outcome.CORRECT if self.dice.random() < 0.4 else Outcome.WRONG
            replica.news.append(FinishedSample(lease, problem, sample, outcome, tokens))
            replica.finished += 1
            replica.uncommitted_tokens += tokens
            replica.missing[lease, problem] -= 1
            if not replica.missing[lease, problem]:
                del replica.missing[lease, problem]
                replica.ended.append((lease, problem, replica.finished))
            self.fill(replica)
            if not replica.in_flight:
                replica.idle_since = self.now
                self.first_idle_at = self.first_idle_at or self.now
        self.now = now
        if replica.dies_at <= now:
            self.die(replica)
            return
        if now - replica.committed_at >= COMMIT_SECONDS or not replica.missing:
            replica.committed, replica.committed_at, replica.uncommitted_tokens = replica.finished, now, 0
        self.finished_samples += len(replica.news)
        report = Report(
            samples=tuple(replica.news),
            ended=tuple(replica.ended),
            released=replica.released,
            committed=replica.committed,
            usage=Usage(0.0, now, replica.finished * TOKENS),
        )
        replica.news, replica.ended, replica.released = [], [], None
        self.at(now + self.interval, "report", replica.number)
        self.step(ReplicaReported(replica.number, report))

    def die(self, replica: Replica) -> None:
        """Kill a replica; another one starts at once."""
        self.deaths += 1
        self.lost_tokens += sum(
            tokens - max(0.0, end - self.now) * TOKENS_PER_SECOND for end, _, _, _, tokens in replica.in_flight
        )
        self.lost_uncommitted += replica.uncommitted_tokens
        del self.replicas[replica.number]
        self.step(ReplicaDied(replica.number, "killed", self.now, lost_its_node=True))
        self.step(ClusterChanged(self.now, [self.capacity - len(self.replicas)]))

    def figures(self) -> dict[str, float]:
        """Return what the scheduler cost, and what deaths cost."""
        deaths = max(1, self.deaths)
        return {
            "virtual_minutes": self.now / 60,
            "samples": self.finished_samples,
            "scheduler_core_share": self.scheduling / self.now,
            "scheduler_us_per_sample": 1e6 * self.scheduling / max(1, self.finished_samples),
            "deaths": self.deaths,
            "in_flight_tokens_lost_per_death": self.lost_tokens / deaths,
            "uncommitted_tokens_lost_per_death": self.lost_uncommitted / deaths,
        }


if __name__ == "__main__":
    main()

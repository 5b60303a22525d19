"""Replica deaths: what to do with the work of a dead replica, and when to stop the run. No Ray.

A problem that was in flight when two replicas died is sampled alone on a replica. If that one dies too, the problem is
sampled one sample at a time. The sample that kills a replica even then is recorded as an ERROR, and the problem goes on
without it. The run ends if replicas die again and again without finishing anything.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace

from reasonray.config import Failures, UserError
from reasonray.engines.protocol import Completion
from reasonray.records import Finish, Outcome, Verdict
from reasonray.sampling.policy import next_samples
from reasonray.sampling.queue import ProblemQueue
from reasonray.sampling.work import Isolation, Lease, ProblemState, ResolvedJob, make_rollout
from reasonray.store.stored_samples import StoredSamples

_QUARANTINE_AFTER = 2
"""Deaths with a problem in flight after which the problem is sampled alone."""


class FailureTracker:
    """The deaths of one spec's replicas, with their causes and the problems that were in flight."""

    def __init__(self, limits: Failures) -> None:
        self._limits = limits
        self.total = 0
        self._in_a_row = 0
        self._recent: deque[tuple[float, str]] = deque()
        """(time, cause) of each recent death."""
        self._deaths: Counter[tuple[str, str]] = Counter()
        """(job, problem id) → deaths while the problem was in flight."""

    def record(self, cause: str) -> None:
        """Record the death of a replica."""
        self.total += 1
        self._in_a_row += 1
        self._recent.append((time.monotonic(), cause))

    def reset_streak(self) -> None:
        """Start counting deaths in a row from 0, because something was finished since the last one."""
        self._in_a_row = 0

    def raise_on_crash_loop(self, model: str) -> None:
        """Check that the number of deaths is within the configured limits.

        Raises:
            UserError: too many replicas died in a row or within some minutes; the message lists the causes.
        """
        since = time.monotonic() - 60 * self._limits.minutes
        while self._recent and self._recent[0][0] < since:
            self._recent.popleft()
        if self._in_a_row >= self._limits.in_a_row:
            how = f"died {self._in_a_row} times in a row without finishing anything"
        elif len(self._recent) >= self._limits.deaths:
            how = f"died {len(self._recent)} times within {self._limits.minutes:g} minutes"
        else:
            return
        counted = Counter(cause for _, cause in self._recent).most_common(3)
        causes = "; ".join(f"{count} x {cause}" for cause, count in counted)
        raise UserError(
            f"replicas of {model} {how}: {causes} (their logs are in Ray's session directory; the run resumes)"
        )

    def isolation_for(self, job: ResolvedJob, state: ProblemState) -> Isolation:
        """Return how far a quarantined problem must be isolated."""
        suspicious = self._deaths[job.name, state.problem.id] > _QUARANTINE_AFTER
        return Isolation.SAMPLE if suspicious else Isolation.PROBLEM

    def requeue(self, leases: Sequence[Lease], cause: str, queue: ProblemQueue) -> None:
        """Put the unfinished problems of a dead replica's leases back into the queue, by what the ledgers hold."""
        stored_by_ledger = {lease.job.ledger: lease.job.ledger.stored_samples() for lease in leases}
        for lease in leases:
            job, stored = lease.job, stored_by_ledger[lease.job.ledger]
            for leased in lease.problems:
                key = (job.name, leased.problem.id)
                samples = stored.get((leased.problem.id, job.fingerprint), StoredSamples())
                state = job.problem_state(leased.problem, samples)
                if state.finished != leased.finished:
                    self.reset_streak()
                if state.is_satisfied(job.policy):
                    continue
                if lease.isolation is Isolation.SAMPLE:
                    state = self._record_error(job, state, cause)
                self._deaths[key] += 1
                if self._deaths[key] >= _QUARANTINE_AFTER:
                    queue.quarantine.append((job, state))
                else:
                    queue.add(job, state, first=True)

    def _record_error(self, job: ResolvedJob, state: ProblemState, cause: str) -> ProblemState:
        """Commit an ERROR for the sample that kills replicas even alone; return the state without that sample."""
        problem, sample = state.problem, next_samples(job.policy, state.sample_state())[0]
        deaths = self._deaths[job.name, problem.id] + 1
        reason = f"the engine died {deaths} times on this: {cause}"
        request = job.request(problem, sample)
        verdict = Verdict(outcome=Outcome.FAILED, checker=problem.checker, detail=reason)
        completion = Completion("", Finish.ERROR, error=reason)
        resample = state.resamples.get(sample, 0)
        job.ledger.append([make_rollout(job, request, completion, verdict, resample)])
        return replace(state, finished=state.finished | {sample})

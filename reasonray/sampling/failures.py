"""What replicas die of, and what becomes of the work that they had in hand. No Ray.

A problem that was in flight at two deaths is drawn alone on its replica; if that dies too, one sample at a time; the
sample that kills its replica even then is recorded as an ERROR, and the rest goes on. Replicas that do nothing but die
end the run.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace

from reasonray.config import Failures, UserError
from reasonray.engines.protocol import Completion, SampleRequest
from reasonray.records import Finish, Outcome, Verdict
from reasonray.sampling.policy import owed
from reasonray.sampling.queue import ProblemQueue
from reasonray.sampling.work import Arm, Isolation, Lease, ProblemState, make_rollout
from reasonray.store.stored_samples import StoredSamples

_SUSPECT_AFTER = 2
"""Deaths with a problem in flight before it is drawn alone."""


class FailureTracker:
    """What the replicas of one spec died of, and which problems were in flight then."""

    def __init__(self, limits: Failures) -> None:
        self._limits = limits
        self.total = 0
        self._in_a_row = 0
        self._recent: deque[tuple[float, str]] = deque()
        """When replicas died, and of what."""
        self._suspicion: Counter[tuple[str, str]] = Counter()
        """Deaths with a problem in flight, by arm and problem id."""

    def add(self, cause: str) -> None:
        """Take one more."""
        self.total += 1
        self._in_a_row += 1
        self._recent.append((time.monotonic(), cause))

    def reset_streak(self) -> None:
        """Take it that something was finished since the last."""
        self._in_a_row = 0

    def raise_on_crash_loop(self, model: str) -> None:
        """Check that replicas do not only die.

        Raises:
            UserError: as many did, in a row or within a while, as the configuration allows; the message has the causes.
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
        reasons = Counter(cause for _, cause in self._recent).most_common(3)
        told = "; ".join(f"{count} x {cause}" for cause, count in reasons)
        raise UserError(
            f"replicas of {model} {how}: {told} (their logs are in Ray's session directory; the run resumes)"
        )

    def isolation_for(self, arm: Arm, of: ProblemState) -> Isolation:
        """Return how carefully a suspect is drawn."""
        return Isolation.SAMPLE if self._suspicion[arm.name, of.problem.id] > _SUSPECT_AFTER else Isolation.PROBLEM

    def requeue(self, leases: Sequence[Lease], cause: str, backlog: ProblemQueue) -> None:
        """Put into the backlog what a dead replica's leases are still owed, by what the ledgers hold."""
        ledgers = {lease.arm.ledger: lease.arm.ledger.stored_samples() for lease in leases}
        for lease in leases:
            for old in lease.problems:
                arm, problem = lease.arm, old.problem
                of = arm.problem_state(problem, ledgers[arm.ledger].get((problem.id, arm.fingerprint), StoredSamples()))
                if of.samples != old.samples:
                    self.reset_streak()
                if of.is_satisfied(arm.policy):
                    continue
                if lease.care is Isolation.SAMPLE:
                    of = self._quarantine(arm, of, cause)
                self._suspicion[arm.name, problem.id] += 1
                if self._suspicion[arm.name, problem.id] >= _SUSPECT_AFTER:
                    backlog.suspects.append((arm, of))
                else:
                    backlog.add(arm, of, first=True)

    def _quarantine(self, arm: Arm, of: ProblemState, cause: str) -> ProblemState:
        """Record the sample that kills its replica even when drawn alone, and go on without it."""
        sample = owed(arm.policy, of.standing())[0]
        deaths = self._suspicion[arm.name, of.problem.id] + 1
        reason = f"the engine died {deaths} times on this: {cause}"
        attempt = SampleRequest(of.problem, sample, arm.seed_of(of.problem, sample), arm.prompt, arm.sampling)
        verdict = Verdict(outcome=Outcome.FAILED, checker=of.problem.checker, detail=reason)
        completion = Completion("", Finish.ERROR, error=reason)
        arm.ledger.append([make_rollout(arm, attempt, completion, verdict, of.rounds.get(sample, 0))])
        return replace(of, samples=of.samples | {sample})

"""Checks in processes that can be killed: a limit on running time, a limit on memory, a new process after either.

Processes are spawned, never forked, because the parent has an engine and its threads. They start with the first check
that the fast path passes on. Each works on its main thread, one check at a time.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Sequence
from concurrent.futures import Future
from importlib import import_module

from pebble import ProcessExpired, ProcessPool

from reasonray.checkers import CheckResult, PendingCheck, begin, compare_rules, complete, gym_scorer, own, program
from reasonray.checkers.sandbox import Limits
from reasonray.checkers.spawning import WithoutMain
from reasonray.config import Checking
from reasonray.errors import UserError
from reasonray.records import Finish, Outcome, Problem, Verdict


class CheckerPool:
    """A few checker processes."""

    def __init__(self, checking: Checking) -> None:
        self._checking = checking
        self._pool = ProcessPool(
            max_workers=checking.processes,
            initializer=_prepare,
            initargs=(checking,),
            context=WithoutMain(),
        )

    def submit(self, problem: Problem, completion: str, finish: Finish = Finish.STOP) -> Future[CheckResult]:
        """Judge one completion: at once by the fast path, else in a process; by a checker of the user's always there.

        The future's result is a verdict even if the check hangs or kills its process.
        """
        outer: Future[CheckResult] = Future()
        limit = self._limit(problem)
        if own.is_own(problem.checker):
            inner = self._pool.schedule(_judge, args=(problem, completion, finish), timeout=limit)
            inner.add_done_callback(lambda done: outer.set_result(_result(problem, done, limit)))
            return outer
        result = begin(problem, completion, finish)
        if isinstance(result, CheckResult):
            outer.set_result(result)
            return outer
        inner = self._pool.schedule(complete, args=(result,), timeout=limit)
        inner.add_done_callback(lambda done: outer.set_result(_result(problem, done, limit)))
        return outer

    async def check(self, problem: Problem, completion: str, finish: Finish = Finish.STOP) -> Verdict:
        """Judge one completion without blocking the event loop."""
        future = self.submit(problem, completion, finish)
        return (future.result() if future.done() else await asyncio.wrap_future(future)).verdict

    def compare_rules(
        self, problem: Problem, completion: str, finish: Finish
    ) -> Future[tuple[Outcome | None, Outcome | None]]:
        """Judge one completion by the fast path and by the algebra, each on its own, in a process.

        The future's result is their two outcomes: None where one does not apply, TIMEOUT for algebra that was killed.
        """
        outer: Future[tuple[Outcome | None, Outcome | None]] = Future()

        def settle(done: Future[tuple[Outcome | None, Outcome | None]]) -> None:
            outer.set_result((None, Outcome.TIMEOUT) if done.exception() else done.result())

        inner = self._pool.schedule(compare_rules, args=(problem, completion, finish), timeout=self._limit(problem))
        inner.add_done_callback(settle)
        return outer

    def try_own(self, problem: Problem) -> Future[str]:
        """Try a checker of the user's on a problem and its gold answer; the result is its fault, or ""."""
        limit = self._checking.timeout_seconds
        outer: Future[str] = Future()

        def settle(done: Future[str]) -> None:
            error = done.exception()
            slow = f"needs more than {limit:g} s, its import included, so it would be killed (checking.timeout_seconds)"
            fault = (
                slow if isinstance(error, TimeoutError) else f"kills its process ({error})" if error else done.result()
            )
            outer.set_result(fault)

        self._pool.schedule(own.trial, args=(problem,), timeout=limit).add_done_callback(settle)
        return outer

    def close(self) -> None:
        """Stop the processes, busy ones included."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    def _limit(self, problem: Problem) -> float:
        """Return the seconds that a check may take. Programs and the sandboxed scorers have limits of their own."""
        if problem.checker == "gym":
            return gym_scorer.worst_seconds(self._checking.timeout_seconds)
        extra = self._checking.program_seconds if problem.checker == "program" else 0.0
        return self._checking.timeout_seconds + extra


def refuse_faulty(problems: Sequence[Problem], checking: Checking) -> None:
    """Try the user's own checkers on a few of their problems and gold answers.

    Raises:
        UserError: one cannot be loaded, raises, hangs, or does not accept a gold answer.
    """
    names = own.versions(problem.checker for problem in problems)
    if not names:
        return
    pool = CheckerPool(checking)
    try:
        for name in names:
            for problem in own.sample(problems, name):
                if fault := pool.try_own(problem).result():
                    place = f"problem {problem.id}: {problem.question[:60]!r}, answer {(problem.answer or '')[:60]!r}"
                    raise UserError(f"checker {name} {fault}; {place}")
    finally:
        pool.close()


def _judge(problem: Problem, completion: str, finish: Finish) -> CheckResult:
    result = begin(problem, completion, finish)
    return complete(result) if isinstance(result, PendingCheck) else result


def _result(problem: Problem, done: Future[CheckResult], limit: float) -> CheckResult:
    error = done.exception()
    if error is None:
        return done.result()
    if isinstance(error, TimeoutError):
        outcome, reason, seconds = Outcome.TIMEOUT, f"killed after {limit:g} s", limit
    elif isinstance(error, ProcessExpired | MemoryError):
        outcome, reason, seconds = Outcome.FAILED, f"the checker's process died: {error!r}", 0.0
    else:
        outcome, reason, seconds = Outcome.FAILED, f"{type(error).__name__}: {error}", 0.0
    verdict = Verdict(outcome=outcome, checker=own.signature(problem.checker), detail=reason[:300], seconds=seconds)
    return CheckResult(verdict)


def _prepare(checking: Checking) -> None:
    # Here it does not count against the first check's time limit: on a busy machine the import takes seconds, again in
    # every process that replaces a killed one.
    import_module("reasonray.checkers.math_answer")
    program.configure(Limits.of(checking))
    gym_scorer.configure(Limits.of(checking), checking.timeout_seconds)
    resource.setrlimit(resource.RLIMIT_AS, (checking.memory_mb << 20,) * 2)

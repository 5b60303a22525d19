"""Checks in processes that can be killed: a time limit of running time only, a memory limit, a new worker after either.

Workers are spawned, never forked: the parent holds an engine and its threads. They start with the first check that is
not decided by the fast path; each works on its main thread, one check at a time.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
from concurrent.futures import Future
from importlib import import_module

from pebble import ProcessExpired, ProcessPool

from reasonray.checkers import check, check_fast, compare_rules, program
from reasonray.checkers.sandbox import Limits
from reasonray.config import Checking
from reasonray.records import Finish, Outcome, Problem, Verdict


class CheckerPool:
    """A few checker processes."""

    def __init__(self, checking: Checking) -> None:
        self._checking = checking
        self._pool = ProcessPool(
            max_workers=checking.processes,
            initializer=_prepare,
            initargs=(checking,),
            context=multiprocessing.get_context("spawn"),
        )

    def submit(self, problem: Problem, completion: str, finish: Finish) -> Future[Verdict]:
        """Judge one completion; the future's result is a verdict whatever the check does to its process."""
        outer: Future[Verdict] = Future()
        if fast := check_fast(problem, completion, finish):
            outer.set_result(fast)
            return outer
        limit = self._limit(problem)
        inner = self._pool.schedule(check, args=(problem, completion, finish), timeout=limit)
        inner.add_done_callback(lambda done: outer.set_result(_verdict(problem, done, limit)))
        return outer

    async def check(self, problem: Problem, completion: str, finish: Finish) -> Verdict:
        """Judge one completion without holding up the event loop."""
        return await asyncio.wrap_future(self.submit(problem, completion, finish))

    def compare_rules(self, problem: Problem, completion: str, finish: Finish) -> Future[tuple[str, str]]:
        """Have the rules judge one completion each by itself: the outcomes of the fast path and of the algebra.

        "" stands for what does not apply, TIMEOUT for what had to be killed.
        """
        outer: Future[tuple[str, str]] = Future()

        def settle(done: Future[tuple[Outcome | None, Outcome | None]]) -> None:
            error = done.exception()
            fast, symbolic = done.result() if error is None else (None, Outcome.TIMEOUT)
            outer.set_result((fast.value if fast else "", symbolic.value if symbolic else ""))

        inner = self._pool.schedule(compare_rules, args=(problem, completion, finish), timeout=self._limit(problem))
        inner.add_done_callback(settle)
        return outer

    def close(self) -> None:
        """End the processes, whatever they are at."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    def _limit(self, problem: Problem) -> float:
        """Return the seconds that a check may take; programs have a limit of their own, at which they are wrong."""
        more = self._checking.program_seconds if problem.checker == "program" else 0.0
        return self._checking.timeout_seconds + more


def _verdict(problem: Problem, done: Future[Verdict], limit: float) -> Verdict:
    error = done.exception()
    if error is None:
        return done.result()
    if isinstance(error, TimeoutError):
        outcome, reason, seconds = Outcome.TIMEOUT, f"killed after {limit:g} s", limit
    elif isinstance(error, ProcessExpired | MemoryError):
        outcome, reason, seconds = Outcome.FAILED, f"the checker's process died: {error!r}", 0.0
    else:
        outcome, reason, seconds = Outcome.FAILED, f"{type(error).__name__}: {error}", 0.0
    return Verdict(outcome=outcome, checker=problem.checker, detail=reason[:300], seconds=seconds)


def _prepare(checking: Checking) -> None:
    # Before the first check and its clock: a busy machine takes seconds for it, after every killed worker anew.
    import_module("math_verify")
    program.configure(Limits.of(checking))
    resource.setrlimit(resource.RLIMIT_AS, (checking.memory_mb << 20,) * 2)

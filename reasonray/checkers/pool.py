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

from reasonray.checkers import check, check_fast
from reasonray.records import Finish, Outcome, Problem, Verdict


class CheckerPool:
    """A few checker processes."""

    def __init__(self, *, processes: int = 1, timeout_seconds: float = 5.0, memory_mb: int = 4096) -> None:
        self._timeout = timeout_seconds
        self._pool = ProcessPool(
            max_workers=processes,
            initializer=_prepare,
            initargs=(memory_mb << 20,),
            context=multiprocessing.get_context("spawn"),
        )

    def submit(self, problem: Problem, completion: str, finish: Finish) -> Future[Verdict]:
        """Judge one completion; the future's result is a verdict whatever the check does to its process."""
        outer: Future[Verdict] = Future()
        if fast := check_fast(problem, completion, finish):
            outer.set_result(fast)
            return outer
        inner = self._pool.schedule(check, args=(problem, completion, finish), timeout=self._timeout)
        inner.add_done_callback(lambda done: outer.set_result(self._verdict(problem, done)))
        return outer

    async def check(self, problem: Problem, completion: str, finish: Finish) -> Verdict:
        """Judge one completion without holding up the event loop."""
        return await asyncio.wrap_future(self.submit(problem, completion, finish))

    def close(self) -> None:
        """End the processes, whatever they are at."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    def _verdict(self, problem: Problem, done: Future[Verdict]) -> Verdict:
        error = done.exception()
        if error is None:
            return done.result()
        if isinstance(error, TimeoutError):
            outcome, reason, seconds = Outcome.TIMEOUT, f"killed after {self._timeout:g} s", self._timeout
        elif isinstance(error, ProcessExpired | MemoryError):
            outcome, reason, seconds = Outcome.FAILED, f"the checker's process died: {error!r}", 0.0
        else:
            outcome, reason, seconds = Outcome.FAILED, f"{type(error).__name__}: {error}", 0.0
        return Verdict(outcome=outcome, checker=problem.checker, detail=reason[:300], seconds=seconds)


def _prepare(limit: int) -> None:
    # Before the first check and its clock: a busy machine takes seconds for it, after every killed worker anew.
    import_module("math_verify")
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

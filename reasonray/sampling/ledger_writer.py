"""A replica's writer: it commits finished rollouts to their ledgers outside the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import pyarrow as pa

from reasonray.config import Storage
from reasonray.records import Finish, Outcome, Rollout, Verdict
from reasonray.store.ledger import Ledger
from reasonray.store.schema import rollouts_to_table

_RETRY_PAUSES = (1, 4, 16, 60, 120)
"""Seconds between the tries of a commit."""
_FIRST_SECONDS = 8.0
"""Time that the first rollouts wait for their commit."""
_ROW_BYTES = 500
"""Bytes of a rollout without its texts."""
_DEFAULTS = Storage()
_UNSTORABLE = (ValueError, OverflowError, TypeError, pa.ArrowException)
"""What Arrow raises for values that a column cannot hold."""


class LedgerWriter:
    """A buffer of finished rollouts, committed in segments of a few megabytes.

    A rollout is safe once a `commit` that began after its `add` has returned; before that, the death of the process
    loses it. So `uncommitted` rollouts are to be counted as in flight: a lease's result may name them as finished, but
    its problems may only be forgotten when `uncommitted` was 0, or a commit returned, after the lease's last `add`.

    A commit is due when storage.commit_megabytes are waiting, or when the oldest waits for storage.commit_seconds; at
    first for some seconds only, twice as long after each commit, so that a run can be looked at in its first minute.
    The owner asks `due` after each `add` and from time to time, and then calls `commit`. It also does so for a problem
    that is isolated (each of its samples must be safe before the next one starts), and before the process ends.
    """

    def __init__(self, storage: Storage = _DEFAULTS, clock: Callable[[], float] = time.monotonic) -> None:
        self._storage, self._clock = storage, clock
        self._waiting: dict[Ledger, list[Rollout]] = {}
        self._waiting_bytes = 0
        self._oldest_at = 0.0
        """When the oldest waiting rollout was added, or the last commit that left some ended."""
        self._patience = min(_FIRST_SECONDS, storage.commit_seconds)
        """Seconds that a rollout waits for a commit."""
        self._committing = asyncio.Lock()

    @property
    def uncommitted(self) -> int:
        """The number of rollouts that a death of the process would lose."""
        return sum(map(len, self._waiting.values()))

    def add(self, ledger: Ledger, rollout: Rollout) -> None:
        """Add a rollout to the buffer."""
        if not self.uncommitted:
            self._oldest_at = self._clock()
        self._waiting.setdefault(ledger, []).append(rollout)
        self._waiting_bytes += _size(rollout)

    def due(self) -> bool:
        """Return whether enough rollouts are waiting, or have waited long enough, for a commit."""
        if not self.uncommitted:
            return False
        is_large = self._waiting_bytes >= self._storage.commit_megabytes * 1e6
        return is_large or self._clock() - self._oldest_at >= self._patience

    async def commit(self) -> None:
        """Commit all rollouts added so far. If this raises, they stay in the buffer for the next commit.

        A rollout that no segment can hold (a text that is not Unicode, a number that is too large) is committed as an
        ERROR with the reason, so that it does not keep the others from being committed.

        Raises:
            OSError: the storage still refuses after several tries.
        """
        async with self._committing:
            for ledger, waiting in list(self._waiting.items()):
                if rollouts := list(waiting):
                    await _append(ledger, rollouts)
                    del waiting[: len(rollouts)]  # only now are they safe; others were added meanwhile
                    self._waiting_bytes -= sum(map(_size, rollouts))
            self._oldest_at = self._clock()
            self._patience = min(2 * self._patience, self._storage.commit_seconds)


def _size(rollout: Rollout) -> int:
    return len(rollout.completion) + len(rollout.problem.question) + _ROW_BYTES


async def _append(ledger: Ledger, rollouts: Sequence[Rollout]) -> None:
    table = await asyncio.to_thread(_table, rollouts)
    for pause in (*_RETRY_PAUSES, None):
        try:
            await asyncio.to_thread(ledger.append_table, table)
            return
        except OSError:  # a full disk, a store that is away for a moment: finished rollouts wait in memory
            if pause is None:
                raise
            await asyncio.sleep(pause)


def _table(rollouts: Sequence[Rollout]) -> pa.Table:
    """Return the rows of rollouts; those that cannot be rows become ERRORs."""
    try:
        return rollouts_to_table(rollouts)
    except _UNSTORABLE:  # Arrow does not name the row: find it
        return rollouts_to_table([_storable(rollout) for rollout in rollouts])


def _storable(rollout: Rollout) -> Rollout:
    try:
        rollouts_to_table([rollout])
    except _UNSTORABLE as error:
        return _as_error(rollout, f"{type(error).__name__}: {error}")
    return rollout


def _as_error(rollout: Rollout, reason: str) -> Rollout:
    """Return the record of a sample whose completion cannot be stored."""
    detail = f"the completion cannot be stored: {reason}".encode(errors="replace").decode()
    verdict = Verdict(outcome=Outcome.FAILED, checker=rollout.problem.checker, detail=detail[:500])
    return replace(
        rollout,
        completion="",
        opening="",
        finish=Finish.ERROR,
        prompt_tokens=0,
        completion_tokens=0,
        verdict=verdict,
    )

"""A replica's writer: it commits finished rollouts to their ledgers outside the event loop."""

from __future__ import annotations

import asyncio

from reasonray.records import Rollout
from reasonray.store.ledger import Ledger

_RETRY_PAUSES = (1, 4, 16, 60, 120)
"""Seconds between the tries of a commit."""


class LedgerWriter:
    """A buffer of finished rollouts that commits them to their ledgers outside the event loop."""

    def __init__(self) -> None:
        self._waiting: dict[Ledger, list[Rollout]] = {}
        self._committing = asyncio.Lock()

    def add(self, ledger: Ledger, rollout: Rollout) -> None:
        """Add a rollout; it is safe once `commit` has returned."""
        self._waiting.setdefault(ledger, []).append(rollout)

    async def commit(self) -> None:
        """Commit all rollouts added so far. If this raises, they stay in the buffer for the next commit.

        Raises:
            OSError: the storage still refuses after several tries.
        """
        async with self._committing:
            for ledger, waiting in list(self._waiting.items()):
                if rollouts := list(waiting):
                    await _append(ledger, rollouts)
                    del waiting[: len(rollouts)]  # only now are they safe; others were added meanwhile


async def _append(ledger: Ledger, rollouts: list[Rollout]) -> None:
    for pause in (*_RETRY_PAUSES, None):
        try:
            await asyncio.to_thread(ledger.append, rollouts)
            return
        except OSError:  # a full disk, a store that is away for a moment: finished rollouts wait in memory
            if pause is None:
                raise
            await asyncio.sleep(pause)

"""Compaction next to sampling: Ray tasks merge the small segments that replicas commit, while these go on.

The tasks need no GPU, run at the lowest priority, spread over the cluster, and merge disjoint groups of segments. They
may be killed at any point.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ray
from ray.exceptions import RayError

from reasonray.errors import UserError
from reasonray.store.ledger import Ledger
from reasonray.store.progress import log_line

_PAUSE_SECONDS = 60.0
"""Between two rounds of merges."""
_TASKS = 4
"""Merges at the same time; each holds some hundred megabytes of memory."""
_NICENESS = 19
_OPTIONS = {
    "num_cpus": 0,
    "scheduling_strategy": "SPREAD",
    # Workers of their own: a process keeps its priority, and Ray would use it again for other tasks.
    "runtime_env": {"env_vars": {"REASONRAY_PRIORITY": "low"}},
}


@contextmanager
def compacting(ledger: Ledger, *, pause_seconds: float = _PAUSE_SECONDS) -> Iterator[None]:
    """Compact a ledger in the background as long as the block runs.

    A round of merges that fails (a node or the storage is gone for a moment) is logged, and the next round tries again:
    an uncompacted ledger holds the same rollouts. At the end of the block merges in progress are waited for.

    Args:
        ledger: other processes may write and read meanwhile.
        pause_seconds: between two rounds.

    Raises:
        UserError: a segment has a newer schema version. It is raised at the end of the block.
    """
    ended = threading.Event()
    mistakes: list[UserError] = []

    def work() -> None:
        while not ended.wait(pause_seconds):
            try:
                _merge_once(ledger, ended)
            except UserError as error:
                mistakes.append(error)
                return
            except (RayError, OSError) as error:
                log_line("compact", f"postponed: {str(error).splitlines()[-1][:200]}")

    thread = threading.Thread(target=work, name="compaction", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if mistakes:
        raise mistakes[0]


def _merge_once(ledger: Ledger, ended: threading.Event) -> None:
    """Plan, and merge the groups of the plan, a few at a time, until `ended` is set."""
    waiting: Sequence[tuple[str, ...]] = ray.get(ray.remote(_plan).options(**_OPTIONS).remote(ledger))
    merge = ray.remote(_merge).options(**_OPTIONS)
    for start in range(0, len(waiting), _TASKS):
        if ended.is_set():
            return
        ray.get([merge.remote(ledger, group) for group in waiting[start : start + _TASKS]])


def _plan(ledger: Ledger) -> list[tuple[str, ...]]:
    os.nice(_NICENESS)
    return ledger.plan_compaction()


def _merge(ledger: Ledger, group: tuple[str, ...]) -> int:
    os.nice(_NICENESS)
    return ledger.merge(group)

"""A lock on a run, so that two drivers never work on one run directory at the same time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reasonray.errors import UserError
from reasonray.store.run import Run
from reasonray.store.storage import storage_error


@contextmanager
def exclusive(run: Run) -> Iterator[None]:
    """Lock a local run against a second driver; the lock ends with the process, however it ends.

    Object stores have no locks: two drivers on one run there waste work, but rollouts sampled twice are read once.

    Raises:
        UserError: another driver is working on the run, or its directory cannot be written.
    """
    if not run.place.is_local:
        yield
        return
    try:
        lock = (Path(run.place.path) / ".lock").open("a+")
    except OSError as error:
        raise storage_error(run.place, error) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise UserError(
                f"run {run.name} is being worked on by process {holder}; wait for it, stop it, or use another name"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield

"""The log of a run: one JSON object per event.

    <run>/events.jsonl                  on a local disk: one line for each event, appended at once
    <run>/events/<time>-<id>.jsonl      in an object store, where nothing can be appended: the events of some seconds

A reader reads both, so a run can be copied from one to the other.
"""

from __future__ import annotations

import atexit
import json
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from reasonray.store.storage import Place

_FLUSH_SECONDS = 10.0
"""Time for which an object store's events wait to be written together."""
_READERS = 32


class Events:
    """An append-only log of JSON Lines.

    `emit` never waits for an object store: a thread writes the events of the last seconds together, and so does the end
    of the process. A process that is killed loses them.
    """

    def __init__(self, place: Place) -> None:
        """Args: place: of the run."""
        self._log, self._folder = place / "events.jsonl", place / "events"

    def emit(self, stage: str, **figures: Any) -> None:
        """Append one event, with the time."""
        line = json.dumps({"time": round(time.time(), 3), "stage": stage, **figures}, allow_nan=False, default=str)
        if self._log.is_local:
            with Path(self._log.path).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        else:
            _batch_of(self._folder).add(line)

    def read(self, stage: str | None = None) -> list[dict[str, Any]]:
        """Return the events in order; a last line that a crash cut short is skipped.

        Args:
            stage: only events of this stage; None for all.
        """
        if not self._log.is_local:
            _batch_of(self._folder).flush()
        events = []
        for line in self._lines():
            if line.endswith("}"):
                event = json.loads(line)
                if stage in (None, event["stage"]):
                    events.append(event)
        return events

    def last_of_sessions(self, stage: str) -> list[dict[str, Any]]:
        """Return the last event of each session of a stage; its figures are the session's totals."""
        return list({event["session"]: event for event in self.read(stage) if "session" in event}.values())

    def _lines(self) -> Iterator[str]:
        """Yield the lines in order: of the log, which is older or the only one, then of the files."""
        if self._log.exists():
            yield from self._log.read().decode().splitlines()
        with ThreadPoolExecutor(_READERS) as pool:
            for content in pool.map(lambda name: (self._folder / name).read(), self._folder.names(".jsonl")):
                yield from content.decode().splitlines()


class _Batch:
    """The events of one run that this process has not written yet."""

    def __init__(self, folder: Place) -> None:
        self._folder = folder
        self._lines: list[str] = []
        self._changing, self._writing = threading.Lock(), threading.Lock()
        self._is_due: threading.Timer | None = None
        atexit.register(self._flush_at_exit)

    def add(self, line: str) -> None:
        """Add an event; it is written some seconds later."""
        with self._changing:
            self._lines.append(line)
            if self._is_due is None:
                self._is_due = threading.Timer(_FLUSH_SECONDS, self._try_to_flush)
                self._is_due.daemon = True
                self._is_due.start()

    def _try_to_flush(self) -> None:
        with suppress(OSError):  # the store is away: the next event, a reader or the end of the process tries again
            self.flush()

    def _flush_at_exit(self) -> None:
        try:
            self.flush()
        except OSError as fault:
            print(f"{len(self._lines)} events could not be written to {self._folder}: {fault}", file=sys.stderr)

    def flush(self) -> None:
        """Write the events that are waiting as one file. If that fails, they wait for the next ones."""
        with self._writing:
            with self._changing:
                self._is_due = None
                lines = list(self._lines)
            if not lines:
                return
            name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.jsonl"
            (self._folder / name).write("".join(f"{line}\n" for line in lines).encode())
            with self._changing:
                del self._lines[: len(lines)]


@cache
def _batch_of(folder: Place) -> _Batch:
    return _Batch(folder)

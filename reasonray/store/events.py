"""The log of a run, events.jsonl: one JSON object per event."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from reasonray.store.storage import Place


class Events:
    """An append-only log of JSON Lines. In an object store each event writes the whole log again."""

    def __init__(self, target: Place) -> None:
        self._target = target

    def emit(self, stage: str, **figures: Any) -> None:
        """Append one event, with the time."""
        line = json.dumps({"time": round(time.time(), 3), "stage": stage, **figures}, allow_nan=False, default=str)
        if self._target.is_local:
            with Path(self._target.path).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        else:
            self._target.write((self._text() + line + "\n").encode())

    def read(self, stage: str | None = None) -> list[dict[str, Any]]:
        """Return the events in order; a last line that a crash cut short is skipped.

        Args:
            stage: only events of this stage; None for all.
        """
        events = []
        for line in self._text().splitlines():
            if line.endswith("}"):
                event = json.loads(line)
                if stage in (None, event["stage"]):
                    events.append(event)
        return events

    def last_of_sessions(self, stage: str) -> list[dict[str, Any]]:
        """Return the last event of each session of a stage; its figures are the session's totals."""
        return list({event["session"]: event for event in self.read(stage) if "session" in event}.values())

    def _text(self) -> str:
        return self._target.read().decode() if self._target.exists() else ""

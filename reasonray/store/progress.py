"""Progress of a stage: one live line on a terminal, a plain line every few seconds elsewhere.

The same figures are written to the run's events, so the log of a job has what the terminal showed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from reasonray.store.events import Events

_PLAIN_SECONDS = 5.0
_LIVE_SECONDS = 0.25

_console = Console(highlight=False, soft_wrap=True)


def log_line(stage: str, text: str) -> None:
    """Print one line of a stage."""
    _console.print(_line(stage, text))


def duration(seconds: float) -> str:
    """Return `0:42`, `12:05` or `3:07:09`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class Progress:
    """The progress of one stage: a context manager whose `show` may be called at any rate."""

    def __init__(self, stage: str, events: Events) -> None:
        self._stage = stage
        self._events = events
        self._begun = time.monotonic()
        self._session = time.time_ns()
        self._last_live = self._last_plain = self._begun - _PLAIN_SECONDS
        self._live = Live(console=_console, auto_refresh=False, transient=True) if _console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
        sys.stdout.flush()

    @property
    def seconds(self) -> float:
        """Time since the stage began in this process."""
        return time.monotonic() - self._begun

    def show(self, text: str, figures: Mapping[str, Any], *, now: bool = False) -> None:
        """Show a line and record its figures.

        Args:
            text: the line.
            figures: what to record in the run's events.
            now: show and record even if the last line was shown a moment ago; else such a call does nothing.
        """
        moment = time.monotonic()
        if self._live and (now or moment - self._last_live >= _LIVE_SECONDS):
            self._last_live = moment
            self._live.update(_line(self._stage, text), refresh=True)
        if now or moment - self._last_plain >= _PLAIN_SECONDS:
            self._last_plain = moment
            self.record(figures)
            if not self._live:
                log_line(self._stage, text)

    def record(self, figures: Mapping[str, Any]) -> None:
        """Write figures to the run's events without showing anything."""
        session = {"session": self._session, "seconds": round(self.seconds, 3)}
        self._events.emit(self._stage, **(session | dict(figures)))


def _line(stage: str, text: str) -> Text:
    return Text.assemble((f"{stage:<9} ", "bold"), text)

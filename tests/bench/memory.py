"""A measurement of the peak memory of a block of code."""

from __future__ import annotations

import threading
from contextlib import suppress

import psutil


class PeakMemory:
    """The peak resident memory of this process while the block runs, or with `children` of any one process below it."""

    def __init__(self, *, children: bool = False) -> None:
        self._children = children
        self.mb = 0.0

    def __enter__(self) -> PeakMemory:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        own = psutil.Process()
        while not self._ended.wait(0.5 if self._children else 0.1):
            for process in [own, *(own.children(recursive=True) if self._children else ())]:
                with suppress(psutil.NoSuchProcess):
                    self.mb = max(self.mb, process.memory_info().rss / 1e6)

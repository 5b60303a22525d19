"""How much memory a block of code takes at most."""

from __future__ import annotations

import threading
from contextlib import suppress

import psutil


class PeakMemory:
    """The largest resident memory of this process while the block runs, or of any process below it."""

    def __init__(self, *, children: bool = False) -> None:
        self._children = children
        self.mb = 0.0

    def __enter__(self) -> PeakMemory:
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()

    def _look(self) -> None:
        me = psutil.Process()
        while not self._over.wait(0.5 if self._children else 0.1):
            for process in [me, *(me.children(recursive=True) if self._children else ())]:
                with suppress(psutil.NoSuchProcess):
                    self.mb = max(self.mb, process.memory_info().rss / 1e6)

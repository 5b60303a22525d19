"""Processes that do not import the main module of the program that starts them.

multiprocessing runs the main module again in every process that it spawns, so that objects defined there can be
unpickled. The checkers need none of them. So the first check does not run a training script without a main guard once
more, and a checker process of a Ray worker loads neither Ray nor what else the worker's main module imports.
"""

from __future__ import annotations

import threading
from multiprocessing import popen_spawn_posix, spawn
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

_thread = threading.local()
_with_main = spawn.get_preparation_data


def _preparation_data(name: str) -> dict[str, Any]:
    data = dict(_with_main(name))
    if getattr(_thread, "leaves_main_out", False):
        data.pop("init_main_from_name", None)
        data.pop("init_main_from_path", None)
    return data


# multiprocessing has no setting for it. Processes that other threads start meanwhile are not affected.
spawn.get_preparation_data = _preparation_data


class _Popen(popen_spawn_posix.Popen):
    def _launch(self, process_obj: Any) -> None:
        _thread.leaves_main_out = True
        try:
            super()._launch(process_obj)  # type: ignore[misc]
        finally:
            _thread.leaves_main_out = False


class _Process(SpawnProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> _Popen:
        return _Popen(process_obj)


class WithoutMain(SpawnContext):
    """Spawns processes that do not import the main module."""

    Process = _Process

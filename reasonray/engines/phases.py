"""What an engine that starts is doing, taken from vLLM's log in whichever process writes it.

vLLM has no other sign of it. The handler runs in the engine's processes and leaves the phase in a file; the process
that started them reads it. Messages that a later version words differently leave the phase as it was.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

_PHASES = (
    ("Initializing a V1 LLM engine", "starting"),
    ("Starting to load model", "loading weights"),
    ("Model loading took", "compiling"),
    ("Warming up model for the compilation", "compiling"),
    ("Available KV cache memory", "capturing graphs"),
    ("Graph capturing finished", "warming up"),
    ("init engine", "warming up"),
)
"""(text of a message, the phase that it begins)."""


class PhaseHandler(logging.Handler):
    """A handler for vLLM's logger that keeps the phase in a file."""

    def __init__(self, path: str) -> None:
        super().__init__(logging.INFO)
        self._path = Path(path)

    def emit(self, record: logging.LogRecord) -> None:
        """Note the phase that a message begins, if it begins one."""
        phase = next((phase for text, phase in _PHASES if text in str(record.msg)), "")
        if phase:
            self._path.write_text(phase)


def logging_configuration(default: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return vLLM's logging configuration with a PhaseHandler next to its own handlers.

    Args:
        default: vLLM's own configuration, in the schema of logging.config.dictConfig.
        path: the file for the phase.
    """
    logger = default["loggers"]["vllm"]
    level = min(logging.INFO, logging.getLevelName(logger["level"]))
    handler = {"class": f"{__name__}.{PhaseHandler.__name__}", "path": str(path)}
    return default | {
        "handlers": default["handlers"] | {"phases": handler},
        "loggers": default["loggers"]
        | {"vllm": logger | {"level": level, "handlers": ["phases", *logger["handlers"]]}},
    }


def read_phase(path: Path) -> str:
    """Return the phase that a PhaseHandler left in a file, "starting" if none did."""
    return (path.read_text() if path.exists() else "") or "starting"

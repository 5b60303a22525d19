"""The phase of a start comes from vLLM's log, whatever its own handlers show."""

import logging
import logging.config
from pathlib import Path
from typing import Any

from reasonray.engines.phases import logging_configuration, read_phase

DEFAULT: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"vllm": {"class": "logging.NullHandler", "level": "WARNING"}},
    "loggers": {"vllm": {"handlers": ["vllm"], "level": "WARNING", "propagate": False}},
}


def test_the_phase_follows_the_log(tmp_path: Path) -> None:
    file = tmp_path / "phase"
    configuration = logging_configuration(DEFAULT, file)
    assert configuration["handlers"]["vllm"] == DEFAULT["handlers"]["vllm"], "what is shown stays the same"
    logging.config.dictConfig(configuration)
    logger = logging.getLogger("vllm.v1.worker")
    phases = [read_phase(file)]
    for message, value in (
        ("Starting to load model %s...", "m"),
        ("a message of another kind %s", "x"),
        ("Model loading took %s GiB memory", 3),
        ("Available KV cache memory: %s GiB", 9),
        ("Graph capturing finished in %.0f secs", 2),
    ):
        logger.info(message, value)
        phases.append(read_phase(file))
    assert phases == ["starting", *["loading weights"] * 2, "compiling", "capturing graphs", "warming up"]


def test_the_messages_are_those_of_the_installed_vllm() -> None:
    """A version that words them otherwise fails here and not in silence."""
    import importlib.util

    from reasonray.engines.phases import _PHASES

    (root,) = importlib.util.find_spec("vllm").submodule_search_locations  # type: ignore[union-attr,misc]
    files = ("engine/core.py", "worker/gpu_worker.py", "worker/gpu_model_runner.py", "worker/cpu_model_runner.py")
    source = "".join((Path(root) / "v1" / file).read_text() for file in files)
    assert [text for text, _ in _PHASES if text not in source] == []

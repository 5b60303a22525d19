"""Who answers. `start` turns an engine's configuration into a running engine."""

from __future__ import annotations

from pathlib import Path

from reasonray.config import ScriptedEngine, VLLMEngine
from reasonray.engines.base import Engine


def start(
    config: VLLMEngine | ScriptedEngine, model: Path | None, *, gpus: int, pipeline: int, spread: bool, seed: int
) -> Engine:
    """Start an engine in this process (and its workers on other nodes, if `spread`); the scripted one needs no model.

    Raises:
        UserError: the engine refuses its arguments.
    """
    match config:
        case ScriptedEngine():
            from reasonray.engines.scripted import Scripted

            return Scripted(config)
        case VLLMEngine():
            from reasonray.engines.vllm import VLLM

            assert model is not None
            return VLLM(model, config, gpus=gpus, pipeline=pipeline, spread=spread, seed=seed)

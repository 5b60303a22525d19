"""Who answers. `start` turns an engine's configuration into a running engine."""

from __future__ import annotations

import json
from pathlib import Path

from reasonray.config.models import EndpointEngine, ScriptedEngine, VLLMEngine
from reasonray.config.models import Engine as EngineConfig
from reasonray.engines.protocol import Engine


async def start(
    config: EngineConfig, model: str, directory: Path | None, *, gpus: int, pipeline: int, spread: bool, seed: int
) -> Engine:
    """Start an engine in this process (and its workers on other nodes, if `spread`).

    Raises:
        UserError: the engine refuses its arguments, or the server the key or the model.
    """
    match config:
        case ScriptedEngine():
            from reasonray.engines.scripted import Scripted

            return Scripted(config)
        case EndpointEngine():
            from reasonray.engines.endpoint import Endpoint

            endpoint = Endpoint(model, config)
            await endpoint.start()
            return endpoint
        case VLLMEngine():
            from reasonray.engines.vllm import VLLM

            assert directory is not None
            return VLLM(directory, config, gpus=gpus, pipeline=pipeline, spread=spread, seed=seed)


def needs_weights(config: EngineConfig) -> bool:
    """Say whether an engine computes with weights of its own, which have to be on this machine."""
    return isinstance(config, VLLMEngine)


def identity(config: EngineConfig, model: str) -> str:
    """Return what stands for the weights of an engine that has none here: what else decides which text is drawn."""
    if not isinstance(config, EndpointEngine):
        return "scripted"
    asked = {"api": config.api, "tokenizer": config.tokenizer, "extra_body": config.extra_body}
    return f"endpoint {config.base_url} {json.dumps(asked, sort_keys=True)}"

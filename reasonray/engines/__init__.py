"""The engines that write completions, and the registry from a configured `kind` to the engine.

`start` returns a running engine. To add one, see README.md in this directory.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonray import models
from reasonray.config.engines import EndpointEngine, ScriptedEngine, VLLMEngine
from reasonray.config.engines import Engine as EngineConfig
from reasonray.engines.protocol import Engine
from reasonray.errors import UserError


@dataclass(frozen=True, slots=True)
class Launch:
    """A model to serve and the hardware to serve it on."""

    model: str
    """The reference as configured, or the model's name on a server."""
    directory: Path | None
    """The model's local directory; None for an engine that needs no weights on this machine."""
    gpus: int
    """Tensor parallel size times `pipeline`; 0 computes on the CPU."""
    pipeline: int
    """Pipeline parallel stages."""
    spread: bool
    """Whether the GPUs belong to the placement group of this process, which may span several nodes."""
    seed: int


@dataclass(frozen=True, slots=True)
class EngineKind:
    """A registry entry. `start` and `identity` get the section of [[teachers]] or [student] called `engine`."""

    start: Callable[[Any, Launch], Awaitable[Engine]]
    needs_weights: bool
    """Whether the model has to be in a directory on this machine."""
    identity: Callable[[Any, Path | None], str]
    """Returns a string that changes whenever something besides prompt, sampling and model name changes the text."""


async def _start_vllm(config: VLLMEngine, launch: Launch) -> Engine:
    from reasonray.engines.vllm import VLLM

    assert launch.directory is not None
    return VLLM(
        launch.directory,
        config,
        gpus=launch.gpus,
        pipeline=launch.pipeline,
        spread=launch.spread,
        seed=launch.seed,
    )


async def _start_endpoint(config: EndpointEngine, launch: Launch) -> Engine:
    from reasonray.engines.endpoint import Endpoint

    endpoint = Endpoint(launch.model, config)
    await endpoint.start()
    return endpoint


async def _start_scripted(config: ScriptedEngine, launch: Launch) -> Engine:
    from reasonray.engines.scripted import Scripted

    return Scripted(config)


def _weights_identity(config: VLLMEngine, directory: Path | None) -> str:
    assert directory is not None
    return models.identity(directory)


def _endpoint_identity(config: EndpointEngine, directory: Path | None) -> str:
    request = {"api": config.api, "tokenizer": config.tokenizer, "extra_body": config.extra_body}
    return f"endpoint {config.base_url} {json.dumps(request, sort_keys=True)}"


def _scripted_identity(config: ScriptedEngine, directory: Path | None) -> str:
    return "scripted"


ENGINES: Mapping[str, EngineKind] = {
    "vllm": EngineKind(_start_vllm, needs_weights=True, identity=_weights_identity),
    "endpoint": EngineKind(_start_endpoint, needs_weights=False, identity=_endpoint_identity),
    "scripted": EngineKind(_start_scripted, needs_weights=False, identity=_scripted_identity),
}
"""Engines by `engine.kind`. Fingerprints of rollouts contain the identities, so these strings must never change."""


async def start(config: EngineConfig, launch: Launch) -> Engine:
    """Start an engine in this process (and, if the launch is spread, its workers on other nodes).

    Raises:
        UserError: the engine rejects its arguments, or the server rejects the key or the model.
    """
    return await _kind(config).start(config, launch)


def needs_weights(config: EngineConfig) -> bool:
    """Return whether the engine loads weights itself, so that the model has to be on this machine."""
    return _kind(config).needs_weights


def identity(config: EngineConfig, directory: Path | None) -> str:
    """Return the identity of what a running engine serves, for the fingerprint of its rollouts.

    Args:
        config: the engine's section.
        directory: the model's local directory; None if the engine needs none.
    """
    return _kind(config).identity(config, directory)


def _kind(config: EngineConfig) -> EngineKind:
    try:
        return ENGINES[config.kind]
    except KeyError:
        raise UserError(f"engine.kind = {config.kind!r}: no such engine; use one of {', '.join(ENGINES)}") from None

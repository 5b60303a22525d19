"""The engines that write completions, and the registry from a configured `kind` to the engine.

`start` returns a running engine. To add one, see README.md in this directory.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonray import models
from reasonray.config import Sampling
from reasonray.config.engines import (
    BatchEngine,
    EndpointEngine,
    RecordedEngine,
    ScriptedEngine,
    ServerEngine,
    VLLMEngine,
)
from reasonray.config.engines import Engine as EngineConfig
from reasonray.config.models import Asking
from reasonray.engines.dialect import refuse_misspelt
from reasonray.engines.protocol import Engine, Launch, Supply
from reasonray.errors import UserError
from reasonray.records import Problem

__all__ = [
    "ENGINES",
    "PRESENT_RULE",
    "EngineKind",
    "Launch",
    "check_sampling",
    "first_identity",
    "identity",
    "needs_weights",
    "start",
    "supply",
]


PRESENT_RULE = "2"
"""Begins the identities of the present rule, which sets them apart from those of the first one."""
_TEMPERATE = 2.0
"""Temperature up to which no engine objects."""


@dataclass(frozen=True, slots=True)
class EngineKind:
    """A registry entry. `start` and `identity` get the section of [[teachers]] or [student] called `engine`."""

    start: Callable[[Any, Launch], Awaitable[Engine]]
    needs_weights: bool
    """Whether the model has to be in a directory on this machine."""
    check_sampling: Callable[[Any, Sampling], None]
    """Checks sampling parameters, as far as that is possible without the model; raises UserError."""
    identity: Callable[[Any, Path | None], str]
    """Returns a string that changes with the weights, as far as they are known, and with nothing else."""
    first_identity: Callable[[Any, Path | None], str]
    """The same by the rule of the first version."""
    supply: Callable[[Any, Asking, Sequence[Problem], Sequence[Problem]], Supply] | None = None
    """Returns how many samples of each problem the engine can give; None for an engine that can give any number."""


async def _start_vllm(config: VLLMEngine, launch: Launch) -> Engine:
    from reasonray.engines.vllm import start

    return await start(config, launch)


async def _start_endpoint(config: EndpointEngine | BatchEngine, launch: Launch) -> Engine:
    from reasonray.engines.endpoint import Endpoint

    endpoint = Endpoint(launch.model, config, launch.trust_remote_code, launch.report)
    await endpoint.start()
    return endpoint


async def _start_recorded(config: RecordedEngine, launch: Launch) -> Engine:
    from reasonray.engines.recorded import Recorded

    return await asyncio.to_thread(Recorded, config)


async def _start_scripted(config: ScriptedEngine, launch: Launch) -> Engine:
    from reasonray.engines.scripted import Scripted

    return Scripted(config)


def _check_vllm(config: VLLMEngine, sampling: Sampling) -> None:
    if not (sampling.extra or sampling.thinking_token_budget or sampling.temperature > _TEMPERATE):
        return  # the configuration has checked the rest, and vLLM takes seconds to import
    from reasonray.engines.vllm_arguments import check_sampling

    check_sampling(config, sampling)


def _check_endpoint(config: ServerEngine, sampling: Sampling) -> None:
    refuse_misspelt("sampling.extra", sampling.extra)
    refuse_misspelt("engine.extra_body", config.extra_body)


def _check_none(config: EngineConfig, sampling: Sampling) -> None:
    """Accept everything: scripted and recorded answers depend on no parameter."""


def _weights_identity(config: VLLMEngine, directory: Path | None) -> str:
    assert directory is not None
    return models.content_identity(directory)


def _server_identity(config: ServerEngine, directory: Path | None) -> str:
    return "endpoint"  # its weights are not known, and they are the same for batches


def _no_identity(config: EngineConfig, directory: Path | None) -> str:
    return config.kind  # a script has no weights


def _recorded_identity(config: RecordedEngine, directory: Path | None) -> str:
    from reasonray.engines.recordings import read_recordings

    return f"recorded {read_recordings(config).identity}"


def _recorded_supply(
    config: RecordedEngine, asking: Asking, problems: Sequence[Problem], others: Sequence[Problem]
) -> Supply:
    from reasonray.engines.recorded import supply

    return supply(config, asking, problems, others)


def _first_weights_identity(config: VLLMEngine, directory: Path | None) -> str:
    assert directory is not None
    return models.identity(directory)


def _first_endpoint_identity(config: ServerEngine, directory: Path | None) -> str:
    request = {"api": config.api, "tokenizer": config.tokenizer, "extra_body": config.extra_body}
    return f"endpoint {config.base_url} {json.dumps(request, sort_keys=True)}"


def _first_scripted_identity(config: ScriptedEngine, directory: Path | None) -> str:
    return "scripted"


ENGINES: Mapping[str, EngineKind] = {
    "vllm": EngineKind(_start_vllm, True, _check_vllm, _weights_identity, _first_weights_identity),
    "endpoint": EngineKind(_start_endpoint, False, _check_endpoint, _server_identity, _first_endpoint_identity),
    "batch": EngineKind(_start_endpoint, False, _check_endpoint, _server_identity, _first_endpoint_identity),
    "recorded": EngineKind(
        _start_recorded, False, _check_none, _recorded_identity, _recorded_identity, _recorded_supply
    ),
    "scripted": EngineKind(_start_scripted, False, _check_none, _no_identity, _first_scripted_identity),
}
"""Engines by `engine.kind`. Fingerprints of rollouts contain the identities, so these strings must never change."""


async def start(config: EngineConfig, launch: Launch) -> Engine:
    """Start an engine in this process (and, if the launch is spread, its workers on other nodes).

    Raises:
        UserError: the engine rejects its arguments, or the server rejects the key or the model.
    """
    return await _kind(config).start(config, launch)


def check_sampling(config: EngineConfig, sampling: Sampling) -> None:
    """Check sampling parameters before anything is started.

    Raises:
        UserError: the engine does not know a parameter, or rejects its value.
    """
    _kind(config).check_sampling(config, sampling)


def needs_weights(config: EngineConfig) -> bool:
    """Return whether the engine loads weights itself, so that the model has to be on this machine."""
    return _kind(config).needs_weights


def identity(config: EngineConfig, directory: Path | None) -> str:
    """Return the identity of the weights that a running engine serves, for the fingerprint of its rollouts.

    Args:
        config: the engine's section.
        directory: the model's local directory; None if the engine needs none.
    """
    return f"{PRESENT_RULE} {_kind(config).identity(config, directory)}"


def first_identity(config: EngineConfig, directory: Path | None) -> str:
    """Return the identity by the rule of the first version, with which older runs go on."""
    return _kind(config).first_identity(config, directory)


def supply(
    config: EngineConfig, asking: Asking, problems: Sequence[Problem], others: Sequence[Problem] = ()
) -> Supply | None:
    """Return how many samples of each problem an engine can give; None if it can give any number.

    Args:
        config: the engine's section.
        asking: how the model is asked.
        problems: to be sampled.
        others: further problems of the run, which are not to be sampled.

    Raises:
        UserError: what it gives them from cannot be read.
    """
    count = _kind(config).supply
    return count(config, asking, problems, others) if count else None


def _kind(config: EngineConfig) -> EngineKind:
    try:
        return ENGINES[config.kind]
    except KeyError:
        raise UserError(f"engine.kind = {config.kind!r}: no such engine; use one of {', '.join(ENGINES)}") from None

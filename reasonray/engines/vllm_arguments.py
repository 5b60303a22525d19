"""The arguments of vLLM's engine and of its requests, and checks of them by vLLM's own classes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from reasonray import models
from reasonray.config import Sampling, UserError, VLLMEngine
from reasonray.engines.protocol import Launch


def request_parameters(sampling: Sampling) -> dict[str, Any]:
    """Return the parameters that have keys of their own, and are the same for every request."""
    return {
        "n": 1,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "stop": list(sampling.stop) or None,
        "stop_token_ids": list(sampling.stop_token_ids) or None,
        "logprobs": 0 if sampling.logprobs else None,  # of the sampled token, and of no other one
    }


def typed_parameters(sampling: Sampling) -> dict[str, Any]:
    """Return the further parameters as vLLM's types.

    Raises:
        ValueError: vLLM refuses a value.
    """
    from pydantic import TypeAdapter
    from vllm import SamplingParams

    raw = dict(sampling.extra)
    if sampling.thinking_token_budget is not None:
        raw["thinking_token_budget"] = sampling.thinking_token_budget
    if sampling.repetition_detection:
        raw["repetition_detection"] = sampling.repetition_detection.model_dump()
    typed = TypeAdapter(SamplingParams).validate_python(raw) if raw else None
    return {name: getattr(typed, name) for name in raw}


def refused(error: Exception, model: str) -> UserError:
    """Return the error for arguments that vLLM refused."""
    if "trust_remote_code" in str(error):
        return models.untrusted_code(model)
    return UserError(f"vLLM refuses the engine's arguments: {error}")


def check_sampling(config: VLLMEngine, sampling: Sampling) -> None:
    """Check sampling parameters by vLLM's own class, without an accelerator.

    Raises:
        UserError: vLLM does not know a parameter, rejects a value, or lacks what a parameter needs.
    """
    from pydantic import ValidationError
    from vllm import SamplingParams
    from vllm.exceptions import VLLMClientError

    known = [name for name in SamplingParams.__struct_fields__ if not name.startswith("_")]
    for name in sampling.extra:
        _refuse_unknown("sampling.extra", name, known, "see vLLM's SamplingParams")
    needed = ("reasoning_parser", "reasoning_config")
    if sampling.thinking_token_budget is not None and not any(name in config.args for name in needed):
        raise UserError("sampling.thinking_token_budget needs engine.args.reasoning_parser, such as 'deepseek_r1'")
    try:
        further = typed_parameters(sampling)
        SamplingParams(**request_parameters(sampling), **further, max_tokens=sampling.max_tokens)
    except ValidationError as error:
        faults = [fault for fault in error.errors() if fault["type"] != "is_instance_of"] or error.errors()
        raise UserError(f"sampling.extra: vLLM refuses the parameters: {faults[0]['msg']}") from None
    except (TypeError, ValueError, VLLMClientError) as error:
        raise UserError(f"sampling: vLLM refuses the parameters: {error}") from None


def _refuse_unknown(where: str, name: str, known: list[str], where_to_look: str) -> None:
    if name not in known:
        close = get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}?" if close else where_to_look
        raise UserError(f"{where}: vLLM knows no {name!r}; {hint}")


def check_arguments(
    model: str,
    revision: str | None,
    config: VLLMEngine,
    *,
    gpus: int,
    pipeline: int = 1,
    trust_remote_code: bool = False,
) -> None:
    """Check an engine's arguments by vLLM's own classes and the model's shape, without an accelerator.

    Args:
        model: a model reference.
        revision: of a model on the hub.
        config: the engine's section.
        gpus: in all; tensor parallel size times `pipeline`.
        pipeline: pipeline parallel stages.
        trust_remote_code: as configured for the model.

    Raises:
        UserError: vLLM does not know an argument or rejects its value, the GPUs cannot share the attention heads, or
            the model needs code that it may not run.
    """
    from vllm import AsyncEngineArgs
    from vllm.exceptions import VLLMClientError

    known = [field.name for field in fields(AsyncEngineArgs)]
    for name in config.args:
        _refuse_unknown("engine.args", name, known, "see vLLM's engine arguments")
    existing = Path("/")  # any directory that exists: offline, vLLM would look for the files of a model's name
    launch = Launch(model, existing, gpus, pipeline, False, 0, trust_remote_code)
    try:
        AsyncEngineArgs(**engine_arguments(config, launch))
    except (TypeError, ValueError, VLLMClientError) as error:
        raise refused(error, model) from error
    shape = models.configuration(model, revision)
    if "auto_map" in shape and not trust_remote_code:
        _refuse_own_code(model, shape)
    tensor = int(config.args.get("tensor_parallel_size", gpus // pipeline))
    heads = int(shape.get("text_config", shape).get("num_attention_heads", 0))
    if tensor > 1 and heads % tensor:
        fitting = [number for number in range(1, min(heads, 16) + 1) if heads % number == 0]
        raise UserError(
            f"{tensor} GPUs cannot share the {heads} attention heads of {model}: "
            f"make gpus / pipeline one of {', '.join(map(str, fitting))}"
        )


def _refuse_own_code(model: str, configuration: Mapping[str, Any]) -> None:
    """Check that vLLM and transformers know a model by themselves, although it comes with code of its own."""
    from vllm.transformers_utils.config import get_config

    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "config.json").write_text(json.dumps(dict(configuration)))
        try:
            get_config(directory, trust_remote_code=False)
        except (ValueError, RuntimeError) as error:
            if "trust_remote_code" in str(error):
                raise models.untrusted_code(model) from None


def engine_arguments(config: VLLMEngine, launch: Launch) -> dict[str, Any]:
    """Return the arguments of AsyncEngineArgs; the user's own `args` take precedence."""
    arguments: dict[str, Any] = {
        "model": str(launch.directory),
        "dtype": config.dtype,
        "max_model_len": config.max_model_len,
        "seed": launch.seed,
        "disable_log_stats": True,
        "trust_remote_code": launch.trust_remote_code,
    }
    if config.max_num_seqs is not None:
        arguments["max_num_seqs"] = config.max_num_seqs
    if launch.gpus == 0:
        # Per-request seeds crash the CPU engine when a prompt's prefill is chunked.
        arguments |= {"enforce_eager": True, "enable_chunked_prefill": False}
    if launch.gpus > 1:
        arguments |= {
            "tensor_parallel_size": launch.gpus // launch.pipeline,
            "pipeline_parallel_size": launch.pipeline,
            "distributed_executor_backend": "ray" if launch.spread else "mp",
        }
    return arguments | config.args

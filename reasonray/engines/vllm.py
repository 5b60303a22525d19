"""The vLLM engine: one AsyncLLM that gets K requests of n=1 per problem.

Each sample is its own request, so that it ends, is checked, stored, aborted and retried independently. The samples of
a problem share the prompt's KV blocks by prefix caching. No other module imports vllm.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from reasonray import models
from reasonray.config import Sampling, UserError, VLLMEngine
from reasonray.engines.protocol import Completion, EngineDied, Heartbeat, SampleRequest
from reasonray.prompts import messages, opening, prompt_ids
from reasonray.records import Finish

_FINISHES = {"stop": Finish.STOP, "length": Finish.LENGTH, "repetition": Finish.LENGTH}


class VLLM:
    """A model served by vLLM in this process (and in the engine processes that vLLM starts)."""

    def __init__(
        self, model: Path, config: VLLMEngine, *, gpus: int, seed: int, pipeline: int = 1, spread: bool = False
    ) -> None:
        if gpus == 0:
            _use_all_cores()
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        check_arguments(str(model), None, config, gpus=gpus, pipeline=pipeline)
        arguments = engine_arguments(model, config, gpus=gpus, seed=seed, pipeline=pipeline, spread=spread)
        try:
            self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), stat_loggers=self._stat_loggers())
        except (TypeError, ValueError) as error:
            raise UserError(f"vLLM refuses the engine's arguments: {error}") from error
        self._model = model
        self._load_tokenizer(model)
        self._limit = config.max_model_len
        self._requests = 0
        # 1.1: a short queue in the engine replaces a finished sequence in the very next step.
        self.capacity = int((config.max_num_seqs or 256) * 1.1)

    async def complete(self, request: SampleRequest) -> Completion:
        """Generate one sample. Cancelling the call aborts the request.

        Raises:
            EngineDied: the engine is gone.
        """
        from vllm import TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        ids, opened = self._prompt(request)
        if len(ids) >= self._limit:
            reason = f"prompt of {len(ids)} tokens leaves no room in a context of {self._limit} (engine.max_model_len)"
            return Completion("", Finish.ERROR, len(ids), error=reason)
        self._requests += 1
        parameters = _sampling_params(request.sampling, request.seed, room=self._limit - len(ids))
        prompt = TokensPrompt(prompt_token_ids=ids)
        try:
            # With FINAL_ONLY there is one output, when the sample has ended.
            outputs = [
                output async for output in self._engine.generate(prompt, parameters, request_id=str(self._requests))
            ]
        except EngineDeadError as error:
            raise EngineDied(str(error)) from error
        except (EngineGenerateError, ValueError) as error:
            return Completion("", Finish.ERROR, len(ids), error=f"{type(error).__name__}: {error}")
        sample = outputs[-1].outputs[0]
        finish = _FINISHES.get(sample.finish_reason, Finish.ERROR)
        reason = "" if finish is not Finish.ERROR else f"vLLM ended the request with {sample.finish_reason!r}"
        return Completion(sample.text, finish, len(ids), len(sample.token_ids), reason, opened)

    async def swap(self, model: Path) -> bool:
        """Load other weights into the running engine. Return False if their shape differs."""
        if _shape(model) != _shape(self._model):
            return False
        await self._engine.collective_rpc("reload_weights", kwargs={"weights_path": str(model)})
        await self._engine.reset_prefix_cache()
        self._model = model
        self._load_tokenizer(model)
        return True

    def heartbeat(self) -> Heartbeat:
        """Return the tokens of vLLM's own statistics, step by step: aborted requests count too."""
        return self._heartbeat

    def _stat_loggers(self) -> list[Any]:
        """Return the listeners to vLLM's statistics: the heartbeat, and Ray's Prometheus metrics where Ray is there."""
        from vllm.v1.metrics.loggers import StatLoggerBase
        from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger, ray_metrics

        engine = self
        self._heartbeat = Heartbeat(0, time.monotonic())

        class HeartbeatLogger(StatLoggerBase):  # type: ignore[misc]  # vLLM is not typed
            def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
                """Accept the arguments that vLLM passes to a logger."""

            def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
                """Add the tokens of one engine step."""
                if iteration_stats is not None and iteration_stats.num_generation_tokens:
                    tokens = engine._heartbeat.tokens + iteration_stats.num_generation_tokens
                    engine._heartbeat = Heartbeat(tokens, time.monotonic())

            def log_engine_initialized(self) -> None:
                """Log nothing."""

        return [HeartbeatLogger, *([RayPrometheusStatLogger] if ray_metrics is not None else [])]

    def close(self) -> None:
        """Stop the engine's processes."""
        self._engine.shutdown()

    def _load_tokenizer(self, model: Path) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._prompts: dict[tuple[str, str], tuple[list[int], str]] = {}

    def _prompt(self, request: SampleRequest) -> tuple[list[int], str]:
        """Return the token ids of a request's prompt, and what the prompt opens of the answer."""
        # The K requests of a problem come close together: a small cache saves K - 1 renderings.
        key = (request.problem.id, request.prompt.model_dump_json())
        if key not in self._prompts:
            if len(self._prompts) >= 1024:
                self._prompts.clear()
            turns = messages(request.prompt, request.problem.question)
            chat = self._tokenizer, turns, request.prompt.template_args, request.today
            self._prompts[key] = prompt_ids(*chat), opening(*chat)
        return self._prompts[key]


def check_arguments(model: str, revision: str | None, config: VLLMEngine, *, gpus: int, pipeline: int = 1) -> None:
    """Check an engine's arguments by vLLM's own classes and the model's shape, without an accelerator.

    Args:
        model: a model reference.
        revision: of a model on the hub.
        config: the engine's section.
        gpus: in all; tensor parallel size times `pipeline`.
        pipeline: pipeline parallel stages.

    Raises:
        UserError: vLLM does not know an argument or rejects its value, or the GPUs cannot share the attention heads.
    """
    from vllm import AsyncEngineArgs

    known = [field.name for field in fields(AsyncEngineArgs)]
    for name in config.args:
        if name not in known:
            close = get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else "see vLLM's engine arguments"
            raise UserError(f"engine.args: vLLM knows no {name!r}; {hint}")
    existing = Path("/")  # any directory that exists: offline, vLLM would look for the files of a model's name
    try:
        AsyncEngineArgs(**engine_arguments(existing, config, gpus=gpus, seed=0, pipeline=pipeline))
    except (TypeError, ValueError) as error:
        raise UserError(f"vLLM refuses the engine's arguments: {error}") from error
    tensor = int(config.args.get("tensor_parallel_size", gpus // pipeline))
    heads = _attention_heads(model, revision) if tensor > 1 else 0
    if tensor > 1 and heads % tensor:
        fitting = [number for number in range(1, min(heads, 16) + 1) if heads % number == 0]
        raise UserError(
            f"{tensor} GPUs cannot share the {heads} attention heads of {model}: "
            f"make gpus / pipeline one of {', '.join(map(str, fitting))}"
        )


def _attention_heads(model: str, revision: str | None) -> int:
    from transformers import AutoConfig

    reference = models.resolve(model, revision) if model.startswith("package:") or model.endswith(".gguf") else model
    return int(AutoConfig.from_pretrained(reference, revision=revision).get_text_config().num_attention_heads)


def engine_arguments(
    model: Path, config: VLLMEngine, *, gpus: int, seed: int, pipeline: int = 1, spread: bool = False
) -> dict[str, Any]:
    """Return the arguments of AsyncEngineArgs; the user's own `args` take precedence.

    Args:
        model: directory of the model.
        config: the engine's section.
        gpus: in all; tensor parallel size times `pipeline`. 0 computes on the CPU.
        seed: of the engine.
        pipeline: pipeline parallel stages.
        spread: whether the GPUs belong to the placement group of this process, which may span several nodes.
    """
    arguments: dict[str, Any] = {
        "model": str(model),
        "dtype": config.dtype,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "seed": seed,
        "disable_log_stats": True,
    }
    if gpus == 0:
        # Per-request seeds crash the CPU engine when a prompt's prefill is chunked.
        arguments |= {
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(2048, config.max_model_len),
        }
    if gpus > 1:
        arguments |= {
            "tensor_parallel_size": gpus // pipeline,
            "pipeline_parallel_size": pipeline,
            "distributed_executor_backend": "ray" if spread else "mp",
        }
    return arguments | config.args


def _shape(model: Path) -> dict[str, Any]:
    """Return the architecture and its sizes, which have to be equal for other weights to fit."""
    config = json.loads((model / "config.json").read_text())
    return {
        key: value
        for key, value in config.items()
        if key == "architectures" or (isinstance(value, int) and key.startswith(("num_", "hidden_", "inter", "vocab")))
    }


def _use_all_cores() -> None:
    """Let the CPU engine compute on every core this process may use; by default vLLM reserves one."""
    cores = sorted(os.sched_getaffinity(0))
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores)))
    os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")


def _sampling_params(sampling: Sampling, seed: int, *, room: int) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=1,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        max_tokens=min(sampling.max_tokens, room),
        stop=list(sampling.stop) or None,
        include_stop_str_in_output=bool(sampling.stop),
        seed=seed if sampling.seeded and sampling.temperature > 0 else None,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )

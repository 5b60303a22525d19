"""vLLM behind the engine protocol: one AsyncLLM, K requests of n=1 per problem.

Each sample is a request of its own, so that it ends, is judged, stored, aborted and retried alone; siblings share the
prompt's KV blocks by prefix caching. The only module that imports vllm.
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
from reasonray.prompts import messages, prompt_ids
from reasonray.records import Finish

_FINISHES = {"stop": Finish.STOP, "length": Finish.LENGTH, "repetition": Finish.LENGTH}


class VLLM:
    """A model under vLLM in this process (and the engine processes that vLLM starts)."""

    def __init__(
        self, model: Path, config: VLLMEngine, *, gpus: int, seed: int, pipeline: int = 1, spread: bool = False
    ) -> None:
        if gpus == 0:
            _use_all_cores()
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        check(str(model), None, config, gpus=gpus, pipeline=pipeline)
        arguments = engine_arguments(model, config, gpus=gpus, seed=seed, pipeline=pipeline, spread=spread)
        try:
            self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), stat_loggers=self._stat_loggers())
        except (TypeError, ValueError) as error:
            raise UserError(f"vLLM refuses the engine's arguments: {error}") from error
        self._model = model
        self._adopt_tokenizer(model)
        self._limit = config.max_model_len
        self._requests = 0
        # 1.1: a little queue in the engine, so that a finished sequence is replaced in the very next step.
        self.capacity = int(config.max_num_seqs * 1.1)

    async def complete(self, attempt: SampleRequest) -> Completion:
        """Draw one sample."""
        from vllm import TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        ids = self._prompt_ids(attempt)
        if len(ids) >= self._limit:
            reason = f"prompt of {len(ids)} tokens leaves no room in a context of {self._limit} (engine.max_model_len)"
            return Completion("", Finish.ERROR, len(ids), error=reason)
        self._requests += 1
        parameters = _sampling_params(attempt.sampling, attempt.seed, room=self._limit - len(ids))
        prompt = TokensPrompt(prompt_token_ids=ids)
        try:
            # FINAL_ONLY: one message, when the sample has ended.
            outputs = [it async for it in self._engine.generate(prompt, parameters, request_id=str(self._requests))]
        except EngineDeadError as error:
            raise EngineDied(str(error)) from error
        except (EngineGenerateError, ValueError) as error:
            return Completion("", Finish.ERROR, len(ids), error=f"{type(error).__name__}: {error}")
        output = outputs[-1].outputs[0]
        finish = _FINISHES.get(output.finish_reason, Finish.ERROR)
        reason = "" if finish is not Finish.ERROR else f"vLLM ended the request with {output.finish_reason!r}"
        return Completion(output.text, finish, len(ids), len(output.token_ids), reason)

    async def swap(self, model: Path) -> bool:
        """Load other weights into the running engine if they have the same shape."""
        if _shape(model) != _shape(self._model):
            return False
        await self._engine.collective_rpc("reload_weights", kwargs={"weights_path": str(model)})
        await self._engine.reset_prefix_cache()
        self._model = model
        self._adopt_tokenizer(model)
        return True

    def heartbeat(self) -> Heartbeat:
        """Return what vLLM's own statistics say, step by step: requests that are aborted count too."""
        return self._pulse

    def _stat_loggers(self) -> list[Any]:
        """Return what listens to the engine's statistics: the pulse, and Ray's metrics (Prometheus) under Ray."""
        from vllm.v1.metrics.loggers import StatLoggerBase
        from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger, ray_metrics

        engine = self
        self._pulse = Heartbeat(0, time.monotonic())

        class PulseLogger(StatLoggerBase):  # type: ignore[misc]  # vLLM is not typed
            def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
                """Take what vLLM hands to a logger."""

            def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
                """Take one step of the engine."""
                if iteration_stats is not None and iteration_stats.num_generation_tokens:
                    tokens = engine._pulse.tokens + iteration_stats.num_generation_tokens
                    engine._pulse = Heartbeat(tokens, time.monotonic())

            def log_engine_initialized(self) -> None:
                """Say nothing."""

        return [PulseLogger, *([RayPrometheusStatLogger] if ray_metrics is not None else [])]

    def close(self) -> None:
        """End the engine's processes."""
        self._engine.shutdown()

    def _adopt_tokenizer(self, model: Path) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._encoded: dict[tuple[str, str], list[int]] = {}

    def _prompt_ids(self, attempt: SampleRequest) -> list[int]:
        # The K siblings of a problem come close together: a small cache spares K - 1 renderings.
        key = (attempt.problem.id, attempt.prompt.model_dump_json())
        if key not in self._encoded:
            if len(self._encoded) >= 1024:
                self._encoded.clear()
            turns = messages(attempt.prompt, attempt.problem.question)
            self._encoded[key] = prompt_ids(self._tokenizer, turns, attempt.prompt.template_args)
        return self._encoded[key]


def check(model: str, revision: str | None, config: VLLMEngine, *, gpus: int, pipeline: int = 1) -> None:
    """Hold an engine's arguments against vLLM's own classes and the model's shape; takes no accelerator.

    Raises:
        UserError: vLLM does not know an argument or refuses its value, or the GPUs cannot share the attention heads.
    """
    from vllm import AsyncEngineArgs

    known = [field.name for field in fields(AsyncEngineArgs)]
    for name in config.args:
        if name not in known:
            close = get_close_matches(name, known, 1)
            cure = f"did you mean {close[0]}?" if close else "see vLLM's engine arguments"
            raise UserError(f"engine.args: vLLM knows no {name!r}; {cure}")
    anywhere = Path("/")  # a directory that exists: offline, vLLM would look for the model's files here
    try:
        AsyncEngineArgs(**engine_arguments(anywhere, config, gpus=gpus, seed=0, pipeline=pipeline))
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
    """Return the arguments of AsyncEngineArgs; the user's own `args` win.

    Args:
        model: directory of the model.
        config: the engine's section.
        gpus: in all; tensor parallel size times `pipeline`. 0 computes on the CPU.
        seed: of the engine.
        pipeline: pipeline parallel stages.
        spread: the GPUs are those of the placement group that this process is in, maybe on several nodes.
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
    """Return what must agree for weights to fit: the architecture and its sizes."""
    config = json.loads((model / "config.json").read_text())
    return {
        key: value
        for key, value in config.items()
        if key == "architectures" or (isinstance(value, int) and key.startswith(("num_", "hidden_", "inter", "vocab")))
    }


def _use_all_cores() -> None:
    """Have the CPU engine compute on every core this process may use; vLLM's default keeps one back."""
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

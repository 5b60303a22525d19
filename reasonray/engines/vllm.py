"""The vLLM engine: one AsyncLLM that gets K requests of n=1 per problem.

Each sample is its own request, so that it ends, is checked, stored, aborted and retried independently. The samples of
a problem share the prompt's KV blocks by prefix caching. No other module imports vllm.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from reasonray import models
from reasonray.config import UserError, VLLMEngine
from reasonray.engines.capacity import Capacity
from reasonray.engines.phases import logging_configuration, read_phase
from reasonray.engines.protocol import Completion, EngineDied, Heartbeat, Launch, SampleRequest
from reasonray.engines.tether import tethered_children
from reasonray.engines.tokens import completion_text
from reasonray.engines.vllm_arguments import (
    check_arguments,
    check_sampling,
    engine_arguments,
    refused,
    request_parameters,
    typed_parameters,
)
from reasonray.prompts import opening, prompt_ids
from reasonray.records import Finish

__all__ = ["VLLM", "check_arguments", "check_sampling", "start"]

_FINISHES = {"stop": Finish.STOP, "length": Finish.LENGTH, "repetition": Finish.LENGTH}


async def start(config: VLLMEngine, launch: Launch) -> VLLM:
    """Start an engine; meanwhile, report what it is doing.

    Raises:
        UserError: vLLM refuses the engine's arguments.
    """
    assert launch.directory is not None
    if launch.gpus == 0:
        _use_all_cores()
    loop = asyncio.get_running_loop()
    # The engine's processes end with the thread that started them, so it has to live as long as they.
    thread = ThreadPoolExecutor(1, "vllm", initializer=asyncio.set_event_loop, initargs=(loop,))
    engine = VLLM(config, launch, thread)
    with tempfile.TemporaryDirectory() as directory, _phases_in(Path(directory) / "phase") as phase:
        starting = loop.run_in_executor(thread, engine.start)
        while not (await asyncio.wait([starting], timeout=0.5))[0]:
            launch.report(read_phase(phase))
    try:
        await starting
    except UserError:
        thread.shutdown(wait=False)
        raise
    return engine


@contextmanager
def _phases_in(path: Path) -> Iterator[Path]:
    """Have the engine that starts in this block leave its phase in a file, unless the user configures vLLM's log."""
    from vllm.logger import DEFAULT_LOGGING_CONFIG

    if "VLLM_LOGGING_CONFIG_PATH" in os.environ:
        yield path
        return
    configuration = path.with_name("logging.json")
    configuration.write_text(json.dumps(logging_configuration(deepcopy(DEFAULT_LOGGING_CONFIG), path)))
    os.environ["VLLM_LOGGING_CONFIG_PATH"] = str(configuration)
    try:
        yield path
    finally:
        del os.environ["VLLM_LOGGING_CONFIG_PATH"]


class VLLM:
    """A model served by vLLM in this process (and in the engine processes that vLLM starts). See `start`."""

    def __init__(self, config: VLLMEngine, launch: Launch, thread: ThreadPoolExecutor) -> None:
        assert launch.directory is not None
        self._config, self._launch, self._thread = config, launch, thread
        self._model = launch.directory
        self._requests = 0
        self._tokens, self._latest = 0, time.monotonic()
        self._running: dict[int, int] = {}
        """Index of a data parallel engine → the requests that it computes."""
        self._extra: dict[str, dict[str, Any]] = {}
        """sampling.extra → as vLLM's types."""

    def start(self) -> None:
        """Start the engine's processes, and return when they are ready.

        Raises:
            UserError: vLLM refuses the engine's arguments.
        """
        from vllm import AsyncEngineArgs
        from vllm.exceptions import VLLMClientError
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = engine_arguments(self._config, self._launch)
        try:
            with tethered_children():
                self._engine = AsyncLLM.from_engine_args(
                    AsyncEngineArgs(**arguments),
                    stat_loggers=self._stat_loggers(),
                    usage_context=UsageContext.LLM_CLASS,  # decides vLLM's defaults: those of LLM, for throughput
                )
        except (TypeError, ValueError, VLLMClientError) as error:
            raise refused(error, self._launch.model) from error
        self._load_tokenizer(self._model)
        vllm = self._engine.vllm_config
        self._limit = int(vllm.model_config.max_model_len)
        self._capacity = Capacity(
            vllm.scheduler_config.max_num_seqs * vllm.parallel_config.data_parallel_size,
            (vllm.cache_config.num_gpu_blocks or 0) * vllm.cache_config.block_size,
            self._limit,
        )

    @property
    def capacity(self) -> int:
        """Requests in flight that keep the engine busy; it grows where samples turn out shorter than assumed."""
        return self._capacity.requests

    async def complete(self, request: SampleRequest) -> Completion:
        """Generate one sample. Cancelling the call aborts the request.

        Raises:
            EngineDied: the engine is gone.
        """
        from vllm import TokensPrompt
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        ids, opened = self._prompt(request)
        if len(ids) >= self._limit:
            reason = f"prompt of {len(ids)} tokens leaves no room in a context of {self._limit} (engine.max_model_len)"
            return Completion("", Finish.ERROR, len(ids), error=reason)
        self._requests += 1
        prompt = TokensPrompt(prompt_token_ids=ids)
        try:
            parameters = self._sampling_params(request, room=self._limit - len(ids))
            # With FINAL_ONLY there is one output, when the sample has ended.
            outputs = [
                output async for output in self._engine.generate(prompt, parameters, request_id=str(self._requests))
            ]
        except EngineDeadError as error:
            raise EngineDied(str(error)) from error
        except (EngineGenerateError, VLLMClientError, ValueError) as error:
            return Completion("", Finish.ERROR, len(ids), error=f"{type(error).__name__}: {error}")
        sample = outputs[-1].outputs[0]
        finish = _FINISHES.get(sample.finish_reason, Finish.ERROR)
        reason = "" if finish is not Finish.ERROR else f"vLLM ended the request with {sample.finish_reason!r}"
        text = completion_text(self._tokenizer, sample.text, sample.token_ids, sample.finish_reason, sample.stop_reason)
        tokens = tuple(sample.token_ids)
        self._capacity.record(len(ids) + len(tokens))
        logprobs = sample.logprobs and tuple(
            one[token].logprob for one, token in zip(sample.logprobs, tokens, strict=True)
        )
        return Completion(
            text, finish, len(ids), len(tokens), reason, opened,
            token_ids=tokens if request.sampling.logprobs else None, logprobs=logprobs or None,
        )  # fmt: skip

    async def swap(self, model: Path) -> bool:
        """Load other weights into the running engine. Return False if more than the weights differs."""
        if models.serving_difference(self._model, model):
            return False
        await self._engine.collective_rpc("reload_weights", kwargs={"weights_path": str(model)})
        await self._engine.reset_prefix_cache()
        self._model = model
        self._load_tokenizer(model)
        return True

    def heartbeat(self) -> Heartbeat:
        """Return the tokens of vLLM's own statistics, step by step: aborted requests count too."""
        return Heartbeat(self._tokens, self._latest, sum(self._running.values()))

    def _stat_loggers(self) -> list[Any]:
        """Return the listeners to vLLM's statistics: the heartbeat, and Ray's Prometheus metrics where Ray is there."""
        from vllm.v1.metrics.loggers import StatLoggerBase
        from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger, ray_metrics

        engine = self

        class HeartbeatLogger(StatLoggerBase):  # type: ignore[misc]  # vLLM is not typed
            def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
                """Accept the arguments that vLLM passes to a logger."""
                self._index = engine_index

            def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
                """Take the figures of one engine step."""
                if scheduler_stats is not None:
                    engine._running[self._index] = scheduler_stats.num_running_reqs
                if iteration_stats is not None and iteration_stats.num_generation_tokens:
                    engine._tokens += iteration_stats.num_generation_tokens
                    engine._latest = time.monotonic()

            def log_engine_initialized(self) -> None:
                """Log nothing."""

        return [HeartbeatLogger, *([RayPrometheusStatLogger] if ray_metrics is not None else [])]

    def close(self) -> None:
        """Stop the engine's processes."""
        self._engine.shutdown()
        self._thread.shutdown(wait=False)

    def _load_tokenizer(self, model: Path) -> None:
        self._tokenizer = models.load_tokenizer(model, self._launch.trust_remote_code)
        self._prompts: dict[tuple[str, str], tuple[list[int], str]] = {}

    def _prompt(self, request: SampleRequest) -> tuple[list[int], str]:
        """Return the token ids of a request's prompt, and what the prompt opens of the answer."""
        # The K requests of a problem come close together: a small cache saves K - 1 renderings.
        key = (request.problem.id, request.prompt.model_dump_json())
        if key not in self._prompts:
            if len(self._prompts) >= 1024:
                self._prompts.clear()
            turns = request.turns
            chat = self._tokenizer, turns, request.prompt.template_arguments, request.today
            self._prompts[key] = prompt_ids(*chat), opening(*chat, tags=request.prompt.reasoning_tags)
        return self._prompts[key]

    def _sampling_params(self, request: SampleRequest, *, room: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = request.sampling
        key = json.dumps(sampling.extra, sort_keys=True)
        if key not in self._extra:
            self._extra[key] = typed_parameters(sampling)
        return SamplingParams(
            **request_parameters(sampling),
            **self._extra[key],
            max_tokens=min(sampling.max_tokens, room),
            min_tokens=min(sampling.min_tokens, room),
            seed=request.seed if sampling.seeded and sampling.temperature > 0 else None,
            output_kind=RequestOutputKind.FINAL_ONLY,
            # Reasoning and answer are delimited by special tokens in some models (gpt-oss, Magistral).
            skip_special_tokens=False,
            spaces_between_special_tokens=False,
        )


def _use_all_cores() -> None:
    """Let the CPU engine compute on every core this process may use; by default vLLM reserves one."""
    cores = sorted(os.sched_getaffinity(0))
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores)))
    os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

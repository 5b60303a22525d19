"""The engines that run models: vLLM, a server, recorded completions, and scripted answers."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, PositiveInt, field_validator, model_validator

from reasonray.config.section import Change, Section, Share, Within, default_kind

_TUNING_ARGS = (
    "async_scheduling",
    "block_size",
    "compilation_config",
    "cpu_offload_gb",
    "cudagraph_capture_sizes",
    "data_parallel_backend",
    "data_parallel_size",
    "data_parallel_size_local",
    "disable_custom_all_reduce",
    "disable_log_stats",
    "distributed_executor_backend",
    "download_dir",
    "enable_chunked_prefill",
    "enable_dbo",
    "enable_eplb",
    "enable_expert_parallel",
    "enable_prefix_caching",
    "enforce_eager",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "load_format",
    "long_prefill_token_threshold",
    "max_cudagraph_capture_size",
    "max_num_batched_tokens",
    "max_num_seqs",
    "max_parallel_loading_workers",
    "num_gpu_blocks_override",
    "numa_bind",
    "optimization_level",
    "performance_mode",
    "pipeline_parallel_size",
    "scheduling_policy",
    "tensor_parallel_size",
)
"""Arguments of vLLM's AsyncEngineArgs that affect speed and memory, but not what is written."""


class VLLMEngine(Section):
    """vLLM in a Ray actor."""

    kind: Literal["vllm"] = "vllm"
    dtype: str = "bfloat16"
    """Data type of the weights, as vLLM names it."""
    max_model_len: Annotated[PositiveInt, Change.RAISES] = 4096
    """Tokens of prompt and completion together."""
    max_num_seqs: Annotated[PositiveInt | None, Change.FREE] = None
    """Requests that are computed at the same time, per replica; by default as many as vLLM chooses for the hardware."""
    args: Annotated[dict[str, Any], Within(Change.FREE, _TUNING_ARGS)] = Field(default_factory=dict)
    """Further arguments of vLLM's AsyncEngineArgs, passed on unchanged. Those that affect speed and memory only may
    change at any time."""

    def text_settings(self) -> dict[str, Any]:
        """Return the settings that may change what is written: none for speed and memory, and no limit."""
        return {"dtype": self.dtype} | {name: value for name, value in self.args.items() if name not in _TUNING_ARGS}

    def origin(self) -> str:
        """Return where completions come from besides the model: nowhere."""
        return ""


class ServerEngine(Section):
    """A model behind an OpenAI-compatible server; `model` is its name there.

    A completion that ends at a stop string comes without the string, as OpenAI's servers cut it off.
    """

    base_url: Annotated[str, Change.FREE]
    """The server's address, such as http://127.0.0.1:8000/v1. It may move, but must serve the same model."""
    api: Literal["chat", "completions"] = "chat"
    """chat: the server renders the messages. completions: they are rendered here, with the chat template of
    `tokenizer`."""
    tokenizer: str | None = None
    """A model reference whose chat template renders prompts for the completions API; without it prompts are plain
    Question/Answer lines. For the chat API it is not needed: it shows which beginning of an answer, such as `<think>`,
    the server's prompt already holds. For both it counts the tokens that a server does not report."""
    api_key_env: Annotated[str, Change.FREE] = "OPENAI_API_KEY"
    """The environment variable that holds the key. The key itself is stored nowhere."""
    max_num_seqs: Annotated[PositiveInt, Change.FREE] = 64
    """Requests in flight, per replica."""
    timeout_seconds: Annotated[float, Change.FREE] = Field(600.0, gt=0)
    """Time from the request to the last byte of its answer."""
    max_retries: Annotated[int, Change.FREE] = Field(8, ge=0)
    """Retries of one request. After the last one the replica counts as dead, and its work goes back to the queue."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Added to the body of every request, such as `reasoning_effort`."""

    def text_settings(self) -> dict[str, Any]:
        """Return the settings that may change what is written: none for speed and cost, and no address."""
        return {"api": self.api, "tokenizer": self.tokenizer, "extra_body": self.extra_body}

    def origin(self) -> str:
        """Return where completions come from besides the model: nowhere."""
        return ""

    @field_validator("base_url")
    @classmethod
    def _holds_no_key(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("is not an http(s) address")
        if parts.username or parts.password or parts.query:
            raise ValueError("must hold no key and no query; put the key into the environment (api_key_env)")
        return url

    @field_validator("api_key_env")
    @classmethod
    def _names_a_variable(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):  # it may be the key itself, so it is not repeated
            raise ValueError("is not the name of an environment variable; put the key into one and its name here")
        return name


class EndpointEngine(ServerEngine):
    """A server that answers each request as it comes."""

    kind: Literal["endpoint"]
    requests_per_minute: Annotated[PositiveInt | None, Change.FREE] = None
    """Rate limit per replica: with several replicas, give each its part of the server's limit."""
    tokens_per_minute: Annotated[PositiveInt | None, Change.FREE] = None
    """Rate limit per replica; a request counts with sampling.max_tokens, the most that it may cost."""


class BatchEngine(ServerEngine):
    """A server that answers batches of requests within a day, usually for half the price: OpenAI's `/v1/batches`.

    A run that is killed and started again goes on with the batches that it has paid for. Set `price` to the prices of
    batches.
    """

    kind: Literal["batch"]
    max_num_seqs: Annotated[PositiveInt, Change.FREE] = 10_000
    """Requests that wait for answers, per replica."""
    batch_requests: Annotated[PositiveInt, Change.FREE] = 10_000
    """Requests of one batch at most; a server has a limit of its own."""
    batch_megabytes: Annotated[float, Change.FREE] = Field(90.0, gt=0)
    """Size of one batch's file at most; a server has a limit of its own."""
    gather_seconds: Annotated[float, Change.FREE] = Field(5.0, ge=0)
    """A batch is sent when no request has come for this time, or when it is full."""
    poll_seconds: Annotated[float, Change.FREE] = Field(30.0, gt=0)
    """Time between looks at a batch."""
    completion_window: Annotated[str, Change.FREE] = "24h"
    """Time within which the server promises to answer, as it writes it."""
    timeout_seconds: Annotated[float, Change.FREE] = Field(30 * 3600.0, gt=0)
    """Time from a request, the wait for its batch included, to its answer."""
    max_retries: Annotated[int, Change.FREE] = Field(3, ge=0)
    """How often a request is sent again that a batch left without an answer, because it expired or was cancelled."""


class ScriptedEngine(Section):
    """Seeded, deterministic answers without a model, for tests, dry runs and fault injection.

    The rates are shares of all requests and must not exceed 1 together; the remaining requests are answered wrongly.
    """

    kind: Literal["scripted"]
    correct: Share = 0.5
    """Rate of correct answers."""
    endless: Share = 0.0
    """Rate of completions that run into the token limit."""
    unparseable: Share = 0.0
    """Rate of completions without an answer that can be extracted."""
    crash: Share = 0.0
    """Rate of requests that kill the engine's process each time they are made: poison prompts."""
    error: Share = 0.0
    """Rate of requests that the engine refuses, as vLLM refuses a prompt that is too long."""
    hang: Share = 0.0
    """Rate of requests after which the engine answers no more: a hung engine."""
    seconds: Annotated[float, Change.FREE] = Field(0.0, ge=0)
    """Mean latency of a request."""
    journal: Annotated[str | None, Change.FREE] = None
    """A directory in which each answer leaves a line before it is returned, to count the work that a kill wastes."""
    max_num_seqs: Annotated[PositiveInt, Change.FREE] = 256
    """Requests in flight, per replica."""

    def text_settings(self) -> dict[str, Any]:
        """Return nothing: the rates are those of a test."""
        return {}

    def origin(self) -> str:
        """Return where completions come from besides the model: nowhere."""
        return ""

    @model_validator(mode="after")
    def _rates_sum_to_at_most_one(self) -> ScriptedEngine:
        total = self.correct + self.endless + self.unparseable + self.crash + self.error + self.hang
        if total > 1 + 1e-9:
            raise ValueError(f"rates sum to {total:g}; they must not exceed 1")
        return self


class RecordedColumns(Section):
    """The columns of recorded completions; those that are not named are found by their usual names.

    A part of a column goes by its path: `message.content`, `choices.0.message`.
    """

    question: str | None = None
    """Column of the question: a text, or a chat with one turn of the user."""
    id: str | None = None
    """Column of the problem's id, or of a value that the problem's metadata have under the same name. With it, rows are
    matched by it alone, and not by their question."""
    completion: str | None = None
    """Column of the completion: a text, a chat whose last turn it is, or a list of several of either."""
    reasoning: str | None = None
    """Column of the reasoning, where it is apart from the completion; a list where there are several."""
    finish: str | None = None
    """Column of the finish reason, or of whether the completion is whole; a list where there are several."""
    tokens: str | None = None
    """Column of the number of completion tokens, or of the numbers. Without it they are estimated, and marked so."""


class RecordedEngine(Section):
    """Completions that exist already, as rollouts of a teacher; `model` is the name of who wrote them.

    Sample i of a problem is its i-th completion in the order of the files. A problem has no more samples than that.
    """

    kind: Literal["recorded"]
    files: str = ""
    """Path, glob or URI of JSON Lines, JSON, CSV or parquet files, which every node must find there."""
    hub: str = ""
    """In place of files: a data set of the Hugging Face hub, `owner/name` or `owner/name/config`, or a local directory
    laid out like one."""
    split: str = "train"
    """Split of the data set."""
    revision: str | None = None
    """Branch, tag or commit of the data set."""
    run: str = ""
    """In place of files: the name of a run under the same root, whose rollouts of train problems these are."""
    teacher: str = ""
    """The teacher of that run whose rollouts they are."""
    columns: RecordedColumns = RecordedColumns()
    """Names of the columns."""
    max_num_seqs: Annotated[PositiveInt, Change.FREE] = 256
    """Completions that are judged at the same time, per replica."""

    def text_settings(self) -> dict[str, Any]:
        """Return nothing: the engine's identity is the hash of the completions."""
        return {}

    def origin(self) -> str:
        """Return where the completions are recorded, which sets two recordings of one model apart."""
        if self.run:
            return f"{self.run}:{self.teacher}"
        return self.files or f"{self.hub}@{self.split}"

    @model_validator(mode="after")
    def _has_one_origin(self) -> RecordedEngine:
        if sum(map(bool, (self.files, self.hub, self.run))) != 1:
            raise ValueError("set either files or hub to what holds the completions, or run and teacher")
        if bool(self.run) != bool(self.teacher):
            raise ValueError("run and teacher go together: the run, and the teacher of that run")
        return self


Engine = Annotated[
    VLLMEngine | EndpointEngine | BatchEngine | RecordedEngine | ScriptedEngine,
    Field(discriminator="kind"),
    default_kind("vllm"),
]

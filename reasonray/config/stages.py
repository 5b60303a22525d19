"""Checking, curation and evaluation."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, PositiveInt, field_validator, model_validator

from reasonray.config.models import NamedModel, PromptedModel, Sampling, checked_name
from reasonray.config.section import Change, Section, Share


class Judge(PromptedModel):
    """A language model that judges rollouts, or labels them."""

    sampling: Sampling = Sampling(temperature=0.0, max_tokens=256)
    """Sampling parameters; by default greedy, with at most 256 tokens."""


class Checking(Section):
    """Checks of rollouts: the checker processes next to each engine, and the judge."""

    CHANGE: ClassVar[Change | None] = Change.EXTENDS

    processes: Annotated[PositiveInt, Change.FREE] = 1
    """Checker processes per replica."""
    timeout_seconds: float = Field(5.0, gt=0)
    """Running time of one verdict; at the limit the process is killed."""
    memory_mb: PositiveInt = 4096
    """Memory of one checker process."""
    program_seconds: float = Field(10.0, gt=0)
    """Wall time of a model's program over all its tests; a program that needs longer is wrong."""
    program_memory_mb: PositiveInt = 1024
    """Memory of a model's program."""
    python: str = ""
    """Interpreter that runs programs, with its packages; "" for the interpreter on which this environment is built,
    without the environment's packages."""
    instead: dict[str, str] = Field(default_factory=dict)
    """Checker → the checker that verification uses in its place; one of your own is named as `package.module:Name`."""
    judge: Judge | None = None
    """A language model that verification asks where the rules cannot decide or disagree, and on the audited sample."""
    audit: Share = 0.05
    """Share of rollouts, by hash, that every checker judges when they are verified, the judge included. The agreement
    of checkers, and how many right answers the rules miss, are estimated from these."""
    majority: Share | None = None
    """Let the majority's answer stand in for a missing gold answer, where at least three answers were given and this
    share of them agree."""
    unsandboxed: bool = False
    """Run programs, and reasoning-gym's scorers, without a sandbox, on machines where none can be made: with limits on
    time and memory, but with access to the machine's files and network."""

    @property
    def cascades(self) -> bool:
        """Whether verdicts need more than the rules: then rollouts are verified before they are curated."""
        return self.judge is not None or self.majority is not None


class Curation(Section):
    """Selection of rollouts as examples."""

    CHANGE: ClassVar[Change | None] = Change.EXTENDS

    rules: tuple[str, ...] = (
        "failed",
        "truncated",
        "no_answer",
        "incorrect",
        "no_reasoning",
        "broken_tags",
        "too_short",
        "too_long",
        "repetitive",
        "mixed_language",
        "contaminated",
        "duplicate",
    )
    """Rules in order; the first one that matches is the rollout's `dropped_by`. A rule of your own is named as
    `package.module:function`.

    Further rules, not in the default: `false_arithmetic` drops right answers that were reached through a false equation
    (80 - 5 = 76), and errs where another arithmetic is meant (11 + 3 = 2 on a clock); `leaked_answer` (the reasoning
    mentions an answer that it was given); `code_blocks`; `other_teacher` (not one of `teachers`); `pass_rate` (by
    min_pass_rate and max_pass_rate); `same_reasoning` (the same equations as another rollout of the problem);
    `near_duplicate` (most of the words of another rollout of the problem)."""
    min_tokens: PositiveInt = 8
    """Fewer tokens are `too_short`."""
    max_tokens: PositiveInt = 16384
    """More tokens are `too_long`."""
    teachers: tuple[str, ...] = ()
    """Teachers whose rollouts may become examples; by default all (rule `other_teacher`)."""
    mixed_language: Share = 0.05
    """Share of letters outside the main script above which a rollout is `mixed_language`. Code blocks and notation
    (LaTeX, single Greek letters, points such as ABC) do not count, and the response may use another script than the
    reasoning."""
    min_pass_rate: Share = 0.0
    """Problems with a lower pass rate are too hard to learn from (rule `pass_rate`)."""
    max_pass_rate: Share = 1.0
    """Problems with a higher pass rate are too easy to learn from (rule `pass_rate`)."""
    ngrams: tuple[PositiveInt, ...] = Field((13,), min_length=1)
    """A train problem is `contaminated` if it shares this many consecutive words with a held-out problem, or is one.
    (8, 13) is stricter, and errs: 8 consecutive words are often only the usual wording of such problems. Of GSM8K's
    7,473 train problems 4 share 13 words with a test problem (0.05 %), and 98 share 8 (1.3 %), nearly all of them words
    such as "how much money will she have left over"."""
    benchmarks: tuple[str, ...] = ()
    """Files with further problems that must not be trained on: in the formats of sources, with a column `question`,
    `problem` or `text`."""
    near: Share = 0.8
    """Jaccard similarity of word 5-grams from which two completions are a `near_duplicate`."""
    repetition_ngram: PositiveInt = 20
    """Words in the n-gram of the rule `repetitive`; in Chinese and Japanese, characters. In a long text without spaces
    (haha…) each five characters count as a word."""
    repetition_times: PositiveInt = 4
    """Occurrences of one n-gram from which a rollout is `repetitive`."""
    keep_per_problem: PositiveInt = 4
    """Examples of one problem, at most; further good rollouts are `over_quota`."""
    prefer: Literal["shortest", "longest", "diverse", "random", "score"] = "shortest"
    """Order in which the good rollouts of a problem are taken. diverse takes the one that shares the fewest n-grams
    with those already taken."""
    score: str | None = None
    """`package.module:function` that returns a number for each row of a table of rollouts; the highest are taken
    first. Goes with prefer = "score"."""
    quota: Literal["even", "difficulty"] = "even"
    """even: keep_per_problem of every problem. difficulty: keep_per_problem of a problem that is never solved, fewer of
    a problem the higher its pass rate, at least one (DART-Math's Prop2Diff, Tong et al. 2024)."""
    loss_weight: str | None = None
    """How much each example counts in the student's loss; by default once. `inverse_pass_rate`: 1 / its problem's pass
    rate, so that a problem counts as if it were solved every time. `package.module:function` returns for each row of a
    table of rollouts a number, or a list of (begin, end, weight) for parts of the completion, by characters; what is in
    no part is not learned, such as the output of a tool."""
    size: PositiveInt | None = None
    """Examples in all: a first one of every problem is taken before a second one of any. By default all."""
    mix: dict[str, Share] = Field(default_factory=dict)
    """Source → its share of the examples. Shares sum to 1; sources that are not named give none."""
    seed: int = 0
    """Seed of random choices."""
    validation: float = Field(0.0, ge=0, lt=1)
    """Share of the problems, by hash, whose examples are held out in data/validation-*.parquet."""
    labeller: Judge | None = None
    """A language model that labels the behaviours of a sample of rollouts, to measure how far the lexical detectors
    agree with it."""
    labelled: PositiveInt = 200
    """Rollouts in that sample."""
    paraphrase_judge: Judge | None = None
    """A language model that looks for train problems that are a held-out problem, or an item of `benchmarks`, in other
    words. The rule `contaminated` drops those that it finds, unless it does no better than chance on control
    questions."""
    paraphrase_sample: PositiveInt = 200
    """Train problems, by hash, that it is asked about; at or above their number, all."""
    layouts: tuple[Literal["sharegpt", "alpaca", "preference", "kto", "verl", "prime_rl"], ...] = ()
    """Further layouts, each in its directory. sharegpt, alpaca: the examples as JSON Lines. preference, kto: correct
    against wrong rollouts, in TRL's columns. verl, prime_rl: problems with pass rates, in these trainers' columns."""
    pairs_per_problem: PositiveInt = 1
    """Preference pairs of one problem, at most."""
    pair_by: Literal["length", "similarity"] = "length"
    """Which correct and wrong rollout form a preference pair: those closest in length, so that length is not what is
    preferred, or those that share the most word 5-grams."""
    rl_pass_rates: tuple[Share, Share] = (0.1, 0.9)
    """Lowest and highest pass rate of the problems for reinforcement learning."""

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        if self.min_pass_rate > self.max_pass_rate:
            raise ValueError("min_pass_rate is above max_pass_rate; no problem lies between them")
        if self.mix and abs(sum(self.mix.values()) - 1) > 1e-6:
            raise ValueError(f"mix sums to {sum(self.mix.values()):g}; shares must sum to 1")
        if (self.prefer == "score") != (self.score is not None):
            raise ValueError('prefer = "score" and score = "module:function" go together')
        return self

    @field_validator("loss_weight")
    @classmethod
    def _loss_weight_is_known(cls, name: str | None) -> str | None:
        if name is not None and name != "inverse_pass_rate" and ":" not in name:
            raise ValueError(f'there is no {name!r}; set it to "inverse_pass_rate" or to package.module:function')
        return name

    @model_validator(mode="after")
    def _every_knob_has_its_rule(self) -> Self:
        knobs = {
            "min_pass_rate": "pass_rate",
            "max_pass_rate": "pass_rate",
            "benchmarks": "contaminated",
            "near": "near_duplicate",
            "teachers": "other_teacher",
        }
        for knob, rule in knobs.items():
            if getattr(self, knob) != type(self).model_fields[knob].default and rule not in self.rules:
                raise ValueError(f'{knob} does nothing without the rule "{rule}"; add it to rules, or take {knob} out')
        return self


class Arm(NamedModel):
    """A further model under evaluation: any model behind any engine, or a model of the run prompted differently."""


class Evaluation(Section):
    """Base, teachers, student and further arms on the test problems, by the same sampler."""

    CHANGE: ClassVar[Change | None] = Change.EXTENDS

    arms: tuple[Arm, ...] = ()
    """Further models, such as a peer behind an endpoint, or the student at another temperature."""
    models: Annotated[dict[Annotated[str, AfterValidator(checked_name)], str], Change.FREE] = Field(
        default_factory=dict
    )
    """Name → model: further models that are asked as the student is, on the same engine, such as what another trainer
    made of the same data set. Each becomes one of the arms."""
    samples: PositiveInt = 4
    """Samples per problem and model."""
    k: tuple[PositiveInt, ...] = Field((1, 4), min_length=1)
    """The k of pass@k and maj@k; none may exceed `samples`. By default 1 and 4, or 1 and `samples` if that is less."""
    cluster: str | None = None
    """Key of the problems' metadata whose value variants of one problem share, such as its template. Variants are not
    counted as independent, and intervals widen accordingly."""
    checkpoint_problems: Annotated[int, Change.FIXED] = Field(60, ge=0)
    """Test problems on which the training checkpoints are evaluated; 0 skips them."""
    checkpoint_samples: Annotated[PositiveInt, Change.FIXED] = 2
    """Samples per problem and checkpoint; at most `samples`, because base and student are the ends of the curve."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_fit_few_samples(cls, raw: Any) -> Any:
        samples = raw.get("samples") if isinstance(raw, dict) else None
        if not isinstance(samples, int):
            return raw
        return {"k": sorted({1, min(4, samples)}), "checkpoint_samples": min(2, samples)} | raw

    @model_validator(mode="after")
    def _k_within_samples(self) -> Evaluation:
        if self.checkpoint_samples > self.samples:
            raise ValueError(f"checkpoint_samples ({self.checkpoint_samples}) is above samples ({self.samples})")
        if max(self.k) > self.samples:
            raise ValueError(f"k = {max(self.k)} needs at least as many samples; samples = {self.samples}")
        return self

"""Checking, curation, training and evaluation."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from reasonray.config.models import NamedModel, PromptedModel, Range, Sampling, bounds
from reasonray.config.section import Section, Share


class Judge(PromptedModel):
    """A language model that is asked where the rules cannot decide or disagree, and on a sample besides (verify)."""

    sampling: Sampling = Sampling(temperature=0.0, max_tokens=256)


class Checking(Section):
    """The checker processes beside each engine."""

    processes: PositiveInt = 1
    timeout_seconds: float = Field(5.0, gt=0)
    """Running time of one verdict; the process is killed at the limit."""
    memory_mb: PositiveInt = 4096
    """Of one checker process."""
    program_seconds: float = Field(10.0, gt=0)
    """Wall time of a model's program over all its tests; one that needs longer is wrong."""
    program_memory_mb: PositiveInt = 1024
    python: str = ""
    """The interpreter that runs programs, packages included; "" is the one below ours, without our packages."""
    instead: dict[str, str] = Field(default_factory=dict)
    """Checker → the one that jobs/verify.py uses in its place."""
    judge: Judge | None = None
    audit: Share = 0.05
    """Share of rollouts, by hash, that every checker of the cascade judges when they are verified, the judge included:
    from them comes how far the checkers agree, and how many right answers the rules miss."""
    majority: Share | None = None
    """Let the majority stand in for a missing gold answer, where it has this share of at least three answers."""
    unsandboxed: bool = False
    """Run programs where no sandbox can be made (checkers/sandbox.py): with limits, but among all that is there."""

    @property
    def cascades(self) -> bool:
        """Whether verdicts need more than the rules: then rollouts are verified before they are curated."""
        return self.judge is not None or self.majority is not None


class Curation(Section):
    """Which rollouts are worth learning from (curation/)."""

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
    """Rules in order; the first that fires is the rollout's `dropped_by`. Yours go by `package.module:function`.

    To be asked for by name: `false_arithmetic` drops right answers reached through a false equation (80 - 5 = 76), and
    errs where one is meant otherwise (7 + 8 = 3 modulo 12); `leaked_answer` (the reasoning speaks of an answer that it
    was given), `code_blocks`; `pass_rate` (min_pass_rate, max_pass_rate); `same_reasoning` (the same equations as
    another rollout of the problem); `near_duplicate` (most of its words as in another rollout)."""
    min_tokens: PositiveInt = 8
    max_tokens: PositiveInt = 16384
    mixed_language: Share = 0.05
    """Share of letters outside the main script above which a rollout mixes languages. Code blocks and notation (LaTeX,
    single Greek letters) do not count, and the response may be of another script than the reasoning."""
    min_pass_rate: Share = 0.0
    max_pass_rate: Share = 1.0
    """Problems outside this band are too hard or too easy to be learned from; both ends are within."""
    ngrams: tuple[PositiveInt, ...] = Field((13,), min_length=1)
    """A train problem that shares so many words in a row with a held-out one, or is one, is contaminated. (8, 13) is
    stricter, and errs: 8 words in a row are often only how such problems are worded. Of GSM8K's 7,473 train problems 4
    share 13 words with a test problem (0.05 %), 98 share 8 (1.3 %), nearly all of them as in "how much money will she
    have left over"."""
    benchmarks: tuple[str, ...] = ()
    """Files (in the formats of sources, with `question`, `problem` or `text`) that must not be trained on, either."""
    near: Share = 0.8
    """Jaccard similarity of word 5-grams from which two completions are near-duplicates."""
    repetition_ngram: PositiveInt = 20
    """Words in the n-gram of the repetition rule; characters, in Chinese and Japanese."""
    repetition_times: PositiveInt = 4
    """How often one n-gram may stand before the rollout counts as repetitive."""
    keep_per_problem: PositiveInt = 4
    prefer: Literal["shortest", "longest", "diverse", "random", "score"] = "shortest"
    """Which of a problem's good rollouts come first; diverse takes the one least like those taken (n-grams)."""
    score: str | None = None
    """`package.module:function` from a table of rollouts to a number each; the highest come first."""
    quota: Literal["even", "difficulty"] = "even"
    """difficulty: keep_per_problem of a problem that is never solved, fewer the higher its pass rate, at least one
    (DART-Math's Prop2Diff, Tong et al. 2024)."""
    size: PositiveInt | None = None
    """Examples in all: taken in turns, a first one of every problem before a second of any."""
    mix: dict[str, Share] = Field(default_factory=dict)
    """Source → its share of the examples; sources that are not named give none."""
    seed: int = 0
    validation: float = Field(0.0, ge=0, lt=1)
    """Share of the problems, by hash, whose examples are set aside in data/validation-*.parquet."""
    labeller: Judge | None = None
    """A language model that labels the behaviours of a sample, to say how far the lexical detectors agree with it."""
    labelled: PositiveInt = 200
    """Rollouts in that sample."""
    layouts: tuple[Literal["sharegpt", "alpaca"], ...] = ()
    """Write the examples as JSON Lines too, as LLaMA-Factory and Axolotl read them."""

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        if self.min_pass_rate > self.max_pass_rate:
            raise ValueError("min_pass_rate is above max_pass_rate; no problem lies between them")
        if self.mix and abs(sum(self.mix.values()) - 1) > 1e-6:
            raise ValueError(f"mix sums to {sum(self.mix.values()):g}; shares must sum to 1")
        if (self.prefer == "score") != (self.score is not None):
            raise ValueError('prefer = "score" and score = "module:function" go together')
        return self

    @model_validator(mode="after")
    def _every_knob_turns_something(self) -> Self:
        knobs = {
            "min_pass_rate": "pass_rate",
            "max_pass_rate": "pass_rate",
            "benchmarks": "contaminated",
            "near": "near_duplicate",
        }
        for knob, rule in knobs.items():
            if getattr(self, knob) != type(self).model_fields[knob].default and rule not in self.rules:
                raise ValueError(f'{knob} does nothing without the rule "{rule}"; add it to rules, or take {knob} out')
        return self


class Training(Section):
    """SFT of the student on the curated samples, completion tokens only (training/)."""

    PLACES: ClassVar = frozenset(
        {
            *("workers", "gpus", "cpus", "activation_checkpointing", "cpu_offload", "zero_stage"),
            *("save_minutes", "max_failures", "trackers"),
        }
    )
    """Settings that say where the steps are computed and what is told of them, not what they are."""

    PATIENCE: ClassVar = timedelta(hours=2)
    """How long workers wait for one another: meanwhile the first writes a whole model, reads it back and runs it."""

    workers: Range = 1
    """How many, or at least and at most: as many as the cluster has room for. The steps stay the same."""
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
    cpu_offload: bool = False
    """Keep weights, gradients and the optimiser in main memory, and bring a layer to the GPU when it is computed."""
    zero_stage: Literal[1, 3] | None = None
    """What several workers share (ZeRO, Rajbhandari et al. 2020). 3: all of it, gathered a layer at a time. 1: master
    weights and optimiser; each worker holds weights and gradients whole through a step and talks to the others once in
    it, which a slow network wants, at 6 bytes more a weight in bf16. None: 1 on CPUs, 3 on GPUs."""
    lora_rank: int = Field(0, ge=0)
    """Train adapters of this rank on all linear layers but the output (LoRA, Hu et al. 2021) and leave the model as it
    is; 0 trains all weights. Adapters want about ten times the learning rate. The student is the model with them merged
    in; the adapter itself is stored beside it."""
    lora_alpha: float = Field(32.0, gt=0)
    """Adapters are scaled by lora_alpha / lora_rank."""
    checkpoints: PositiveInt = 3
    """Checkpoints in a run, evenly spaced, each with its model."""
    keep: PositiveInt | None = None
    """Checkpoints whose models stay: so many of the newest, and the one with the least loss on the held-out examples.
    None keeps all: those that are gone cannot be measured afterwards."""
    student: Literal["last", "best"] = "last"
    """Which checkpoint becomes the student; best has the least loss on held-out examples (curation.validation)."""
    save_minutes: float = Field(30.0, gt=0)
    """How often the state is saved between checkpoints, so that a death costs no more; and how often nodes that came
    are taken in, where the number of workers may vary."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Where else the steps' figures go; what each needs (an account, an address) it takes from its own environment."""
    max_failures: int = Field(2, ge=0)
    """Worker failures that Ray Train survives by resuming from the last checkpoint."""

    @property
    def worker_bounds(self) -> tuple[int, int]:
        """The least and the most workers."""
        return bounds(self.workers)

    @property
    def step_settings(self) -> dict[str, Any]:
        """What decides the steps, as plain values; neither their places nor what is kept of them is among it."""
        return self.model_dump(mode="json", exclude={*self.PLACES, "checkpoints", "keep", "student"})

    @property
    def backend(self) -> str:
        """What the workers' process group talks by."""
        if not self.gpus:
            return "gloo"
        return "cpu:gloo,cuda:nccl" if self.cpu_offload else "nccl"

    @property
    def syncs_once_per_step(self) -> bool:
        """Say whether workers gather weights and add up gradients once a step, or for every pack."""
        return (self.zero_stage or (3 if self.gpus else 1)) == 1

    def shards(self, world: int) -> bool:
        """Say whether weights are split over `world` workers, or kept where only a sharded model can keep them."""
        return world > 1 or self.cpu_offload


class Arm(NamedModel):
    """A model that is only measured: any model behind any engine, or one that is measured already, asked otherwise."""


class Evaluation(Section):
    """Base, teachers, student and further arms on the test problems, by the same sampler."""

    arms: tuple[Arm, ...] = ()
    """Further models, such as a peer behind an endpoint, or the student at other temperatures."""
    samples: PositiveInt = 4
    """Samples per problem and arm."""
    k: tuple[PositiveInt, ...] = Field((1, 4), min_length=1)
    """Of pass@k and maj@k; by default no more than `samples`."""
    cluster: str | None = None
    """Key of the problems' metadata that names what a problem is a variant of, such as its template: variants are not
    counted as independent, and intervals widen accordingly."""
    checkpoint_problems: int = Field(60, ge=0)
    """Test problems on which the training checkpoints are measured; 0 skips them."""
    checkpoint_samples: PositiveInt = 2
    """At most `samples`: base and student are the ends of the curve."""

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

"""Checking, curation, training and evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from reasonray.config.models import Asked, Sampling
from reasonray.config.section import Section, Share


class Judge(Asked):
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

"""The number of samples per problem, the limits on cost and failures of sampling, and when rollouts are committed."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from reasonray.config.section import Change, Section, Share, default_kind


class Fixed(Section):
    """K samples of every problem."""

    kind: Literal["fixed"] = "fixed"
    samples: PositiveInt = 8
    """Samples per problem (K)."""


class UntilCorrect(Section):
    """Samples until `target` of them are correct; then the problem's requests in flight are aborted."""

    kind: Literal["until_correct"]
    target: PositiveInt = 4
    """Correct samples wanted of each problem."""
    max: PositiveInt = 32
    """Samples per problem, at most."""
    give_up: PositiveInt | None = None
    """Samples without a correct one after which a problem gets no more; by default `max`."""
    wave: PositiveInt = 8
    """Requests of one problem in flight at the same time, at most."""

    @model_validator(mode="after")
    def _can_be_met(self) -> UntilCorrect:
        if self.max < self.target:
            raise ValueError(f"max ({self.max}) is below target ({self.target}): it can never be met; raise max")
        if self.give_up is not None and self.give_up > self.max:
            raise ValueError(f"give_up ({self.give_up}) is above max ({self.max}); lower it, or leave it out")
        return self


class Proportional(Section):
    """More correct samples of harder problems: DART-Math's Prop2Diff (Tong et al. 2024, arXiv 2407.13690).

    A pilot estimates a problem's pass rate p. Then `target` × (1 - p) correct samples are wanted, at least `least`.
    """

    kind: Literal["proportional"]
    pilot: PositiveInt = 4
    """Samples of every problem from which its pass rate is first estimated."""
    target: PositiveInt = 8
    """Correct samples wanted of a problem that is almost never solved."""
    least: PositiveInt = 1
    """Correct samples wanted of every problem, however easy."""
    max: PositiveInt = 64
    """Samples per problem, at most."""
    give_up: PositiveInt | None = None
    """Samples without a correct one after which a problem gets no more; by default `max`."""
    wave: PositiveInt = 8
    """Requests of one problem in flight at the same time, at most."""

    @model_validator(mode="after")
    def _can_be_met(self) -> Proportional:
        if self.max < self.target:
            raise ValueError(f"max ({self.max}) is below target ({self.target}): it can never be met; raise max")
        if self.least > self.target:
            raise ValueError(f"least ({self.least}) is above target ({self.target}); lower it")
        if self.pilot > self.max:
            raise ValueError(f"pilot ({self.pilot}) is above max ({self.max}); lower it")
        if self.give_up is not None and not self.pilot <= self.give_up <= self.max:
            raise ValueError(f"give_up ({self.give_up}) must lie between pilot ({self.pilot}) and max ({self.max})")
        return self


class Band(Section):
    """`samples` of each problem that is neither too easy nor too hard; fewer of the others.

    A problem gets no more samples as soon as the posterior of its pass rate (uniform prior) lies below `low`, or above
    `high`, with the confidence given.
    """

    kind: Literal["band"]
    low: Share = 0.1
    """Pass rate below which a problem is too hard."""
    high: Share = 0.9
    """Pass rate above which a problem is too easy."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Posterior probability at which a problem counts as too hard or too easy."""
    samples: PositiveInt = 16
    """Samples of a problem within the band."""
    wave: PositiveInt = 8
    """Requests of one problem in flight at the same time, at most."""

    @model_validator(mode="after")
    def _holds_a_pass_rate(self) -> Band:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g}): no pass rate lies between them")
        return self


Policy = Annotated[Fixed | UntilCorrect | Proportional | Band, Field(discriminator="kind"), default_kind("fixed")]


class Budget(Section):
    """Limits on sampling, over all sessions of the run. Reaching one ends sampling cleanly; raise it to go on."""

    CHANGE: ClassVar[Change | None] = Change.FREE

    tokens: PositiveInt | None = None
    """Generated tokens."""
    accelerator_hours: float | None = Field(None, gt=0)
    """Hours of all replicas' GPUs together, engine start included; where replicas have no GPU, hours of replicas."""
    hours: float | None = Field(None, gt=0)
    """Wall time of sampling."""


class Failures(Section):
    """Limits after which an engine counts as hung, or replica deaths end the stage."""

    CHANGE: ClassVar[Change | None] = Change.FREE

    hang_seconds: float = Field(600.0, gt=0)
    """Time without a token, while requests are in flight, after which an engine counts as hung and its replica is
    replaced."""
    in_a_row: PositiveInt = 8
    """Replica deaths without a finished rollout between them that end the stage."""
    deaths: PositiveInt = 100
    """Replica deaths within `minutes` that end the stage, however many rollouts were finished meanwhile."""
    minutes: float = Field(10.0, gt=0)
    """Time window of `deaths`."""


class Storage(Section):
    """How finished rollouts are stored. Fewer, larger files are faster to read; what is not committed yet is lost when
    its replica dies."""

    CHANGE: ClassVar[Change | None] = Change.FREE

    commit_megabytes: float = Field(8.0, gt=0)
    """Text of finished rollouts, in megabytes, with which a replica commits them."""
    commit_seconds: float = Field(60.0, gt=0)
    """Time after which a replica commits finished rollouts, however few they are. The first commits come sooner: after
    8 seconds, then 16, and so on."""

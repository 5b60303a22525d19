"""How many attempts a problem gets (policy.py decides), what a run may cost, and what it puts up with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from reasonray.config.section import Section, Share, kind_or


class Fixed(Section):
    """K samples for every problem."""

    kind: Literal["fixed"] = "fixed"
    samples: PositiveInt = 8


class UntilCorrect(Section):
    """Samples until `target` correct ones, at most `max`; siblings in flight are aborted once it is met."""

    kind: Literal["until_correct"]
    target: PositiveInt = 4
    max: PositiveInt = 32
    give_up: PositiveInt | None = None
    """Attempts without one correct after which a problem is left alone; None: `max`."""
    wave: PositiveInt = 8
    """Attempts of one problem in flight at the same time, at most."""

    @model_validator(mode="after")
    def _can_be_met(self) -> UntilCorrect:
        if self.max < self.target:
            raise ValueError(f"max ({self.max}) is below target ({self.target}): it can never be met; raise max")
        if self.give_up is not None and self.give_up > self.max:
            raise ValueError(f"give_up ({self.give_up}) is above max ({self.max}); lower it, or leave it out")
        return self


class Proportional(Section):
    """More correct samples of harder problems: DART-Math's Prop2Diff (arXiv 2407.13690).

    A pilot estimates a problem's pass rate p; `target` × (1 - p) correct samples are wanted of it, at least `least`.
    """

    kind: Literal["proportional"]
    pilot: PositiveInt = 4
    """Attempts at every problem before its pass rate means anything."""
    target: PositiveInt = 8
    """Correct samples wanted of a problem that is almost never solved."""
    least: PositiveInt = 1
    max: PositiveInt = 64
    give_up: PositiveInt | None = None
    """Attempts without one correct after which a problem is left alone; None: `max`."""
    wave: PositiveInt = 8

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
    """`samples` of the problems that are neither too easy nor too hard; of the others only what it takes to know it.

    A problem is left alone as soon as the posterior of its pass rate (uniform prior) lies below `low` or above `high`
    with the confidence given.
    """

    kind: Literal["band"]
    low: Share = 0.1
    high: Share = 0.9
    confidence: float = Field(0.95, gt=0.5, lt=1)
    samples: PositiveInt = 16
    wave: PositiveInt = 8

    @model_validator(mode="after")
    def _holds_something(self) -> Band:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g}): no pass rate lies between them")
        return self


Policy = Annotated[Fixed | UntilCorrect | Proportional | Band, Field(discriminator="kind"), kind_or("fixed")]


class Budget(Section):
    """What sampling may cost over all sessions of the run; reaching a limit ends it cleanly, raising it goes on."""

    tokens: PositiveInt | None = None
    """Generated tokens."""
    accelerator_hours: float | None = Field(None, gt=0)
    """Hours of all replicas' GPUs together (of replicas, where they have none), the engines' start included."""
    hours: float | None = Field(None, gt=0)
    """Wall time of sampling."""


class Failures(Section):
    """When an engine counts as hung, and when replicas that keep dying end the stage."""

    hang_seconds: float = Field(600.0, gt=0)
    """Without a token from an engine that has requests in flight; then its replica is replaced."""
    in_a_row: PositiveInt = 8
    """Deaths without one rollout gained between them."""
    deaths: PositiveInt = 100
    """Deaths within `minutes`, whatever was gained."""
    minutes: float = Field(10.0, gt=0)

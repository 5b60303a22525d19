"""How many attempts a problem gets (policy.py)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from reasonray.config.section import Section


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

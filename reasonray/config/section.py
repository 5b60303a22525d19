"""The base of every part of the configuration, and the marks that its fields carry.

A mark is a Change: whether a field may change once a run has begun. It is given per field (`gpus: Annotated[int,
Change.FREE]`) or per section (`CHANGE = Change.EXTENDS`). A section without one has the mark of the field that holds
it.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class Change(Enum):
    """Whether a field may change in the configuration of a run that has begun."""

    FREE = "free"
    """Placement, cost and labels: any value at any time."""
    EXTENDS = "extends"
    """More, or other work is asked of the run: what is missing is done, what is finished and still asked for stays."""
    RAISES = "may be raised"
    """A larger value extends the run, a smaller one is refused."""
    FIXED = "fixed"
    """Part of a rollout's identity, or of what the run's figures mean: another value is refused."""


@dataclass(frozen=True, slots=True)
class Within:
    """Mark of a field that holds a section: some keys of this section carry another mark in this place."""

    change: Change
    keys: tuple[str, ...]


class Section(BaseModel):
    """A part of the configuration. It is frozen; an unknown key is an error, and so is a number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    CHANGE: ClassVar[Change | None] = None
    """The mark of fields that have none; None for the mark of the field that holds the section."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, raw: Any) -> Any:
        unknown = next((key for key in raw if key not in cls.model_fields), None) if isinstance(raw, dict) else None
        if unknown is not None:
            close = get_close_matches(unknown, cls.model_fields, n=1)
            cure = f"did you mean {close[0]}?" if close else f"there are {', '.join(cls.model_fields)}"
            raise ValueError(f"unknown key {unknown}; {cure}")
        return raw


def default_kind(kind: str) -> BeforeValidator:
    """Return a validator that adds `kind` to a section of several kinds that leaves it out."""
    return BeforeValidator(lambda raw: {"kind": kind} | raw if isinstance(raw, dict) else raw)


PATH_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""The pattern of names that become directories."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1."""


def _refuse_empty_range(shares: tuple[float, float]) -> tuple[float, float]:
    if shares[0] >= shares[1]:
        raise ValueError(f"the lowest ({shares[0]:g}) must be below the highest ({shares[1]:g})")
    return shares


ShareRange = Annotated[tuple[Share, Share], AfterValidator(_refuse_empty_range)]
"""[lowest, highest] of two shares."""

"""What every part of the configuration is."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class Section(BaseModel):
    """A part of the configuration: frozen; an unknown key is an error, as is a number that is infinite or NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _every_key_is_known(cls, raw: Any) -> Any:
        unknown = next((key for key in raw if key not in cls.model_fields), None) if isinstance(raw, dict) else None
        if unknown is not None:
            close = get_close_matches(unknown, cls.model_fields, n=1)
            cure = f"did you mean {close[0]}?" if close else f"there are {', '.join(cls.model_fields)}"
            raise ValueError(f"unknown key {unknown}; {cure}")
        return raw


def kind_or(default: str) -> BeforeValidator:
    """Return what lets a section of several kinds leave its `kind` out."""
    return BeforeValidator(lambda raw: {"kind": default} | raw if isinstance(raw, dict) else raw)


PATH_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""What a name looks like that becomes a directory."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1."""

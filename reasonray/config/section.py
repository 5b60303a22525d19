"""What every part of the configuration is."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A part of the configuration: frozen; an unknown key is an error, as is a number that is infinite or NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


PATH_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""What a name looks like that becomes a directory."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1."""

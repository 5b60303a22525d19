"""The spelling of parameters that OpenAI-compatible servers disagree about. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

_SEED_BITS = (63, 31, 0)
"""Bits of the seeds that are sent, from the first try to the last; 0 sends none."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a server has accepted, or is still to be asked with."""

    limit_name: str = "max_tokens"
    """The parameter that limits the tokens of a completion."""
    seed_bits: int = _SEED_BITS[0]

    def limit(self, tokens: int) -> dict[str, Any]:
        """Return the parameter that limits a completion to a number of tokens."""
        return {self.limit_name: tokens}

    def seed(self, seed: int) -> dict[str, Any]:
        """Return the parameter that holds a seed; the lowest bits of one that is too large."""
        return {"seed": seed % 2**self.seed_bits} if self.seed_bits else {}

    def after_rejection(self, words: str, body: Mapping[str, Any]) -> Dialect | None:
        """Return the next dialect to try after a server rejected a request; None if spelling is not the reason.

        Args:
            words: what the server says about the request.
            body: of the request.
        """
        if "max_completion_tokens" in words and self.limit_name == "max_tokens":
            return replace(self, limit_name="max_completion_tokens")
        if "seed" in body and re.search(r"\bseed\b", words) and self.seed_bits:
            return replace(self, seed_bits=_SEED_BITS[_SEED_BITS.index(self.seed_bits) + 1])
        return None

"""The names of parameters, and the spelling that OpenAI-compatible servers disagree about. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from reasonray.errors import UserError

_KNOWN_FIELDS = (
    *("bad_words", "best_of", "chat_template", "echo", "enable_thinking", "frequency_penalty", "grammar"),
    *("guided_choice", "guided_grammar", "guided_json", "guided_regex", "ignore_eos", "include_reasoning"),
    *("length_penalty", "logit_bias", "max_completion_tokens", "max_tokens", "metadata", "min_p", "min_tokens"),
    *("no_repeat_ngram_size", "parallel_tool_calls", "prediction", "presence_penalty", "priority", "provider"),
    *("reasoning", "reasoning_effort", "regex", "repetition_detection", "repetition_penalty", "response_format"),
    *("safety_identifier", "seed", "separate_reasoning", "service_tier", "skip_special_tokens", "stop"),
    *("stop_token_ids", "store", "stream", "structured_outputs", "suffix", "temperature", "thinking"),
    *(
        "thinking_token_budget",
        "tool_choice",
        "tools",
        "top_a",
        "top_k",
        "top_p",
        "transforms",
        "truncate_prompt_tokens",
    ),
    *("typical_p", "user", "verbosity", "vllm_xargs", "web_search_options"),
)
"""Fields of requests to OpenAI's servers, vLLM, SGLang, llama.cpp and OpenRouter."""
_LIKENESS = 0.85
"""From here on, an unknown name is taken for a misspelt one."""
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


def refuse_misspelt(where: str, names: Iterable[str]) -> None:
    """Check that no name looks like that of a known field of requests. Servers have fields of their own, too.

    Raises:
        UserError: one does.
    """
    for name in names:
        close = get_close_matches(name, _KNOWN_FIELDS, 1, _LIKENESS)
        if close and name not in _KNOWN_FIELDS:
            raise UserError(f"{where}: there is no {name!r}; did you mean {close[0]}?")

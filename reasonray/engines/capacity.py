"""How many requests in flight keep an engine busy."""

from __future__ import annotations

_SHORT = 1024
"""Tokens of a short rollout with its prompt."""
_WEIGHT = 64
"""Finished samples that count as much as the assumption that samples are short."""


class Capacity:
    """The requests that an engine computes at once, as far as its KV cache holds them.

    Until samples have finished, they are taken to be short: 1,024 tokens, or a whole context where that is less. Where
    those that finish are shorter still, the cache holds more of them, and the capacity grows. It never shrinks: the
    first samples to finish are the shortest, but each counts with its whole length, and running ones have half of it.
    """

    def __init__(self, max_num_seqs: int, kv_tokens: int, max_model_len: int) -> None:
        """Assume short samples.

        Args:
            max_num_seqs: sequences that are computed at the same time, by all data parallel engines together.
            kv_tokens: tokens that the KV cache holds; 0 if that is not known.
            max_model_len: tokens of the longest sequence.
        """
        self._max_num_seqs, self._kv_tokens = max_num_seqs, kv_tokens
        self._tokens, self._samples = _WEIGHT * min(max_model_len, _SHORT), _WEIGHT
        self.requests = self._useful()
        """Requests in flight that keep the engine busy."""

    def record(self, tokens: int) -> None:
        """Count a finished sample of so many tokens, prompt included."""
        self._tokens += tokens
        self._samples += 1
        self.requests = max(self.requests, self._useful())

    def _useful(self) -> int:
        held = self._kv_tokens * self._samples // self._tokens if self._kv_tokens else self._max_num_seqs
        # 1.1: a short queue in the engine replaces a finished sequence in the very next step.
        return max(1, int(min(self._max_num_seqs, held) * 1.1))

"""Scores of traces by how they are explained, for `prefer = "score"`.

`score = "reasonray.curation.trace_quality:limo"` takes the trace of each problem that LIMO's rules rank first (Ye et
al. 2025, arXiv 2502.03387): long, and rich in words of checking, exploring and connecting.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_WORDS = {
    "verification": (0.2, re.compile(r"\b(?:check|verify)", re.IGNORECASE)),
    "exploration": (0.25, re.compile(r"\b(?:perhaps|might)\b", re.IGNORECASE)),
    "connection": (0.25, re.compile(r"\b(?:therefore|since)\b", re.IGNORECASE)),
}
"""Feature → its weight, and the words that the paper names for it."""
_LENGTH = 0.3
"""Weight of the length of the reasoning."""


def limo(table: pa.Table) -> npt.NDArray[np.float64]:
    """Return a score for each completion: weighted features, each as a share of 1 that grows with its rate.

    A word's rate is per thousand words of the completion, so that a long text does not win by length twice. The paper
    gives features and weights, not their scales: here a rate or length r counts as r / (r + 1), with lengths in
    thousands of tokens, so that no feature outweighs another by its unit.

    Args:
        table: columns completion and completion_tokens.
    """
    tokens = np.asarray(table["completion_tokens"].to_numpy(), np.float64)
    scores = _LENGTH * _saturated(tokens / 1000)
    texts = table["completion"].to_pylist()
    words = np.array([max(1, len(text.split())) for text in texts], np.float64)
    for weight, pattern in _WORDS.values():
        counts = np.array([sum(1 for _ in pattern.finditer(text)) for text in texts], np.float64)
        scores += weight * _saturated(1000 * counts / words)
    return scores


def _saturated(rates: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return rates / (rates + 1)

"""Deduplication: the same reasoning in other words, and texts that are nearly alike.

Everything is linear in the data: signatures are computed per block of rollouts, and only signatures are compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rensa import RMinHash

from reasonray.curation.text import keyboard_operators, normalised_words, strip_thousands
from reasonray.records import content_hash

Signatures = npt.NDArray[np.uint16]
_Rows = npt.NDArray[np.int64]

PERMUTATIONS = 256
"""Entries in a signature, 16 bits each: more exact than half as many of 32 bits in the same memory (b-bit MinHash)."""
_SHINGLE = 5
"""Words in an n-gram of a signature."""
_SEED = 42
_MISSED = 0.005
"""Chance that a pair at the threshold shares no band, and chance that too few of its entries agree."""
_NEIGHBOURS = 16
"""Rows of the same band that each row is compared with, which keeps a band that thousands share linear."""
_TIE_BREAKERS = 6
"""Entries after a band by which the rows that share it are sorted, so that the likeliest pairs are adjacent."""
_PAIRS_PER_CHUNK = 1 << 16
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_MARKUP = re.compile(r"\\(?:left|right)(?![a-z])|\\[,;!: ()\[\]]|[${}&]|\\(?=[$%])")
_ARITHMETIC = re.compile(r"[\d(](?<!\w\w)[\d\s.,;+\-*/^()%=]*")
_SENTENCE = re.compile(r"[.,;](?:\s|$)|\n(?!\s*=)")
_LETTER_TIMES = re.compile(r"x(?:(?<=\dx)|(?<=\d x))(?= ?\d)")
_VALUE = re.compile(r"\(*[\d.]+%?\)*")


def reasoning_key(completion: str) -> str:
    """Return a hash of a completion's equations, in their order; "" for fewer than two, which prove nothing.

    Two solutions of a problem with the same equations are the same reasoning in other words (RFT, Yuan et al. 2023).
    An equation is arithmetic that equals something; 6 * 7, 6 × 7 and its LaTeX are one, with or without spaces.
    """
    if completion.count("=") < 2:
        return ""
    equations = list(_equations(completion))
    return content_hash(*equations) if len(equations) > 1 else ""


def _equations(text: str) -> Iterator[str]:
    plain = _MARKUP.sub("", strip_thousands(_FRACTION.sub(_quotient, keyboard_operators(text))))
    for run in _ARITHMETIC.finditer(_LETTER_TIMES.sub("*", plain)):
        if "=" not in run.group():
            continue
        for sentence in _SENTENCE.split(run.group()):
            sides = [_side("".join(side.split())) for side in sentence.split("=")]
            for left, right in pairwise(sides):
                if left and right and not _VALUE.fullmatch(left):
                    yield f"{left}={right}"


def _side(written: str) -> str:
    """Return a side of an equation without the bullets, bold and brackets of remarks around it."""
    plain = written.strip(".,;*").lstrip("+-/^%")
    return plain if plain.count("(") == plain.count(")") else plain.strip("()")


def _quotient(match: re.Match[str]) -> str:
    return "/".join(part if part.strip().isdecimal() else f"({part})" for part in match.groups())


def minhash_signatures(texts: Sequence[str]) -> Signatures:
    """Return the MinHash signatures of texts by their word 5-grams (Broder, 1997), of shape (texts, PERMUTATIONS)."""
    shingles = []
    for text in texts:
        words = normalised_words(text)
        size = min(_SHINGLE, len(words))
        shingles.append([" ".join(words[at : at + size]) for at in range(len(words) - size + 1)] or [""])
    digests = RMinHash.digests_from_token_sets(shingles, PERMUTATIONS, _SEED)
    return np.asarray(digests, np.uint32).astype(np.uint16).reshape(len(texts), PERMUTATIONS)


def signature_matrix(features: pa.Table) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Return the column `signature` of features as an array, one row per rollout."""
    column = features["signature"].combine_chunks()
    return np.asarray(column.flatten().to_numpy().reshape(len(column), column.type.list_size))


def near_duplicates(signatures: Signatures, threshold: float) -> npt.NDArray[np.int64]:
    """Return for each row the first one that it is nearly alike to, directly or through others; itself if to none.

    Only rows that agree on a band of entries are compared (locality-sensitive hashing). A pair at the threshold is
    missed once in a hundred times; the price is that a pair up to a tenth below it can be taken for alike. Which rows
    are grouped does not depend on their order.

    Args:
        signatures: as minhash_signatures returns them.
        threshold: Jaccard similarity.
    """
    _, first, inverse = np.unique(_row_hashes(signatures), return_index=True, return_inverse=True)
    owner = np.arange(len(first), dtype=np.int64)
    rows, enough = _rows_in_a_band(threshold), _enough(threshold)
    for start in range(0, PERMUTATIONS - rows + 1, rows):
        entries = (start + np.arange(rows + _TIE_BREAKERS)) % PERMUTATIONS
        keys = signatures[first[:, None], entries]
        order = np.lexsort(keys.T[::-1])
        changes = np.r_[True, (keys[order[1:], :rows] != keys[order[:-1], :rows]).any(axis=1)]
        band = np.cumsum(changes)
        for step in range(1, min(_NEIGHBOURS + 1, len(first))):
            same = np.flatnonzero(band[step:] == band[:-step])
            if not len(same):
                break
            left, right = order[same], order[same + step]
            apart = owner[left] != owner[right]
            left, right = left[apart], right[apart]
            alike = _agreeing(signatures, first[left], first[right]) >= enough
            _join(owner, left[alike], right[alike])
    earliest = np.full(len(first), len(signatures), np.int64)
    np.minimum.at(earliest, owner, first)
    return earliest[owner][inverse.ravel()]


def _row_hashes(signatures: Signatures) -> npt.NDArray[np.uint64]:
    """Return a hash of each row."""
    total = np.zeros(len(signatures), np.uint64)
    for column in signatures.T:
        total = total * _FACTOR + column
        total ^= total >> np.uint64(29)
    return total


def _rows_in_a_band(threshold: float) -> int:
    """Return the width of the widest band that a pair at the threshold shares, but for a chance of _MISSED."""
    widths = (rows for rows in range(32, 0, -1) if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= _MISSED)
    return next(widths, 1)


def _enough(threshold: float) -> int:
    """Return how many entries of a pair at the threshold agree, but for a chance of _MISSED (they are binomial)."""
    below = 0.0
    for agreeing in range(PERMUTATIONS + 1):
        below += comb(PERMUTATIONS, agreeing) * threshold**agreeing * (1 - threshold) ** (PERMUTATIONS - agreeing)
        if below > _MISSED:
            return agreeing
    return PERMUTATIONS


def _agreeing(signatures: Signatures, left: _Rows, right: _Rows) -> _Rows:
    """Return how many entries of each pair agree. Goes by chunks of pairs, because gathered rows take memory."""
    parts = [np.zeros(0, np.int64)]
    for start in range(0, len(left), _PAIRS_PER_CHUNK):
        pairs = slice(start, start + _PAIRS_PER_CHUNK)
        parts.append((signatures[left[pairs]] == signatures[right[pairs]]).sum(axis=1))
    return np.concatenate(parts)


def _join(owner: _Rows, left: _Rows, right: _Rows) -> None:
    """Unite the groups of each pair (union-find); owner[i] is the smallest of i's group, before and after."""
    while True:
        one, other = owner[left], owner[right]
        apart = one != other
        if not apart.any():
            return
        np.minimum.at(owner, np.maximum(one, other)[apart], np.minimum(one, other)[apart])
        while (owner[owner] != owner).any():
            owner[:] = owner[owner]

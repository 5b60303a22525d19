"""What overlaps: the same reasoning twice, texts nearly alike, problems that stand among held-out ones.

Everything is linear in the data: hashes are made per block, and only hashes meet. A hash that meets another is held
against the words themselves before it counts as contamination.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import comb

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

from reasonray.curation.text import normalised, with_plain_signs, without_thousands
from reasonray.records import content_hash

Hashes = npt.NDArray[np.uint64]
Signatures = npt.NDArray[np.uint16]
_Rows = npt.NDArray[np.int64]
_Entries = tuple[Hashes, _Rows]
"""Sorted hashes, and the item of each."""

PERMUTATIONS = 256
"""Entries in a signature, of sixteen bits: twice as many as of 32 in the same memory say more (b-bit MinHash)."""
_SHINGLE = 5
_SEED = 42
_MISSED = 0.005
"""Chance that a pair at the threshold shares no band, and chance that too few of its entries agree."""
_NEIGHBOURS = 16
"""How many of those that share a band each is held against: what keeps a band that thousands share linear."""
_DEEPER = 6
"""Entries after a band by which those that share it are put in order, the likeliest pairs side by side."""
_PAIRS_AT_ONCE = 1 << 16
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_DRESS = re.compile(r"\\(?:left|right)(?![a-z])|\\[,;!: ()\[\]]|[${}&]|\\(?=[$%])")
_ARITHMETIC = re.compile(r"[\d(](?<!\w\w)[\d\s.,;+\-*/^()%=]*")
_SENTENCE = re.compile(r"[.,;](?:\s|$)|\n(?!\s*=)")
_LETTER_TIMES = re.compile(r"x(?:(?<=\dx)|(?<=\d x))(?= ?\d)")
_VALUE = re.compile(r"\(*[\d.]+%?\)*")


def reasoning_key(completion: str) -> str:
    """Return what stands for a completion's equations, in their order; "" for fewer than two, which prove nothing.

    Two solutions of a problem with the same equations are the same reasoning in other words (RFT, Yuan et al. 2023).
    An equation is arithmetic that equals something; 6 * 7, 6 × 7 and its LaTeX are one, whatever the spaces.
    """
    if completion.count("=") < 2:
        return ""
    found = list(_equations(completion))
    return content_hash(*found) if len(found) > 1 else ""


def _equations(text: str) -> Iterator[str]:
    plain = _DRESS.sub("", without_thousands(_FRACTION.sub(_quotient, with_plain_signs(text))))
    for run in _ARITHMETIC.finditer(_LETTER_TIMES.sub("*", plain)):
        if "=" not in run.group():
            continue
        for sentence in _SENTENCE.split(run.group()):
            sides = [_side("".join(it.split())) for it in sentence.split("=")]
            for left, right in pairwise(sides):
                if left and right and not _VALUE.fullmatch(left):
                    yield f"{left}={right}"


def _side(written: str) -> str:
    """Return a side of an equation without what only stands around it: bullets, bold, the bracket of a remark."""
    plain = written.strip(".,;*").lstrip("+-/^%")
    return plain if plain.count("(") == plain.count(")") else plain.strip("()")


def _quotient(match: re.Match[str]) -> str:
    return "/".join(it if it.strip().isdecimal() else f"({it})" for it in match.groups())


def signatures(texts: Sequence[str]) -> Signatures:
    """Return the MinHash signatures of texts by their word 5-grams (Broder, 1997), of shape (texts, PERMUTATIONS)."""
    shingles = []
    for text in texts:
        run = normalised(text)
        size = min(_SHINGLE, len(run))
        shingles.append([" ".join(run[at : at + size]) for at in range(len(run) - size + 1)] or [""])
    digests = RMinHash.digests_from_token_sets(shingles, PERMUTATIONS, _SEED)
    return np.asarray(digests, np.uint32).astype(np.uint16).reshape(len(texts), PERMUTATIONS)


def near_duplicates(signed: Signatures, threshold: float) -> npt.NDArray[np.int64]:
    """Return for each signature the first one that it is nearly alike to, directly or by others; itself if to none.

    Only those that agree on a band of their entries are compared (locality-sensitive hashing). A pair at the threshold
    is missed once in a hundred times; the price is that one up to a tenth below it can be taken for alike. Which are
    grouped does not depend on the order of the rows.

    Args:
        signed: as `signatures` returns them.
        threshold: Jaccard similarity.
    """
    _, first, which = np.unique(_row_hashes(signed), return_index=True, return_inverse=True)
    owner = np.arange(len(first), dtype=np.int64)
    rows, enough = _rows_in_a_band(threshold), _enough(threshold)
    for start in range(0, PERMUTATIONS - rows + 1, rows):
        entries = (start + np.arange(rows + _DEEPER)) % PERMUTATIONS
        keys = signed[first[:, None], entries]
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
            alike = _agreeing(signed, first[left], first[right]) >= enough
            _join(owner, left[alike], right[alike])
    earliest = np.full(len(first), len(signed), np.int64)
    np.minimum.at(earliest, owner, first)
    return earliest[owner][which.ravel()]


def _row_hashes(signed: Signatures) -> Hashes:
    total = np.zeros(len(signed), np.uint64)
    for column in signed.T:
        total = total * _FACTOR + column
        total ^= total >> np.uint64(29)
    return total


def _rows_in_a_band(threshold: float) -> int:
    """Return the widest band that a pair at the threshold shares, but for a chance of _MISSED."""
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


def _agreeing(signed: Signatures, left: _Rows, right: _Rows) -> _Rows:
    """Return how many entries of each pair agree, a few pairs at once: gathered rows take memory."""
    parts = [np.zeros(0, np.int64)]
    for start in range(0, len(left), _PAIRS_AT_ONCE):
        pairs = slice(start, start + _PAIRS_AT_ONCE)
        parts.append((signed[left[pairs]] == signed[right[pairs]]).sum(axis=1))
    return np.concatenate(parts)


def _join(owner: _Rows, left: _Rows, right: _Rows) -> None:
    """Unite the groups of each pair under the smallest; owner[i] is the smallest of i's group before and after."""
    while True:
        one, other = owner[left], owner[right]
        apart = one != other
        if not apart.any():
            return
        np.minimum.at(owner, np.maximum(one, other)[apart], np.minimum(one, other)[apart])
        while (owner[owner] != owner).any():
            owner[:] = owner[owner]

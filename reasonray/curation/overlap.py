"""What overlaps: the same reasoning twice, texts nearly alike, problems that stand among held-out ones.

Everything is linear in the data: hashes are made per block, and only hashes meet. A hash that meets another is held
against the words themselves before it counts as contamination.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rensa import RMinHash

from reasonray.records import content_hash

Hashes = npt.NDArray[np.uint64]

PERMUTATIONS = 128
_SHINGLE = 5
_SEED = 42
_SHORTEST = 5
"""Words that a text must have to be found again whole; shorter ones are anybody's."""
_COMMON_ITEMS, _COMMON_SHARE = 10, 0.01
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_EQUATION = re.compile(r"(?<![\w.])[\d(][\d\s.,+\-*/×÷^()%]*=\s*-?\$?[\d.,]*\d")
_WORD = re.compile(r"\w+|[+\-*/=^<>%]")
_MARKUP = re.compile(r"\\(?:text|mathrm|left|right|boxed|displaystyle|quad)\b|[${}\\]")

CONTAMINATION_SCHEMA = pa.schema(
    [
        pa.field("problem_id", pa.string()),
        pa.field("benchmark", pa.string()),
        pa.field("item_id", pa.string()),
        pa.field("words", pa.int32()),
        pa.field("matched", pa.string()),
    ]
)
"""One row a problem and item that overlap: how many words in a row, and which."""


def reasoning_key(completion: str) -> str:
    """Return what stands for a completion's equations, in their order; "" for fewer than two, which prove nothing.

    Two solutions of a problem with the same equations are the same reasoning in other words (RFT, Yuan et al. 2023).
    """
    found = ["".join(match.group().split()).replace("$", "").rstrip(".,") for match in _EQUATION.finditer(completion)]
    return content_hash(*found) if len(found) > 1 else ""


def signatures(texts: Sequence[str]) -> npt.NDArray[np.uint32]:
    """Return the MinHash signatures of texts by their word 5-grams (Broder, 1997), of shape (texts, PERMUTATIONS)."""
    shingles = []
    for text in texts:
        words = text.casefold().split()
        size = min(_SHINGLE, len(words))
        shingles.append([" ".join(words[at : at + size]) for at in range(len(words) - size + 1)] or [""])
    digests = RMinHash.digests_from_token_sets(shingles, PERMUTATIONS, _SEED)
    return np.asarray(digests, np.uint32).reshape(len(texts), PERMUTATIONS)


def near_duplicates(signed: npt.NDArray[np.uint32], threshold: float) -> npt.NDArray[np.int64]:
    """Return for each signature the first one that it is nearly alike to, directly or by others; itself if to none.

    Only those that agree on a band of their entries are compared (locality-sensitive hashing); the bands are such that
    a pair at the threshold is missed less than once in a hundred times.

    Args:
        signed: as `signatures` returns them.
        threshold: Jaccard similarity.
    """
    owner = np.arange(len(signed), dtype=np.int64)
    rows = _rows_in_a_band(threshold)
    for start in range(0, PERMUTATIONS - rows + 1, rows):
        band = np.ascontiguousarray(signed[:, start : start + rows])
        keys = band.view(np.dtype((np.void, band.dtype.itemsize * rows))).ravel()
        order = np.argsort(keys, kind="stable")
        same = keys[order][1:] == keys[order][:-1]
        left, right = order[:-1][same], order[1:][same]
        alike = (signed[left] == signed[right]).mean(axis=1) >= threshold
        _join(owner, left[alike], right[alike])
    return np.array([_root(owner, index) for index in range(len(owner))], np.int64)


def _rows_in_a_band(threshold: float) -> int:
    """Return the widest band with which a pair at the threshold shares one with a chance of 99 %."""
    widths = (rows for rows in range(32, 0, -1) if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= 0.01)
    return next(widths, 1)


def _join(owner: npt.NDArray[np.int64], left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]) -> None:
    for one, other in zip(left.tolist(), right.tolist(), strict=True):
        first, second = sorted((_root(owner, one), _root(owner, other)))
        owner[second] = first


def _root(owner: npt.NDArray[np.int64], index: int) -> int:
    while owner[index] != index:
        owner[index] = owner[owner[index]]
        index = int(owner[index])
    return index


@dataclass(frozen=True, slots=True)
class Item:
    """A held-out problem, or one of a benchmark."""

    benchmark: str
    id: str
    text: str


@dataclass(frozen=True)
class Index:
    """The n-grams of held-out items, sorted by hash. Pickles; a task on every node shares one."""

    ngrams: tuple[int, ...]
    items: tuple[Item, ...]
    hashes: dict[int, Hashes]
    """By words in the n-gram."""
    owners: dict[int, npt.NDArray[np.int64]]
    """The item of each hash."""
    whole: dict[int, npt.NDArray[np.bool_]]
    """Whether the n-gram is all that the item says: then it counts whatever its length."""


def index(items: Iterable[Item], ngrams: Sequence[int], lengths: Iterable[int] = ()) -> Index:
    """Return the index of held-out items.

    N-grams that stand in more than ten items and one of a hundred are how such problems are worded, and do not count.

    Args:
        items: held-out problems.
        ngrams: how many words in a row are contamination.
        lengths: words of texts shorter than that which will be looked up: an item may hold one of them whole.
    """
    kept = tuple(items)
    words = [normalised(it.text) for it in kept]
    short = {len(it) for it in words if _SHORTEST <= len(it) < min(ngrams)}
    sizes = sorted({*ngrams, *short, *(it for it in lengths if _SHORTEST <= it < min(ngrams))})
    hashes, owners, whole = {}, {}, {}
    for size in sizes:
        parts = [_hashes(it, size) for it in words]
        found = np.concatenate([*parts, np.zeros(0, np.uint64)])
        owner = np.repeat(np.arange(len(parts)), [len(it) for it in parts])
        full = np.array([len(it) == size for it in words], np.bool_)[owner] if len(owner) else np.zeros(0, np.bool_)
        order = np.lexsort((owner, found))
        found, owner, full = found[order], owner[order], full[order]
        rare = ~_is_common(found, owner, len(kept)) | full
        hashes[size], owners[size], whole[size] = found[rare], owner[rare], full[rare]
    return Index(tuple(sorted(ngrams)), kept, hashes, owners, whole)


def hits(held_out: Index, problems: Sequence[tuple[str, str]]) -> pa.Table:
    """Return which problems overlap with which held-out items, the longest run of words of each pair.

    Found are problems that share an n-gram with an item, that hold a short item whole, or stand whole in an item.

    Args:
        held_out: the index.
        problems: ids and questions.

    Returns:
        A table of CONTAMINATION_SCHEMA.
    """
    found: dict[tuple[str, int], tuple[int, str]] = {}
    for identity, text in problems:
        words = normalised(text)
        for size, known in held_out.hashes.items():
            grams = _hashes(words, size)
            if not len(grams) or not len(known):
                continue
            starts, ends = np.searchsorted(known, grams), np.searchsorted(known, grams, side="right")
            for at in np.flatnonzero(ends > starts).tolist():
                matched = words[at : at + size]
                for row in range(int(starts[at]), int(ends[at])):
                    counts = size in held_out.ngrams or held_out.whole[size][row] or len(words) == size
                    item = int(held_out.owners[size][row])
                    if counts and _holds(held_out.items[item].text, matched):
                        key = identity, item
                        found[key] = max(found.get(key, (0, "")), (size, " ".join(matched)), key=lambda it: it[0])
    rows = [
        {"problem_id": identity, "benchmark": held_out.items[item].benchmark, "item_id": held_out.items[item].id,
         "words": size, "matched": matched}
        for (identity, item), (size, matched) in found.items()
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=CONTAMINATION_SCHEMA)


def normalised(text: str) -> list[str]:
    """Return the words of a text, whatever their case, punctuation and LaTeX dress; numbers and signs stay."""
    plain = _MARKUP.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    return _WORD.findall(plain)


def _holds(text: str, words: Sequence[str]) -> bool:
    return f" {' '.join(words)} " in f" {' '.join(_normalised(text))} "


@lru_cache(maxsize=4096)
def _normalised(text: str) -> tuple[str, ...]:
    return tuple(normalised(text))


def _hashes(words: Sequence[str], size: int) -> Hashes:
    """Return the hashes of a text's n-grams, at their places."""
    if len(words) < size:
        return np.zeros(0, np.uint64)
    each = np.array([_hash(word) for word in words], np.uint64)
    count = len(words) - size + 1
    total = np.zeros(count, np.uint64)
    for place in range(size):
        total = total * _FACTOR + each[place : place + count]
    return total


@lru_cache(maxsize=1 << 18)
def _hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")


def _is_common(hashes: Hashes, owners: npt.NDArray[np.int64], items: int) -> npt.NDArray[np.bool_]:
    """Say of sorted hashes whether they stand in too many items to mean anything."""
    if not len(hashes):
        return np.zeros(0, np.bool_)
    begins = np.r_[True, hashes[1:] != hashes[:-1]]
    first_of_item = begins | np.r_[True, owners[1:] != owners[:-1]]
    group = np.cumsum(begins) - 1
    spread = np.bincount(group, weights=first_of_item)[group]
    return np.asarray(spread > max(_COMMON_ITEMS, _COMMON_SHARE * items))

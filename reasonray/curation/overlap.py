"""What overlaps: the same reasoning twice, texts nearly alike, problems that stand among held-out ones.

Everything is linear in the data: hashes are made per block, and only hashes meet. A hash that meets another is held
against the words themselves before it counts as contamination.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from math import comb

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rensa import RMinHash

from reasonray.curation.words import copied, normalised, undressed, with_plain_signs, without_thousands, words
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
_SHORTEST = 5
"""Words that a text must have to be found again whole; shorter ones are anybody's."""
_COMMON_ITEMS, _COMMON_SHARE = 10, 0.01
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_DRESS = re.compile(r"\\(?:left|right)(?![a-z])|\\[,;!: ()\[\]]|[${}&]|\\(?=[$%])")
_ARITHMETIC = re.compile(r"[\d(](?<!\w\w)[\d\s.,;+\-*/^()%=]*")
_SENTENCE = re.compile(r"[.,;](?:\s|$)|\n(?!\s*=)")
_LETTER_TIMES = re.compile(r"x(?:(?<=\dx)|(?<=\d x))(?= ?\d)")
_VALUE = re.compile(r"\(*[\d.]+%?\)*")

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


@dataclass(frozen=True, slots=True)
class Item:
    """A held-out problem, or one of a benchmark."""

    benchmark: str
    id: str
    text: str


@dataclass(frozen=True)
class Index:
    """The n-grams of held-out items, by size, sorted by hash. Pickles; a task on every node shares one."""

    items: tuple[Item, ...]
    copies: dict[str, list[int]]
    """Items by their text, whatever its length: a problem must not be one."""
    shared: dict[int, _Entries]
    """N-grams that a problem must not hold."""
    whole: dict[int, _Entries]
    """Short items, entire: a problem must not hold one."""
    within: dict[int, _Entries]
    """N-grams that a short problem must not consist of."""


def index(items: Iterable[Item], ngrams: Sequence[int], lengths: Iterable[int] = ()) -> Index:
    """Return the index of held-out items.

    N-grams that stand in more than ten items and one of a hundred are how such problems are worded, and do not count;
    an item that is there several times counts once.

    Args:
        items: held-out problems.
        ngrams: how many words in a row are contamination.
        lengths: words of texts shorter than that which will be looked up: an item may hold one of them whole.
    """
    kept = tuple(items)
    plain = [undressed(it.text) for it in kept]
    texts = [words(it) for it in plain]
    flat = _Flat.of(texts)
    counts = np.diff(flat.starts)
    entire = {int(it) for it in counts if _SHORTEST <= it <= max(ngrams)}
    short = {it for it in lengths if _SHORTEST <= it < min(ngrams)}
    first: dict[str, int] = {}
    alike = np.array([first.setdefault(" ".join(it), number) for number, it in enumerate(texts)], np.int64)
    copies: dict[str, list[int]] = {}
    for number, text in enumerate(plain):
        copies.setdefault(copied(text), []).append(number)
    copies.pop("", None)

    def entries(size: int) -> _Entries:
        hashes, owners, _ = flat.ngrams(size)
        order = np.lexsort((alike[owners], hashes))
        return hashes[order], owners[order]

    def of_that_size(size: int) -> _Entries:
        hashes, owners = entries(size)
        return hashes[counts[owners] == size], owners[counts[owners] == size]

    def rare(size: int) -> _Entries:
        hashes, owners = entries(size)
        few = ~_is_common(hashes, alike[owners], len(first))
        return hashes[few], owners[few]

    return Index(
        kept,
        copies,
        {size: rare(size) for size in ngrams},
        {size: of_that_size(size) for size in sorted(entire)},
        {size: rare(size) for size in sorted(short)},
    )


def hits(held_out: Index, problems: Sequence[tuple[str, str]]) -> pa.Table:
    """Return which problems overlap with which held-out items, the longest n-gram of each pair.

    Found are problems that are an item, that share an n-gram with one, that hold a short one whole, or stand whole in
    one.

    Args:
        held_out: the index.
        problems: ids and questions.

    Returns:
        A table of CONTAMINATION_SCHEMA.
    """
    plain = [undressed(text) for _, text in problems]
    texts = [words(it) for it in plain]
    flat = _Flat.of(texts)
    sizes = sorted({*held_out.shared, *held_out.whole, *held_out.within}, reverse=True)
    found = {
        (number, item): texts[number]
        for number, text in enumerate(plain)
        for item in held_out.copies.get(copied(text), ())
    }
    for size in sizes:
        hashes, owners, places = flat.ngrams(size)
        entire = np.diff(flat.starts)[owners] == size
        for known, asked in (
            (held_out.shared.get(size), None),
            (held_out.whole.get(size), None),
            (held_out.within.get(size), np.flatnonzero(entire)),
        ):
            if known is None or not len(known[0]):
                continue
            for at, item in _meetings(known, hashes, np.arange(len(hashes)) if asked is None else asked):
                key = int(owners[at]), item
                place = int(places[at])
                matched = texts[key[0]][place : place + size]
                if key not in found and _holds(held_out.items[item].text, matched):
                    found[key] = matched
    rows = [
        {"problem_id": problems[problem][0], "benchmark": held_out.items[item].benchmark,
         "item_id": held_out.items[item].id, "words": len(matched), "matched": " ".join(matched)}
        for (problem, item), matched in sorted(found.items())
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=CONTAMINATION_SCHEMA)


def _meetings(known: _Entries, hashes: Hashes, asked: _Rows) -> Iterator[tuple[int, int]]:
    """Yield which of the asked hashes are those of which items."""
    starts = np.searchsorted(known[0], hashes[asked])
    ends = np.searchsorted(known[0], hashes[asked], side="right")
    for at in np.flatnonzero(ends > starts).tolist():
        for row in range(int(starts[at]), int(ends[at])):
            yield int(asked[at]), int(known[1][row])


def _holds(text: str, run: Sequence[str]) -> bool:
    return f" {' '.join(run)} " in _spaced(text)


@lru_cache(maxsize=4096)
def _spaced(text: str) -> str:
    return f" {' '.join(normalised(text))} "


@dataclass(frozen=True)
class _Flat:
    """The hashes of many texts' words, one text after the other."""

    hashes: Hashes
    starts: _Rows

    @classmethod
    def of(cls, texts: Sequence[Sequence[str]]) -> _Flat:
        starts = np.cumsum([0, *(len(text) for text in texts)], dtype=np.int64)
        each = (_hash(word) for text in texts for word in text)
        return cls(np.fromiter(each, np.uint64, int(starts[-1])), starts)

    def ngrams(self, size: int) -> tuple[Hashes, _Rows, _Rows]:
        """Return the hashes of all n-grams of a size, the text that each is of, and its place there."""
        count = max(len(self.hashes) - size + 1, 0)
        total = np.zeros(count, np.uint64)
        for place in range(size):
            total = total * _FACTOR + self.hashes[place : place + count]
        owners = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))[:count]
        inside = np.flatnonzero(np.arange(count) + size <= self.starts[owners + 1])
        owners = owners[inside]
        return total[inside], owners, inside - self.starts[owners]


@lru_cache(maxsize=1 << 18)
def _hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")


def _is_common(hashes: Hashes, owners: _Rows, items: int) -> npt.NDArray[np.bool_]:
    """Say of sorted hashes whether they stand in too many items to mean anything."""
    if not len(hashes):
        return np.zeros(0, np.bool_)
    begins = np.r_[True, hashes[1:] != hashes[:-1]]
    first_of_item = begins | np.r_[True, owners[1:] != owners[:-1]]
    group = np.cumsum(begins) - 1
    spread = np.bincount(group, weights=first_of_item)[group]
    return np.asarray(spread > max(_COMMON_ITEMS, _COMMON_SHARE * items))

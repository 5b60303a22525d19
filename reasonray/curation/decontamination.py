"""Which train problems overlap with held-out problems or with benchmark files.

Everything is linear in the data: hashes are made per block, and only hashes meet. A hash that meets another is held
against the words themselves before it counts as contamination.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from reasonray.curation.text import copied, normalised, undressed, words
from reasonray.errors import UserError
from reasonray.problems.files import read_rows
from reasonray.records import Split
from reasonray.store.run import Run

_Hashes = npt.NDArray[np.uint64]
_Rows = npt.NDArray[np.int64]
_Entries = tuple[_Hashes, _Rows]
"""Sorted hashes, and the item of each."""

_TEXTS = ("question", "problem", "text", "prompt")
HELD_OUT = "held out"
_COMMON_ITEMS, _COMMON_SHARE = 10, 0.01
_SHORTEST = 5
"""Words that a text must have to be found again whole; shorter ones are anybody's."""
_FACTOR = np.uint64(0x9E3779B97F4A7C15)

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


def held_out_items(run: Run) -> list[Item]:
    """Return what must not be trained on: a run's test problems, and the items of its benchmark files.

    Raises:
        UserError: a benchmark file is not there, or has no column of text.
    """
    items = [Item(HELD_OUT, it.id, it.question) for it in run.problems(Split.TEST)]
    for pattern in run.config.curation.benchmarks:
        items += _benchmark(pattern)
    return items


def _benchmark(pattern: str) -> Iterator[Item]:
    for where, row in read_rows(pattern, "curation.benchmarks"):
        yield Item(pattern, str(row.get("id", where)), _text(row, where))


def _text(row: Mapping[str, Any], where: str) -> str:
    for name in _TEXTS:
        if isinstance(row.get(name), str):
            return str(row[name])
    raise UserError(f"{where}: none of the columns {', '.join(_TEXTS)} holds a text; there are {', '.join(row)}")


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


def _meetings(known: _Entries, hashes: _Hashes, asked: _Rows) -> Iterator[tuple[int, int]]:
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

    hashes: _Hashes
    starts: _Rows

    @classmethod
    def of(cls, texts: Sequence[Sequence[str]]) -> _Flat:
        starts = np.cumsum([0, *(len(text) for text in texts)], dtype=np.int64)
        each = (_hash(word) for text in texts for word in text)
        return cls(np.fromiter(each, np.uint64, int(starts[-1])), starts)

    def ngrams(self, size: int) -> tuple[_Hashes, _Rows, _Rows]:
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


def _is_common(hashes: _Hashes, owners: _Rows, items: int) -> npt.NDArray[np.bool_]:
    """Say of sorted hashes whether they stand in too many items to mean anything."""
    if not len(hashes):
        return np.zeros(0, np.bool_)
    begins = np.r_[True, hashes[1:] != hashes[:-1]]
    first_of_item = begins | np.r_[True, owners[1:] != owners[:-1]]
    group = np.cumsum(begins) - 1
    spread = np.bincount(group, weights=first_of_item)[group]
    return np.asarray(spread > max(_COMMON_ITEMS, _COMMON_SHARE * items))

"""Decontamination: finds the train problems that overlap with held-out problems or with items of benchmark files.

Everything is linear in the data: n-grams are hashed per block, and only hashes are compared. A hash that matches
another is checked against the words themselves before it counts as contamination.
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

from reasonray.curation.text import copy_key, normalised_words, split_words, strip_markup
from reasonray.errors import UserError
from reasonray.problems.files import read_rows
from reasonray.records import Split, storable
from reasonray.store.run import Run

_Hashes = npt.NDArray[np.uint64]
_Rows = npt.NDArray[np.int64]
_Entries = tuple[_Hashes, _Rows]
"""Sorted hashes, and the number of the item of each."""

_TEXT_COLUMNS = ("question", "problem", "text", "prompt")
HELD_OUT = "held out"
"""The benchmark of a run's own test problems."""
_COMMON_ITEMS, _COMMON_SHARE = 10, 0.01
"""An n-gram in more than so many items, and in more than such a share of them, is their wording."""
_SHORTEST = 5
"""Words that a text must have to be found within another; shorter texts match by chance."""
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
"""One row per problem and item that overlap: how many words in a row they share, and which. Both are null in the row of
a paraphrase (paraphrases.py), which another row can name as well."""


@dataclass(frozen=True, slots=True)
class Item:
    """A problem that must not be trained on: a run's test problem, or an item of a benchmark file."""

    benchmark: str
    """The pattern of the benchmark's files, or HELD_OUT."""
    id: str
    text: str


@dataclass(frozen=True)
class NgramIndex:
    """The n-grams of held-out items, by size, sorted by hash. It pickles, so that the tasks of a node share one."""

    items: tuple[Item, ...]
    copies: dict[str, list[int]]
    """Items by text.copy_key, of any length: a problem must not be a copy of one."""
    shared: dict[int, _Entries]
    """N-grams that a problem must not hold."""
    whole: dict[int, _Entries]
    """Short items, entire: a problem must not hold one."""
    within: dict[int, _Entries]
    """N-grams that a short problem must not consist of."""


def held_out_items(run: Run) -> list[Item]:
    """Return the items that must not be trained on: a run's test problems, and those of its benchmark files.

    Raises:
        UserError: a benchmark file does not exist, or has no column of text.
    """
    items = [Item(HELD_OUT, problem.id, problem.question) for problem in run.problems(Split.TEST)]
    for pattern in run.config.curation.benchmarks:
        items += _benchmark(pattern)
    return items


def _benchmark(pattern: str) -> Iterator[Item]:
    for where, row in read_rows(pattern, "curation.benchmarks"):
        yield Item(pattern, storable(str(row.get("id", where))), _text(row, where))


def _text(row: Mapping[str, Any], where: str) -> str:
    for name in _TEXT_COLUMNS:
        if isinstance(row.get(name), str):
            return storable(str(row[name]))
    raise UserError(f"{where}: none of the columns {', '.join(_TEXT_COLUMNS)} holds a text; there are {', '.join(row)}")


def build_index(items: Iterable[Item], ngrams: Sequence[int], lengths: Iterable[int] = ()) -> NgramIndex:
    """Return the index of held-out items.

    An n-gram in more than ten items, and in more than one of a hundred, is how such problems are worded, and does not
    count. An item that occurs several times counts once.

    Args:
        items: held-out problems.
        ngrams: numbers of words in a row that are contamination.
        lengths: numbers of words of the texts that will be looked up: an item may hold a short one of them whole.
    """
    kept = tuple(items)
    stripped = [strip_markup(item.text) for item in kept]
    texts = [split_words(text) for text in stripped]
    hashed = _HashedTexts.from_texts(texts)
    counts = np.diff(hashed.starts)
    first: dict[str, int] = {}
    same_as = np.array([first.setdefault(" ".join(words), number) for number, words in enumerate(texts)], np.int64)

    def entries(size: int) -> _Entries:
        hashes, owners, _ = hashed.ngrams(size)
        order = np.lexsort((same_as[owners], hashes))
        return hashes[order], owners[order]

    def whole(size: int) -> _Entries:
        hashes, owners = entries(size)
        return hashes[counts[owners] == size], owners[counts[owners] == size]

    def rare(size: int) -> _Entries:
        hashes, owners = entries(size)
        few = ~_is_common(hashes, same_as[owners], len(first))
        return hashes[few], owners[few]

    item_lengths = sorted({count for count in counts.tolist() if _SHORTEST <= count <= max(ngrams)})
    problem_lengths = sorted({length for length in lengths if _SHORTEST <= length < min(ngrams)})
    return NgramIndex(
        items=kept,
        copies=_copies(stripped),
        shared={size: rare(size) for size in ngrams},
        whole={size: whole(size) for size in item_lengths},
        within={size: rare(size) for size in problem_lengths},
    )


def _copies(stripped: Sequence[str]) -> dict[str, list[int]]:
    """Return the numbers of texts that strip_markup returned, by copy_key; empty texts have none."""
    copies: dict[str, list[int]] = {}
    for number, text in enumerate(stripped):
        copies.setdefault(copy_key(text), []).append(number)
    copies.pop("", None)
    return copies


def find_overlaps(held_out: NgramIndex, problems: Sequence[tuple[str, str]]) -> pa.Table:
    """Return which problems overlap with which held-out items, with the longest n-gram of each pair.

    A problem overlaps with an item if it is a copy of it, shares an n-gram with it, holds it whole where it is short,
    or is short and occurs whole in it.

    Args:
        held_out: the index.
        problems: ids and questions.

    Returns:
        A table of CONTAMINATION_SCHEMA.
    """
    stripped = [strip_markup(question) for _, question in problems]
    texts = [split_words(text) for text in stripped]
    hashed = _HashedTexts.from_texts(texts)
    matched = {
        (number, item): texts[number]
        for number, text in enumerate(stripped)
        for item in held_out.copies.get(copy_key(text), ())
    }
    for size in sorted({*held_out.shared, *held_out.whole, *held_out.within}, reverse=True):
        hashes, owners, places = hashed.ngrams(size)
        every = np.arange(len(hashes))
        entire = np.flatnonzero(np.diff(hashed.starts)[owners] == size)
        for known, candidates in (
            (held_out.shared.get(size), every),
            (held_out.whole.get(size), every),
            (held_out.within.get(size), entire),
        ):
            if known is None or not len(known[0]):
                continue
            for at, item in _matches(known, hashes, candidates):
                pair = int(owners[at]), item
                place = int(places[at])
                words = texts[pair[0]][place : place + size]
                if pair not in matched and _contains(held_out.items[item].text, words):
                    matched[pair] = words
    rows = [
        {"problem_id": problems[number][0], "benchmark": held_out.items[item].benchmark,
         "item_id": held_out.items[item].id, "words": len(words), "matched": " ".join(words)}
        for (number, item), words in sorted(matched.items())
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=CONTAMINATION_SCHEMA)


def _matches(known: _Entries, hashes: _Hashes, candidates: _Rows) -> Iterator[tuple[int, int]]:
    """Yield pairs of a candidate, as a place in hashes, and an item that has the same hash."""
    starts = np.searchsorted(known[0], hashes[candidates])
    ends = np.searchsorted(known[0], hashes[candidates], side="right")
    for at in np.flatnonzero(ends > starts).tolist():
        for row in range(int(starts[at]), int(ends[at])):
            yield int(candidates[at]), int(known[1][row])


def _contains(text: str, words: Sequence[str]) -> bool:
    """Return whether a text contains words in a row; the hashes of different words can be equal."""
    return f" {' '.join(words)} " in _spaced(text)


@lru_cache(maxsize=4096)
def _spaced(text: str) -> str:
    return f" {' '.join(normalised_words(text))} "


@dataclass(frozen=True)
class _HashedTexts:
    """The hashes of the words of many texts, one text after the other."""

    hashes: _Hashes
    starts: _Rows
    """The start of each text, and the end of the last one."""

    @classmethod
    def from_texts(cls, texts: Sequence[Sequence[str]]) -> _HashedTexts:
        starts = np.cumsum([0, *(len(text) for text in texts)], dtype=np.int64)
        each = (_hash(word) for text in texts for word in text)
        return cls(np.fromiter(each, np.uint64, int(starts[-1])), starts)

    def ngrams(self, size: int) -> tuple[_Hashes, _Rows, _Rows]:
        """Return the hash of every n-gram of a size, the number of its text, and its place there."""
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
    """Return for sorted hashes whether each occurs in so many items that it is their wording."""
    if not len(hashes):
        return np.zeros(0, np.bool_)
    begins = np.r_[True, hashes[1:] != hashes[:-1]]
    first_of_item = begins | np.r_[True, owners[1:] != owners[:-1]]
    group = np.cumsum(begins) - 1
    spread = np.bincount(group, weights=first_of_item)[group]
    return np.asarray(spread > max(_COMMON_ITEMS, _COMMON_SHARE * items))

"""Figures of a completion, for rules, card and report: how much was taken back, repeated, foreign, code.

Pure functions of the text and of the evidence that behaviours.py found; `measure_table` writes them all as columns.
"""

from __future__ import annotations

import re
import struct
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from reasonray.curation.behaviours import sentences
from reasonray.prompts import REASONING_CLOSE, REASONING_OPEN
from reasonray.tables import ROLLOUT_SCHEMA, put

__all__ = [
    "MEASURES",
    "NGRAM",
    "code_share",
    "compression_ratio",
    "failed_branch_fraction",
    "measure_table",
    "ngram_loop",
    "reasoning_format",
]

_NAMES = (
    "failed_branch_fraction",
    "foreign_share",
    "compression_ratio",
    "ngram_loop",
    "code_share",
    "reasoning_format",
)
MEASURES: Mapping[str, pa.DataType] = {name: ROLLOUT_SCHEMA.field(f"annotation_{name}").type for name in _NAMES}
"""The columns of measure_table; each has the prefix `annotation_`."""

NGRAM = 20
"""Words in the runs that ngram_loop counts, unless the configuration says otherwise."""
_FENCE = "```"
_PLACED = 4
"""So many words before it in its own sentence, and a change of mind takes back that sentence, not earlier ones."""


_SCRIPTS = (
    r"(?<![\\A-Za-z</])[A-Za-z\u00c0-\u024f]{3,}",
    "[\u0400-\u04ff]+",
    "[\u0590-\u05ff]+",
    "[\u0600-\u06ff]+",
    "[\u0900-\u097f]+",
    "[\u0e00-\u0e7f]+",
    "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+",
)
"""Latin, Cyrillic, Hebrew, Arabic, Devanagari, Thai, and Chinese, Japanese and Korean. Notation is no language: Greek
letters, Latin ones by ones and twos, tags and LaTeX commands."""
_OTHER_SCRIPT = re.compile("[\u0400-\u0e7f\u3040-\ud7af]")
_SCRIPT = re.compile("|".join(f"({script})" for script in _SCRIPTS))


def measure_table(table: pa.Table, ngram: int = NGRAM) -> pa.Table:
    """Return a table with the columns of MEASURES at its end, or in their place where they are there already.

    Args:
        table: column completion; annotation_spans if behaviours are known, else failed_branch_fraction is null.
        ngram: words in the runs that ngram_loop counts.
    """
    texts = table["completion"].to_pylist()
    annotated = "annotation_spans" in table.column_names
    evidence = table["annotation_spans"].to_pylist() if annotated else [None] * len(texts)
    found: dict[str, list[Any]] = {
        "failed_branch_fraction": [
            None if spans is None else failed_branch_fraction(text, spans)
            for text, spans in zip(texts, evidence, strict=True)
        ],
        "foreign_share": [foreign_share(text) for text in texts],
        "compression_ratio": [compression_ratio(text) for text in texts],
        "ngram_loop": [ngram_loop(text, ngram) for text in texts],
        "code_share": [code_share(text) for text in texts],
        "reasoning_format": [reasoning_format(text) for text in texts],
    }
    return put(table, {f"annotation_{name}": pa.array(found[name], kind) for name, kind in MEASURES.items()})


def failed_branch_fraction(completion: str, spans: Sequence[Mapping[str, Any]]) -> float:
    """Return the share of the reasoning's sentences that it takes back later.

    A branch begins at a new line, at a subgoal or after a change of mind. A backtracking span takes back what its own
    branch holds before it; if it opens the branch, the branch before that one; if it stands late in a sentence, that
    sentence alone. Without tags the whole completion counts as reasoning.

    Its limits: it knows where a change of mind is, not how far it reaches back nor whether it was one, so that "Wait"
    before a doubt that proves idle counts like one before a correction, and what is retracted without a phrase that
    behaviours.py knows counts for nothing. It compares sets of rollouts; of a single one it is a hint.

    Args:
        completion: the raw text.
        spans: evidence with behaviour, start and end, as annotation_spans has it.
    """
    changes = [span["start"] for span in spans if span["behaviour"] == "backtracking"]
    if not changes:
        return 0.0
    begin, end = _reasoning(completion)
    steps = [(begin + start, begin + stop) for start, stop in sentences(completion[begin:end])]
    goals = [span["start"] for span in spans if span["behaviour"] == "subgoals"]
    changing, planning = _holders(steps, changes), _holders(steps, goals)
    heads = {
        number
        for number, (start, _) in enumerate(steps)
        if not number
        or number - 1 in changing
        or number in planning
        or "\n" in completion[steps[number - 1][1] - 1 : start]
    }
    retracted: set[int] = set()
    for number, change in changing.items():
        if len(completion[steps[number][0] : change].split()) >= _PLACED:
            retracted.add(number)
            continue
        for earlier in range(number - 1, -1, -1):
            if earlier in retracted:
                break
            retracted.add(earlier)
            if earlier in heads:
                break
    return len(retracted) / len(steps) if steps else 0.0


def _reasoning(completion: str) -> tuple[int, int]:
    """Return where prompts.split_reasoning finds the reasoning; all of the text if it finds no tag."""
    close, opened = completion.find(REASONING_CLOSE), completion.find(REASONING_OPEN)
    end = close if close >= 0 else len(completion)
    leads = 0 <= opened < end and not completion[:opened].strip()
    return (opened + len(REASONING_OPEN) if leads else 0), end


def _holders(steps: Sequence[tuple[int, int]], places: Collection[int]) -> dict[int, int]:
    """Return the steps that hold one of the places, by number, with the first of them; places must be in order."""
    holders: dict[int, int] = {}
    starts = [start for start, _ in steps]
    for place in places:
        number = bisect_right(starts, place) - 1
        if number >= 0 and place < steps[number][1]:
            holders.setdefault(number, place)
    return holders


def foreign_share(completion: str) -> float:
    """Return the share of letters that are not of the text's main script, by Unicode blocks."""
    # Latin alone is one script, which is seen much faster than its letters are counted.
    return _foreign_letters(completion) if _OTHER_SCRIPT.search(completion) else 0.0


def _foreign_letters(completion: str) -> float:
    letters: Counter[int | None] = Counter()
    for match in _SCRIPT.finditer(completion):
        letters[match.lastindex] += len(match.group())
    return 1 - max(letters.values()) / letters.total() if letters else 0.0


def compression_ratio(completion: str) -> float:
    """Return how many times smaller zlib (at its fastest) makes the text: 2 for prose of 2 kB, 5 and more for loops."""
    raw = completion.encode(errors="surrogatepass")
    return len(raw) / len(zlib.compress(raw, 1))


def ngram_loop(completion: str, size: int = NGRAM) -> int:
    """Return how often the commonest run of `size` words stands in the text; 0 if it has fewer words.

    Runs are told apart by polynomial hashes of 64 bits (Karp and Rabin, 1987), all those of a text at once.
    """
    words = completion.split()
    if len(words) < size:
        return 0
    # The quickest way from Python's integers to NumPy's: this line is most of the function's time.
    hashes = np.frombuffer(struct.pack(f"{len(words)}q", *map(hash, words)), np.uint64)
    rising, falling = _powers(1 << len(words).bit_length())
    sums = np.concatenate([_ZERO, np.cumsum(hashes * rising[: len(words)])])
    runs = np.sort((sums[size:] - sums[:-size]) * falling[: len(words) - size + 1])
    edges = np.flatnonzero(runs[1:] != runs[:-1])
    if edges.size == runs.size - 1:
        return 1
    return int(np.diff(edges, prepend=-1, append=runs.size - 1).max())


_ZERO = np.zeros(1, np.uint64)
_BASE = 0x9E3779B97F4A7C15


@cache
def _powers(count: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Return the powers of an odd base modulo 2⁶⁴, and of its inverse, from the zeroth on."""
    bases = (_BASE, pow(_BASE, -1, 1 << 64))
    steps = [np.array([1] + [base] * (count - 1), np.uint64) for base in bases]
    return np.cumprod(steps[0], dtype=np.uint64), np.cumprod(steps[1], dtype=np.uint64)


def code_share(completion: str) -> float:
    """Return the share of characters between code fences; a fence that is never closed holds the rest of the text."""
    pieces = completion.split(_FENCE)
    return sum(map(len, pieces[1::2])) / len(completion) if len(pieces) > 1 else 0.0


def reasoning_format(completion: str) -> str:
    """Return how the reasoning is set off.

    "tags": one block at the beginning. "lone close": the opening tag is the prompt's, as some chat templates have it.
    "none": no tag at all. "broken": anything else, such as a block that never closes, two of them, or words before it.
    """
    opened, closed = completion.count(REASONING_OPEN), completion.count(REASONING_CLOSE)
    if not opened and not closed:
        return "none"
    before, _, after = completion.partition(REASONING_CLOSE)
    if closed != 1 or opened > 1 or REASONING_OPEN in after:
        return "broken"
    if not opened:
        return "lone close"
    return "broken" if before.partition(REASONING_OPEN)[0].strip() else "tags"

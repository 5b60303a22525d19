"""Figures of a completion that no rule needs but every card and report wants: how much was retracted, repeated, code.

Pure functions of the text and of the evidence that behaviours.py found; `measure_table` writes them all as columns.
"""

from __future__ import annotations

import re
import struct
import zlib
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from reasonray.curation.behaviours import sentences
from reasonray.curation.rules import _foreign_share, _has_broken_tags
from reasonray.prompts import REASONING_CLOSE, REASONING_OPEN

__all__ = [
    "MEASURES",
    "code_share",
    "compression_ratio",
    "failed_branch_fraction",
    "foreign_share",
    "measure_table",
    "ngram_loop",
    "reasoning_format",
]

MEASURES: Mapping[str, pa.DataType] = {
    "failed_branch_fraction": pa.float64(),
    "foreign_share": pa.float64(),
    "compression_ratio": pa.float64(),
    "ngram_loop": pa.int32(),
    "code_share": pa.float64(),
    "reasoning_format": pa.string(),
}
"""The columns of measure_table; each has the prefix `annotation_`."""

_NGRAM = 20
_FENCE = "```"
_PLACED = 4
"""So many words before it in its own sentence, and a change of mind takes back that sentence, not earlier ones."""
_OTHER_SCRIPT = re.compile("[\u0400-\u0e7f\u3040-\ud7af]")


def measure_table(table: pa.Table) -> pa.Table:
    """Return a table with the columns of MEASURES at its end, or in their place where they are there already.

    Args:
        table: column completion; annotation_spans if behaviours are known, else failed_branch_fraction is null.
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
        "ngram_loop": [ngram_loop(text) for text in texts],
        "code_share": [code_share(text) for text in texts],
        "reasoning_format": [reasoning_format(text) for text in texts],
    }
    for name, kind in MEASURES.items():
        field, values = pa.field(f"annotation_{name}", kind), pa.array(found[name], kind)
        index = table.schema.get_field_index(field.name)
        table = table.append_column(field, values) if index < 0 else table.set_column(index, field, values)
    return table


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
    """Return the share of letters outside the text's main script, by Unicode blocks, as rule mixed_language has it."""
    # Latin alone is one script, which is seen much faster than its letters are counted.
    return _foreign_share(completion) if _OTHER_SCRIPT.search(completion) else 0.0


def compression_ratio(completion: str) -> float:
    """Return how many times smaller zlib makes the text: about 2 for prose of 2 kB, 5 and more for loops."""
    raw = completion.encode(errors="surrogatepass")
    return len(raw) / len(zlib.compress(raw))


def ngram_loop(completion: str) -> int:
    """Return how often the commonest run of 20 words stands in the text; 0 if it has fewer words.

    Counts what rule repetitive counts, for every text and so by 64-bit hashes of the runs instead of the runs.
    """
    words = completion.split()
    if len(words) < _NGRAM:
        return 0
    # The quickest way from Python's integers to NumPy's: this line is most of the function's time.
    one = np.frombuffer(struct.pack(f"{len(words)}q", *map(hash, words)), np.uint64)
    two = _paired(one, 1)
    four = _paired(two, 2)
    sixteen = _paired(_paired(four, 4), 8)
    runs = np.sort(sixteen[:-4] * _MULTIPLIER + four[16:])
    edges = np.flatnonzero(runs[1:] != runs[:-1])
    if edges.size == runs.size - 1:
        return 1
    return int(np.diff(edges, prepend=-1, append=runs.size - 1).max())


_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_FOLD = np.uint64(29)


def _paired(hashes: np.ndarray[Any, np.dtype[np.uint64]], apart: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Return the hashes of runs twice as long."""
    mixed = (hashes ^ (hashes >> _FOLD)) * _MULTIPLIER
    return mixed[:-apart] + (hashes[apart:] ^ (mixed[:-apart] >> _FOLD))


def code_share(completion: str) -> float:
    """Return the share of characters between code fences; a fence that is never closed holds the rest of the text."""
    pieces = completion.split(_FENCE)
    return sum(map(len, pieces[1::2])) / len(completion) if len(pieces) > 1 else 0.0


def reasoning_format(completion: str) -> str:
    """Return how the reasoning is set off.

    "tags": one block at the beginning. "lone close": the opening tag is the prompt's. "none": no tag at all. "broken":
    anything else, such as a block that never closes, two of them, or words before it; what rule broken_tags drops.
    """
    if _has_broken_tags(completion):
        return "broken"
    if REASONING_OPEN in completion:
        return "tags"
    return "lone close" if REASONING_CLOSE in completion else "none"

"""Measures of a completion, for rules, card and report: how much of it was taken back, repeated, foreign, or code.

Pure functions of the text and of the evidence that behaviours.py found; `measure_table` adds them all as columns.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from reasonray.curation.behaviours import sentences
from reasonray.curation.text import segment_words
from reasonray.prompts import REASONING_CLOSE, REASONING_OPEN
from reasonray.store.schema import ROLLOUT_SCHEMA, answers, set_columns

__all__ = [
    "MEASURES",
    "NGRAM",
    "code_share",
    "compression_ratio",
    "failed_branch_fraction",
    "measure_table",
    "ngram_loops",
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
"""Words in the runs that ngram_loops counts, unless the configuration sets another number."""
_BYTES_PER_CHUNK = 1 << 20
"""Text whose words are numbered at the same time, so that the arrays made of them fit into a processor's cache."""
_CHARACTERS_PER_WORD = 5
"""Characters of a text without spaces that count as a word in runs: about those of an English word."""
_STRETCH = re.compile(r"[^ \t\n\r\f\v]{60,}")
"""A text without spaces. The longest words, paths and formulas that people write as one word are shorter."""
_RULED_LINE = re.compile(r"[-=_*~#|:+.·•─━═│┃—–…]+")
_LONGEST_LINE = 1000
"""Characters from which a ruled line, or the rule of a table, is a loop too."""
_FENCE = "```"
_LATE = 4
"""Words of its own sentence before a change of mind from which it takes back that sentence, not earlier ones."""

_GREEK = "\u0370-\u03ff\u1f00-\u1fff"
_CJK = "\u1100-\u11ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"
_OTHERS = "\u0400-\u10ff\u1200-\u1cff\u2c80-\u2dff\ua000-\ua6ff\ua800-\uabff\ufb1d-\ufdff\ufe70-\ufefc"
_OTHER_SCRIPT = re.compile(f"[{_GREEK}{_CJK}{_OTHERS}]")
_OTHER_THAN_GREEK, _GREEK_WORD = re.compile(f"[{_CJK}{_OTHERS}]"), re.compile(f"[{_GREEK}][{_GREEK}]{{3}}")
_SCRIPT = re.compile(
    rf"((?<![\\A-Za-z</])[A-Za-z\u00c0-\u024f\u1e00-\u1eff]{{3,}})|([{_GREEK}]{{4,}})|([{_CJK}]+)|[{_OTHERS}]+"
)
"""Groups: Latin, Greek, Chinese with Japanese and Korean; any other script has none. Notation does not count: Greek
letters up to three in a row, Latin ones up to two, tags and LaTeX commands."""

_FUNCTIONS = frozenset(
    [
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "arcsin",
        "arccos",
        "arctan",
        "sinh",
        "cosh",
        "tanh",
        "log",
        "exp",
        "lim",
    ]
) | {"max", "min", "mod", "gcd", "lcm", "det", "arg"}
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_LATIN_WORD_BEFORE, _LATIN_WORD_AFTER = re.compile(r"[A-Za-z]{2}[ ,]{1,2}\Z"), re.compile(r"[ ,]{1,2}[A-Za-z]{2}")


def measure_table(table: pa.Table, ngram: int = NGRAM) -> pa.Table:
    """Return a table with the columns of MEASURES at its end, or in place of its own where it has them.

    Args:
        table: column completion; opening if it is known; annotation_spans if behaviours are known, else
            failed_branch_fraction is null.
        ngram: words in the runs that ngram_loops counts.
    """
    texts = table["completion"].to_pylist()
    others = [number for number, text in enumerate(texts) if not _is_latin(text)]
    spans = table["annotation_spans"].combine_chunks() if "annotation_spans" in table.column_names else None
    measured: dict[str, Any] = {
        "failed_branch_fraction": [None] * len(texts) if spans is None else _failed_branch_fractions(texts, spans),
        "foreign_share": _foreign_shares(texts, others),
        "compression_ratio": [compression_ratio(text) for text in texts],
        "ngram_loop": _loops(_segmented(table["completion"], others), ngram),
        "code_share": [code_share(text) for text in texts],
        "reasoning_format": [reasoning_format(text) for text in answers(table).to_pylist()],
    }
    return set_columns(table, {f"annotation_{name}": pa.array(measured[name], kind) for name, kind in MEASURES.items()})


def _foreign_shares(completions: Sequence[str], others: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return the foreign_share of each text, which is 0 except for the `others`, which hold more than Latin script."""
    shares = np.zeros(len(completions))
    shares[others] = [foreign_share(completions[number]) for number in others]
    return shares


def _segmented(completions: pa.ChunkedArray, others: Sequence[int]) -> pa.ChunkedArray:
    """Return texts, the `others` with spaces between words where their script writes none."""
    if not others:
        return completions
    chosen = np.zeros(len(completions), np.bool_)
    chosen[others] = True
    texts = pa.array(map(segment_words, completions.filter(pa.array(chosen)).to_pylist()), completions.type)
    return pa.chunked_array([pc.replace_with_mask(completions.combine_chunks(), chosen, texts)])


def _failed_branch_fractions(completions: Sequence[str], spans: pa.ListArray) -> list[float | None]:
    """Return the failed_branch_fraction of each text, None where its spans are not known."""
    places = zip(_starts(spans, "backtracking"), _starts(spans, "subgoals"), spans.is_valid().to_pylist(), strict=True)
    return [
        failed_branch_fraction(text, changes, goals) if known else None
        for text, (changes, goals, known) in zip(completions, places, strict=True)
    ]


def _starts(spans: pa.ListArray, behaviour: str) -> list[list[int]]:
    """Return for each text where the spans of a behaviour begin."""
    evidence = spans.flatten()
    is_wanted = pc.equal(evidence.field("behaviour"), behaviour)
    owners = pc.list_parent_indices(spans).filter(is_wanted).to_numpy()
    starts = evidence.field("start").filter(is_wanted).to_pylist()
    ends = np.searchsorted(owners, np.arange(len(spans)), side="right").tolist()
    return [starts[begin:end] for begin, end in pairwise([0, *ends])]


def failed_branch_fraction(completion: str, changes: Sequence[int], goals: Sequence[int]) -> float:
    """Return the share of the reasoning's sentences that it takes back later.

    A branch begins at a new line, at a subgoal or after a change of mind. A span of backtracking takes back the
    sentences of its own branch before it; if it opens the branch, the branch before that one; if it comes late in a
    sentence, that sentence alone. Without tags the whole completion counts as reasoning.

    Limits: the measure knows where a change of mind is, not how far it reaches back nor whether it was one. "Wait"
    before a doubt that proves idle counts like one before a correction, and a retraction without a phrase of the
    lexicon does not count. The measure compares sets of rollouts; for a single rollout it is a hint.

    Args:
        completion: the raw text.
        changes: where its spans of backtracking begin, in order.
        goals: where its spans of subgoals begin, in order.
    """
    if not changes:
        return 0.0
    begin, end = _reasoning(completion)
    steps = [(begin + start, begin + stop) for start, stop in sentences(completion[begin:end])]
    changing, planning = _first_places(steps, changes), _first_places(steps, goals)
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
        if len(completion[steps[number][0] : change].split()) >= _LATE:
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
    """Return the start and end of the reasoning as prompts.split_reasoning finds it; without tags of the whole text."""
    close, opened = completion.find(REASONING_CLOSE), completion.find(REASONING_OPEN)
    end = close if close >= 0 else len(completion)
    leads = 0 <= opened < end and not completion[:opened].strip()
    return (opened + len(REASONING_OPEN) if leads else 0), end


def _first_places(steps: Sequence[tuple[int, int]], places: Collection[int]) -> dict[int, int]:
    """Return the first place within each step that holds one, by the step's number; places must be in order."""
    first: dict[int, int] = {}
    starts = [start for start, _ in steps]
    for place in places:
        number = bisect_right(starts, place) - 1
        if number >= 0 and place < steps[number][1]:
            first.setdefault(number, place)
    return first


def foreign_share(completion: str) -> float:
    """Return the share of letters outside code fences that are not of the main script, by Unicode.

    Reasoning and response have a main script each, because the prompt can ask for another form of answer.
    """
    if _is_latin(completion):
        return 0.0
    begin, end = _reasoning(completion)
    parts = [_letters(completion[begin:end]), _letters(completion[end:])]
    total = sum(part.total() for part in parts)
    return 1 - sum(max(part.values(), default=0) for part in parts) / total if total else 0.0


def _is_latin(text: str) -> bool:
    """Return whether a text holds Latin letters and notation only. Much faster than counting letters."""
    if text.isascii() or not _OTHER_SCRIPT.search(text):
        return True
    return not (_OTHER_THAN_GREEK.search(text) or _GREEK_WORD.search(text))


def _letters(text: str) -> Counter[int | str]:
    """Count letters by script."""
    letters: Counter[int | str] = Counter()
    for match in _SCRIPT.finditer("\n".join(text.split(_FENCE)[::2])):
        if match.lastindex != 1 or not _is_notation(match):
            letters[match.lastindex or _script(match[0][0])] += len(match[0])
    return letters


def _is_notation(match: re.Match[str]) -> bool:
    """Return whether a Latin word belongs to formulas of any language.

    It is the name of a function (sin), a product of variables (xyz), or a name of points (ABCD). Words in capitals next
    to other words are not.
    """
    word = match[0]
    if word in _FUNCTIONS or (len(word) == 3 and word in _ALPHABET):
        return True
    if not word.isupper():
        return False
    text, (start, end) = match.string, match.span()
    return not (_LATIN_WORD_BEFORE.search(text, max(0, start - 20), start) or _LATIN_WORD_AFTER.match(text, end))


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    """Return the script of a letter, which is the first word of its name in Unicode."""
    return unicodedata.name(letter, "").partition(" ")[0]


def compression_ratio(completion: str) -> float:
    """Return how many times smaller zlib (at its fastest) makes the text: 2 for prose of 2 kB, 5 and more for loops."""
    raw = completion.encode(errors="surrogatepass")
    return len(raw) / len(zlib.compress(raw, 1))


def _loops(completions: pa.ChunkedArray, size: int) -> npt.NDArray[np.int64]:
    """Return for each text how often its commonest run occurs: of words, or of characters where it writes no spaces."""
    loops, run = ngram_loops(completions, size), size * _CHARACTERS_PER_WORD
    owners, stretches = [], []
    for number, text in enumerate(completions.to_pylist()):
        for stretch in _STRETCH.findall(text):
            if len(stretch) >= _LONGEST_LINE or not _RULED_LINE.fullmatch(stretch):
                owners.append(number)
                stretches.append(" ".join(stretch))
    np.maximum.at(loops, owners, ngram_loops(pa.chunked_array([stretches], pa.large_string()), run))
    return loops


def ngram_loops(completions: pa.ChunkedArray, size: int = NGRAM) -> npt.NDArray[np.int64]:
    """Return for each text how often its commonest run of `size` words occurs; 0 if it has fewer words.

    Words are separated by ASCII white space. Runs are compared by 64-bit polynomial hashes (Karp and Rabin, 1987) of
    many texts at once, which takes half the time of text by text.
    """
    texts = completions.combine_chunks()
    chunk = np.cumsum(pc.binary_length(texts).to_numpy()) // _BYTES_PER_CHUNK
    begins = np.flatnonzero(np.diff(chunk, prepend=-1)).tolist()
    slices = (texts.slice(begin, end - begin) for begin, end in pairwise([*begins, len(texts)]))
    return np.concatenate([np.zeros(0, np.int64), *(_ngram_loops(part, size) for part in slices)])


def _ngram_loops(completions: pa.Array, size: int) -> npt.NDArray[np.int64]:
    trimmed = pc.ascii_trim_whitespace(completions)
    texts = pc.if_else(pc.equal(trimmed, ""), None, trimmed)  # an empty text would be split into one empty word
    words = pc.ascii_split_whitespace(texts)
    lengths = pc.fill_null(pc.list_value_length(words), 0).to_numpy().astype(np.int64)
    ends, counts = np.cumsum(lengths), np.maximum(lengths - size + 1, 0)
    loops = np.zeros(len(lengths), np.int64)
    if not counts.any():
        return loops
    runs = _hashes_of_runs(words.flatten().dictionary_encode().indices.to_numpy(), size)
    runs = runs[np.arange(len(runs)) + size <= np.repeat(ends, lengths)[: len(runs)]]
    begins = np.cumsum(counts) - counts
    for begin, count in zip(begins.tolist(), counts.tolist(), strict=True):
        runs[begin : begin + count].sort()
    fresh = np.r_[True, runs[1:] != runs[:-1]]
    filled = np.flatnonzero(counts)
    fresh[begins[filled]] = True
    groups = np.flatnonzero(fresh)
    sizes = np.diff(groups, append=len(runs))
    loops[filled] = np.maximum.reduceat(sizes, np.searchsorted(groups, begins[filled]))
    return loops


def _hashes_of_runs(words: npt.NDArray[np.int32], size: int) -> npt.NDArray[np.uint64]:
    """Return a hash of every run of `size` words, given as numbers."""
    mixed = (words.astype(np.uint64) + np.uint64(1)) * _BASE
    mixed ^= mixed >> np.uint64(29)
    rising, falling = _powers(1 << len(words).bit_length())
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed * rising[: len(words)])])
    runs: npt.NDArray[np.uint64] = (sums[size:] - sums[:-size]) * falling[: len(words) - size + 1]
    return runs


_BASE = np.uint64(0x9E3779B97F4A7C15)


@cache
def _powers(count: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Return the powers of an odd base modulo 2⁶⁴, and of its inverse, from the zeroth on."""
    rising, falling = (np.full(count, base, np.uint64) for base in (_BASE, pow(int(_BASE), -1, 1 << 64)))
    rising[0] = falling[0] = 1
    return np.cumprod(rising), np.cumprod(falling)


def code_share(completion: str) -> float:
    """Return the share of characters between code fences; a fence that is never closed holds the rest of the text."""
    pieces = completion.split(_FENCE)
    return sum(map(len, pieces[1::2])) / len(completion) if len(pieces) > 1 else 0.0


def reasoning_format(answer: str) -> str:
    """Return how the reasoning is marked.

    Returns:
        "tags": one block at the beginning. "lone close": the prompt supplied the opening tag, as some chat templates
        do, and the engine did not record it. "none": no tag at all. "broken": anything else, such as a block that never
        closes, two of them, or words before it.
    """
    opened, closed = answer.count(REASONING_OPEN), answer.count(REASONING_CLOSE)
    if not opened and not closed:
        return "none"
    before, _, after = answer.partition(REASONING_CLOSE)
    if closed != 1 or opened > 1 or REASONING_OPEN in after:
        return "broken"
    if not opened:
        return "lone close"
    return "broken" if before.partition(REASONING_OPEN)[0].strip() else "tags"

"""Benchmark of decontamination and near-duplicates: recall of planted overlaps, false positives, and speed.

    python tests/bench/overlap.py [--items 20000] [--problems 200000] [--planted 2000]

Texts of 20 to 60 words from a vocabulary of some thousand by Zipf's law. Planted: runs of 8 and of 13 words of items
within problems; items of 5 to 7 words within problems, and problems of 5 to 7 words within items; problems with one or
two words replaced anywhere, kept if their Jaccard similarity is at the threshold or above, others to see what passes
below it. Every overlap of a problem in which nothing was planted counts as false, however it came about.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[2]))
from reasonray.curation.decontamination import Item, build_index, find_overlaps
from reasonray.curation.dedup import minhash_signatures, near_duplicates
from reasonray.curation.text import normalised_words
from tests.bench.memory import PeakMemory
from tests.bench.printing import print_figures

NGRAMS = (8, 13)
THRESHOLD = 0.8
WORDS = 6000
CHUNK = 5000
NEAR, BELOW, FAR = (THRESHOLD, 1.0), (THRESHOLD - 0.1, THRESHOLD), (THRESHOLD - 0.3, THRESHOLD - 0.15)
"""Similarities of planted pairs: to be found, of which some are found, and not to be found."""

Texts = list[list[str]]
Planted = dict[str, dict[str, str]]
"""By kind: the item that each problem must be found to overlap with."""


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--problems", type=int, default=200_000)
    parser.add_argument("--planted", type=int, default=2000)
    options = parser.parse_args()
    dice = np.random.default_rng(0)
    items, problems = texts(options.items, dice), texts(options.problems, dice)
    clean = [list(words) for words in problems]
    planted = plant(items, problems, options.planted, dice)
    peak = PeakMemory()
    with peak:
        figures = contamination(items, problems, planted)
        figures |= duplicates(clean, options.planted, dice)
    print_figures(
        "overlap", {"items": options.items, "problems": options.problems} | figures | {"peak_rss_mb": peak.mb}
    )


def texts(count: int, dice: np.random.Generator) -> Texts:
    """Return texts as lists of words."""
    vocabulary = np.array([f"w{number:x}" for number in range(WORDS)])
    weights = 1 / np.arange(1, WORDS + 1)
    lengths = dice.integers(20, 61, count)
    words = vocabulary[dice.choice(WORDS, lengths.sum(), p=weights / weights.sum())]
    return [part.tolist() for part in np.split(words, np.cumsum(lengths)[:-1])]


def plant(items: Texts, problems: Texts, count: int, dice: np.random.Generator) -> Planted:
    """Plant `count` overlaps of each kind into items and problems, each into another problem."""
    planted: Planted = {"8_words": {}, "13_words": {}, "item_in_problem": {}, "problem_in_item": {}}
    long = len(items)
    for number in range(4 * count):
        kind = list(planted)[number % 4]
        item = int(dice.integers(long))
        size = {"8_words": 8, "13_words": 13}.get(kind, int(dice.integers(5, 8)))
        start = int(dice.integers(len(items[item]) - size + 1))
        run = items[item][start : start + size]
        if kind == "item_in_problem":
            run, item = texts(1, dice)[0][:size], len(items)
            items.append(run)
        at = int(dice.integers(len(problems[number])))
        marked_up = [f"**{run[0].upper()}", *run[1:-1], f"${run[-1]}$,"]
        around = ([], []) if kind == "problem_in_item" else (problems[number][:at], problems[number][at:])
        problems[number] = [*around[0], *marked_up, *around[1]]
        planted[kind][str(number)] = str(item)
    return planted


def contamination(items: Texts, problems: Texts, planted: Planted) -> dict[str, Any]:
    """Look for items in problems, chunk by chunk as curate does."""
    questions = [(str(number), " ".join(words)) for number, words in enumerate(problems)]
    begun = time.perf_counter()
    lengths = {len(normalised_words(text)) for _, text in questions}
    known = build_index((Item("bench", str(at), " ".join(words)) for at, words in enumerate(items)), NGRAMS, lengths)
    indexed = time.perf_counter()
    overlaps = pa.concat_tables(
        [find_overlaps(known, questions[start : start + CHUNK]) for start in range(0, len(questions), CHUNK)]
    )
    ended = time.perf_counter()
    pairs = set(zip(overlaps["problem_id"].to_pylist(), overlaps["item_id"].to_pylist(), strict=True))
    with_plants = {problem for kind in planted.values() for problem in kind}
    false = {problem for problem, _ in pairs} - with_plants
    recall = {
        f"recall_{kind}": sum(pair in pairs for pair in sources.items()) / len(sources)
        for kind, sources in planted.items()
    }
    return recall | {
        "false_hits": len(false) / (len(problems) - len(with_plants)),
        "index_seconds": indexed - begun,
        "hits_seconds": ended - indexed,
        "problems_per_second": len(problems) / (ended - indexed),
    }


def duplicates(problems: Texts, planted: int, dice: np.random.Generator) -> dict[str, Any]:
    """Add copies with a word or two replaced, shuffle all texts, and look for near-duplicates."""
    kinds = {"near": NEAR, "below": BELOW, "far": FAR}
    free = iter(dice.permutation(len(problems)).tolist())
    copies, sources = [], {}
    for kind, (low, high) in kinds.items():
        sources[kind] = []
        while len(sources[kind]) < planted:
            source = next(free)
            copy = edited(problems[source], int(dice.integers(1, 3)), dice)
            if low <= similarity(problems[source], copy) < high:
                sources[kind].append((source, len(problems) + len(copies)))
                copies.append(copy)
    everything = [" ".join(words) for words in [*problems, *copies]]
    order = dice.permutation(len(everything))
    begun = time.perf_counter()
    parts = [order[start : start + CHUNK] for start in range(0, len(order), CHUNK)]
    signatures = np.concatenate([minhash_signatures([everything[at] for at in part]) for part in parts])
    hashed = time.perf_counter()
    owner = np.empty(len(order), np.int64)
    owner[order] = order[near_duplicates(signatures, THRESHOLD)]
    ended = time.perf_counter()
    touched = {at for pairs in sources.values() for pair in pairs for at in pair}
    alone = np.array([at for at in range(len(problems)) if at not in touched])
    recall = {
        kind: float(np.mean([owner[one] == owner[other] for one, other in pairs])) for kind, pairs in sources.items()
    }
    return {
        "near_recall": recall["near"],
        "near_similarity": float(
            np.mean([similarity(everything[a].split(), everything[b].split()) for a, b in sources["near"]])
        ),
        "taken_up_to_0.1_below": recall["below"],
        "taken_0.15_to_0.3_below": recall["far"],
        "near_false_hits": float(np.mean(owner[alone] != alone)),
        "signatures_per_second": len(signatures) / (hashed - begun),
        "grouping_seconds": ended - hashed,
    }


def edited(words: list[str], changes: int, dice: np.random.Generator) -> list[str]:
    """Replace words at random places."""
    copy = list(words)
    for place in dice.choice(len(words), changes, replace=False).tolist():
        copy[place] = f"other{int(dice.integers(10**6))}"
    return copy


def similarity(one: list[str], other: list[str]) -> float:
    """Return the Jaccard similarity of two texts' word 5-grams."""
    first, second = ({tuple(words[at : at + 5]) for at in range(len(words) - 4)} for words in (one, other))
    return len(first & second) / len(first | second)


if __name__ == "__main__":
    main()

"""Contamination and near-duplicates: is what is planted found, is anything else, and how long does it take.

    python tests/bench/overlap.py [--items 20000] [--problems 200000] [--planted 2000]

Texts of 20 to 60 words from a vocabulary of some thousand by Zipf's law. Planted: runs of words of a benchmark item
within other words; and problems with a word or two of an item replaced, alike above the threshold by construction.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from memory import Peak
from report import tell

from reasonray.curation.overlap import Item, hits, index, near_duplicates, normalised, signatures

NGRAMS = (8, 13)
THRESHOLD = 0.7
WORDS = 6000


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--problems", type=int, default=200_000)
    parser.add_argument("--planted", type=int, default=2000)
    options = parser.parse_args()
    dice = np.random.default_rng(0)
    items, problems = texts(options.items, dice), texts(options.problems, dice)
    peak = Peak()
    with peak:
        figures = contamination(items, list(problems), options.planted, dice)
        figures |= duplicates(problems, options.planted, dice)
    tell("overlap", {"items": options.items, "problems": options.problems} | figures | {"peak_rss_mb": peak.mb})


def texts(count: int, dice: np.random.Generator) -> list[list[str]]:
    """Return texts as lists of words."""
    vocabulary = np.array([f"w{number:x}" for number in range(WORDS)])
    weights = 1 / np.arange(1, WORDS + 1)
    lengths = dice.integers(20, 61, count)
    drawn = vocabulary[dice.choice(WORDS, lengths.sum(), p=weights / weights.sum())]
    return [part.tolist() for part in np.split(drawn, np.cumsum(lengths)[:-1])]


def contamination(
    items: list[list[str]], problems: list[list[str]], planted: int, dice: np.random.Generator
) -> dict[str, Any]:
    """Plant runs of 13 words of items into the first problems, and look for them in all."""
    for number in range(planted):
        source = items[int(dice.integers(len(items)))]
        start = int(dice.integers(len(source) - 13 + 1))
        at = int(dice.integers(len(problems[number])))
        problems[number] = problems[number][:at] + source[start : start + 13] + problems[number][at:]
    asked = [(str(number), " ".join(words)) for number, words in enumerate(problems)]
    begun = time.perf_counter()
    known = index((Item("bench", str(at), " ".join(it)) for at, it in enumerate(items)), NGRAMS)
    indexed = time.perf_counter()
    found = hits(known, asked)
    ended = time.perf_counter()
    dirty = {int(it) for it in found["problem_id"].to_pylist()}
    false = {number for number in dirty if number >= planted}
    real = {number for number in false if shares(items, problems[number], found, number)}
    return {
        "exact_recall": sum(number in dirty for number in range(planted)) / planted,
        "false_hits": len(false - real) / (len(problems) - planted),
        "index_seconds": indexed - begun,
        "problems_per_second": len(problems) / (ended - indexed),
    }


def shares(items: list[list[str]], words: list[str], found: Any, number: int) -> bool:
    """Say whether a problem that nothing was planted in shares eight words in a row all the same: chance made it."""
    row = next(it for it in found.to_pylist() if int(it["problem_id"]) == number)
    text = " ".join(normalised(" ".join(items[int(row["item_id"])])))
    return f" {row['matched']} " in f" {text} " and row["words"] in NGRAMS


def duplicates(problems: list[list[str]], planted: int, dice: np.random.Generator) -> dict[str, Any]:
    """Append copies with a word replaced, alike above the threshold, and look for them among all."""
    base = [" ".join(words) for words in problems]
    copies, sources = [], []
    for number in range(len(problems)):
        words = problems[number]
        place = len(words) - 1 if len(words) > 24 else 0
        copy = [*words[:place], "replaced", *words[place + 1 :]]
        if similarity(words, copy) >= THRESHOLD + 0.15:
            copies.append(" ".join(copy))
            sources.append(number)
        if len(copies) == planted:
            break
    begun = time.perf_counter()
    signed = np.concatenate([signatures(part) for part in chunks([*base, *copies], 5000)])
    hashed = time.perf_counter()
    owner = near_duplicates(signed, THRESHOLD)
    ended = time.perf_counter()
    others = np.delete(owner[: len(base)], sources) != np.delete(np.arange(len(base)), sources)
    return {
        "near_recall": float(np.mean(owner[len(base) :] == owner[sources])),
        "near_false_hits": float(others.mean()),
        "signatures_per_second": len(signed) / (hashed - begun),
        "grouping_seconds": ended - hashed,
    }


def similarity(one: list[str], other: list[str]) -> float:
    """Return the Jaccard similarity of two texts' word 5-grams."""
    first, second = ({tuple(words[at : at + 5]) for at in range(len(words) - 4)} for words in (one, other))
    return len(first & second) / len(first | second)


def chunks(values: list[str], size: int) -> list[list[str]]:
    """Cut a list into parts."""
    return [values[start : start + size] for start in range(0, len(values), size)]


if __name__ == "__main__":
    main()

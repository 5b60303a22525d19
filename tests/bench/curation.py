"""Benchmark of curation, from stored rollouts to the data set: speed and memory, next to a plain loop that does less.

    python tests/bench/curation.py [--sizes 200000 1000000] [--loop 20000]

Rollouts are composed of sentences as models write them, 2 kB on average with a tail to 64 kB, 16 a problem. The loop is
what notebooks do in one process: three detectors (verification, backtracking, steps), each a few regular expressions of
which the first match counts, and a comparison of the answer; it reads the same segments and stores nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_enable_worker_prestart": "0"}
sys.path.insert(0, str(Path(__file__).parents[2]))
from reasonray.config import parse
from reasonray.records import Problem, Split, content_hash
from reasonray.stages.curate import curate
from reasonray.store.run import Run, begin_or_resume
from tests.bench.memory import PeakMemory
from tests.bench.printing import print_figures
from tests.bench.stored import rollout_table

SAMPLES, SEGMENT = 16, 5000
SENTENCES = (
    "First, we find the number of boxes on the left shelf. ",
    "So {a} times {b} gives {c}, and we carry on with that. ",
    "{a} + {b} = {c}. ",
    "Wait, that is not right, because the train leaves at {a}. ",
    "Let me check this by adding {a} and {b} again. ",
    "The remaining part is {c} minus {a}, which we write down. ",
    "Since the area of the square is {c}, its side must be {b}. ",
    "Step {a}: divide what is left by {b}. ",
    "Now we know that there are {c} apples and {b} pears in the basket. ",
    "Therefore the second worker needs {a} hours more than the first. ",
    "To get {c}, we need {b} more of them. ",
    "It follows that the number is odd and greater than {a}. ",
)
VERIFICATION, BACKTRACKING = (
    [re.compile(pattern, re.IGNORECASE) for pattern in patterns]
    for patterns in (
        (
            r"let me (?:verify|check|double-check)",
            r"verif(?:y|ying|ication)",
            r"check (?:this|that|my|the)",
            r"yes, (?:this|that) is correct",
            r"correct\.",
        ),
        (
            r"\bwait\b",
            r"\bactually\b",
            r"let me reconsider",
            r"that'?s (?:wrong|incorrect|not right)",
            r"i made an? (?:error|mistake)",
            r"let me (?:redo|recalculate)",
        ),
    )
)
"""Patterns as notebooks write them: one after the other, until one matches."""
STEP = re.compile(r"\bstep \d+", re.IGNORECASE)
ANSWER = re.compile(r"answer is (\S+?)\.?$")


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[200_000, 1_000_000])
    parser.add_argument("--loop", type=int, default=20_000, help="rollouts that the plain loop reads")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    rates = []
    with tempfile.TemporaryDirectory() as scratch:
        for size in options.sizes:
            run = store(Path(scratch), size)
            loop = plain_loop(run, options.loop)
            measured = measure(run)
            rates.append(size / measured["seconds"])
            cores = len(os.sched_getaffinity(0))
            figures |= {f"{name}_{size}": value for name, value in measured.items()}
            figures |= {
                f"rollouts_per_second_{size}": rates[-1],
                f"mb_per_second_{size}": stored_bytes(run) / 1e6 / measured["seconds"],
                f"loop_rollouts_per_second_{size}": loop,
                f"per_core_over_loop_{size}": rates[-1] / cores / loop,
            }
    figures["slowdown_with_size"] = rates[0] / rates[-1]
    print_figures("curation", figures)


def measure(run: Run) -> dict[str, float]:
    """Curate a run on a cluster of its own; Ray's start is not counted."""
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    peak = PeakMemory(children=True)
    with peak:
        begun = time.perf_counter()
        curate(run)
        seconds = time.perf_counter() - begun
    ray.shutdown()
    return {"seconds": seconds, "peak_rss_mb": peak.mb}


def plain_loop(run: Run, most: int) -> float:
    """Return how many rollouts a second three detectors and a comparison of answers do in one process."""
    seen, begun = 0, time.perf_counter()
    kept = []
    for segment in run.ledger.segments():
        rows = pq.read_table(segment.path, columns=["completion", "problem_answer"]).to_pylist()
        for row in rows:
            text = row["completion"]
            shown = [any(pattern.search(text) for pattern in patterns) for patterns in (VERIFICATION, BACKTRACKING)]
            annotation = *shown, len(STEP.findall(text))
            answer = ANSWER.search(text)
            if answer and answer[1] == row["problem_answer"]:
                kept.append((text, annotation))
        seen += len(rows)
        if seen >= most:
            break
    return seen / (time.perf_counter() - begun)


def stored_bytes(run: Run) -> int:
    """Return the bytes of all completions, before packing."""
    return sum(pq.read_table(file.path, columns=["completion"])["completion"].nbytes for file in run.ledger.segments())


def store(root: Path, rollouts: int) -> Run:
    """Begin a run that holds so many rollouts."""
    source = {"kind": "generated", "train": 4, "test": 4}
    scripted = {"model": "scripted", "engine": {"kind": "scripted"}}
    raw = {"name": f"of-{rollouts}", "root": str(root), "sources": [source]}
    run = begin_or_resume(parse(raw | {"teachers": [scripted], "student": scripted}))
    problems = rollouts // SAMPLES
    questions = [f"A shop sells {number} apples and {number * 7 % 101} pears. How many?" for number in range(problems)]
    known: dict[str, Any] = {"source": "made up", "answer": "42", "checker": "math_answer", "difficulty": "easy"}
    train = [
        Problem(id=content_hash("problem", number), question=text, **known) for number, text in enumerate(questions)
    ]
    held_out = Problem(id="held-out", question="Who is it?", split=Split.TEST, **known)
    run.store_problems([*train, held_out])
    dice = np.random.default_rng(0)
    for start in range(0, rollouts, SEGMENT):
        run.ledger.append_table(segment(range(start, min(start + SEGMENT, rollouts)), questions, dice))
    return run


def segment(numbers: range, questions: list[str], dice: np.random.Generator) -> pa.Table:
    """Return some thousand rollouts, their completions' sizes log-normal around 2 kB and cut at 64 kB."""
    size = len(numbers)
    owners = [number // SAMPLES % len(questions) for number in numbers]
    problems = [content_hash("problem", owner) for owner in owners]
    outcomes = dice.choice(["correct", "wrong", "no_answer", "truncated"], size, p=[0.45, 0.4, 0.05, 0.1])
    lengths = np.minimum(dice.lognormal(7.25, 0.8, size), 65_000).astype(int)
    completions = [written(int(length), outcome, dice) for length, outcome in zip(lengths, outcomes, strict=True)]
    return rollout_table(
        id=[content_hash(problem, number) for problem, number in zip(problems, numbers, strict=True)],
        problem_id=problems,
        problem_question=[questions[owner] for owner in owners],
        sample=[number % SAMPLES for number in numbers],
        seed=dice.integers(2**62, size=size),
        completion=completions,
        finish=np.where(outcomes == "truncated", "length", "stop"),
        completion_tokens=[max(1, len(text) // 4) for text in completions],
        verdict_outcome=outcomes,
    )


def written(length: int, outcome: str, dice: np.random.Generator) -> str:
    """Return a completion of about so many characters."""
    parts, size = ["<think> "], 0
    while size < length:
        a, b = (int(number) for number in dice.integers(2, 99, 2))
        parts.append(SENTENCES[int(dice.integers(len(SENTENCES)))].format(a=a, b=b, c=a * b))
        size += len(parts[-1])
    if outcome == "truncated":
        return "".join(parts)
    return "".join(parts) + ("</think> The answer is 42." if outcome == "correct" else "</think> The answer is 41.")


if __name__ == "__main__":
    main()

"""Benchmark of the checkers: the fast path, the algebra, hostile answers that must be killed, the extraction.

    python tests/bench/checking.py [--answers 2000] [--rounds 5] [--limit 2]

math-verify alone (parse both, verify, no time limit) alternates with our checker on the same answers, round by round.
Figures are medians over the rounds. All caches are emptied before every round.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from math_verify import parse, verify

from reasonray.answers import final_answer
from reasonray.checkers import check, check_fast, notation, numbers, units
from reasonray.checkers.mathematics import parse as read_formula
from reasonray.checkers.mathematics import rewriting, values
from reasonray.checkers.pool import CheckerPool
from reasonray.config import Checking
from reasonray.records import Outcome, Problem
from tests.bench.printing import print_figures
from tests.factories import a_problem

CASES = Path(__file__).parents[1] / "checkers" / "cases.jsonl"
HOSTILE = {
    "power tower": (r"10^{10^{10^{10}}} + x", r"\boxed{9^{9^{9^{9^{9}}}} + 1}"),
    "huge factorial": ("x + 1", r"\boxed{99999999! + 1}"),
    "factorial of a factorial": ("x + 1", r"\boxed{((((9!)!)!)!)!}"),
    "huge binomial": ("x + 1", r"\boxed{\binom{999999999}{444444444}}"),
    "huge power": ("x + 1", r"\boxed{7^{9999999999}}"),
    "modulus of a huge power": ("3", r"\boxed{7^{99999999999} \mod 10}"),
    "endless sum": ("x + 1", r"\boxed{\sum_{k=1}^{999999999} \frac{1}{k^{k}}}"),
    "polynomial": ("x + 1", r"\boxed{(x+y+z+1)^{999} - (x+y+z)^{998}}"),
    "hard integral": ("x + 1", r"\boxed{\int_0^x e^{\sin(t^3)} \cos(t^{7}) dt}"),
    "100,000 nested braces": ("42", "\\boxed{" + "{" * 100_000 + "}" * 100_000 + "}"),
    "1,900 nested braces": ("x", "\\boxed{" + "{" * 1_900 + "x" + "}" * 1_900 + "}"),
    "nested fractions": ("x", "\\boxed{" + r"\frac{1}{" * 300 + "2" + "}" * 300 + "}"),
    "a million digits": ("42", "The answer is " + "9" * 1_000_000),
    "5 MB without an answer": ("42", "x" * 5_000_000),
    "5 MB in a box": ("x", "\\boxed{" + "x + " * 1_250_000 + "1}"),
    "5 MB of boxes": ("x", "\\boxed{1} \\boxed{2} " * 250_000),
    "5 MB of spaces": ("x", "\\boxed{x" + " " * 5_000_000 + "y}"),
    "5 MB of text commands": ("word", "\\boxed{" + r"\text{a}" * 600_000 + "}"),
}
PIECES = {
    "prose": "So the next step is 3 * 4 = 12, which we note. ",
    "phrases": "the answer is ",
    "boxes": "\\boxed{1} ",
}
PIECES |= {
    "open boxes": "\\boxed{",
    "braces": "{",
    "spaces": " " * 8,
    "hashes": "####",
    "stars": "**",
    "numbers": "1,2 ",
}


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=2.0, help="seconds a hostile check may take")
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    short, latex = short_answers(options.answers), latex_answers()
    figures: dict[str, Any] = compared("short", short, check_fast, options.rounds)
    figures |= compared("latex", latex, check, options.rounds)
    figures |= disagreements()
    figures |= hostile(options.limit)
    figures |= extraction()
    print_figures("checking", figures)


def short_answers(count: int) -> list[tuple[Problem, str]]:
    """Return short numeric answers in the forms that models use, half of them correct."""
    dice = random.Random(0)
    forms = ("The answer is {}.", "\\boxed{{{}}}", "#### {}", "The answer is ${}.", "**Answer:** {}", "\\boxed{{{}.0}}")
    pairs = []
    for number in range(count):
        gold = dice.randrange(-999, 99_999)
        answer = gold if number % 2 else gold + dice.randrange(1, 9)
        pairs.append(
            (a_problem(answer=str(gold)), forms[number % len(forms)].format(f"{answer:,}" if number % 3 else answer))
        )
    return pairs


def latex_answers() -> list[tuple[Problem, str]]:
    """Return the test cases that need algebra."""
    cases = [(problem, case["completion"]) for case, problem in math_cases() if case["outcome"] in ("correct", "wrong")]
    return [(problem, completion) for problem, completion in cases if not check_fast(problem, completion)]


def math_cases() -> list[tuple[dict[str, Any], Problem]]:
    """Return the test cases of math_answer, each with its problem."""
    cases = map(json.loads, CASES.read_text().splitlines())
    return [
        (case, a_problem(answer=case["gold"], metadata=case.get("metadata", {})))
        for case in cases
        if case["checker"] == "math_answer" and "finish" not in case
    ]


def compared(name: str, answers: list[tuple[Problem, str]], judge: Callable[..., Any], rounds: int) -> dict[str, Any]:
    """Time our checker and math-verify alone, in alternation."""

    def judge_with_ours() -> None:
        for problem, completion in answers:
            judge(problem, completion)

    def judge_with_math_verify() -> None:
        for problem, completion in answers:
            math_verify_alone(problem.answer or "", completion)

    seconds: dict[str, list[float]] = {"ours": [], "math_verify": []}
    for _ in range(rounds):
        for side, judge_all in (("ours", judge_with_ours), ("math_verify", judge_with_math_verify)):
            clear_caches()
            begun = time.perf_counter()
            judge_all()
            seconds[side].append(time.perf_counter() - begun)
    ours_rate, alone_rate = (len(answers) / statistics.median(seconds[side]) for side in ("ours", "math_verify"))
    return {
        f"{name}_answers": len(answers),
        f"verdicts_per_second_{name}": ours_rate,
        f"math_verify_per_second_{name}": alone_rate,
        f"times_math_verify_{name}": ours_rate / alone_rate,
    }


def math_verify_alone(gold: str, completion: str) -> bool:
    """Judge an answer as math-verify's documentation does, without time limits."""
    return bool(
        verify(parse(f"${gold}$", parsing_timeout=None), parse(completion, parsing_timeout=None), timeout_seconds=None)
    )


def clear_caches() -> None:
    """Empty our caches, those of math-verify and those of sympy."""
    from math_verify import parser
    from sympy.core.cache import clear_cache

    for cached in (numbers.read, notation.tidy, units.unit, read_formula, rewriting.ordered, values.constant):
        cached.cache_clear()
    for cached in (parser.parse_latex_cached, parser.parse_expr_cached, parser.extract_latex, parser.extract_expr):
        if hasattr(cached, "cache_clear"):
            cached.cache_clear()
    clear_cache()
    gc.collect()


def disagreements() -> dict[str, Any]:
    """Count the cases in which the fast path and math-verify disagree; the tests list them."""
    decided = disagreeing = 0
    for _, problem, extracted, outcome in fast_verdicts():
        decided += 1
        disagreeing += (outcome is Outcome.CORRECT) != math_verify_alone(problem.answer or "", f"${extracted}$")
    return {"decided_by_fast_path": decided, "disagreements": disagreeing}


def fast_verdicts() -> list[tuple[dict[str, Any], Problem, str, Outcome]]:
    """Return the cases in which the fast path decides on an answer."""
    verdicts = [(case, problem, check_fast(problem, case["completion"])) for case, problem in math_cases()]
    return [
        (case, problem, verdict.extracted, verdict.outcome)
        for case, problem, verdict in verdicts
        if verdict and verdict.extracted is not None and verdict.outcome in (Outcome.CORRECT, Outcome.WRONG)
    ]


def hostile(limit: float) -> dict[str, Any]:
    """Judge hostile answers in a pool, and measure how far beyond the time limit the slowest goes."""
    pool = CheckerPool(Checking(timeout_seconds=limit))
    took = {}
    print(f"hostile answers, limit {limit:g} s")
    for name, (gold, completion) in HOSTILE.items():
        pool.submit(a_problem(answer=r"\sqrt{12}"), r"\boxed{2\sqrt{3}}").result()  # so that a process is up
        begun = time.perf_counter()
        verdict = pool.submit(a_problem(answer=gold), completion).result().verdict
        took[name] = time.perf_counter() - begun
        print(f"  {name:<26} {took[name]:6.2f} s  {verdict.outcome.value:<8} {verdict.detail[:60]}")
        assert verdict.outcome is not Outcome.CORRECT or gold == "x"
    pool.close()
    return {"hostile_answers": len(took), "timeout_overrun_seconds": max(0.0, max(took.values()) - limit)}


def extraction() -> dict[str, Any]:
    """Time the extraction on texts of 1 kB to 10 MB. If it is linear, a character always costs the same."""
    sizes = [10**power for power in range(3, 8)]
    print("extraction, ns a character".ljust(28), *(f"{size:>10,}" for size in sizes))
    slowest: dict[int, float] = dict.fromkeys(sizes, 0.0)
    for name, piece in PIECES.items():
        costs = []
        for size in sizes:
            text = piece * (size // len(piece)) + " The answer is 42."
            begun = time.perf_counter()
            final_answer(text)
            costs.append((time.perf_counter() - begun) / len(text) * 1e9)
            slowest[size] = max(slowest[size], costs[-1])
        print(f"  {name:<26}", *(f"{cost:>10.1f}" for cost in costs))
    return {
        "extraction_ns_per_character_1kB": slowest[1_000],
        "extraction_ns_per_character_10MB": slowest[10_000_000],
        "extraction_growth_100kB_to_10MB": slowest[10_000_000] / slowest[100_000],
    }


if __name__ == "__main__":
    main()

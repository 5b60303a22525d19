"""Benchmark of the checkers: known verdicts, gold answers and changes of them, rates, hostile answers, memory.

    python tests/bench/checking.py [--cases FILE] [--golds DIRECTORY] [--most N] [--answers 2000] [--rounds 5]

--cases names a file of JSON lines: checker, gold, completion, maybe metadata and finish, and expect: the outcomes that
are right. --golds names a directory of data sets (JSON lines: answer, maybe options or choices): each gold answer is
judged against itself, bare, in a box and after "The answer is", and against itself with a digit, a sign, an operator or
a bound changed (changed_golds.py). These checks run in a pool, whose process says how much memory it needed.

math-verify alone (parse both, verify, no time limit) alternates with our checker on the same answers, round by round.
Figures are medians over the rounds. All caches are emptied before every round. `latex` judges each answer once,
`latex_samples` eight samples of each problem, as a run does.
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
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from pebble import ProcessPool

sys.path.insert(0, str(Path(__file__).parents[2]))
from math_verify import parse, verify

from reasonray.analysis.estimators import share_interval
from reasonray.answers import final_answer
from reasonray.checkers import check, check_fast, unverifiable
from reasonray.checkers.pool import CheckerPool
from reasonray.config import Checking
from reasonray.records import Finish, Outcome, Problem, Verdict
from tests.bench.changed_golds import changes, differ, read_golds
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


FORMS = {"bare": "{}", "boxed": "So \\boxed{{{}}}.", "phrase": "The answer is {}."}
LARGE = 100_000
"""Characters of a completion whose time is that of reading it."""
WINDOW = 64
"""Checks that wait for the pool at a time."""


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, help="file of cases with the outcomes that are right")
    parser.add_argument("--golds", type=Path, help="directory of data sets with gold answers")
    parser.add_argument("--most", type=int, help="gold answers to judge, at most; drawn at random")
    parser.add_argument("--answers", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=2.0, help="seconds a hostile check may take")
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    short, latex = short_answers(options.answers), latex_answers()
    figures: dict[str, Any] = compared("short", short, check_fast, options.rounds)
    figures |= compared("latex", latex, check, options.rounds)
    figures |= compared("latex_samples", samples_of(latex, 8), check, min(3, options.rounds))
    figures |= disagreements()
    pool = CheckerPool(Checking())
    if options.cases:
        figures |= expected_outcomes(pool, options.cases)
    if options.golds:
        figures |= public_golds(pool, options.golds, options.most)
    figures |= {"worker_peak_mb": peak_memory() / 2**20}
    pool.close()
    figures |= hostile(options.limit)
    figures |= extraction()
    print_figures("checking", figures)


def judged(
    pool: CheckerPool, checks: Iterable[tuple[Any, Problem, str, Finish]]
) -> Iterator[tuple[Any, Problem, str, Verdict]]:
    """Judge completions in a pool, and yield what each check is for, its problem, its completion and the verdict."""
    waiting: deque[tuple[Any, Problem, str, Any]] = deque()
    for what, problem, completion, finish in checks:
        waiting.append((what, problem, completion, pool.submit(problem, completion, finish)))
        if len(waiting) >= WINDOW:
            done = waiting.popleft()
            yield (*done[:3], done[3].result().verdict)
    for done in waiting:
        yield (*done[:3], done[3].result().verdict)


def expected_outcomes(pool: CheckerPool, file: Path) -> dict[str, Any]:
    """Judge cases whose right outcomes are known."""
    cases = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    checks = (
        (
            case,
            a_problem(answer=case["gold"], checker=case["checker"], metadata=case.get("metadata", {})),
            case["completion"],
            Finish(case.get("finish", "stop")),
        )
        for case in cases
    )
    right = kept_wrong = thrown_away = 0
    for case, _, _, verdict in judged(pool, checks):
        is_right = verdict.outcome.value in case["expect"]
        right += is_right
        kept_wrong += not is_right and verdict.outcome is Outcome.CORRECT
        thrown_away += not is_right and "correct" in case["expect"]
    return {
        "cases": len(cases),
        "cases_right": right,
        "cases_right_share": right / len(cases),
        "cases_kept_wrong": kept_wrong,
        "cases_thrown_away": thrown_away,
    }


def public_golds(pool: CheckerPool, directory: Path, most: int | None) -> dict[str, Any]:
    """Judge gold answers against themselves, and against themselves with a change that changes the value."""
    golds = list(read_golds(directory))
    random.Random(0).shuffle(golds)
    golds = golds[:most]
    reasons = [(name, problem, reason) for name, problem in golds if (reason := unverifiable(problem))]
    print(f"gold answers that cannot be judged: {len(reasons)} of {len(golds):,}")
    for name, problem, reason in reasons:
        print(f"  {name:<20} {problem.answer!r:.90}  {reason}")
    without = {problem.id for _, problem, _ in reasons}
    verifiable = [(name, problem) for name, problem in golds if problem.id not in without]
    figures: dict[str, Any] = {
        "golds": len(golds),
        "golds_unverifiable": len(reasons),
        "golds_unverifiable_share": len(reasons) / len(golds),
    }
    for form, frame in FORMS.items():
        checks = ((name, problem, frame.format(problem.answer), Finish.STOP) for name, problem in verifiable)
        refused = [found for found in judged(pool, checks) if found[3].outcome is not Outcome.CORRECT]
        figures[f"golds_right_{form}"] = len(verifiable) - len(refused)
        figures[f"golds_right_{form}_share"] = 1 - len(refused) / len(verifiable)
        print(f"gold answers refused as their own answers, {form}: {len(refused)} of {len(verifiable):,}")
        for name, problem, _, verdict in refused[:20]:
            print(
                f"  {name:<20} {problem.answer!r:.90}  {verdict.outcome} {verdict.extracted!r:.60} {verdict.detail:.60}"
            )
    return figures | changed_golds(pool, [problem for _, problem in verifiable if problem.checker == "math_answer"])


def changed_golds(pool: CheckerPool, problems: list[Problem]) -> dict[str, Any]:
    """Judge gold answers of which one token was changed; only changes count that change the value."""
    candidates = [
        (kind, problem, changed) for problem in problems for kind, changed in changes(problem.answer or "", seed=0)
    ]
    counted = []
    with ProcessPool(max_workers=1) as deciding:
        futures = [
            deciding.schedule(differ, args=[problem.answer, text], timeout=10) for _, problem, text in candidates
        ]
        for candidate, future in zip(candidates, futures, strict=True):
            if future.exception() is None and future.result():
                counted.append(candidate)
    checks = ((kind, problem, f"So \\boxed{{{text}}}.", Finish.STOP) for kind, problem, text in counted)
    total: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    outcomes, clusters = [], []
    print("changed gold answers that are accepted:")
    for kind, problem, completion, verdict in judged(pool, checks):
        is_accepted = verdict.outcome is Outcome.CORRECT
        total[kind] += 1
        accepted[kind] += is_accepted
        outcomes.append(float(is_accepted))
        clusters.append(problem.id)
        if is_accepted:
            print(f"  {kind:<9} {problem.answer!r:.70} ← {completion!r:.90}  {verdict.detail:.50}")
    _, units = np.unique(np.asarray(clusters), return_inverse=True)
    share = share_interval(np.asarray(outcomes), clusters=units)
    by_kind = {f"changed_{kind}": [accepted[kind], total[kind]] for kind in total}
    return {
        "changed": len(outcomes),
        "changed_not_counted": len(candidates) - len(counted),
        "changed_accepted": int(sum(outcomes)),
        "changed_accepted_share": share.mean,
        "changed_accepted_interval": [share.low, share.high],
        **by_kind,
    }


def peak_memory() -> int:
    """Return the largest memory, in bytes, that a child process of this one held so far."""
    peaks = [0]
    for child in psutil.Process().children():
        status = Path(f"/proc/{child.pid}/status").read_text()
        peaks += [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")]
    return max(peaks)


def samples_of(answers: list[tuple[Problem, str]], samples: int) -> list[tuple[Problem, str]]:
    """Return each answer as several samples that differ in what is said before it."""
    return [(problem, f"Sample {number}. {completion}") for problem, completion in answers for number in range(samples)]


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
    from sympy.core.cache import clear_cache

    for module in [module for name, module in sys.modules.items() if name.startswith(("reasonray.", "math_verify"))]:
        for cached in list(vars(module).values()):
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


def hostile(limit: float, repeats: int = 3) -> dict[str, Any]:
    """Judge hostile answers in a pool: how long each takes, and how many end the process that judges them."""
    pool = CheckerPool(Checking(timeout_seconds=limit))
    warm_up = a_problem(answer=r"\sqrt{12}"), r"\boxed{2\sqrt{3}}"
    took: dict[str, list[float]] = {name: [] for name in HOSTILE}
    restarts = 0
    print(f"hostile answers, limit {limit:g} s")
    for name, (gold, completion) in HOSTILE.items():
        for _ in range(repeats):
            pool.submit(*warm_up).result()  # so that a process is up
            before = workers()
            begun = time.perf_counter()
            verdict = pool.submit(a_problem(answer=gold), completion).result().verdict
            took[name].append(time.perf_counter() - begun)
            pool.submit(*warm_up).result()
            restarts += workers() != before
        print(f"  {name:<26} {max(took[name]):6.3f} s  {verdict.outcome.value:<8} {verdict.detail[:60]}")
        assert verdict.outcome is not Outcome.CORRECT or gold == "x"
    peak = peak_memory()
    pool.close()
    formulas = [second for name, each in took.items() if len(HOSTILE[name][1]) < LARGE for second in each]
    texts = [second for name, each in took.items() if len(HOSTILE[name][1]) >= LARGE for second in each]
    return {
        "hostile_answers": len(formulas),
        "hostile_median_ms": 1000 * statistics.median(formulas),
        "hostile_p99_ms": 1000 * float(np.quantile(formulas, 0.99, method="higher")),
        "hostile_worker_restarts": restarts,
        "hostile_worker_peak_mb": peak / 2**20,
        "megabytes_of_text_slowest_ms": 1000 * max(texts),
    }


def workers() -> set[int]:
    """Return the process ids of the pool's processes."""
    return {child.pid for child in psutil.Process().children()}


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

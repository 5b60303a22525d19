"""Benchmark of the gym checker: verdicts a second by our rules, by the library and in the sandbox; attacks; memory.

    python tests/bench/gym_checking.py [--problems 4]

For every task of reasoning-gym: the gold answers, the gold answers with a word behind them, and another instance's gold
answer. Rates of one process are of its CPU time, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))
from reasonray.checkers import find_checker, gym_scorer
from reasonray.checkers.gym_rules import RULES
from reasonray.checkers.pool import CheckerPool
from reasonray.config import Checking, GymSource
from reasonray.problems import gym
from reasonray.records import Problem
from tests.bench.printing import print_figures
from tests.checkers.test_hostile import TASKS, Trap

Answers = list[tuple[Problem, str]]


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=4, help="problems a task")
    options = parser.parse_args()
    warnings.simplefilter("ignore", SyntaxWarning)
    answers = {task: answers_of(task, options.problems) for task in TASKS}
    ruled = {task: pairs for task, pairs in answers.items() if task in RULES}
    scored = [pair for task, pairs in answers.items() if task not in RULES for pair in pairs]
    figures: dict[str, Any] = {"tasks": len(answers), "tasks_with_a_rule": len(ruled)}
    figures |= rates(ruled)
    figures |= sandboxed(scored)
    figures |= attacked([pairs[0][0] for pairs in answers.values()])
    print_figures("gym_checking", figures)


def answers_of(task: str, count: int) -> Answers:
    """Return right and wrong answers to a task."""
    problems = [problem for problem, _ in gym.load(GymSource(kind="gym", task=task, train=count, test=0))]
    golds = [problem.answer or "" for problem in problems]
    texts = [*golds, *(f"{gold} indeed" for gold in golds), *golds[1:], golds[0]]
    return list(zip(problems * 3, texts, strict=True))


def rates(answers: dict[str, Answers]) -> dict[str, Any]:
    """Time our rules and the library's scorers on the same answers, in this process."""
    import reasoning_gym

    checker = find_checker("gym")
    scorers = {task: reasoning_gym.create_dataset(task, size=1, seed=0) for task in answers}
    ours = {task: rate(checker.fast, pairs) for task, pairs in answers.items()}
    library = {
        task: rate(
            lambda problem, answer, task=task: scorers[task].score_answer(answer, problem.metadata["entry"]), pairs
        )
        for task, pairs in answers.items()
    }
    slowest = min(ours, key=ours.__getitem__)
    return {
        "rule_verdicts_per_second_median": statistics.median(ours.values()),
        "rule_verdicts_per_second_slowest": ours[slowest],
        "slowest_rule": slowest,
        "library_verdicts_per_second_median": statistics.median(library.values()),
        "library_verdicts_per_second_slowest": min(library.values()),
    }


def rate(judge: Callable[[Problem, str], Any], pairs: Answers) -> float:
    """Return the verdicts in a second of CPU time."""
    begun = time.process_time()
    count = 0
    while time.process_time() - begun < 0.05:
        for problem, answer in pairs:
            try:
                judge(problem, answer)
            except Exception:  # a scorer of the library that cannot take the answer
                continue
            finally:
                count += 1
    return count / (time.process_time() - begun)


def sandboxed(pairs: Answers) -> dict[str, Any]:
    """Time the library's scorers in the sandbox, which its server has begun before, and measure the server's memory."""
    begun = time.perf_counter()
    gym_scorer.score(pairs[0][0].metadata, pairs[0][1])
    started = time.perf_counter() - begun
    seconds = []
    for problem, answer in pairs:
        begun = time.perf_counter()
        gym_scorer.score(problem.metadata, answer)
        seconds.append(time.perf_counter() - begun)
    server = max(psutil.Process().children(recursive=True), key=lambda child: child.memory_info().rss)
    peak = server.memory_info().rss / 2**20
    gym_scorer.stop()
    return {
        "sandbox_start_seconds": started,
        "sandboxed_answers": len(seconds),
        "sandboxed_verdicts_per_second": len(seconds) / sum(seconds),
        "sandboxed_seconds_p99": quantile(seconds, 0.99),
        "sandbox_server_mb": peak,
    }


def attacked(problems: list[Problem]) -> dict[str, Any]:
    """Send every attack to every task through a pool; count its processes, and measure their peak memory."""
    trap, pool = Trap(Path(tempfile.mkdtemp())), CheckerPool(Checking(processes=1))
    warm = next(problem for problem in problems if problem.metadata["task"] == "jugs")
    pool.submit(warm, '<answer>["fill A"]</answer>').result()
    workers = {child.pid: child for child in psutil.Process().children()}
    seconds, outcomes = [], Counter[str]()
    for problem in problems:
        for payload in trap.payloads().values():
            begun = time.perf_counter()
            verdict = pool.submit(problem, f"<answer>{payload}</answer>").result().verdict
            seconds.append(time.perf_counter() - begun)
            outcomes[verdict.outcome.value] += 1
    trap.assert_untouched()
    peaks = [peak_mb(pid) for pid in workers if psutil.pid_exists(pid)]
    restarts = len(set(workers) - {child.pid for child in psutil.Process().children()})
    pool.close()
    return {
        "attacks": len(seconds),
        "attack_outcomes": json.dumps(outcomes, sort_keys=True),
        "attack_seconds_p50": quantile(seconds, 0.5),
        "attack_seconds_p99": quantile(seconds, 0.99),
        "attack_seconds_max": max(seconds),
        "worker_restarts": restarts,
        "worker_peak_mb": max(peaks),
    }


def quantile(values: list[float], share: float) -> float:
    """Return the smallest value that this share of all values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def peak_mb(pid: int) -> float:
    """Return the most memory that a process has held so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    main()

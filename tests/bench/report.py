"""Benchmark of the report of a large run: seconds, memory, size of the page, and its speed in a browser.

    python tests/bench/report.py [--rollouts 200000] [--train 40000] [--bytes 2000]

The run holds rollouts of five models (base, three teachers, student) on the same test problems, 8 samples each, and
train rollouts, stored as sampling stores them. Texts are sentences as models write them, of log-normal length.
`annotate_seconds` is the time to detect behaviours, once per rollout, as `jobs/evaluate.py` does after sampling;
`seconds` is the time of stages.report.report after that, in a new process. Chromium opens the page through the DevTools
protocol. `first_paint_ms` is Chromium's own measurement (median of 5 loads); `filter_ms` is the time from a filter's
event to the frame that shows its result (the slowest of the filters' medians).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pyarrow as pa
import ray

os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_enable_worker_prestart": "0"}
sys.path.insert(0, str(Path(__file__).parents[2]))
from reasonray.config import parse
from reasonray.curation.annotations import annotated
from reasonray.records import Problem, Split, content_hash
from reasonray.stages.report import report
from reasonray.store.run import Run, begin_or_resume, find_run
from tests.bench.curation import written
from tests.bench.memory import PeakMemory
from tests.bench.printing import print_figures
from tests.bench.stored import rollout_table

SAMPLES, SEGMENT = 8, 4000
ARMS = ("base", "one", "two", "three", "student")
DIFFICULTIES = ("easy", "medium", "hard")
LOADS = 5
KEYS = ("arm", "difficulty", "outcome", "behaviour", "change")
FILTER = """
(async () => {
  const apply = async (name, value) => {
    const field = document.querySelector(`[name=${name}]`);
    field.value = value;
    const start = performance.now();
    field.dispatchEvent(new Event("input", {bubbles: true}));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    return performance.now() - start;
  };
  const durations = {};
  for (const name of KEYS) {
    const options = [...document.querySelector(`[name=${name}]`).options].map((option) => option.value);
    durations[name] = [];
    for (const value of options.slice(1, 4)) {
      durations[name].push(await apply(name, value));
      await apply(name, "");
    }
  }
  durations.text = [];
  for (const value of ["wait", "apples", "no such text"]) {
    durations.text.push(await apply("text", value));
    await apply("text", "");
  }
  return JSON.stringify(durations);
})()
"""


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=200_000, help="test rollouts of all models together")
    parser.add_argument("--train", type=int, default=40_000, help="additional train rollouts")
    parser.add_argument("--bytes", type=int, default=2000, help="approximate bytes of a completion")
    parser.add_argument("--run", help="measure this run, made earlier with --keep")
    parser.add_argument("--report", help=argparse.SUPPRESS)  # only for the measured process
    parser.add_argument("--keep", help="directory to make the run in and to keep it")
    options = parser.parse_args()
    if options.report:
        measure_report(find_run(options.report))
        return
    with tempfile.TemporaryDirectory(prefix="reasonray-report-") as scratch:
        run = find_run(options.run) if options.run else store(Path(options.keep or scratch), options)
        results: dict[str, Any] = {"rollouts": options.rollouts, "train_rollouts": options.train, "arms": len(ARMS)}
        results["annotate_seconds"] = annotate(run)
        command = [sys.executable, __file__, "--report", str(run.place)]
        results |= json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        )
        page = Path(str(run.place)) / "report.html"
        results["html_mb"] = page.stat().st_size / 1e6
        results |= asyncio.run(browse(page, Path(scratch)))
    print_figures("report", results)


def measure_report(run: Run) -> None:
    """Report the run and print its time and memory, in a process of its own, to exclude the making of the run."""
    peak = PeakMemory()
    with peak:
        start = time.perf_counter()
        report(run)
        seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_rss_mb": peak.mb}))


def annotate(run: Run) -> float:
    """Annotate the rollouts of all models on all cores and return the seconds, without those of Ray's start."""
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    start = time.perf_counter()
    for arm in ARMS:
        annotated(run.evaluation(arm))
    seconds = time.perf_counter() - start
    ray.shutdown()
    return seconds


def store(root: Path, options: argparse.Namespace) -> Run:
    """Make a run that holds the rollouts, and return it."""
    scripted = {"model": "scripted", "engine": {"kind": "scripted"}}
    raw: dict[str, Any] = {
        "name": "large",
        "root": str(root),
        "sources": [{"kind": "generated", "train": 3, "test": 3}],
        "teachers": [scripted | {"name": name} for name in ARMS[1:-1]],
        "student": scripted,
        "evaluation": {"samples": SAMPLES, "k": [1, 4]},
    }
    run = begin_or_resume(parse(raw))
    generator = np.random.default_rng(0)
    each = options.rollouts // len(ARMS)
    problems = {
        split: [a_problem(split, number) for number in range(size // SAMPLES)]
        for split, size in ((Split.TRAIN, options.train), (Split.TEST, each))
    }
    run.store_problems([*problems[Split.TRAIN], *problems[Split.TEST]])
    ledgers = [(arm, run.evaluation(arm), problems[Split.TEST], each) for arm in ARMS]
    for arm, ledger, owners, size in [*ledgers, ("one", run.ledger, problems[Split.TRAIN], options.train)]:
        for start in range(0, size, SEGMENT):
            numbers = range(start, min(start + SEGMENT, size))
            ledger.append_table(segment(arm, numbers, owners, options.bytes, generator))
    return run


def a_problem(split: Split, number: int) -> Problem:
    """Return problem `number` of a split."""
    text = f"A {split.value} shop sells {number} apples and {number * 7 % 101} pears. How many are these together?"
    difficulty = DIFFICULTIES[number % 3]
    return Problem(
        id=content_hash(split.value, number),
        source="made up",
        question=text,
        answer="42",
        checker="math_answer",
        difficulty=difficulty,
        split=split,
    )


def segment(arm: str, numbers: range, problems: list[Problem], size: int, generator: np.random.Generator) -> pa.Table:
    """Return a segment of rollouts of one model; later models in ARMS are correct more often."""
    rate = 0.2 + 0.1 * ARMS.index(arm)
    owners = [problems[number // SAMPLES % len(problems)] for number in numbers]
    outcomes = generator.choice(
        ["correct", "wrong", "no_answer", "truncated"], len(numbers), p=[rate, 0.85 - rate, 0.05, 0.1]
    )
    lengths = np.minimum(generator.lognormal(np.log(size) - 0.32, 0.8, len(numbers)), 65_000).astype(int)
    texts = [written(int(length), outcome, generator) for length, outcome in zip(lengths, outcomes, strict=True)]
    answers = {"correct": "42", "no_answer": None, "truncated": None}
    return rollout_table(
        id=[content_hash(arm, owner.id, number % SAMPLES) for owner, number in zip(owners, numbers, strict=True)],
        problem_id=[owner.id for owner in owners],
        problem_question=[owner.question for owner in owners],
        problem_difficulty=[owner.difficulty for owner in owners],
        problem_split=[owner.split.value for owner in owners],
        teacher=[arm] * len(numbers),
        sample=[number % SAMPLES for number in numbers],
        seed=generator.integers(2**62, size=len(numbers)),
        completion=texts,
        finish=np.where(outcomes == "truncated", "length", "stop"),
        completion_tokens=[max(1, len(text) // 4) for text in texts],
        verdict_outcome=outcomes,
        verdict_extracted=[answers.get(outcome, str(generator.integers(43, 60))) for outcome in outcomes],
    )


async def browse(page: Path, scratch: Path) -> dict[str, float]:
    """Open the page in Chromium and return its latencies in milliseconds."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("needs chromium (apt-get install chromium)")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--remote-debugging-port=0", f"--user-data-dir={scratch / 'profile'}", "--window-size=1440,900"]
    browser = subprocess.Popen([chromium, *flags, "about:blank"], stderr=subprocess.PIPE, text=True)
    try:
        assert browser.stderr is not None
        line = next(line for line in browser.stderr if "DevTools listening on" in line)
        port = line.split(":")[2].split("/")[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                tab = next(target for target in await answer.json() if target["type"] == "page")
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                return await measure_latencies(Tab(socket), page.as_uri())
    finally:
        browser.terminate()
        browser.wait(20)


class Tab:
    """A browser tab, controlled through the DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count()

    async def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": arguments})
        while True:
            message = await self._socket.receive_json()
            if message.get("id") == number:
                return dict(message["result"])

    async def evaluate(self, script: str) -> Any:
        """Run a script in the page and return its value."""
        answer = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")


async def measure_latencies(tab: Tab, address: str) -> dict[str, float]:
    """Load the page LOADS times, then use its filters."""
    first_paints, ready_times = [], []
    for _ in range(LOADS):
        await tab.call("Page.navigate", url="about:blank")
        await tab.call("Page.navigate", url=address)
        while not await tab.evaluate("document.querySelector('.reader') && !document.querySelector('.reader').hidden"):
            await asyncio.sleep(0.05)
        ready_times.append(await tab.evaluate("performance.now()"))
        first_paints.append(await tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime"))
    durations = json.loads(await tab.evaluate(FILTER.replace("KEYS", json.dumps(KEYS))))
    shown = await tab.evaluate("state.rollouts.length")
    return {
        "shown": shown,
        "first_paint_ms": statistics.median(first_paints),
        "browser_ready_ms": statistics.median(ready_times),
        "filter_ms": max(statistics.median(times) for times in durations.values()),
        "text_filter_ms": statistics.median(durations["text"]),
    }


if __name__ == "__main__":
    main()

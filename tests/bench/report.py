"""The report of a large run: seconds, memory, size of the page, and how quickly a browser shows and filters it.

    python tests/bench/report.py [--rollouts 200000] [--train 40000] [--bytes 2000]

The rollouts of five arms (base, three teachers, student) on the same problems, 8 samples each, and train rollouts
beside them, lie in a run as sampling leaves them. Texts are sentences as models write them, of a log-normal length.
`annotate_seconds` is what looking for behaviours takes, once a rollout, as `jobs/evaluate.py` does it after drawing;
`seconds` is stages.report.report from then on, in a fresh process. Chromium opens the page by its DevTools protocol:
first paint as it reports it (median of 5 loads), filters from the event to the frame that shows their result (the
slowest of all filters' medians).
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
from reasonray.store.run import Run, find_run, open_run
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
    const begun = performance.now();
    field.dispatchEvent(new Event("input", {bubbles: true}));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    return performance.now() - begun;
  };
  const took = {};
  for (const name of KEYS) {
    const options = [...document.querySelector(`[name=${name}]`).options].map((option) => option.value);
    took[name] = [];
    for (const value of options.slice(1, 4)) {
      took[name].push(await apply(name, value));
      await apply(name, "");
    }
  }
  took.text = [];
  for (const value of ["wait", "apples", "no such text"]) {
    took.text.push(await apply("text", value));
    await apply("text", "");
  }
  return JSON.stringify(took);
})()
"""


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=200_000, help="of all arms together")
    parser.add_argument("--train", type=int, default=40_000, help="train rollouts beside them")
    parser.add_argument("--bytes", type=int, default=2000, help="of a completion, about")
    parser.add_argument("--run", help="measure the run that lies there, made up before")
    parser.add_argument("--report", help=argparse.SUPPRESS)  # the process that is measured
    parser.add_argument("--keep", help="make the run up here, and leave it")
    options = parser.parse_args()
    if options.report:
        measure_report(find_run(options.report))
        return
    with tempfile.TemporaryDirectory(prefix="reasonray-report-") as scratch:
        run = find_run(options.run) if options.run else store(Path(options.keep or scratch), options)
        figures: dict[str, Any] = {"rollouts": options.rollouts, "train_rollouts": options.train, "arms": len(ARMS)}
        figures["annotate_seconds"] = annotate(run)
        command = [sys.executable, __file__, "--report", str(run.place)]
        figures |= json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        )
        page = Path(str(run.place)) / "report.html"
        figures["html_mb"] = page.stat().st_size / 1e6
        figures |= asyncio.run(browse(page, Path(scratch)))
    print_figures("report", figures)


def measure_report(run: Run) -> None:
    """Report, and print what it took: a process of its own, so that making the run up counts nowhere."""
    peak = PeakMemory()
    with peak:
        begun = time.perf_counter()
        report(run)
        seconds = time.perf_counter() - begun
    print(json.dumps({"seconds": seconds, "peak_rss_mb": peak.mb}))


def annotate(run: Run) -> float:
    """Annotate all arms on the machine's cores, and return the seconds; Ray's start is not counted."""
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    begun = time.perf_counter()
    for arm in ARMS:
        annotated(run.evaluation(arm))
    seconds = time.perf_counter() - begun
    ray.shutdown()
    return seconds


def store(root: Path, options: argparse.Namespace) -> Run:
    """Begin a run that holds the rollouts."""
    scripted = {"model": "scripted", "engine": {"kind": "scripted"}}
    raw: dict[str, Any] = {
        "name": "large",
        "root": str(root),
        "sources": [{"kind": "generated", "train": 3, "test": 3}],
        "teachers": [scripted | {"name": name} for name in ARMS[1:-1]],
        "student": scripted,
        "evaluation": {"samples": SAMPLES, "k": [1, 4]},
    }
    run = open_run(parse(raw))
    dice = np.random.default_rng(0)
    each = options.rollouts // len(ARMS)
    problems = {
        split: [a_problem(split, number) for number in range(size // SAMPLES)]
        for split, size in ((Split.TRAIN, options.train), (Split.TEST, each))
    }
    run.store_problems([*problems[Split.TRAIN], *problems[Split.TEST]])
    ledgers = [(arm, run.evaluation(arm), problems[Split.TEST], each) for arm in ARMS]
    for arm, ledger, asked, size in [*ledgers, ("one", run.ledger, problems[Split.TRAIN], options.train)]:
        for start in range(0, size, SEGMENT):
            numbers = range(start, min(start + SEGMENT, size))
            ledger.append_table(segment(arm, numbers, asked, options.bytes, dice))
    return run


def a_problem(split: Split, number: int) -> Problem:
    """Return a problem of a split."""
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


def segment(arm: str, numbers: range, problems: list[Problem], size: int, dice: np.random.Generator) -> pa.Table:
    """Return some thousand rollouts of an arm; later arms are right more often."""
    rate = 0.2 + 0.1 * ARMS.index(arm)
    owners = [problems[number // SAMPLES % len(problems)] for number in numbers]
    outcomes = dice.choice(
        ["correct", "wrong", "no_answer", "truncated"], len(numbers), p=[rate, 0.85 - rate, 0.05, 0.1]
    )
    lengths = np.minimum(dice.lognormal(np.log(size) - 0.32, 0.8, len(numbers)), 65_000).astype(int)
    texts = [written(int(length), outcome, dice) for length, outcome in zip(lengths, outcomes, strict=True)]
    answers = {"correct": "42", "no_answer": None, "truncated": None}
    return rollout_table(
        id=[content_hash(arm, owner.id, number % SAMPLES) for owner, number in zip(owners, numbers, strict=True)],
        problem_id=[owner.id for owner in owners],
        problem_question=[owner.question for owner in owners],
        problem_difficulty=[owner.difficulty for owner in owners],
        problem_split=[owner.split.value for owner in owners],
        teacher=[arm] * len(numbers),
        sample=[number % SAMPLES for number in numbers],
        seed=dice.integers(2**62, size=len(numbers)),
        completion=texts,
        finish=np.where(outcomes == "truncated", "length", "stop"),
        completion_tokens=[max(1, len(text) // 4) for text in texts],
        verdict_outcome=outcomes,
        verdict_extracted=[answers.get(outcome, str(dice.integers(43, 60))) for outcome in outcomes],
    )


async def browse(page: Path, scratch: Path) -> dict[str, float]:
    """Open the page in Chromium and return what people would wait for, in milliseconds."""
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
                tab = next(it for it in await answer.json() if it["type"] == "page")
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                return await look(Tab(socket), page.as_uri())
    finally:
        browser.terminate()
        browser.wait(20)


class Tab:
    """A page of the browser, spoken to by its DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count()

    async def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call a method, and return its result."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": arguments})
        while True:
            message = await self._socket.receive_json()
            if message.get("id") == number:
                return dict(message["result"])

    async def evaluate(self, script: str) -> Any:
        """Run a script in the page, and return its value."""
        found = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"]["description"])
        return found["result"].get("value")


async def look(tab: Tab, address: str) -> dict[str, float]:
    """Load the page some times, then use its filters."""
    paints, readies = [], []
    for _ in range(LOADS):
        await tab.call("Page.navigate", url="about:blank")
        await tab.call("Page.navigate", url=address)
        while not await tab.evaluate("document.querySelector('.reader') && !document.querySelector('.reader').hidden"):
            await asyncio.sleep(0.05)
        readies.append(await tab.evaluate("performance.now()"))
        paints.append(await tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime"))
    took = json.loads(await tab.evaluate(FILTER.replace("KEYS", json.dumps(KEYS))))
    shown = await tab.evaluate("state.rollouts.length")
    return {
        "shown": shown,
        "first_paint_ms": statistics.median(paints),
        "browser_ready_ms": statistics.median(readies),
        "filter_ms": max(statistics.median(times) for times in took.values()),
        "text_filter_ms": statistics.median(took["text"]),
    }


if __name__ == "__main__":
    main()

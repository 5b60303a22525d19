"""A series of rounds on Ray with the scripted engine, whose driver and replicas are killed in each round."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray

from reasonray import pipeline
from reasonray.config import Prompt, Sampling, ScriptedEngine, parse
from reasonray.engines.protocol import SampleRequest
from reasonray.engines.scripted import Scripted
from reasonray.records import Outcome, Rollout, Split
from reasonray.store.run import Run, find_run
from reasonray.store.schema import table_to_rollouts
from reasonray.store.siblings import is_of_run
from tests.commands import ENVIRONMENT, ROOT
from tests.stages import rounds_driver

ROUNDS, PROBLEMS, SAMPLES, TEST = 3, 8, 3, 4


def a_series(root: Path) -> dict[str, Any]:
    """Return a series so slow that a kill lands in the middle of a round."""
    engine = {"kind": "scripted", "correct": 0.5, "seconds": 0.2, "max_num_seqs": 2, "journal": str(root / "journal")}
    model = {"model": "scripted", "engine": engine, "gpus": 0, "cpus": 0.1}
    return {
        "name": "demo",
        "root": str(root),
        "sources": [{"kind": "generated", "train": PROBLEMS, "test": TEST}],
        "teachers": [model],
        "policy": {"samples": SAMPLES},
        "storage": {"commit_seconds": 0.1},
        "student": model,
        "evaluation": {"samples": 1},
        "rounds": {"count": ROUNDS, "rationalise": "{question} (It is {gold_answer}.)"},
    }


def kill_in_round(number: int, config: Path, root: Path, address: str) -> None:
    """Start a driver, and kill it and its replicas once the round's teacher has committed some of its rollouts."""
    command = [sys.executable, "-m", "tests.stages.rounds_driver", str(config), address]
    live = "teacher" if number == 1 else f"student-r{number - 1}"
    with subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL) as driver:
        while driver.poll() is None:
            place = root / f"demo-r{number}"
            counts = find_run(str(place)).ledger.counts() if (place / "config.json").exists() else {}
            if any(name == live for name, _ in counts):
                break
            time.sleep(0.05)
        assert driver.poll() is None, "it ended before it was killed"
        for process in (root / "journal").iterdir():  # each replica has a file there
            with suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGKILL)
        driver.kill()


def is_as_scripted(rollout: Rollout, engine: ScriptedEngine) -> bool:
    """Return whether a rollout is what the engine writes for its seed, whenever it is asked."""
    request = SampleRequest(rollout.problem, rollout.sample, rollout.seed, Prompt(), Sampling())
    quick = engine.model_copy(update={"seconds": 1e-9, "journal": None})
    return asyncio.run(Scripted(quick).complete(request)).text == rollout.completion


@pytest.mark.ray
def test_a_series_that_is_killed_in_each_round_ends_as_if_it_was_not(ray_cluster: None, tmp_path: Path) -> None:
    raw, config = a_series(tmp_path), tmp_path / "config.json"
    config.write_text(json.dumps(raw))
    (tmp_path / "journal").mkdir()
    for number in range(1, ROUNDS + 1):
        kill_in_round(number, config, tmp_path, ray.get_runtime_context().gcs_address)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "train", rounds_driver.learn)
        pipeline.distill(parse(raw))
    engine = parse(raw).teachers[0].engine
    assert isinstance(engine, ScriptedEngine)
    runs = [find_run(str(tmp_path / f"demo-r{number}")) for number in range(1, ROUNDS + 1)]
    texts: set[str] = set()
    for run in runs:
        of_round = sampled(run)
        assert all(is_as_scripted(rollout, engine) for rollout in of_round)
        earlier = [r for r in table_to_rollouts(run.ledger.read()) if r.teacher.startswith("r")]
        assert {rollout.completion for rollout in earlier} == texts, "earlier rounds are read, none is asked again"
        texts |= {rollout.completion for rollout in of_round if not rollout.teacher.endswith("-hinted")}
        assert len(table_to_rollouts(run.evaluation("student").read())) == TEST
    answers = Counter(line for file in (tmp_path / "journal").iterdir() for line in file.read_text().splitlines())
    measured = sum(count for line, count in answers.items() if line.split()[0] in held_out(runs[0]))
    assert measured <= TEST * (2 + ROUNDS), "base, teacher and each student once, and what a kill lost: nothing"
    metrics = json.loads((tmp_path / "demo" / "rounds.json").read_text())
    assert [one["run"] for one in metrics["rounds"]] == ["demo-r1", "demo-r2", "demo-r3"]
    assert metrics["rounds"][2]["data"]["hinted"] >= 0
    assert (tmp_path / "demo" / "rounds.html").exists()


def held_out(run: Run) -> set[str]:
    return {problem.id for problem in run.problems(Split.TEST)}


def sampled(run: Run) -> list[Rollout]:
    """Return the rollouts of a round's own teachers: all samples once, and with a hint where nothing is solved."""
    live = [teacher for teacher in run.config.teachers if not is_of_run(teacher)]
    rollouts = [r for r in table_to_rollouts(run.ledger.read()) if r.teacher in {teacher.name for teacher in live}]
    plain = [rollout for rollout in rollouts if not rollout.teacher.endswith("-hinted")]
    assert Counter(rollout.problem.id for rollout in plain) == dict.fromkeys(
        {problem.id for problem in run.problems(Split.TRAIN)}, SAMPLES
    )
    every = [r for r in table_to_rollouts(run.ledger.read()) if not r.teacher.endswith("-hinted")]
    solved = {rollout.problem.id for rollout in every if rollout.verdict.outcome is Outcome.CORRECT}
    hinted = [rollout for rollout in rollouts if rollout.teacher.endswith("-hinted")]
    assert {rollout.problem.id for rollout in hinted} == {rollout.problem.id for rollout in every} - solved
    return rollouts

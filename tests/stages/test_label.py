"""Labels by a scripted labeller: which rollouts it is asked of, what is kept of its word, and that the report tells."""

import json
from pathlib import Path
from typing import Any

import pytest

from reasonray.checkers import labels
from reasonray.config import UserError
from reasonray.records import Split
from reasonray.sampling.pool import ReplicaPool
from reasonray.stages.curate import curate
from reasonray.stages.label import label
from reasonray.stages.report import report
from reasonray.store.run import Run, open_run
from tests.factories import a_problem, a_rollout, a_scripted_config

pytestmark = pytest.mark.ray

LABELLER = {"model": "labeller", "engine": {"kind": "scripted", "correct": 0.7}, "cpus": 0.1}
"""It says yes to everything, or what cannot be read."""


def a_run(root: Path, labelled: int) -> Run:
    curation = {"rules": [], "labeller": LABELLER, "labelled": labelled}
    return open_run(a_scripted_config(root, curation=curation))


def labelled(run: Run) -> dict[str, Any]:
    with ReplicaPool(run) as pool:
        label(run, pool)
    found: dict[str, Any] = json.loads((run.place / "labels.json").read())
    return found


def test_a_sample_is_labelled_once_and_agrees_with_the_phrases_as_far_as_the_report_says(
    ray_cluster: None, tmp_path: Path
) -> None:
    run = a_run(tmp_path, 12)
    with pytest.raises(UserError, match=r"nothing curated to label; run jobs/curate\.py first"):
        labelled(run)
    phrases = ("Let me check this.", "So it goes.")
    drawn = [
        a_rollout(f"<think> We take {n}. {phrases[n % 2]} </think> The answer is 42.", sample=n) for n in range(40)
    ]
    run.store_problems([a_problem(), a_problem("Who painted it?", "Klee", split=Split.TEST)])
    run.ledger.append(drawn)
    curate(run)

    few = labelled(run)
    assert (few["model"], few["asked"]) == ("labeller", 12)
    asked = set(run.labels.read(["problem_id"])["problem_id"].to_pylist())
    assert asked <= {labels.question(it.completion.removeprefix("<think>").partition("</think>")[0]).id for it in drawn}
    read = run.labels.read(["problem_id", "verdict_outcome"]).to_pylist()
    assert len(asked) == 12
    assert few["labelled"] == sum(it["verdict_outcome"] == "correct" for it in read)
    assert 0 < few["labelled"] < 12, "what cannot be read is no label"

    curate(a_run(tmp_path, 30))
    more = labelled(a_run(tmp_path, 30))
    assert asked < set(run.labels.read(["problem_id"])["problem_id"].to_pylist())
    assert run.labels.count() == more["asked"] == 30, "what was asked is not asked again"
    verification = more["kappa"]["verification"]
    assert verification["model"] == more["labelled"]
    assert 0 < verification["lexical"] < more["labelled"]
    assert verification["mean"] == 0.0, "who always says yes agrees no more than chance"

    report(a_run(tmp_path, 30))
    assert json.loads((run.place / "metrics.json").read())["labels"] == more
    assert "Cohen" in (run.place / "report.html").read().decode()

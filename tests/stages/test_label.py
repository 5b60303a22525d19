"""Labels by a scripted labeller: which rollouts are labelled, which replies are kept, what the report shows."""

import json
from pathlib import Path
from typing import Any

import pytest

from reasonray.checkers import labels
from reasonray.config import UserError
from reasonray.records import Split
from reasonray.stages.curate import curate
from reasonray.stages.label import label
from reasonray.stages.report import report
from reasonray.store.run import Run, begin_or_resume
from tests.factories import a_problem, a_rollout, a_scripted_config

pytestmark = pytest.mark.ray

LABELLER = {"model": "labeller", "engine": {"kind": "scripted", "correct": 0.7}, "cpus": 0.1}
"""It answers yes for every behaviour, or with text that cannot be read."""


def a_run(root: Path, labelled: int) -> Run:
    curation = {"rules": [], "labeller": LABELLER, "labelled": labelled}
    return begin_or_resume(a_scripted_config(root, curation=curation))


def labelled(run: Run) -> dict[str, Any]:
    label(run)
    document: dict[str, Any] = json.loads((run.place / "labels.json").read())
    return document


def test_a_sample_is_labelled_once_and_the_report_shows_its_agreement_with_the_detectors(
    ray_cluster: None, tmp_path: Path
) -> None:
    run = a_run(tmp_path, 12)
    with pytest.raises(UserError, match=r"nothing curated to label; run jobs/curate\.py first"):
        labelled(run)
    phrases = ("Let me check this.", "So it goes.")
    rollouts = [
        a_rollout(f"<think> We take {number}. {phrases[number % 2]} </think> The answer is 42.", sample=number)
        for number in range(40)
    ]
    run.store_problems([a_problem(), a_problem("Who painted it?", "Klee", split=Split.TEST)])
    run.ledger.append(rollouts)
    curate(run)

    few = labelled(run)
    assert (few["model"], few["asked"]) == ("labeller", 12)
    asked = set(run.labels.read(["problem_id"])["problem_id"].to_pylist())
    reasonings = (rollout.completion.removeprefix("<think>").partition("</think>")[0] for rollout in rollouts)
    assert asked <= {labels.question(reasoning).id for reasoning in reasonings}
    replies = run.labels.read(["problem_id", "verdict_outcome"]).to_pylist()
    assert len(asked) == 12
    assert few["labelled"] == sum(reply["verdict_outcome"] == "correct" for reply in replies)
    assert 0 < few["labelled"] < 12, "a reply that cannot be read is not a label"

    curate(a_run(tmp_path, 30))
    more = labelled(a_run(tmp_path, 30))
    assert asked < set(run.labels.read(["problem_id"])["problem_id"].to_pylist())
    assert run.labels.count() == more["asked"] == 30, "no rollout is labelled twice"
    verification = more["kappa"]["verification"]
    assert verification["model"] == more["labelled"]
    assert 0 < verification["lexical"] < more["labelled"]
    assert verification["mean"] == 0.0, "a labeller that always answers yes agrees no more than chance"

    report(a_run(tmp_path, 30))
    assert json.loads((run.place / "metrics.json").read())["labels"] == more
    assert "Cohen" in (run.place / "report.html").read().decode()

"""Evaluation: arms of a configuration, several problem sets, and a run without teachers."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from reasonray.cli.status import describe
from reasonray.config import ConfigError, UserError, parse
from reasonray.records import Split
from reasonray.sampling.pool import ReplicaPool
from reasonray.stages.evaluate import evaluate
from reasonray.stages.report import report
from reasonray.stages.sample import load_problems, sample
from reasonray.store.compatibility import incompatibility
from reasonray.store.run import begin_or_resume
from tests.factories import a_scripted_config


def arm(name: str, correct: float, **changes: Any) -> dict[str, Any]:
    engine = {"kind": "scripted", "correct": correct}
    return {"name": name, "model": "scripted", "engine": engine, "cpus": 0.1} | changes


def raw(root: Path, **changes: Any) -> dict[str, Any]:
    """A configuration of two models on two problem sets, without teachers."""
    whole = a_scripted_config(root).model_dump(mode="json")
    sets = [{"kind": "generated", "name": name, "train": 0, "test": 9, "seed": i} for i, name in enumerate("ab")]
    arms = [arm("peer", 1.0), arm("warm", 0.5, sampling={"temperature": 1.5})]
    evaluation = {"samples": 2, "k": [1, 2], "checkpoint_problems": 0, "arms": arms}
    return whole | {"teachers": [], "sources": sets, "evaluation": evaluation} | changes


@pytest.mark.ray
def test_models_are_measured_on_several_problem_sets_without_teachers(ray_cluster: None, tmp_path: Path) -> None:
    run = begin_or_resume(parse(raw(tmp_path)))
    load_problems(run)
    with ReplicaPool(run) as pool:
        with pytest.raises(UserError, match="no \\[\\[teachers\\]\\] to sample from"):
            sample(run, pool)
        scores = evaluate(run, pool)
        before = [run.evaluation(name).segments() for name in ("base", "peer", "warm")]
        assert evaluate(run, pool, ["peer"]) == {"peer": scores["peer"]}
        evaluate(run, pool)
    assert [run.evaluation(name).segments() for name in ("base", "peer", "warm")] == before, "finished samples are kept"
    report(run)
    place = Path(run.place.path)
    metrics = json.loads((place / "metrics.json").read_text())
    assert list(metrics["evaluation"]) == ["base", "peer", "warm"]
    assert metrics["evaluation"]["peer"]["all"]["pass@1"]["mean"] == 1
    assert metrics["evaluation"]["peer"]["all"]["problems"] == len(run.problems(Split.TEST)) == 18
    assert {arm: asdict(score.pass_at[1]) for arm, score in scores.items()} == {
        arm: slices["all"]["pass@1"] for arm, slices in metrics["evaluation"].items()
    }, "evaluate returns the scores that the report shows"
    assert {
        name: metrics_of_set["evaluation"]["peer"]["problems"] for name, metrics_of_set in metrics["sets"].items()
    } == {
        "a": 9,
        "b": 9,
    }
    assert {"peer-base", "warm-base", "warm-peer"} == metrics["difference"].keys()
    assert re.search(r"^report +/.*/report.html$", describe(run), flags=re.MULTILINE)
    page = (place / "report.html").read_text()
    assert re.findall(r'class="tile"><dt>([^<]*)', page) == ["Base, pass@1", "peer, pass@1", "warm, pass@1"]
    assert "pass@1 on 18 held-out problems: base" in (place / "report.md").read_text()


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ([arm("student", 1.0)], "all, base, student, train and step-… .* are taken"),
        ([arm("a/b", 1.0)], "letters, digits"),
        ([arm("x", 1.0), arm("x", 0.5)], "two arms are called 'x'"),
    ],
)
def test_an_arm_needs_a_unique_valid_name(tmp_path: Path, arms: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(raw(tmp_path, evaluation={"samples": 2, "k": [1], "checkpoint_samples": 1, "arms": arms}))


def test_arms_can_be_added_to_a_run_but_not_changed(tmp_path: Path) -> None:
    def plain(*arms: dict[str, Any]) -> dict[str, Any]:
        evaluation = {"samples": 2, "k": [1], "checkpoint_samples": 1, "arms": list(arms)}
        return parse(raw(tmp_path, evaluation=evaluation)).model_dump(mode="json")

    assert incompatibility(plain(), plain(arm("x", 1.0))) == ""
    assert incompatibility(plain(arm("x", 1.0)), plain(arm("x", 1.0, cpus=2), arm("y", 1.0))) == ""
    assert incompatibility(plain(arm("x", 1.0), arm("y", 1.0)), plain(arm("y", 1.0))) == ""
    reason = incompatibility(plain(arm("x", 1.0)), plain(arm("x", 1.0, sampling={"temperature": 0.5})))
    assert "evaluation.arms.x.sampling.temperature" in reason
    assert "give the arm another name" in reason

"""The producer of metrics.json: which numbers are there, and that all are values of JSON."""

import json

import pytest

from reasonray.analysis.metrics_json import COLUMNS
from reasonray.records import Split
from reasonray.store.schema import ROLLOUT_SCHEMA
from tests.synthetic_run import VERSIONS, a_config, curated, metrics_json_of, problems, synthetic_run

INTERVAL = {"mean", "low", "high"}


@pytest.fixture(scope="module")
def run():
    return synthetic_run(train=30, test=24, steps=9)


def test_every_promised_number_is_there(run):
    metrics = run.metrics
    promised = {
        "funnel": {
            "problems", "rollouts", "correct", "kept", "selected", "trained_examples", "trained_tokens", "dropped"
        },
        "sampling": {"acceptance_rate", "problems_covered", "generated_tokens", "seconds", "tokens_per_second"},
        "training": {"steps", "first_loss", "last_loss", "tokens_per_second"},
    }  # fmt: skip
    for section, names in promised.items():
        assert names <= metrics[section].keys()
        assert None not in [metrics[section][name] for name in names]
    for arm in ("base", "teacher", "student"):
        for difficulty in ("all", "easy", "medium", "hard"):
            scores = metrics["evaluation"][arm][difficulty]
            assert {"pass@1", "pass@4", "maj@4", "truncated", "no_answer", "problems", "samples"} <= scores.keys()
            assert scores["pass@1"].keys() == INTERVAL
        for name in ("verification", "backtracking", "num_steps"):
            assert metrics["behaviours"][arm][name].keys() == INTERVAL
    assert metrics["difference"]["student-base"]["hard"].keys() >= INTERVAL | {"gained", "lost"}
    assert [row["step"] for row in metrics["checkpoints"]] == [0, 3, 6, 9]
    assert metrics["config_sha256"] == run.config.sha256()
    assert metrics["versions"] == VERSIONS


def test_the_k_curve_ends_at_the_funnel(run):
    last = run.metrics["k_curve"][-1]
    assert last["k"] == 16
    assert last["kept"]["mean"] == pytest.approx(run.metrics["funnel"]["selected"])
    assert last["acceptance"]["mean"] == pytest.approx(run.metrics["sampling"]["acceptance_rate"])
    assert last["coverage"]["mean"] == pytest.approx(run.metrics["sampling"]["coverage"]["mean"])


def test_the_cost_of_a_correct_rollout_includes_aborted_requests(run):
    cost, correct = run.metrics["sampling"]["cost"], run.metrics["funnel"]["correct"]
    assert cost["tokens_per_correct"] == pytest.approx(1_400_000 / correct)
    assert cost["idle_fraction"] == pytest.approx(7.5 / 331)
    assert sum(teacher["rollouts"] for teacher in run.metrics["sampling"]["by_teacher"].values()) == 30 * 16


def test_text_is_not_needed(run):
    narrow = {arm: table.select(COLUMNS) for arm, table in run.arms.items()}
    metrics = metrics_json_of(
        config=run.config, versions=VERSIONS, problems=30, sampled=run.sampled.select(COLUMNS), arms=narrow
    )
    assert metrics["evaluation"] == run.metrics["evaluation"]
    assert metrics["behaviours"] == run.metrics["behaviours"]


def test_a_run_without_rollouts_has_metrics():
    metrics = metrics_json_of(config=a_config(), versions={}, problems=3, sampled=ROLLOUT_SCHEMA.empty_table())
    assert metrics["funnel"]["rollouts"] == 0
    assert metrics["sampling"]["acceptance_rate"] is None
    assert (metrics["evaluation"], metrics["difference"], metrics["k_curve"]) == ({}, {}, [])
    json.dumps(metrics, allow_nan=False)


def test_a_loss_that_is_not_finite_is_null_and_its_step_named(run):
    rows = [{"step": step, "loss": loss, "tokens_per_second": 9.0} for step, loss in ((1, 2.0), (2, float("nan")))]
    metrics = metrics_json_of(config=run.config, versions={}, problems=30, sampled=run.sampled, training=rows)
    assert (metrics["training"]["last_loss"], metrics["training"]["non_finite_step"]) == (None, 2)
    json.dumps(metrics, allow_nan=False)


def test_an_arm_that_lacks_problems_is_refused(run):
    test = problems(25, Split.TEST)
    with pytest.raises(ValueError, match="'base' has 24 problems instead of 25"):
        metrics_json_of(config=run.config, versions={}, problems=30, sampled=run.sampled, arms=run.arms, test=test)


def test_a_run_that_stops_at_success_has_no_k_curve(run):
    adaptive = a_config(policy={"kind": "until_correct"})
    metrics = metrics_json_of(config=adaptive, versions={}, problems=30, sampled=curated(run.sampled, 2))
    assert metrics["k_curve"] == []

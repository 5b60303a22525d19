"""Logs of inspect_ai: every rollout of an arm, with keys and values that its classes have.

Where inspect_ai is installed, its own reader reads them; SCHEMA keeps the part of its classes that is written.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reasonray.cli.inspect import write_inspect_logs
from reasonray.errors import UserError
from reasonray.records import Finish, Outcome, Rollout, Split, Verdict
from reasonray.store.run import Run, begin_or_resume
from tests.factories import a_problem, a_rollout, a_scripted_config

PROBLEMS = [a_problem(f"{number}?", str(number), split=Split.TEST) for number in range(2)]
ENDS = [
    (Outcome.CORRECT, Finish.STOP),
    (Outcome.TRUNCATED, Finish.LENGTH),
    (Outcome.NO_ANSWER, Finish.STOP),
    (Outcome.FAILED, Finish.ERROR),
]
SCHEMA: dict[str, set[str]] = {
    "": {"version", "status", "eval", "plan", "results", "stats", "samples"},
    "eval": {"run_id", "created", "task", "task_id", "dataset", "model", "model_generate_config", "config", "packages"}
    | {"metadata"},
    "eval.dataset": {"name", "samples", "shuffled"},
    "eval.config": {"epochs", "epochs_reducer"},
    "eval.model_generate_config": {"max_tokens", "temperature", "top_p", "frequency_penalty", "presence_penalty"}
    | {"stop_seqs", "top_k"},
    "plan": {"name", "steps", "config"},
    "results": {"total_samples", "completed_samples", "scores"},
    "results.scores": {"name", "scorer", "reducer", "scored_samples", "unscored_samples", "metrics"},
    "results.scores.metrics.accuracy": {"name", "value"},
    "stats": {"started_at", "completed_at", "model_usage"},
    "samples": {"id", "epoch", "input", "target", "messages", "output", "scores", "metadata", "model_usage", "uuid"}
    | {"error", "limit"},
    "samples.input": {"role", "content"},
    "samples.messages": {"role", "content", "model"},
    "samples.output": {"model", "choices", "completion", "usage", "error"},
    "samples.output.choices": {"message", "stop_reason"},
    "samples.output.choices.message": {"role", "content", "model"},
    "samples.output.usage": {"input_tokens", "output_tokens", "total_tokens"},
    "samples.scores.reasonray": {"value", "answer", "explanation"},
    "samples.error": {"message", "traceback", "traceback_ansi"},
    "samples.limit": {"type", "limit"},
}
"""Keys of inspect_ai's EvalLog, EvalSpec, EvalSample, … (inspect_ai/log/_log.py, version 0.3.285)."""
_FREE = {"metadata", "packages", "model_usage"}
"""Tables whose keys are anybody's."""


def a_rollout_of(number: int, sample: int) -> Rollout:
    outcome, finish = ENDS[2 * number + sample]
    problem = PROBLEMS[number]
    rollout = a_rollout(sample=sample, problem=problem, finish=finish, id=Rollout.identify(problem.id, "f", sample))
    verdict = Verdict(outcome=outcome, extracted=None, checker="math_answer", detail="why")
    return replace(rollout, verdict=verdict, completion="" if finish is Finish.ERROR else rollout.completion)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = begin_or_resume(a_scripted_config(tmp_path, name="a_run"))
    run.store_problems([a_problem(), *PROBLEMS])
    run.evaluation("base").append([a_rollout_of(number, sample) for number in range(2) for sample in range(2)])
    return run


def logs(run: Run, arm: str = "base") -> list[Path]:
    return sorted(Path(run.place.path).glob(f"evaluation/{arm}/inspect/*.json"))


def test_a_log_holds_every_rollout_with_its_score_and_why_it_ended(run: Run) -> None:
    printed = write_inspect_logs(run)
    assert "      4 samples of base\n" in printed
    assert "inspect view --log-dir" in printed
    (file,) = logs(run)
    log = json.loads(file.read_text())
    rollouts = list(run.evaluation_rollouts("base"))
    assert [sample["uuid"] for sample in log["samples"]] == [rollout.id for rollout in rollouts]
    assert [sample["output"]["completion"] for sample in log["samples"]] == [rollout.answer for rollout in rollouts]
    values = [sample["scores"].get("reasonray", {}).get("value") for sample in log["samples"]]
    assert values == ["C", "I", "N", None]
    assert [sample.get("limit", {}).get("type") for sample in log["samples"]] == [None, "token", None, None]
    assert [sample.get("error", {}).get("message") for sample in log["samples"]] == [None, None, None, "why"]
    assert {(sample["id"], sample["epoch"]) for sample in log["samples"]} == {
        (problem.id, epoch) for problem in PROBLEMS for epoch in (1, 2)
    }
    assert log["status"] == "success"
    assert log["results"]["scores"][0]["metrics"]["accuracy"]["value"] == 1 / 4
    assert log["samples"][0]["input"][-1]["content"].count("0?") == 1


def test_its_keys_are_those_of_inspects_classes(run: Run) -> None:
    write_inspect_logs(run)

    def check(node: Any, path: str) -> None:
        for value in node if isinstance(node, list) else [node]:
            if not isinstance(value, dict):
                continue
            if path in SCHEMA:
                assert value.keys() <= SCHEMA[path], path
            for key, child in value.items():
                if key not in _FREE:
                    check(child, f"{path}.{key}".strip("."))

    check(json.loads(logs(run)[0].read_text()), "")


def test_a_log_is_written_again_only_if_there_are_other_rollouts(run: Run) -> None:
    write_inspect_logs(run)
    (first,) = logs(run)
    written = first.stat().st_mtime_ns
    write_inspect_logs(run)
    assert (logs(run), first.stat().st_mtime_ns) == ([first], written)
    run.evaluation("base").append([replace(a_rollout_of(0, 1), resample=1, completion="longer")])
    write_inspect_logs(run)
    (second,) = logs(run)
    assert second != first
    assert "longer" in second.read_text()
    assert "_" not in second.name.split("_")[1], "inspect splits the name at underscores"


def test_an_arm_that_is_not_measured_whole_says_so(run: Run) -> None:
    run.evaluation("student").append([a_rollout_of(0, 0)])
    assert "      1 samples of student of 4: it is not measured whole" in write_inspect_logs(run)
    log = json.loads(logs(run, "student")[0].read_text())
    assert (log["status"], log["results"]["total_samples"], log["results"]["completed_samples"]) == ("cancelled", 4, 1)


def test_a_run_without_an_evaluation_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no evaluation yet; run jobs/evaluate"):
        write_inspect_logs(begin_or_resume(a_scripted_config(tmp_path)))


def test_inspects_own_reader_reads_it(run: Run) -> None:
    log = pytest.importorskip("inspect_ai.log")
    write_inspect_logs(run)
    (found,) = log.list_eval_logs(str(Path(run.place.path) / "evaluation"))
    read = log.read_eval_log(found)
    assert [sample.uuid for sample in read.samples] == [rollout.id for rollout in run.evaluation_rollouts("base")]
    assert log.read_eval_log(found, header_only=True).results.scores[0].metrics["accuracy"].value == 1 / 4

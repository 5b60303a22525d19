"""What may change in the configuration of a run that has begun."""

from pathlib import Path
from typing import Any

import pytest

from reasonray.config import Config, UserError, parse
from reasonray.store.compatibility import incompatibility, is_extension
from reasonray.store.run import open_run

TEACHER: dict[str, Any] = {"name": "a", "model": "m", "engine": {"kind": "scripted"}, "sampling": {"max_tokens": 64}}


def plain(**changes: Any) -> dict[str, Any]:
    return config(Path("runs"), **changes).model_dump(mode="json")


def config(root: Path, **changes: Any) -> Config:
    raw = {"name": "r", "root": str(root), "sources": [{"kind": "generated"}], "teachers": [TEACHER]}
    return parse(raw | {"student": {"model": "m"}} | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": {"kind": "fixed", "samples": 16}},
        {"policy": {"kind": "until_correct", "target": 2}},
        {"teachers": [TEACHER | {"sampling": {"max_tokens": 128}}]},
        {"teachers": [TEACHER, TEACHER | {"name": "b", "model": "n"}]},
        {"teachers": [TEACHER | {"name": "b", "model": "n"}]},
        {"sources": [{"kind": "generated", "train": 400}]},
        {"curation": {"keep_per_problem": 2}},
        {"evaluation": {"samples": 8}},
        {"training": {"learning_rate": 1e-6, "max_tokens": 8192}},
        {"training": {"checkpoints": 7, "keep": 2, "student": "best"}, "curation": {"validation": 0.1}},
    ],
)
def test_more_can_be_asked_of_a_run(changes: dict[str, Any]) -> None:
    assert incompatibility(plain(), plain(**changes)) == ""
    assert is_extension(plain(), plain(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"teachers": [TEACHER | {"replicas": [1, 8], "gpus": 4, "pipeline": 2}]},
        {"budget": {"tokens": 5}, "failures": {"hang_seconds": 5}},
        {"training": {"workers": [2, 4], "trackers": ["wandb", "mlflow"], "save_minutes": 5}},
        {"training": {"activation_checkpointing": True, "cpu_offload": True, "zero_stage": 3}},
    ],
)
def test_other_places_and_budgets_are_free(changes: dict[str, Any]) -> None:
    assert incompatibility(plain(), plain(**changes)) == ""
    assert not is_extension(plain(), plain(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"teachers": [TEACHER | {"sampling": {"max_tokens": 32}}]},
            "sampling.max_tokens = 64, now it is 32",
        ),
        ({"teachers": [TEACHER | {"model": "n"}]}, 'teachers.a.model = "m", now it is "n"; give the teacher another'),
        ({"teachers": [TEACHER | {"prompt": {"system": "Think."}}]}, "teachers.a.prompt.system"),
        ({"teachers": [TEACHER | {"sampling": {"max_tokens": 64, "temperature": 0.5}}]}, "sampling.temperature"),
        ({"student": {"model": "n"}}, "student.model"),
        ({"seed": 1}, "seed = 0, now it is 1"),
    ],
)
def test_what_identifies_rollouts_or_the_students_model_is_refused_by_name(
    changes: dict[str, Any], message: str
) -> None:
    assert message in incompatibility(plain(), plain(**changes))


def test_an_extended_run_remembers_what_it_was(tmp_path: Path) -> None:
    open_run(config(tmp_path))
    longer = config(tmp_path, teachers=[TEACHER | {"sampling": {"max_tokens": 128}}])
    run = open_run(longer)
    assert run.earlier_max_tokens(longer.teachers[0]) == {64}
    assert open_run(longer).earlier_max_tokens(longer.teachers[0]) == {64}, "opening it again is no extension"
    with pytest.raises(UserError, match="now it is 64"):
        open_run(config(tmp_path))

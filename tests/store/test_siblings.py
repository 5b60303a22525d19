"""`run:NAME` is the student of another run under the same root, wherever a model is named."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from reasonray.cli.main import main
from reasonray.config import Config, UserError, parse
from reasonray.pipeline import models_of, refuse_missing_files
from reasonray.store.run import begin_or_resume, find_run
from reasonray.store.siblings import student_of

SCRIPTED = {"engine": {"kind": "scripted"}, "gpus": 0}


def config(root: Path, name: str = "second", **changes: Any) -> Config:
    raw = {
        "name": name,
        "root": str(root),
        "sources": [{"kind": "generated"}],
        "teachers": [{"model": "m"} | SCRIPTED],
        "student": {"model": "m"} | SCRIPTED,
    }
    return parse(raw | changes)


EVERYWHERE: dict[str, Any] = {
    "teachers": [{"model": "run:first"} | SCRIPTED],
    "student": {"model": "run:first"} | SCRIPTED,
    "checking": {"judge": {"model": "run:first"} | SCRIPTED},
    "curation": {
        "labeller": {"model": "run:first"} | SCRIPTED,
        "paraphrase_judge": {"model": "run:first"} | SCRIPTED,
    },
    "evaluation": {"models": {"a": "run:first"}, "arms": [{"name": "b", "model": "run:first"} | SCRIPTED]},
}


def with_student(root: Path, name: str = "first") -> Path:
    run = begin_or_resume(config(root, name))
    (student_of(run.place) / "manifest.json").write(b"{}")
    return root / name


def test_a_student_can_stand_wherever_a_model_can(tmp_path: Path) -> None:
    with_student(tmp_path)
    second = config(tmp_path, **EVERYWHERE)
    refuse_missing_files(second)
    run = begin_or_resume(second)
    assert {model.model for model in models_of(run.config)} == {str(tmp_path / "first" / "student" / "final")}
    assert len(models_of(run.config)) == 7
    stored = json.loads((tmp_path / "second" / "config.json").read_text())["config"]
    assert stored["teachers"][0]["model"] == stored["student"]["model"] == "run:first", "the reference is stored"


def test_a_root_moves_with_its_runs(tmp_path: Path) -> None:
    with_student(tmp_path / "before")
    begin_or_resume(config(tmp_path / "before", **EVERYWHERE))
    (tmp_path / "before").rename(tmp_path / "after")
    moved = config(tmp_path / "after", **EVERYWHERE)
    refuse_missing_files(moved)
    assert begin_or_resume(moved).config.student.model == str(tmp_path / "after" / "first" / "student" / "final")
    assert find_run(str(tmp_path / "after" / "second")).config == begin_or_resume(moved).config.model_copy(
        update={"root": str(tmp_path / "before")}
    )


@pytest.mark.parametrize("section", [{name: EVERYWHERE[name]} for name in EVERYWHERE])
def test_a_missing_run_or_student_is_one_line_that_names_the_key(tmp_path: Path, section: dict[str, Any]) -> None:
    key = next(iter(section))
    with pytest.raises(UserError, match=rf'^{key}.* = "run:first": there is no run first below .*; check the name$'):
        refuse_missing_files(config(tmp_path, **section))
    begin_or_resume(config(tmp_path, "first"))
    with pytest.raises(UserError, match=rf"^{key}.*: run first has no finished student; distil it first$"):
        refuse_missing_files(config(tmp_path, **section))


def test_a_run_learns_from_no_student_of_its_own_but_may_measure_it(tmp_path: Path) -> None:
    refuse_missing_files(config(tmp_path, evaluation={"models": {"warm": "run:second"}}))
    with pytest.raises(UserError, match="student of this very run"):
        refuse_missing_files(config(tmp_path, teachers=[{"model": "run:second"} | SCRIPTED]))
    for name in ("../x", "", " ", "a/b"):
        with pytest.raises(UserError, match=rf"{re.escape(repr(name))} cannot be the name of a run"):
            refuse_missing_files(config(tmp_path, teachers=[{"model": f"run:{name}"} | SCRIPTED]))


def test_a_servers_names_are_its_own(tmp_path: Path) -> None:
    served = {"model": "run:first", "engine": {"kind": "endpoint", "base_url": "http://127.0.0.1:1/v1"}}
    refuse_missing_files(config(tmp_path, teachers=[served]))
    assert begin_or_resume(config(tmp_path, teachers=[served])).config.teachers[0].model == "run:first"


def test_the_forecast_reports_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.toml"
    file.write_text(
        f'name = "x"\nroot = "{tmp_path}"\n[[sources]]\nkind = "generated"\n[student]\nmodel = "run:first"\n'
    )
    assert main(["plan", str(file)]) == 2
    assert capsys.readouterr().err.count("\n") == 1

import json
from datetime import date
from pathlib import Path

import pytest

from reasonray.config import Fixed, UserError
from reasonray.records import Split
from reasonray.sampling.work import ResolvedJob, SamplingJob
from reasonray.store.run import Run, begin_or_resume, find_run
from tests.factories import a_minimal_config, a_problem


def test_a_run_opens_again_with_the_same_configuration(tmp_path: Path) -> None:
    run = begin_or_resume(a_minimal_config(tmp_path))
    assert begin_or_resume(a_minimal_config(tmp_path)) == run
    assert find_run(str(tmp_path / "a-run")).config == run.config


def test_a_changed_configuration_is_refused_by_field_and_nothing_is_overwritten(tmp_path: Path) -> None:
    run = begin_or_resume(a_minimal_config(tmp_path))
    before = (run.place / "config.json").read()
    with pytest.raises(UserError, match=r"seed = 0, now it is 5; give the run another name"):
        begin_or_resume(a_minimal_config(tmp_path, seed=5))
    assert (run.place / "config.json").read() == before


def test_a_run_keeps_the_day_on_which_it_was_begun(tmp_path: Path) -> None:
    run = begin_or_resume(a_minimal_config(tmp_path))
    assert run.begun_on == date.today()
    stored = run.place / "config.json"
    document = json.loads(stored.read())
    stored.write(json.dumps(document | {"begun_on": "2001-02-03"}).encode())
    assert begin_or_resume(a_minimal_config(tmp_path)).begun_on == date(2001, 2, 3)
    extended = begin_or_resume(a_minimal_config(tmp_path, training={"epochs": 9}))
    assert extended.begun_on == date(2001, 2, 3)
    assert ResolvedJob.of(extended, a_job(extended), "weights").request(a_problem(), 0).today == date(2001, 2, 3)
    stored.write(json.dumps({name: value for name, value in document.items() if name != "begun_on"}).encode())
    older = begin_or_resume(a_minimal_config(tmp_path, training={"epochs": 10}))
    assert older.begun_on is None, "its prompts so far had another date"


def a_job(run: Run) -> SamplingJob:
    return SamplingJob.of(run, "teacher", run.config.teachers[0], [], Fixed(samples=1), run.ledger)


def test_the_placement_of_work_may_change(tmp_path: Path) -> None:
    begin_or_resume(a_minimal_config(tmp_path))
    teacher = {"model": "m", "engine": {"kind": "scripted"}, "replicas": 3, "gpus": 0, "cpus": 2}
    begin_or_resume(a_minimal_config(tmp_path, teachers=[teacher], training={"workers": 2}))


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run at"):
        find_run(str(tmp_path))


@pytest.mark.parametrize("content", ["", "{}", "[]", "{torn", "\xff"])
def test_opening_a_run_with_a_broken_document_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "a-run").mkdir()
    (tmp_path / "a-run" / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"config\.json is broken"):
        find_run(str(tmp_path / "a-run"))
    with pytest.raises(UserError, match=r"config\.json is broken"):
        begin_or_resume(a_minimal_config(tmp_path))


def test_a_root_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot use .*Not a directory"):
        begin_or_resume(a_minimal_config(tmp_path / "file"))


def test_problems_come_back_from_their_snapshot(tmp_path: Path) -> None:
    run = begin_or_resume(a_minimal_config(tmp_path))
    problems = [a_problem(metadata={"b": [1, 2]}), a_problem("2 + 2?", "4", split=Split.TEST)]
    with pytest.raises(UserError, match="has no problems yet"):
        run.problems(Split.TRAIN)
    run.store_problems(problems)
    assert run.problems(Split.TRAIN) == problems[:1]
    assert run.problems(Split.TEST) == problems[1:]


def test_events_survive_a_torn_last_line(tmp_path: Path) -> None:
    run = begin_or_resume(a_minimal_config(tmp_path))
    run.events.emit("sample", rollouts=1)
    run.events.emit("train", loss=0.5)
    with Path(run.place.path, "events.jsonl").open("a") as file:
        file.write('{"stage": "sam')
    assert [event["rollouts"] for event in run.events.read("sample")] == [1]
    assert len(run.events.read()) == 2


def test_a_model_that_changed_under_its_name_is_refused(tmp_path: Path) -> None:
    run = begin_or_resume(a_minimal_config(tmp_path))
    assert run.model_identity("m", None) is None
    run.record_model_identity("m", None, "abc")
    run.record_model_identity("m", None, "abc")
    assert run.model_identity("m", None) == "abc"
    with pytest.raises(UserError, match="is not the one that run a-run began with"):
        run.record_model_identity("m", None, "xyz")

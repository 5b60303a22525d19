"""Rounds: what a teacher gets that follows others, and what is taken over from earlier runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reasonray.config import UserError
from reasonray.records import Rollout, Split
from reasonray.sampling.work import ResolvedJob
from reasonray.stages.evaluate import _jobs, _recorded_runs, adopt
from reasonray.stages.sample import _left_for
from reasonray.store.run import begin_or_resume, find_run
from reasonray.store.schema import table_to_rollouts
from tests.factories import a_minimal_config, a_problem, a_rollout


def teacher(share: str, **changes: Any) -> dict[str, Any]:
    return {"name": "next", "model": "n", "engine": {"kind": "scripted"}, "share": share} | changes


def left(root: Path, share: str, counts: Sequence[tuple[int, int, int]], **changes: Any) -> tuple[list[int], Any]:
    """Return the problems that a teacher gets, and its terms, where others have (finished, correct, judged) samples."""
    first = {"model": "m", "engine": {"kind": "scripted"}}
    policy = {"kind": "until_correct", "target": 2, "max": 8, "give_up": 4}
    rules = ["incorrect", "leaked_answer"]
    config = a_minimal_config(
        root, teachers=[first, teacher(share, **changes)], policy=policy, curation={"rules": rules}
    )
    run = begin_or_resume(config)
    problems = [a_problem(f"{number}?", None if number == 3 else "1") for number in range(len(counts))]
    run.store_problems([*problems, a_problem("held out?", split=Split.TEST)])
    finished, correct, judged = np.array(counts).T
    indices, terms = _left_for(run, config.teachers[1], (finished, correct, judged), None)
    return indices.tolist(), terms


COUNTS = [(8, 0, 8), (8, 1, 8), (2, 2, 2), (0, 0, 0)]


def test_unmet_counts_what_others_solved_and_not_how_often_they_tried(tmp_path: Path) -> None:
    indices, terms = left(tmp_path, "unmet", COUNTS)
    assert indices == [0, 1, 3]
    assert terms.correct.tolist() == [0, 1, 2, 0]
    assert terms.judged.tolist() == [0, 0, 0, 0]
    assert terms.limits.tolist() == [8, 8, 8, 8]
    assert left(tmp_path / "other", "unfinished", COUNTS)[0] == [3], "here their tries count"


def test_a_hint_is_shown_only_where_nothing_is_solved_and_there_is_an_answer(tmp_path: Path) -> None:
    hinted = {"prompt": {"template": "{question} {gold_answer}"}}
    assert left(tmp_path, "unsolved", COUNTS, **hinted)[0] == [0]
    assert left(tmp_path / "other", "unsolved", COUNTS)[0] == [0, 3]


def test_a_frontier_without_a_problem_is_one_line(tmp_path: Path) -> None:
    assert left(tmp_path, "frontier", COUNTS, frontier=[0.1, 0.9])[0] == [3, 1, 2]
    with pytest.raises(UserError, match=r"pass rate probably lies between 0\.4 and 0\.5, .* of 4 problems 2 lie below"):
        left(tmp_path / "other", "frontier", COUNTS, frontier=[0.4, 0.5])


def scripted(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "model": "m", "engine": {"kind": "scripted"}, "gpus": 0} | changes


def test_what_an_earlier_run_measured_of_the_same_model_is_taken_over(tmp_path: Path) -> None:
    test = [a_problem(f"{number}?", "1", split=Split.TEST) for number in range(3)]
    same = {"model": "m", "engine": {"kind": "scripted"}, "gpus": 0}
    shared = {"student": same, "evaluation": {"samples": 2, "arms": [scripted("hot", sampling={"temperature": 2.0})]}}
    first, second = (
        begin_or_resume(a_minimal_config(tmp_path, name=name, teachers=[], **shared)) for name in ("first", "second")
    )
    for run in (first, second):
        run.store_problems([a_problem("train?"), *test])
    (job,) = (job for job in _jobs(first) if job.name == "base")
    first.record_model_identity("m", None, "2 scripted")
    fingerprint = ResolvedJob.of(first, job, "2 scripted").fingerprint
    other = a_problem("not of the second?", "1", split=Split.TEST)
    for number, problem in enumerate([*test, other]):
        changes = {"teacher": "base", "fingerprint": fingerprint, "id": Rollout.identify(problem.id, fingerprint, 0)}
        first.evaluation("base").append([a_rollout(f"text {number}", problem=problem, **changes)])
    adopt(second, [first])
    adopt(second, [first])
    rollouts = table_to_rollouts(second.evaluation("base").read())
    assert [(rollout.teacher, rollout.completion) for rollout in rollouts] == [
        ("base", "text 0"),
        ("base", "text 1"),
        ("base", "text 2"),
    ], "once, and only of its own problems"
    assert second.model_identity("m", None) == "2 scripted"
    assert not second.evaluation("hot").segments(), "asked in another way, it is another model"


def test_a_run_takes_over_what_the_run_of_its_recorded_teacher_measured(tmp_path: Path) -> None:
    written_by = [scripted("writer"), scripted("other", model="n")]
    first = begin_or_resume(a_minimal_config(tmp_path, name="first", teachers=written_by))
    recorded = [{"kind": "recorded", "run": "first", "teacher": name} for name in ("writer", "other")]
    teachers = [scripted("one", engine=recorded[0]), scripted("two", engine=recorded[1]), scripted("own")]
    begin_or_resume(a_minimal_config(tmp_path, name="second", teachers=teachers))
    second = find_run(str(tmp_path / "second"))
    assert [run.name for run in _recorded_runs(second)] == ["first"], "once, and not that of other teachers"
    assert _recorded_runs(first) == []

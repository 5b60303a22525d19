"""Sets for other trainers: every problem has one fate, none is contaminated, and each set is made once."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reasonray.config import Prompt
from reasonray.curation import derived
from reasonray.curation.behaviours import annotate_table
from reasonray.curation.derived import SETS, describe_set, set_manifest, write_sets
from reasonray.curation.measures import measure_table
from reasonray.curation.rl_sets import IN_BAND, fates, rl_problems
from reasonray.records import Annotation, Outcome, Problem
from reasonray.rewards import Rewards
from reasonray.store.run import Run, begin_or_resume
from reasonray.store.schema import rollouts_to_table
from tests.factories import a_problem, a_rollout, a_run_with, a_scripted_config

CURATED = {"inputs": "first", "rollouts": ["a.parquet", "b.parquet"]}
PROBLEMS = {name: a_problem(f"{name}?") for name in ("both", "solved", "unsolved", "easy", "leaked")}


def here(function: Callable[[Any], Any], batches: Sequence[Any]) -> list[Any]:
    return [function(batch) for batch in batches]


def a_curated_run(root: Path, **curation: Any) -> Run:
    """A run of which two files hold the rollouts of each problem."""
    config = a_scripted_config(root, curation={"layouts": list(SETS)} | curation)
    if (root / config.name).exists():
        return begin_or_resume(config)
    outcomes = {"both": "cw", "solved": "c", "unsolved": "w", "easy": "cw", "leaked": "cw"}
    rates = {"both": 0.5, "solved": 0.5, "unsolved": 0.0, "easy": 0.95, "leaked": 0.5}
    rollouts = [
        a_rollout(
            f"<think> {name} {sample} it is. </think> The answer is {'42' if kind == 'c' else '41'}.",
            Outcome.CORRECT if kind == "c" else Outcome.WRONG,
            problem=PROBLEMS[name],
            sample=sample,
            annotation=Annotation(pass_rate=rates[name], dropped_by="" if kind == "c" else "incorrect"),
        )
        for name, kinds in outcomes.items()
        for sample, kind in enumerate(kinds)
    ]
    run = a_run_with(config, rollouts)
    for number, name in enumerate(CURATED["rollouts"]):
        table = measure_table(annotate_table(rollouts_to_table(rollouts[number::2])), 20)
        (run.curated / "rollouts" / name).write_table(table)
    return run


def rows_of(run: Run, name: str, split: str = "train") -> list[dict[str, Any]]:
    files = [(run.curated / name / file).path for file in set_manifest(run, name)[split]]
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def test_every_problem_has_one_fate_and_no_set_holds_a_contaminated_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(derived, "_PROBLEMS", 1)
    run = a_curated_run(tmp_path)
    lines = write_sets(run, CURATED, {PROBLEMS["leaked"].id}, here)
    fate = {name: set_manifest(run, name)["problems"] for name in SETS}
    assert fate["preference"] == {"used": 2, "never answered wrongly": 1, "never solved": 1, "contaminated": 1}
    assert fate["kto"] == {"used": 4, "contaminated": 1}
    assert fate["verl"] == fate["prime_rl"] == {IN_BAND: 2, "too hard": 1, "too easy": 1, "contaminated": 1}
    assert lines[0] == describe_set("preference", set_manifest(run, "preference"))
    for name in SETS:
        manifest = set_manifest(run, name)
        assert manifest["of"] == sum(manifest["problems"].values()) == 5
        rows = rows_of(run, name)
        assert len(rows) == manifest["rows"] > 0
        assert not any("leaked" in json.dumps(row) for row in rows)


def test_a_set_is_made_once_and_again_when_something_changes_and_deleted_when_it_is_not_named(tmp_path: Path) -> None:
    run = a_curated_run(tmp_path)
    assert len(write_sets(run, CURATED, (), here)) == 4
    assert write_sets(run, CURATED, (), here) == []
    assert len(write_sets(run, CURATED | {"inputs": "second"}, (), here)) == 4
    run = a_curated_run(tmp_path, rl_pass_rates=[0.0, 1.0], layouts=["verl", "kto"])
    (line,) = write_sets(run, CURATED | {"inputs": "second"}, (), here)
    assert line.strip() == "5 rows of verl   5 problems: 5 in the band"
    assert [name for name in SETS if (run.curated / name).exists()] == ["kto", "verl"]


def test_validation_problems_are_the_same_in_every_set(tmp_path: Path) -> None:
    run = a_curated_run(tmp_path, validation=0.5, rl_pass_rates=[0.0, 1.0])
    write_sets(run, CURATED, (), here)
    aside = {row["extra_info"]["problem_id"] for row in rows_of(run, "verl", "validation")}
    assert 0 < len(aside) < 5
    assert {row["problem_id"] for row in rows_of(run, "kto", "validation")} == aside
    assert {row["problem_id"] for row in rows_of(run, "preference", "validation")} <= aside
    assert not {row["info"]["problem_id"] for row in rows_of(run, "prime_rl")} & aside


def test_the_columns_of_verl_are_what_the_reward_function_reads(tmp_path: Path) -> None:
    problems = [
        a_problem("A?", "1", metadata={"accepted": ["2"], "mixed": 1, "nested": {"x": 1}}),
        a_problem("B?", "3", metadata={"mixed": "text"}),
    ]
    table = rl_problems(problems, {problem.id: 0.5 for problem in problems}, Prompt(), "verl", "train")
    pq.write_table(table, tmp_path / "rl.parquet")
    rows = pq.read_table(tmp_path / "rl.parquet").to_pylist()
    assert not {"mixed", "nested"} & rows[0]["extra_info"].keys()
    rewards = Rewards(columns={"checker": "checker", "metadata": {"accepted": "accepted"}}, in_process=True)
    for row, answer, score in ((rows[0], "2", 1.0), (rows[0], "3", 0.0), (rows[1], "3", 1.0)):
        gold = row["reward_model"]["ground_truth"]
        assert rewards.compute_score(row["data_source"], f"It is \\boxed{{{answer}}}", gold, row["extra_info"]) == score
    assert rows[0]["prompt"] == [{"role": "user", "content": "A?"}]


def test_a_problem_that_was_never_judged_is_in_no_set() -> None:
    problem: Problem = a_problem()
    assert fates([problem], {}, (), (0.0, 1.0)) == {problem.id: "never judged"}
    assert isinstance(rl_problems([], {}, Prompt(), "verl", "train"), pa.Table)

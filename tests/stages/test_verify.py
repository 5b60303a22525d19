"""Verification of stored rollouts on Ray: rules, a scripted judge, majorities. The committed verdicts stay."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reasonray.analysis.checker_agreement import agreement
from reasonray.config import UserError
from reasonray.records import Finish, Outcome, Problem, Rollout, hash_fraction
from reasonray.stages.curate import curate
from reasonray.stages.report import report
from reasonray.stages.verify import num_actors, verify
from reasonray.store.run import Run
from reasonray.store.schema import rollouts_to_table
from reasonray.store.verdicts import newer_verdicts, with_verdicts
from tests.factories import a_problem, a_rollout, a_run_with, a_scripted_config

pytestmark = pytest.mark.ray

JUDGE = {"model": "judge", "engine": {"kind": "scripted", "correct": 1.0}, "cpus": 0.1}
"""It accepts every answer except on its control questions, whose answers the scripted engine knows."""


def answers(problem: Problem, *texts: str, **changes: Any) -> list[Rollout]:
    return [
        a_rollout(f"<think> Step 1: think. </think> The answer is {text}.", problem=problem, sample=number, **changes)
        for number, text in enumerate(texts)
    ]


def verified(run: Run) -> pa.Table:
    document = verify(run)
    return pa.concat_tables(pq.read_table((run.verified / name).path) for name in document["files"])


def test_the_new_verdict_is_stored_next_to_the_committed_one(ray_cluster: None, tmp_path: Path) -> None:
    stale = answers(a_problem(), "42", "41", outcome=Outcome.WRONG)
    failed = [a_rollout("", Outcome.FAILED, sample=9, finish=Finish.ERROR)]
    run = a_run_with(a_scripted_config(tmp_path), stale + failed)
    before = run.ledger.read()
    table = verified(run).sort_by("id")
    assert run.ledger.read().equals(before), "the committed rollouts are unchanged"
    assert Counter(zip(table["outcome_before"].to_pylist(), table["verdict_outcome"].to_pylist(), strict=True)) == {
        ("wrong", "correct"): 1,
        ("wrong", "wrong"): 1,
        ("failed", "failed"): 1,
    }
    assert newer_verdicts(run)["verdict_outcome"].to_pylist() == ["correct"]
    curate(run)
    fates = pq.read_table((run.curated / "rollouts").path)
    assert Counter(fates["verdict_outcome"].to_pylist()) == {"correct": 1, "wrong": 1, "failed": 1}
    assert Counter(fates["annotation_dropped_by"].to_pylist()) == {"": 1, "incorrect": 1, "failed": 1}


@pytest.mark.parametrize("held", [7.5, 8.0])
def test_it_ends_although_other_actors_hold_the_cluster_cpus(ray_cluster: None, tmp_path: Path, held: float) -> None:
    import ray

    class Replica:
        def ready(self) -> bool:
            return True

    replica = ray.remote(Replica).options(num_cpus=held).remote()
    ray.get(replica.ready.remote(), timeout=60)
    run = a_run_with(a_scripted_config(tmp_path), answers(a_problem(), "42", "41", outcome=Outcome.WRONG))
    with ThreadPoolExecutor(1) as executor:
        verifying = executor.submit(verify, run)
        try:
            document = verifying.result(timeout=60)
        finally:
            ray.kill(replica)  # frees the CPUs, so that a verification that hangs can end, too
    assert document["counts"] == {"wrong>correct": 1, "wrong>wrong": 1}


def test_segments_of_an_older_schema_are_verified_next_to_newer_ones(ray_cluster: None, tmp_path: Path) -> None:
    run = a_run_with(a_scripted_config(tmp_path), answers(a_problem(), "42", outcome=Outcome.WRONG))
    former_names = {"resample": "round", "annotation_num_steps": "annotation_depth"}
    for number in range(2):
        rollouts = answers(a_problem(f"older {number}?"), "42", "41", outcome=Outcome.WRONG, resample=number)
        table = rollouts_to_table(rollouts)
        older = table.rename_columns([former_names.get(name, name) for name in table.column_names])
        run.ledger.append_table(older.replace_schema_metadata({"reasonray.schema": "2"}))
    columns = ("resample", "verdict_outcome")
    assert Counter(tuple(row[name] for name in columns) for row in verified(run).to_pylist()) == {
        (0, "correct"): 2,
        (0, "wrong"): 1,
        (1, "correct"): 1,
        (1, "wrong"): 1,
    }


def test_a_rollout_and_its_resample_have_a_verdict_each(ray_cluster: None, tmp_path: Path) -> None:
    first = answers(a_problem(), "41", "42", outcome=Outcome.WRONG)
    run = a_run_with(a_scripted_config(tmp_path), first)
    run.ledger.append(answers(a_problem(), "42", "41", outcome=Outcome.WRONG, resample=1))
    assert verified(run).num_rows == 4
    committed = pa.concat_tables([segment.read_table() for segment in run.ledger.segments()])
    newer = with_verdicts(committed, newer_verdicts(run)).select(["sample", "resample", "verdict_outcome"])
    assert {tuple(row.values()) for row in newer.to_pylist()} == {
        *((0, 0, "wrong"), (1, 0, "correct")),
        *((0, 1, "correct"), (1, 1, "wrong")),
    }


def test_a_judge_decides_where_the_rules_cannot_and_nowhere_else(ray_cluster: None, tmp_path: Path) -> None:
    problems = [a_problem(f"{number} + 1?", str(number + 1)) for number in range(40)]
    rollouts = [
        rollout for number, problem in enumerate(problems) for rollout in answers(problem, str(number + 1), "7000")
    ]
    (unreadable,) = answers(a_problem("7…7?", "7" * 2000), "8" * 5000, outcome=Outcome.WRONG)
    rollouts.append(unreadable)
    rollouts += [
        a_rollout("<think> Hm. </think> It is what it is", Outcome.NO_ANSWER, problem=problem, sample=5)
        for problem in problems
    ]
    cut = a_rollout("<think> and so", Outcome.TRUNCATED, problem=problems[0], sample=6, finish=Finish.LENGTH)
    rollouts.append(cut)
    run = a_run_with(a_scripted_config(tmp_path, checking={"judge": JUDGE, "audit": 0.5}), rollouts)
    table = verified(run)
    rows = table.to_pylist()
    undecided = [row for row in rows if row["judged_for"] == "undecided"]
    assert Counter(row["rules_outcome"] for row in undecided) == {"no_answer": 40, "wrong": 1}
    assert [row["id"] for row in undecided if row["rules_outcome"] == "wrong"] == [unreadable.id]
    assert {(row["verdict_outcome"], row["verdict_checker"]) for row in undecided} == {("correct", "judge")}
    audited = [row for row in rows if row["judged_for"] == "audit"]
    assert {row["id"] for row in audited} == {rollout.id for rollout in rollouts if hash_fraction(rollout.id) < 0.5} - {
        row["id"] for row in undecided
    } - {cut.id}
    assert all(row["verdict_outcome"] == row["rules_outcome"] for row in audited), "an audit changes nothing"
    assert not [row for row in rows if row["rules_outcome"] == "truncated" and row["judged_for"]]

    agreed = agreement(table)
    assert sum(pair["rollouts"] for pair in agreed["judge"]) == sum(row["judge_outcome"] is not None for row in rows)
    refused = [row for row in rows if row["audited"] and row["rules_outcome"] != "correct" and row["judge_outcome"]]
    accepted = [row["judge_outcome"] == "correct" for row in refused if row["judge_outcome"] in ("correct", "wrong")]
    assert agreed["missed"]["of"] == len(accepted) > 0
    assert agreed["missed"]["mean"] == sum(accepted) / len(accepted)
    assert {pair["first"] for pair in agreed["rules"]} <= {"correct", "wrong", None}

    num_questions = run.judgements.count()
    assert verify(run, again=False)["rows"] == len(rollouts)
    assert verified(run).drop("verdict_seconds").equals(table.drop("verdict_seconds"))
    assert run.judgements.count() == num_questions, "no question is asked twice"
    assert json.loads((run.verified / "manifest.json").read())["controls"]["trusted"]
    report(run)
    metrics = json.loads((run.place / "metrics.json").read())
    assert metrics["verdicts"]["agreement"] == json.loads(json.dumps(agreed))


def test_a_majority_stands_in_for_a_missing_gold_answer_and_another_checker_for_the_first(
    ray_cluster: None, tmp_path: Path
) -> None:
    open_problem, torn, known = a_problem("open?", None), a_problem("torn?", None), a_problem(checker="text_answer")
    rollouts = answers(open_problem, "7", "7.0", "8", "7", outcome=Outcome.UNVERIFIABLE)
    rollouts += answers(torn, "1", "2", "3", "4", outcome=Outcome.UNVERIFIABLE)
    rollouts += answers(known, "42.0", outcome=Outcome.WRONG)
    run = a_run_with(
        a_scripted_config(tmp_path, checking={"majority": 0.6, "instead": {"text_answer": "math_answer"}}), rollouts
    )
    columns = ("problem_id", "verdict_outcome", "verdict_checker")
    assert Counter(tuple(row[name] for name in columns) for row in verified(run).to_pylist()) == {
        (open_problem.id, "correct", "majority"): 3,
        (open_problem.id, "wrong", "majority"): 1,
        (torn.id, "unverifiable", "math_answer"): 4,
        (known.id, "correct", "math_answer"): 1,
    }
    with pytest.raises(UserError, match="no checker is called 'vibes'"):
        verified(
            a_run_with(
                a_scripted_config(tmp_path / "other", checking={"instead": {"text_answer": "vibes"}}),
                answers(known, "42"),
            )
        )


@pytest.mark.parametrize(
    ("segments", "cpus", "processes", "expected"),
    [(1000, 256.0, 1, 256), (1000, 256.0, 4, 64), (3, 256.0, 1, 3), (1000, 0.0, 1, 1), (1000, 2.0, 8, 1)],
)
def test_verification_uses_the_whole_cluster(segments: int, cpus: float, processes: int, expected: int) -> None:
    assert num_actors(segments, cpus, processes) == expected

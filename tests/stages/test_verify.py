"""Verifying stored rollouts on Ray: rules, a scripted judge, majorities; the old verdicts stay."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reasonray.config import Config, UserError
from reasonray.records import Finish, Outcome, Problem, Rollout, Split, hash_fraction
from reasonray.sampling.pool import ReplicaPool
from reasonray.stages.curate import curate
from reasonray.stages.report import report
from reasonray.stages.verify import agreement, controlled, verify
from reasonray.store.run import Run, open_run
from reasonray.store.verdicts import newer_verdicts, with_verdicts
from tests.factories import a_problem, a_rollout, a_scripted_config

pytestmark = pytest.mark.ray

JUDGE = {"model": "judge", "engine": {"kind": "scripted", "correct": 1.0}, "cpus": 0.1}
"""It says yes to all but its controls, which it knows."""


def a_config(root: Path, **checking: Any) -> Config:
    return a_scripted_config(root, checking=checking)


def a_run(config: Config, rollouts: list[Rollout]) -> Run:
    run = open_run(config)
    problems = {it.problem.id: it.problem for it in rollouts}
    run.store_problems([*problems.values(), a_problem("held out?", split=Split.TEST)])
    run.ledger.append(rollouts)
    return run


def answers(problem: Problem, *texts: str, **changes: Any) -> list[Rollout]:
    return [
        a_rollout(f"<think> Step 1: think. </think> The answer is {text}.", problem=problem, sample=number, **changes)
        for number, text in enumerate(texts)
    ]


def verified(run: Run, **options: Any) -> pa.Table:
    with ReplicaPool(run) as pool:
        document = verify(run, pool, **options)
    return pa.concat_tables(pq.read_table((run.verified / name).path) for name in document["files"])


def test_the_verdict_of_today_stands_beside_that_of_the_commit(ray_cluster: None, tmp_path: Path) -> None:
    stale = answers(a_problem(), "42", "41", outcome=Outcome.WRONG)
    failed = [a_rollout("", Outcome.FAILED, sample=9, finish=Finish.ERROR)]
    run = a_run(a_config(tmp_path), stale + failed)
    before = run.ledger.read()
    table = verified(run).sort_by("id")
    assert run.ledger.read().equals(before), "what was committed is not touched"
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


def test_a_rollout_that_was_drawn_again_keeps_a_verdict_of_its_own(ray_cluster: None, tmp_path: Path) -> None:
    first = answers(a_problem(), "41", "42", outcome=Outcome.WRONG)
    run = a_run(a_config(tmp_path), first)
    run.ledger.append(answers(a_problem(), "42", "41", outcome=Outcome.WRONG, resample=1))
    assert verified(run).num_rows == 4
    committed = pa.concat_tables([it.read_table() for it in run.ledger.segments()])
    newer = with_verdicts(committed, newer_verdicts(run)).select(["sample", "resample", "verdict_outcome"])
    assert {tuple(row.values()) for row in newer.to_pylist()} == {
        *((0, 0, "wrong"), (1, 0, "correct")),
        *((0, 1, "correct"), (1, 1, "wrong")),
    }


def test_a_judge_decides_where_the_rules_cannot_and_nowhere_else(ray_cluster: None, tmp_path: Path) -> None:
    problems = [a_problem(f"{number} + 1?", str(number + 1)) for number in range(40)]
    drawn = [it for number, problem in enumerate(problems) for it in answers(problem, str(number + 1), "7000")]
    drawn += [
        a_rollout("<think> Hm. </think> It is what it is", Outcome.NO_ANSWER, problem=problem, sample=5)
        for problem in problems
    ]
    drawn += [a_rollout("<think> and so", Outcome.TRUNCATED, problem=problems[0], sample=6, finish=Finish.LENGTH)]
    run = a_run(a_config(tmp_path, judge=JUDGE, audit=0.5), drawn)
    table = verified(run)
    rows = table.to_pylist()
    undecided = [it for it in rows if it["judged_for"] == "undecided"]
    assert len(undecided) == 40
    assert {it["rules_outcome"] for it in undecided} == {"no_answer"}
    assert {(it["verdict_outcome"], it["verdict_checker"]) for it in undecided} == {("correct", "judge")}
    audited = [it for it in rows if it["judged_for"] == "audit"]
    assert {it["id"] for it in audited} == {it.id for it in drawn if hash_fraction(it.id) < 0.5} - {
        it["id"] for it in undecided
    } - {drawn[-1].id}
    assert all(it["verdict_outcome"] == it["rules_outcome"] for it in audited), "an audit changes nothing"
    assert not [it for it in rows if it["rules_outcome"] == "truncated" and it["judged_for"]]

    found = agreement(table)
    assert sum(it["rollouts"] for it in found["judge"]) == sum(it["judge_outcome"] is not None for it in rows)
    accepted = [it for it in rows if it["audited"] and it["rules_outcome"] != "correct" and it["judge_outcome"]]
    said = [it["judge_outcome"] == "correct" for it in accepted if it["judge_outcome"] in ("correct", "wrong")]
    assert found["missed"]["of"] == len(said) > 0
    assert found["missed"]["mean"] == sum(said) / len(said)
    assert {it["first"] for it in found["rules"]} <= {"correct", "wrong"}

    asked = run.judgements.count()
    assert verify(run, ReplicaPool(run), again=False)["rows"] == len(drawn)
    assert verified(run).drop("verdict_seconds").equals(table.drop("verdict_seconds"))
    assert run.judgements.count() == asked, "what was asked is not asked again"
    assert json.loads((run.verified / "manifest.json").read())["controls"]["trusted"]
    report(run)
    metrics = json.loads((run.place / "metrics.json").read())
    assert metrics["verdicts"]["agreement"] == json.loads(json.dumps(found))


def test_a_judge_is_trusted_only_if_it_does_better_on_its_controls_than_chance() -> None:
    right, wrong = ["correct"] * 50, ["wrong"] * 50
    assert controlled(right, wrong)["trusted"]
    assert not controlled(right, right)["trusted"], "it says yes to everything"
    assert not controlled(wrong, wrong)["trusted"], "it says no to everything"
    assert not controlled(right[:30] + wrong[:20], right[:20] + wrong[:30])["trusted"], "six of ten may be luck"
    assert controlled(right[:25] + [None] * 25, [*wrong[:49], None])["trusted"], "it says little, and that is right"
    assert controlled([], [])["trusted"], "there is nothing to ask it"


def test_a_majority_stands_in_for_a_missing_gold_answer_and_another_checker_for_the_first(
    ray_cluster: None, tmp_path: Path
) -> None:
    open_problem, torn, known = a_problem("open?", None), a_problem("torn?", None), a_problem(checker="text_answer")
    drawn = answers(open_problem, "7", "7.0", "8", "7", outcome=Outcome.UNVERIFIABLE)
    drawn += answers(torn, "1", "2", "3", "4", outcome=Outcome.UNVERIFIABLE)
    drawn += answers(known, "42.0", outcome=Outcome.WRONG)
    run = a_run(a_config(tmp_path, majority=0.6, instead={"text_answer": "math_answer"}), drawn)
    found = Counter(
        (it["problem_id"], it["verdict_outcome"], it["verdict_checker"]) for it in verified(run).to_pylist()
    )
    assert found == {
        (open_problem.id, "correct", "majority"): 3,
        (open_problem.id, "wrong", "majority"): 1,
        (torn.id, "unverifiable", "math_answer"): 4,
        (known.id, "correct", "math_answer"): 1,
    }
    with pytest.raises(UserError, match="no checker is called 'vibes'"):
        verified(a_run(a_config(tmp_path / "other", instead={"text_answer": "vibes"}), answers(known, "42")))

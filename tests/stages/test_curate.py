"""Curation on Ray Data: every rollout selected or dropped, the same data set for any blocks, invalid data skipped."""

import io
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from reasonray.cli.show import Query, show
from reasonray.config import Config, Curation, UserError
from reasonray.curation.rules import user_modules
from reasonray.records import Outcome, Rollout, Split
from reasonray.stages.curate import curate
from reasonray.stages.report import report
from reasonray.store.run import Run, begin_or_resume
from tests.factories import a_problem, a_rollout, a_run_with, a_scripted_config

pytestmark = pytest.mark.ray

CURATION = {
    "prefer": "random",
    "keep_per_problem": 2,
    "quota": "difficulty",
    "validation": 0.25,
    "layouts": ["sharegpt", "alpaca"],
    "rules": [*Curation().rules, "same_reasoning", "near_duplicate"],
    "near": 0.9,
}
KNOWN = "A farmer has seven fields and in each of them there are six old apple trees; how many trees?"


def sampled() -> list[Rollout]:
    dice = random.Random(3)
    rollouts = []
    for number in range(30):
        problem = a_problem(f"{number} + 1?" if number else KNOWN, str(number + 1))
        for sample in range(6):
            outcome = dice.choice([Outcome.CORRECT, Outcome.CORRECT, Outcome.WRONG])
            step = f"Step 1: take {number} and then one more of them ({sample % 4})."
            rollouts.append(a_rollout(f"<think> {step} </think> The answer is {number + 1}.", outcome,
                                   problem=problem, sample=sample))  # fmt: skip
    return rollouts


def a_config(root: Path, **curation: Any) -> Config:
    """Return a run with the settings above and changes to them; the key `near` goes with its rule."""
    changed = CURATION | curation
    if "near_duplicate" not in changed["rules"]:
        del changed["near"]
    return a_scripted_config(root, curation=changed)


def a_run(root: Path, segments: list[list[Rollout]], **curation: Any) -> Run:
    held_out = a_problem("Who painted it?", "Klee", split=Split.TEST)
    return a_run_with(a_config(root, **curation), *segments, held_out=held_out)


def data_of(run: Run, part: str = "data") -> pa.Table:
    files = sorted((run.curated / part).list(".parquet"), key=lambda file: file.name)
    return pa.concat_tables([pq.read_table(file.path) for file in files]).sort_by("id")


def test_blocks_do_not_matter_every_rollout_has_one_outcome_and_invalid_data_is_counted(
    ray_cluster: None, tmp_path: Path
) -> None:
    rollouts = sampled()
    again = [a_rollout("<think> Sampled again. </think> The answer is 1.", problem=rollouts[0].problem, resample=1)]
    (tmp_path / "bench.jsonl").write_text(json.dumps({"id": "b1", "problem": f"Think hard. {KNOWN.upper()}"}))
    benchmarks = {"benchmarks": [str(tmp_path / "bench.jsonl")]}
    one = a_run(tmp_path / "one", [[*rollouts, *again]], **benchmarks)
    mixed = random.Random(1).sample([*rollouts, *rollouts[:20]], 200)
    other = a_run(tmp_path / "other", [mixed[:7], again, mixed[7:90], mixed[90:]], **benchmarks)
    commit_invalid_segments(other)
    curated = [curate(run) for run in (one, other)]
    assert [curate(run) for run in (one, other)] == curated, "what was done before is reported alike"
    tables = [data_of(run) for run in (one, other)]
    assert tables[0].equals(tables[1])
    rows = [data_of(run, "rollouts") for run in (one, other)]
    assert [written(table) for table in (tables[0], rows[0])] == [written(table) for table in (tables[1], rows[1])]

    manifest = json.loads((other.curated / "manifest.json").read())
    assert manifest["examples"] == json.loads((one.curated / "manifest.json").read())["examples"]
    assert manifest["unreadable"] == {"completion": 1, "segment cannot be read: 9-torn.parquet": 1}
    assert {"contaminated", "duplicate", "over_quota", "incorrect"} <= manifest["dropped"].keys()
    overlaps = pq.read_table((other.curated / "contamination.parquet").path).to_pylist()
    assert [(row["problem_id"], row["item_id"], row["words"]) for row in overlaps] == [
        (rollouts[0].problem.id, "b1", 13)
    ]
    assert "| bench.jsonl | 1 |" in (other.curated / "README.md").read().decode()
    assert manifest["rows"] == len(rollouts) == manifest["selected"] + sum(manifest["dropped"].values())
    first = next(row for row in rows[1].to_pylist() if row["id"] == again[0].id)
    assert first["resample"] == 1, "of two samples of one rollout the newest counts"

    aside = {file.name for file in (one.curated / "data").list() if file.name.startswith("validation-")}
    assert aside == set(json.loads((one.curated / "manifest.json").read())["validation"])
    assert 0 < json.loads((one.curated / "manifest.json").read())["set_aside"] < tables[0].num_rows
    assert (curated[1].rollouts, curated[1].selected) == (manifest["rows"], manifest["selected"])
    assert (curated[1].dropped, curated[1].skipped) == (manifest["dropped"], manifest["unreadable"])
    assert curated[1].path == str(other.curated)
    assert curated[1].validation == sum(pq.read_metadata(file).num_rows for file in curated[1].validation_files)
    examples = sum(pq.read_metadata(file).num_rows for file in curated[1].train_files) + curated[1].validation
    assert examples == curated[1].selected == tables[1].num_rows
    for layout in ("sharegpt", "alpaca"):
        lines = [line for file in (one.curated / layout).list(".jsonl") for line in file.read().splitlines()]
        assert len(lines) == tables[0].num_rows
    taken = Counter(tables[0]["problem_id"].to_pylist())
    assert set(taken.values()) == {1, 2}, "an easy problem gives one, a hard one two"
    report(other)


def commit_invalid_segments(run: Run) -> None:
    """Commit a segment that is not parquet, and one with a rollout without its text."""
    (run.place / "rollouts" / "segments" / "9-torn.parquet").write(b"PAR1, and then the disk was full")
    table = run.ledger.read().slice(0, 1)
    index = table.schema.get_field_index("completion")
    lost = table.set_column(index, pa.field("completion", pa.large_string()), pa.array([None], pa.large_string()))
    pq.write_table(lost, f"{run.ledger.place.path}/segments/9-null.parquet")
    for name in ("9-torn", "9-null"):
        facts = {"segment": f"{name}.parquet", "rows": 1, "bytes": 1, "schema": "1"}
        (run.place / "rollouts" / "manifest" / f"{name}.json").write(json.dumps(facts).encode())


def written(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table.combine_chunks(), sink)
    return bytes(sink.getvalue())


def test_of_copies_the_newest_counts_and_of_equally_new_ones_the_content_decides_in_any_order(
    ray_cluster: None, tmp_path: Path
) -> None:
    wrong = [
        a_rollout(f"<think> Step 1: say {n}. </think> The answer is 41.", Outcome.WRONG, sample=n) for n in range(8)
    ]
    right = [a_rollout(f"<think> Step 1: take {n}. </think> The answer is 42.", sample=n) for n in range(8)]
    other = a_problem("What is 5 * 9?", "45")
    cut = [a_rollout("<think> Step 1", Outcome.TRUNCATED, problem=other, sample=n) for n in range(2)]
    resampled = [
        a_rollout(f"<think> Step 1: {n}. </think> The answer is 45.", problem=other, sample=n, resample=1)
        for n in range(2)
    ]
    segments = [wrong, cut, right, resampled]
    tables = []
    for order in (segments, segments[::-1]):
        run = a_run(
            tmp_path / str(len(tables)), order, keep_per_problem=9, rules=["incorrect"], validation=0, quota="even"
        )
        curate(run)
        tables.append(data_of(run, "rollouts"))
        exported = [row for row in data_of(run).to_pylist() if row["question"] != other.question]
        assert {row["completion_text"] for row in exported} <= {rollout.completion for rollout in right}
    assert written(tables[0]) == written(tables[1])
    decided = {(row["verdict_outcome"], row["annotation_dropped_by"]) for row in tables[0].to_pylist()}
    assert decided == {("correct", ""), ("wrong", "incorrect")}, "of eight pairs neither side is always first"
    assert tables[0].num_rows == 10
    assert set(tables[0].filter(pc.equal(tables[0]["problem_id"], other.id))["resample"].to_pylist()) == {1}


def test_a_curation_is_done_again_if_a_benchmark_or_the_code_of_the_user_has_changed(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = a_rollout(problem=a_problem(KNOWN, "42"))
    (tmp_path / "one.jsonl").write_text(json.dumps({"id": "b0", "problem": "A problem of which no rollout is stored"}))
    benchmarks = [str(tmp_path / "*.jsonl")]
    run = a_run(tmp_path, [[known, a_rollout()]], benchmarks=benchmarks, rules=["contaminated"], validation=0)

    def dropped() -> dict[str, int]:
        curate(run)
        counts: dict[str, int] = json.loads((run.curated / "manifest.json").read())["dropped"]
        return counts

    assert dropped() == {}
    (tmp_path / "two.jsonl").write_text(json.dumps({"id": "b1", "problem": KNOWN}))
    assert dropped() == {"contaminated": 1}

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "rules_of_mine.py").write_text("def polite(table, curation): return [False] * table.num_rows")
    mine = Curation(rules=("incorrect", "rules_of_mine:polite"))
    before = user_modules(mine)
    assert [module for module, _ in before] == ["rules_of_mine"]
    assert user_modules(mine) == before
    (tmp_path / "rules_of_mine.py").write_text("def polite(table, curation): return [True] * table.num_rows")
    assert user_modules(mine) != before


def test_an_error_of_the_function_of_the_user_is_reported_in_one_line(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "rules_that_err.py").write_text("def short(table, curation): return [True]")
    run = a_run(tmp_path, [sampled()[:60]], rules=["rules_that_err:short"])
    with pytest.raises(
        UserError, match=r"^curation\.rules: rules_that_err:short returned 1 booleans for \d+ rollouts$"
    ):
        curate(run)


def test_other_layouts_and_a_labeller_do_not_change_the_examples(ray_cluster: None, tmp_path: Path) -> None:
    run = a_run(tmp_path, [sampled()[:60]], layouts=[])
    curate(run)
    before = {file.name: Path(file.path).stat().st_mtime_ns for file in (run.curated / "data").list()}
    manifest = (run.curated / "manifest.json").read()
    for changes in ({"layouts": ["alpaca"]}, {"layouts": ["sharegpt"], "labelled": 7}):
        run = begin_or_resume(a_config(tmp_path, **changes))
        curate(run)
        assert {file.name: Path(file.path).stat().st_mtime_ns for file in (run.curated / "data").list()} == before
        assert (run.curated / "manifest.json").read() == manifest
        written_lines = {name: (run.curated / name).list() for name in ("sharegpt", "alpaca")}
        assert {name for name, files in written_lines.items() if files} == set(changes["layouts"])
        lines = [line for files in written_lines.values() for file in files for line in file.read().splitlines()]
        assert len(lines) == data_of(run).num_rows
        assert f'"{changes["layouts"][0]}"' in (run.curated / "README.md").read().decode()


def test_an_empty_data_set_is_refused_with_the_reasons_each_time_and_can_be_inspected(
    ray_cluster: None, tmp_path: Path
) -> None:
    before = a_run(tmp_path, [[a_rollout(outcome=Outcome.WRONG)]], rules=[], validation=0)
    curate(before)
    examples = data_of(before)
    run = begin_or_resume(a_config(tmp_path, rules=["incorrect"], validation=0))
    for _ in range(2):
        with pytest.raises(UserError, match="no rollout survived curation: 1 incorrect; look"):
            curate(run)
        assert not run.has_examples
    assert data_of(run).equals(examples), "the earlier data set stays"
    printed = io.StringIO()
    show(run, Query(rule="incorrect"), Console(file=printed))
    assert "1 of 1" in printed.getvalue()
    report(run)
    assert "incorrect" in (run.place / "report.md").read().decode()
    aside = begin_or_resume(a_config(tmp_path, rules=[], validation=0.99))
    with pytest.raises(UserError, match="validation sets all 1 examples aside"):
        curate(aside)
    curate(before)
    assert before.has_examples
    assert json.loads((run.curated / "manifest.json").read())["committed"] == 1
    assert len((run.curated / "rollouts").list()) == 1, "files that the manifest no longer names are removed"

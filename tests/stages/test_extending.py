"""Extending a run, on Ray with the scripted engine: rollouts stay, and only missing samples are generated."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reasonray.config import Config, UserError, parse
from reasonray.records import Finish, Rollout
from reasonray.sampling.pool import ReplicaPool
from reasonray.stages.sample import sample
from reasonray.store.run import Run, begin_or_resume
from reasonray.store.schema import table_to_rollouts
from tests.factories import a_scripted_config

pytestmark = pytest.mark.ray


def sampled(config: Config) -> Run:
    run = begin_or_resume(config)
    with ReplicaPool(run) as pool:
        sample(run, pool)
    return run


def read_rollouts(run: Run) -> list[Rollout]:
    return table_to_rollouts(run.ledger.read())


def samples_per_problem(rollouts: Sequence[Rollout]) -> set[int]:
    """Return the numbers of samples that occur; one number if all problems have as many."""
    return set(Counter(rollout.problem.id for rollout in rollouts).values())


def rows_on_disk(run: Run) -> int:
    """Return the number of rows on disk, superseded ones included."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(segment.path).num_rows for segment in run.ledger.segments())


def changed(config: Config, **changes: Any) -> Config:
    return parse(config.model_dump(mode="json") | changes)


def teacher(config: Config, **changes: Any) -> dict[str, Any]:
    return config.teachers[0].model_dump(mode="json") | changes


def test_a_larger_k_or_more_problems_generate_only_the_missing_samples(ray_cluster: None, tmp_path: Path) -> None:
    config = a_scripted_config(tmp_path, train=12, samples=4)
    before = {rollout.id for rollout in read_rollouts(sampled(config))}
    larger = changed(config, policy={"kind": "fixed", "samples": 6})
    run = sampled(larger)
    assert len(before) == 48
    assert before < {rollout.id for rollout in read_rollouts(run)}
    assert rows_on_disk(run) == len(read_rollouts(run)) == 72
    more = changed(larger, sources=[{"kind": "generated", "train": 18, "test": 12}])
    run = sampled(more)
    assert samples_per_problem(read_rollouts(run)) == {6}
    assert rows_on_disk(run) == 108
    fewer = changed(more, sources=[{"kind": "generated", "train": 12, "test": 12}])
    with pytest.raises(UserError, match="the sources no longer hold a train problem"):
        sampled(fewer)
    assert rows_on_disk(run) == 108


def test_a_larger_max_tokens_generates_only_truncated_samples_again(ray_cluster: None, tmp_path: Path) -> None:
    config = a_scripted_config(tmp_path, train=12, samples=6, engine={"endless": 0.3})
    short = changed(config, teachers=[teacher(config, sampling={"max_tokens": 64})])
    run = sampled(short)
    truncated = {rollout.id for rollout in read_rollouts(run) if rollout.finish is Finish.LENGTH}
    assert 5 < len(truncated) < 60
    run = sampled(changed(config, teachers=[teacher(config, sampling={"max_tokens": 128})]))
    rollouts = read_rollouts(run)
    assert len(rollouts) == 72
    assert rows_on_disk(run) == 72 + len(truncated)
    assert {rollout.id for rollout in rollouts if rollout.resample == 1} == truncated
    assert {rollout.completion_tokens for rollout in rollouts if rollout.finish is Finish.LENGTH} == {128}
    sampled(run.config)
    assert rows_on_disk(run) == 72 + len(truncated), "a second call generates nothing"


def test_a_second_teacher_adds_its_own_rollouts_and_leaves_the_firsts(ray_cluster: None, tmp_path: Path) -> None:
    config = a_scripted_config(tmp_path, train=12, samples=3)
    sampled(config)
    other = teacher(config, name="other", model="scripted too")
    run = sampled(changed(config, teachers=[teacher(config), other]))
    rollouts = read_rollouts(run)
    assert Counter(rollout.teacher for rollout in rollouts) == {"teacher": 36, "other": 36}
    assert len({rollout.fingerprint for rollout in rollouts}) == 2
    assert rows_on_disk(run) == 72


def test_teachers_with_shares_work_at_the_same_time_on_different_problems(ray_cluster: None, tmp_path: Path) -> None:
    config = a_scripted_config(tmp_path, train=60, samples=2, engine={"seconds": 0.05})
    engine = config.teachers[0].engine.model_dump(mode="json")
    teachers = [
        teacher(config, name=name, share=share, engine=engine | {"max_num_seqs": size})
        for name, share, size in (("small", 0.25, 8), ("large", 0.75, 9))
    ]
    run = sampled(changed(config, teachers=teachers))
    rollouts = read_rollouts(run)
    problems = {
        name: {rollout.problem.id for rollout in rollouts if rollout.teacher == name} for name in ("small", "large")
    }
    assert not problems["small"] & problems["large"]
    assert len(problems["small"] | problems["large"]) == 60
    assert 5 <= len(problems["small"]) <= 26
    last = run.events.read("sample")[-1]
    assert last["replicas"] == 2, "both teachers' replicas were up together"
    assert {name: counts["rollouts"] for name, counts in last["arms"].items()} == {
        name: 2 * len(problems[name]) for name in problems
    }


def test_a_spent_budget_ends_cleanly_and_a_larger_one_continues(ray_cluster: None, tmp_path: Path) -> None:
    config = a_scripted_config(tmp_path, train=60, samples=10, engine={"seconds": 0.2, "max_num_seqs": 8})
    run = sampled(changed(config, budget={"tokens": 1500}))
    spent = sum(rollout.completion_tokens for rollout in read_rollouts(run))
    assert 1500 <= spent < 6000
    assert [event["limit"] for event in run.events.read("budget")] == ["tokens"]
    halfway = rows_on_disk(run)
    run = sampled(changed(config, budget={"tokens": 1500}))
    assert rows_on_disk(run) <= halfway + 40, "the budget is of the whole run, not of a session"
    run = sampled(config)
    assert len(read_rollouts(run)) == rows_on_disk(run) == 600

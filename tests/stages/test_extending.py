"""Extending a run, on Ray with the scripted engine: what is there stays, only what is owed is drawn."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from reasonray.config import Config, UserError, parse
from reasonray.records import Finish, Rollout
from reasonray.sampling.pool import ReplicaPool
from reasonray.stages.sample import sample
from reasonray.store.run import Run, open_run
from reasonray.store.schema import table_to_rollouts
from tests.factories import a_scripted_config

pytestmark = pytest.mark.ray


def sampled(config: Config) -> Run:
    run = open_run(config)
    with ReplicaPool(run) as pool:
        sample(run, pool)
    return run


def rollouts(run: Run) -> list[Rollout]:
    return table_to_rollouts(run.ledger.read())


def stored(run: Run) -> int:
    """Rows on disk, superseded ones too."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(segment.path).num_rows for segment in run.ledger.segments())


def changed(config: Config, **changes: Any) -> Config:
    return parse(config.model_dump(mode="json") | changes)


def teacher(config: Config, **changes: Any) -> dict[str, Any]:
    return config.teachers[0].model_dump(mode="json") | changes


def test_a_larger_k_draws_the_difference_and_more_problems_are_added(ray_cluster: None, tmp_path: Path) -> None:
    config = a_scripted_config(tmp_path, train=12, samples=4)
    before = {it.id for it in rollouts(sampled(config))}
    larger = changed(config, policy={"kind": "fixed", "samples": 6})
    run = sampled(larger)
    assert len(before) == 48
    assert before < {it.id for it in rollouts(run)}
    assert stored(run) == len(rollouts(run)) == 72
    more = changed(larger, sources=[{"kind": "generated", "train": 18, "test": 12}])
    run = sampled(more)
    assert Counter(it.problem.id for it in rollouts(run)) == Counter({it.problem.id: 6 for it in rollouts(run)})
    assert stored(run) == 108
    fewer = changed(more, sources=[{"kind": "generated", "train": 12, "test": 12}])
    with pytest.raises(UserError, match="the sources no longer hold a train problem"):
        sampled(fewer)
    assert stored(run) == 108


def test_a_larger_max_tokens_draws_only_what_was_cut_again(ray_cluster: None, tmp_path: Path) -> None:
    config = a_scripted_config(tmp_path, train=12, samples=6, engine={"endless": 0.3})
    short = changed(config, teachers=[teacher(config, sampling={"max_tokens": 64})])
    run = sampled(short)
    cut = {it.id for it in rollouts(run) if it.finish is Finish.LENGTH}
    assert 5 < len(cut) < 60
    run = sampled(changed(config, teachers=[teacher(config, sampling={"max_tokens": 128})]))
    drawn = rollouts(run)
    assert len(drawn) == 72
    assert stored(run) == 72 + len(cut)
    assert {it.id for it in drawn if it.resample == 1} == cut
    assert {it.completion_tokens for it in drawn if it.finish is Finish.LENGTH} == {128}
    sampled(run.config)
    assert stored(run) == 72 + len(cut), "a second call draws nothing again"


def test_a_second_teacher_draws_its_own_and_leaves_the_firsts(ray_cluster: None, tmp_path: Path) -> None:
    config = a_scripted_config(tmp_path, train=12, samples=3)
    sampled(config)
    other = teacher(config, name="other", model="scripted too")
    run = sampled(changed(config, teachers=[teacher(config), other]))
    drawn = rollouts(run)
    assert Counter(it.teacher for it in drawn) == {"teacher": 36, "other": 36}
    assert len({it.fingerprint for it in drawn}) == 2
    assert stored(run) == 72


def test_teachers_with_shares_work_at_the_same_time_and_deal_out_the_problems(
    ray_cluster: None, tmp_path: Path
) -> None:
    config = a_scripted_config(tmp_path, train=60, samples=2, engine={"seconds": 0.05})
    engine = config.teachers[0].engine.model_dump(mode="json")
    teachers = [
        teacher(config, name=name, share=share, engine=engine | {"max_num_seqs": size})
        for name, share, size in (("small", 0.25, 8), ("large", 0.75, 9))
    ]
    run = sampled(changed(config, teachers=teachers))
    drawn = rollouts(run)
    asked = {name: {it.problem.id for it in drawn if it.teacher == name} for name in ("small", "large")}
    assert not asked["small"] & asked["large"]
    assert len(asked["small"] | asked["large"]) == 60
    assert 5 <= len(asked["small"]) <= 26
    last = run.events.read("sample")[-1]
    assert last["replicas"] == 2, "both crews were up together"
    assert {name: it["rollouts"] for name, it in last["arms"].items()} == {name: 2 * len(asked[name]) for name in asked}


def test_a_spent_budget_ends_cleanly_and_a_larger_one_goes_on(ray_cluster: None, tmp_path: Path) -> None:
    config = a_scripted_config(tmp_path, train=60, samples=10, engine={"seconds": 0.2, "max_num_seqs": 8})
    run = sampled(changed(config, budget={"tokens": 1500}))
    spent = sum(it.completion_tokens for it in rollouts(run))
    assert 1500 <= spent < 6000
    assert [it["limit"] for it in run.events.read("budget")] == ["tokens"]
    halfway = stored(run)
    run = sampled(changed(config, budget={"tokens": 1500}))
    assert stored(run) <= halfway + 40, "the budget is the run's, not the session's"
    run = sampled(config)
    assert len(rollouts(run)) == stored(run) == 600

"""The plan is complete, its packs fit, and it does not depend on the number of workers."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonray.config import StepSize, Training, UserError
from reasonray.training import packing, plan
from reasonray.training.packing import Cost

SIZES = st.lists(st.integers(2, 60), min_size=1, max_size=40).filter(lambda sizes: min(sizes) <= 50)


def build(sizes: list[int], **changes: object) -> plan.Plan:
    settings = {"batch": 6, "max_tokens": 50, "epochs": 2, "seed": 3} | changes
    return plan.build(sizes, [size - 1 for size in sizes], **settings)  # type: ignore[arg-type]


@given(SIZES)
def test_every_example_that_fits_occurs_once_in_each_epoch(sizes: list[int]) -> None:
    made = build(sizes)
    rows = [row for step in made.steps for row in step.rows]
    fitting = [row for row, size in enumerate(sizes) if size <= 50]
    half = len(rows) // 2
    assert sorted(rows[:half]) == sorted(rows[half:]) == fitting
    assert sorted([*fitting, *made.overlong]) == list(range(len(sizes)))


@given(SIZES)
def test_no_pack_exceeds_the_limit_and_the_target_tokens_add_up(sizes: list[int]) -> None:
    for step in build(sizes).steps:
        assert all(sum(sizes[row] for row in pack) <= 50 for pack in step.packs)
        assert step.weight == sum(sizes[row] - 1 for row in step.rows)


@given(SIZES)
def test_packs_are_as_few_as_best_fit_needs(sizes: list[int]) -> None:
    for step in build(sizes).steps:
        fitted = packing.best_fit_decreasing(step.rows, sizes, 50)
        assert len(step.packs) == len(fitted)


def test_two_packs_are_balanced() -> None:
    (step,) = build([20, 20, 10, 10, 5, 5], epochs=1).steps
    assert sorted(sum([20, 20, 10, 10, 5, 5][row] for row in pack) for pack in step.packs) == [35, 35]


@given(SIZES, st.integers(1, 5))
def test_ranks_share_all_examples_of_a_step_in_equally_many_packs(sizes: list[int], world: int) -> None:
    made = build(sizes)
    for index, step in enumerate(made.steps):
        shares = [made.for_rank(index, rank, world) for rank in range(world)]
        assert len({len(packs) for packs in shares}) == 1
        assert sorted(row for packs in shares for pack in packs for row in pack) == sorted(step.rows)
        assert all(sum(sizes[row] for row in pack) <= 50 for packs in shares for pack in packs)


MANY_SIZES = st.lists(st.integers(2, 60), min_size=1, max_size=300).filter(lambda sizes: min(sizes) <= 50)


@given(MANY_SIZES, st.integers(1, 9), st.integers(1, 5), st.booleans())
def test_steps_of_packs_hold_every_example_once_an_epoch_in_packs_that_fit(
    sizes: list[int], count: int, world: int, packable: bool
) -> None:
    made = build(sizes, batch=None, step=StepSize(packs=count), cost=Cost(20.0), packable=packable)
    fitting = [row for row, size in enumerate(sizes) if size <= 50]
    rows = [row for step in made.steps for row in step.rows]
    assert sorted(rows[: len(fitting)]) == sorted(rows[len(fitting) :]) == fitting
    packs = [len(step.packs) for step in made.steps]
    assert all(number <= 1.5 * count for number in packs)
    assert all(number >= count / 2 for number in packs) or len(packs) == 2, "an epoch of few packs is one step"
    for index, step in enumerate(made.steps):
        assert step.tokens == sum(sizes[row] for row in step.rows)
        assert step.weight == step.tokens - len(step.rows)
        shares = [made.for_rank(index, rank, world) for rank in range(world)]
        dealt = [pack for share in shares for pack in share]
        assert len({len(share) for share in shares}) == 1
        assert sorted(row for pack in dealt for row in pack) == sorted(step.rows)
        assert all(sum(sizes[row] for row in pack) <= 50 for pack in dealt)
        assert packable or all(len(pack) <= 1 for pack in dealt)


def long_traces(count: int) -> list[int]:
    lengths = np.random.default_rng(1).lognormal(np.log(5000), 0.7, 2 * count).astype(int)
    return [int(length) for length in lengths if 200 < length <= 32_768][:count]


@pytest.mark.parametrize(("world", "least"), [(8, 0.95), (48, 0.85), (64, 0.9)])
def test_steps_of_full_packs_keep_the_gpus_busy(world: int, least: float) -> None:
    lengths = long_traces(6000)
    cost = Cost(36_000.0)  # Qwen2.5-1.5B
    settings: dict[str, object] = {"max_tokens": 32_768, "epochs": 1, "cost": cost}

    def use(made: plan.Plan) -> float:
        work = time = 0.0
        for step in made.steps:
            shares = packing.deal(step.packs, lengths, world, 32_768, cost)
            costs = np.array([[cost.of_pack(pack, lengths) for pack in share] for share in shares])
            work, time = work + costs.sum(), time + world * costs.max(axis=0).sum()
        return work / time

    assert use(build(lengths, batch=None, step=StepSize(packs=64), **settings)) >= least
    assert use(build(lengths[:800], batch=16, **settings)) < least - 0.2, "control: steps of 16 examples"


def test_a_step_in_tokens_has_as_many_packs_as_hold_them() -> None:
    lengths = [7] * 1000
    in_packs, in_tokens = (
        build(lengths, batch=None, step=size) for size in (StepSize(packs=8), StepSize(tokens=8 * 50 + 20))
    )
    assert in_packs == in_tokens
    alone = build(lengths, batch=None, step=StepSize(tokens=8 * 7 + 3), packable=False)
    assert {len(step.packs) for step in alone.steps} == {8}


def test_steps_of_packs_depend_on_seed_and_epoch() -> None:
    lengths = long_traces(500)
    settings: dict[str, object] = {"batch": None, "max_tokens": 32_768, "step": StepSize(packs=4)}
    made = build(lengths, **settings)
    assert build(lengths, **settings) == made
    assert build(lengths, seed=4, **settings).sha256 != made.sha256
    half = len(made.steps) // 2
    assert made.steps[0] != made.steps[half]


def test_workers_map_the_plan_that_was_written(tmp_path: Path) -> None:
    made = build([3, 9, 27, 5, 5, 60, 13], batch=None, step=StepSize(packs=2), cost=Cost(50.0))
    plan.write(tmp_path / "plan.arrow", made)
    mapped = plan.read(tmp_path / "plan.arrow")
    assert mapped == made
    assert list(mapped.steps) == list(made.steps)
    assert [mapped.for_rank(0, rank, 2) for rank in (0, 1)] == [made.for_rank(0, rank, 2) for rank in (0, 1)]
    assert mapped.overlong == (5,)


@given(SIZES, st.lists(st.floats(0, 8), min_size=40, max_size=40))
def test_a_step_knows_the_sum_of_its_weights(sizes: list[int], weights: list[float]) -> None:
    weights = weights[: len(sizes)]
    made = plan.build(sizes, np.array(weights), batch=6, max_tokens=50, epochs=2, seed=3)
    for step in made.steps:
        assert step.weight == pytest.approx(sum(weights[row] for row in step.rows))
    other = plan.build(sizes, np.array(weights) + 1, batch=6, max_tokens=50, epochs=2, seed=3)
    assert other.sha256 != made.sha256


def test_the_plan_of_a_validation_packs_each_window_by_itself() -> None:
    lengths = [7, 11, 13] * packing.WINDOW
    (step,) = plan.of_all(lengths, lengths, max_tokens=50, packable=True).steps
    assert sorted(step.rows) == list(range(len(lengths)))
    windows = [{row // packing.WINDOW for row in pack} for pack in step.packs]
    assert {len(window) for window in windows} == {1}, "so the time is linear in the examples"


@pytest.mark.parametrize("sizes", [[], [51, 60]])
def test_a_plan_without_an_example_that_fits_is_an_error(sizes: list[int]) -> None:
    with pytest.raises(UserError, match=rf"nothing to train on: {len(sizes)} examples, {len(sizes)} of them beyond"):
        build(sizes)


def test_a_plan_without_packing_gives_each_example_a_pack() -> None:
    assert all(len(pack) == 1 for step in build([3, 4, 5, 6], packable=False).steps for pack in step.packs)


def test_the_hash_is_repeatable_and_changes_with_every_input() -> None:
    sizes = [3, 9, 27, 5, 5, 8, 13]
    variants = [build(sizes), build(sizes[::-1]), build(sizes, seed=4), build(sizes, batch=3), build(sizes, epochs=3)]
    assert build(sizes) == variants[0]
    assert len({variant.sha256 for variant in variants}) == len(variants)


def test_the_hash_is_the_one_in_checkpoints_of_existing_runs() -> None:
    made = plan.build([3, 9, 27, 5, 5, 8, 13], [2, 5, 20, 1, 3, 4, 9], batch=4, max_tokens=20, epochs=2, seed=3)
    assert made.sha256 == "7500c94add8fbcec6532855bd08c3979f56105eff1a0b5159657e7d9840ae8f1"


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_learning_rate_follows_its_closed_form(schedule: str) -> None:
    settings = Training(learning_rate=2.0, schedule=schedule, warmup=0.1, floor=0.25)  # type: ignore[arg-type]
    rates = [plan.learning_rate(step, 100, settings) for step in range(100)]
    assert rates[:10] == pytest.approx([2.0 * (step + 1) / 10 for step in range(10)])
    for step in range(10, 100):
        done = (step - 10) / 89
        share = {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}[schedule]
        assert rates[step] == pytest.approx(2.0 * (0.25 + 0.75 * share))
    assert rates[-1] == pytest.approx(2.0 if schedule == "constant" else 0.5)


def test_a_single_step_without_warmup_has_the_full_learning_rate() -> None:
    assert plan.learning_rate(0, 1, Training(learning_rate=2.0, warmup=0.0)) == 2.0

"""The plan is complete, its packs fit, and it does not depend on the number of workers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonray.config import Training, UserError
from reasonray.training import plan

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
        assert step.target_tokens == sum(sizes[row] - 1 for row in step.rows)


@given(SIZES)
def test_packs_are_as_few_as_best_fit_needs(sizes: list[int]) -> None:
    for step in build(sizes).steps:
        fitted = plan._best_fit_decreasing(step.rows, sizes, 50)
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


@pytest.mark.parametrize("sizes", [[], [51, 60]])
def test_a_plan_without_an_example_that_fits_is_an_error(sizes: list[int]) -> None:
    with pytest.raises(UserError, match=rf"nothing to train on: {len(sizes)} examples, {len(sizes)} of them beyond"):
        build(sizes)


def test_a_plan_without_packing_gives_each_example_a_pack() -> None:
    assert all(len(pack) == 1 for step in build([3, 4, 5, 6], packing=False).steps for pack in step.packs)


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

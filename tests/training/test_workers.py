"""T6, T9, T14, T19, T20: several gloo workers compute what one computes; done once, for they are slow to start."""

import json
from pathlib import Path

import pytest
import torch
from students import curve, gradients_as, in_workers, make_job, poison_as, random_examples, train, train_as

from reasonray.training import loop

UNEVEN = (9, 2, 14, 9, 23)
"""In steps of three, so that a worker gets empty packs and the last step of an epoch is short."""
SETTINGS = {"batch": 3, "max_tokens": 24, "epochs": 3, "checkpoints": 2}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("workers")
    steps = make_job(root / "steps", random_examples(UNEVEN), **SETTINGS)
    figures, saved = train(steps)
    (root / "one.json").write_text(json.dumps(figures))
    wide = make_job(root / "wide", max_tokens=24)
    gradients_as(0, 1, wide, root / "one.pt", False)
    rounded = make_job(root / "rounded", random_examples(UNEVEN), **SETTINGS, precision="bf16")
    spread = make_job(root / "spread", random_examples(UNEVEN), **SETTINGS, activation_checkpointing=True)
    in_workers(
        2,
        (gradients_as, (wide, root / "two.pt", False)),
        (gradients_as, (wide, root / "averaged.pt", True)),
        (train_as, (steps, root / "continued.json", saved[len(figures) // 2])),
        (train_as, (spread, root / "two.json")),
        (train_as, (rounded, root / "rounded.json")),
        (poison_as, (wide, root / "stopped.pt")),
    )
    in_workers(3, (gradients_as, (wide, root / "three.pt", False)))
    return root


def figures(done: Path, name: str) -> list[tuple[float, ...]]:
    return curve(json.loads((done / f"{name}.json").read_text()))


def farthest(done: Path, name: str) -> float:
    one, other = torch.load(done / "one.pt"), torch.load(done / f"{name}.pt")
    largest = max(float(grad.abs().max()) for grad in one.values())
    assert largest > 1e-3
    assert one.keys() == other.keys()
    return max(float((one[key] - other[key]).abs().max()) for key in one) / largest


@pytest.mark.parametrize("workers", ["two", "three"])
def test_gradients_of_several_workers_are_those_of_one(done: Path, workers: str) -> None:
    assert farthest(done, workers) < 1e-5


def test_control_averaged_gradients_are_others(done: Path) -> None:
    assert farthest(done, "averaged") > 1e-2


def test_two_workers_take_the_steps_of_one_with_activation_checkpointing_and_empty_packs(done: Path) -> None:
    one, two = figures(done, "one"), figures(done, "two")
    assert len(one) == 6
    for expected, found in zip(one, two, strict=True):
        assert found == pytest.approx(expected, rel=1e-3)


def test_two_workers_continue_what_one_began(done: Path) -> None:
    one, continued = figures(done, "one"), figures(done, "continued")
    for expected, found in zip(one[len(one) // 2 :], continued, strict=True):
        assert found == pytest.approx(expected, rel=1e-3)


def test_one_worker_continues_what_two_began(done: Path) -> None:
    two = figures(done, "two")
    job = make_job(done / "spread", random_examples(UNEVEN), **SETTINGS)
    rest, _ = train(job, resume_from=Path(job.scratch) / f"step-{len(two) // 2:06d}")
    for expected, found in zip(two[len(two) // 2 :], curve(rest), strict=True):
        assert found == pytest.approx(expected, rel=1e-3)


def test_two_workers_in_bf16_learn_like_one_in_fp32(done: Path) -> None:
    for expected, found in zip(figures(done, "one"), figures(done, "rounded"), strict=True):
        assert found[1] == pytest.approx(expected[1], rel=0.1)


def test_one_poisoned_worker_stops_all_before_the_update(done: Path) -> None:
    assert torch.load(done / "stopped.pt").tolist() == [1, 1]


def test_a_step_smaller_than_the_world_leaves_workers_with_empty_packs_only(done: Path) -> None:
    session = loop.open_session(make_job(done / "steps", random_examples(UNEVEN), **SETTINGS), 0, 1)
    lanes = [session.plan.for_rank(1, rank, 3) for rank in range(3)]
    assert [lane for lane in lanes if lane == [()]]

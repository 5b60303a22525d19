"""T6, T7, T9, T14, T19, T20: several gloo workers compute what one computes; done once, for they are slow to start."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from reasonray.training import loop
from tests.students import (
    curve,
    gradients_as,
    homes_as,
    in_workers,
    make_job,
    poison_as,
    random_examples,
    replicas_as,
    talks_as,
    train,
    train_as,
    weights_as,
    weights_of_first_as,
    write_model,
)

UNEVEN = (9, 2, 14, 9, 23)
"""In steps of three, so that a worker gets empty packs and the last step of an epoch is short."""
LONG_AND_SHORT = (38, 2, 3, 2, 4, 3, 2, 5)
SETTINGS = {"batch": 3, "max_tokens": 24, "epochs": 3, "checkpoints": 2}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("workers")
    steps = make_job(root / "steps", random_examples(UNEVEN), **SETTINGS)
    figures, saved = train(steps)
    (root / "one.json").write_text(json.dumps(figures))
    wide = make_job(root / "wide", max_tokens=24)
    split = make_job(root / "split", max_tokens=24, zero_stage=3)
    skewed = make_job(root / "skewed", random_examples(LONG_AND_SHORT))
    again = replace(steps, scratch=str(root / "continued"))
    gradients_as(0, 1, wide, root / "one.pt")
    gradients_as(0, 1, skewed, root / "one skewed.pt")
    weights_as(0, 1, steps, root / "weights of one.pt")
    write_model(root / "untied" / "model", tied=False)
    bare = root / "bare"
    shutil.copytree(root / "untied" / "model", bare, ignore=shutil.ignore_patterns("*.safetensors"))
    untied = make_job(root / "untied", random_examples(UNEVEN), **SETTINGS)
    weights_as(0, 1, untied, root / "weights of untied.pt")
    rounded = make_job(root / "rounded", random_examples(UNEVEN), **SETTINGS, precision="bf16")
    spread = make_job(root / "spread", random_examples(UNEVEN), **SETTINGS, activation_checkpointing=True)
    offloaded = make_job(root / "offloaded", random_examples(UNEVEN), **SETTINGS, cpu_offload=True)
    in_workers(
        2,
        (gradients_as, (wide, root / "two.pt")),
        (gradients_as, (split, root / "split.pt")),
        (talks_as, (wide, root / "wide talks.json")),
        (talks_as, (split, root / "split talks.json")),
        (gradients_as, (wide, root / "averaged.pt", "averaged")),
        (gradients_as, (skewed, root / "skewed.pt")),
        (gradients_as, (skewed, root / "swapped.pt", "swapped")),
        (gradients_as, (skewed, root / "local.pt", "local")),
        (weights_as, (steps, root / "weights of two.pt")),
        (weights_of_first_as, (untied, bare, root / "weights of untied by two.pt")),
        (replicas_as, (steps, root / "weights of replicas.pt")),
        (train_as, (again, root / "continued.json", saved[len(figures) // 2])),
        (train_as, (spread, root / "two.json")),
        (train_as, (rounded, root / "rounded.json")),
        (train_as, (offloaded, root / "offloaded.json")),
        (poison_as, (wide, root / "stopped.pt")),
    )
    in_workers(1, (homes_as, (offloaded, root / "homes.json")), (train_as, (offloaded, root / "offloaded by one.json")))
    in_workers(3, (gradients_as, (wide, root / "three.pt")), (weights_as, (steps, root / "weights of three.pt")))
    return root


def figures(done: Path, name: str) -> list[tuple[float, ...]]:
    return curve(json.loads((done / f"{name}.json").read_text()))


def farthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    largest = max(float(tensor.abs().max()) for tensor in one.values())
    assert largest > 1e-3
    assert one.keys() == other.keys()
    return max(float((one[key] - other[key]).abs().max()) for key in one) / largest


def gradients(done: Path, name: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(done / f"{name}.pt")
    return found


def exported(scratch: Path, step: int) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(scratch / f"step-{step:06d}" / "model" / "model.safetensors")
    return found


@pytest.mark.parametrize("workers", ["two", "three", "split"])
def test_gradients_of_several_workers_are_those_of_one(done: Path, workers: str) -> None:
    assert farthest(gradients(done, "one"), gradients(done, workers)) < 1e-6


def test_workers_talk_once_a_step_or_once_a_pack(done: Path) -> None:
    once, each = (json.loads((done / f"{name} talks.json").read_text()) for name in ("wide", "split"))
    parts, packs = 3, once["packs"]  # two layers and the root
    assert packs == each["packs"] > 1
    assert once["c10d::_reduce_scatter_base_"] == parts
    assert each["c10d::_reduce_scatter_base_"] == parts * packs
    assert once.get("c10d::_allgather_base_", 0) < each["c10d::_allgather_base_"]


@pytest.mark.parametrize("arrangement", ["skewed", "swapped"])
def test_how_a_long_and_seven_short_examples_are_dealt_changes_no_gradient(done: Path, arrangement: str) -> None:
    assert farthest(gradients(done, "one skewed"), gradients(done, arrangement)) < 1e-6


@pytest.mark.parametrize(("right", "wrong"), [("one", "averaged"), ("one skewed", "local")])
def test_control_gradients_averaged_over_workers_are_others(done: Path, right: str, wrong: str) -> None:
    assert farthest(gradients(done, right), gradients(done, wrong)) > 1e-2


@pytest.mark.parametrize("by", ["two", "three", "replicas"])
def test_weights_after_three_updates_are_those_of_one_worker(done: Path, by: str) -> None:
    one = gradients(done, "weights of one")
    begun = load_file(done / "steps" / "model" / "model.safetensors")
    assert farthest(begun, {name: one[name] for name in begun}) > 1e-3
    assert farthest(one, gradients(done, f"weights of {by}")) < 1e-5


def test_the_first_worker_reads_the_weights_for_all(done: Path) -> None:
    assert not list((done / "bare").glob("*.safetensors"))
    one = gradients(done, "weights of untied")
    assert "lm_head.weight" in one
    assert farthest(one, gradients(done, "weights of untied by two")) < 1e-5
    with pytest.raises(OSError, match="no file named"):
        AutoModelForCausalLM.from_pretrained(done / "bare")


def test_two_workers_take_the_steps_of_one_with_activation_checkpointing_and_empty_packs(done: Path) -> None:
    one, two = figures(done, "one"), figures(done, "two")
    assert len(one) == 6
    for expected, found in zip(one, two, strict=True):
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("by", ["offloaded", "offloaded by one"])
def test_weights_kept_in_main_memory_take_the_same_steps(done: Path, by: str) -> None:
    for expected, found in zip(figures(done, "one"), figures(done, by), strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    assert json.loads((done / "homes.json").read_text()) == ["CPUOffloadPolicy"] * 3, "two layers and the root"


def test_two_workers_continue_what_one_began(done: Path) -> None:
    one, continued = figures(done, "one"), figures(done, "continued")
    for expected, found in zip(one[len(one) // 2 :], continued, strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    steps = len(one)
    begun, ended = (exported(done / "steps" / "scratch", step) for step in (steps // 2, steps))
    assert farthest(begun, ended) > 1e-3
    assert farthest(ended, exported(done / "continued", steps)) < 1e-5


def test_one_worker_continues_what_two_began(done: Path) -> None:
    two = figures(done, "two")
    job = make_job(done / "spread", random_examples(UNEVEN), **SETTINGS)
    begun = Path(job.scratch) / f"step-{len(two) // 2:06d}"
    rest, saved = train(replace(job, scratch=str(done / "alone")), resume_from=begun)
    for expected, found in zip(two[len(two) // 2 :], curve(rest), strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    assert farthest(exported(Path(job.scratch), len(two)), exported(done / "alone", len(two))) < 1e-5
    assert list(saved) == [len(two)]


def test_two_workers_in_bf16_learn_like_one_in_fp32(done: Path) -> None:
    for expected, found in zip(figures(done, "one"), figures(done, "rounded"), strict=True):
        assert found[1] == pytest.approx(expected[1], rel=0.1)


def test_one_poisoned_worker_stops_all_before_the_update(done: Path) -> None:
    assert torch.load(done / "stopped.pt").tolist() == [1, 1]


def test_a_step_smaller_than_the_world_leaves_workers_with_empty_packs_only(done: Path) -> None:
    session = loop.open_session(make_job(done / "steps", random_examples(UNEVEN), **SETTINGS), 0, 1)
    lanes = [session.plan.for_rank(1, rank, 3) for rank in range(3)]
    assert [lane for lane in lanes if lane == [()]]

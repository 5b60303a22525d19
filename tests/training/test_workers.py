"""Several gloo workers compute the same as one. They run once for all tests, because they are slow to start."""

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
    LENGTHS,
    curve,
    in_workers,
    make_job,
    random_examples,
    sampled_examples,
    train,
    train_as_worker,
    train_with_slow_files,
    weighted_examples,
    write_collective_counts,
    write_ddp_weights,
    write_gradients,
    write_model,
    write_offload_policies,
    write_rounding,
    write_stopped_ranks,
    write_weights,
    write_weights_read_by_first,
)

pytestmark = pytest.mark.slow

UNEVEN = (9, 2, 14, 9, 23)
"""Lengths for steps of three: a worker gets empty packs, and the last step of an epoch is short."""
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
    again = replace(steps, checkpoint_directory=str(root / "continued"))
    write_gradients(0, 1, wide, root / "one.pt")
    write_gradients(0, 1, skewed, root / "one skewed.pt")
    write_weights(0, 1, steps, root / "weights of one.pt")
    write_model(root / "untied" / "model", tied=False)
    bare = root / "bare"
    shutil.copytree(root / "untied" / "model", bare, ignore=shutil.ignore_patterns("*.safetensors"))
    untied = make_job(root / "untied", random_examples(UNEVEN), **SETTINGS)
    write_weights(0, 1, untied, root / "weights of untied.pt")
    rounded = make_job(root / "rounded", random_examples(UNEVEN), **SETTINGS, precision="bf16")
    spread = make_job(root / "spread", random_examples(UNEVEN), **SETTINGS, activation_checkpointing=True)
    offloaded = make_job(root / "offloaded", random_examples(UNEVEN), **SETTINGS, cpu_offload=True)
    by_muon = make_job(root / "muon", random_examples(UNEVEN), **SETTINGS, optimiser="muon")
    write_weights(0, 1, by_muon, root / "weights of one by muon.pt")
    rounding = make_job(root / "rounding", random_examples(UNEVEN), **SETTINGS, moments="bf16")
    write_weights(0, 1, rounding, root / "weights of one with bf16 moments.pt")
    rest_rounding = replace(rounding, checkpoint_directory=str(root / "rest rounding"))
    kept = make_job(root / "kept", random_examples(UNEVEN), **SETTINGS, cpu_offload="optimiser")
    rest_kept = replace(kept, checkpoint_directory=str(root / "rest kept"))
    weighted = make_job(root / "weighted", weighted_examples(), max_tokens=24)
    write_gradients(0, 1, weighted, root / "one weighted.pt")
    divided = make_job(root / "divided", weighted_examples(), max_tokens=24, context=2, workers=2)
    few = divided.training.model_copy(update={"activation_checkpointing": "selective"})
    selective = replace(divided, training=few)
    sampled = make_job(root / "sampled", sampled_examples(), max_tokens=24, objective="policy_gradient")
    write_gradients(0, 1, sampled, root / "one sampled.pt")
    parts = make_job(
        root / "sampled", sampled_examples(), max_tokens=24, objective="policy_gradient", context=2, workers=2
    )
    in_parts = make_job(root / "in parts", random_examples(UNEVEN), **SETTINGS, context=2, workers=2)
    rest_by_muon = replace(by_muon, checkpoint_directory=str(root / "rest of muon"))
    halfway = Path(in_parts.checkpoint_directory) / "step-000003"
    rest_in_parts = replace(in_parts, checkpoint_directory=str(root / "rest in parts"))
    in_workers(
        2,
        (write_gradients, (wide, root / "two.pt")),
        (write_gradients, (split, root / "split.pt")),
        (write_collective_counts, (wide, root / "wide collectives.json")),
        (write_collective_counts, (split, root / "split collectives.json")),
        (write_gradients, (wide, root / "averaged.pt", "averaged")),
        (write_gradients, (skewed, root / "skewed.pt")),
        (write_gradients, (skewed, root / "swapped.pt", "swapped")),
        (write_gradients, (skewed, root / "local.pt", "local")),
        (write_weights, (steps, root / "weights of two.pt")),
        (write_weights_read_by_first, (untied, bare, root / "weights of untied by two.pt")),
        (write_weights, (by_muon, root / "weights of two by muon.pt")),
        (train_as_worker, (by_muon, root / "muon steps.json")),
        (
            train_as_worker,
            (rest_by_muon, root / "rest of muon.json", Path(by_muon.checkpoint_directory) / "step-000003"),
        ),
        (write_weights, (rounding, root / "weights of two with bf16 moments.pt")),
        (train_as_worker, (rounding, root / "rounding steps.json")),
        (
            train_as_worker,
            (rest_rounding, root / "rest rounding.json", Path(rounding.checkpoint_directory) / "step-000003"),
        ),
        (write_weights, (kept, root / "weights of two with moments in main memory.pt")),
        (train_as_worker, (kept, root / "kept steps.json")),
        (train_as_worker, (rest_kept, root / "rest kept.json", Path(kept.checkpoint_directory) / "step-000003")),
        (write_rounding, (root / "rounded by two.pt",)),
        (write_ddp_weights, (steps, root / "weights of replicas.pt")),
        (train_as_worker, (again, root / "continued.json", saved[len(figures) // 2])),
        (train_as_worker, (spread, root / "two.json")),
        (train_as_worker, (rounded, root / "rounded.json")),
        (train_as_worker, (offloaded, root / "offloaded.json")),
        (write_stopped_ranks, (wide, root / "stopped.pt")),
        (write_gradients, (weighted, root / "weighted.pt")),
        (write_gradients, (divided, root / "divided.pt")),
        (write_gradients, (selective, root / "divided selectively.pt")),
        (write_gradients, (divided, root / "unexchanged.pt", "unexchanged")),
        (write_gradients, (sampled, root / "sampled.pt")),
        (write_gradients, (sampled, root / "averaged sampled.pt", "averaged")),
        (write_gradients, (parts, root / "sampled parts.pt")),
        (train_with_slow_files, (make_job(root / "slow", epochs=2, checkpoints=2), root / "slow.json")),
        (train_as_worker, (in_parts, root / "in parts.json")),
        (train_as_worker, (rest_in_parts, root / "rest in parts.json", halfway)),
    )
    in_workers(
        1,
        (write_offload_policies, (offloaded, root / "homes.json")),
        (train_as_worker, (offloaded, root / "offloaded by one.json")),
    )
    meshes = {
        "copies": make_job(root / "copies", weighted_examples(), max_tokens=24, shard=2, workers=4),
        "copies in parts": make_job(root / "copies", weighted_examples(), max_tokens=24, shard=2, context=2, workers=4),
        "four parts": make_job(root / "copies", weighted_examples(), max_tokens=24, context=4, workers=4),
    }
    often = make_job(root / "often", weighted_examples(LENGTHS * 3), batch=24, max_tokens=24, shard=2, workers=4)
    fully = replace(often, training=often.training.model_copy(update={"zero_stage": 3}))
    alone = replace(often, training=often.training.model_copy(update={"workers": 1, "shard": None}))
    write_gradients(0, 1, alone, root / "one often.pt")
    resumed = make_job(root / "copied steps", random_examples(UNEVEN), **SETTINGS, shard=2, context=2, workers=4)
    rest = replace(resumed, checkpoint_directory=str(root / "rest of copies"))
    in_workers(
        4,
        *((write_gradients, (job, root / f"{name}.pt")) for name, job in meshes.items()),
        (write_gradients, (meshes["copies"], root / "averaged copies.pt", "averaged")),
        (write_gradients, (often, root / "often.pt")),
        (write_gradients, (fully, root / "fully.pt")),
        (write_collective_counts, (fully, root / "fully collectives.json")),
        (write_weights, (meshes["copies"], root / "weights of copies.pt")),
        (train_as_worker, (resumed, root / "copied steps.json")),
        (train_as_worker, (rest, root / "rest of copies.json", Path(resumed.checkpoint_directory) / "step-000003")),
    )
    write_weights(0, 1, weighted, root / "weights of one weighted.pt")
    in_workers(3, (write_gradients, (wide, root / "three.pt")), (write_weights, (steps, root / "weights of three.pt")))
    return root


def figures(done: Path, name: str) -> list[tuple[float, ...]]:
    return curve(json.loads((done / f"{name}.json").read_text()))


def farthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    largest = max(float(tensor.abs().max()) for tensor in one.values())
    assert largest > 1e-3
    assert one.keys() == other.keys()
    return max(float((one[key] - other[key]).abs().max()) for key in one) / largest


def gradients(done: Path, name: str) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = torch.load(done / f"{name}.pt")
    return tensors


def exported(directory: Path, step: int) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(directory / f"step-{step:06d}" / "model" / "model.safetensors")
    return tensors


@pytest.mark.parametrize("workers", ["two", "three", "split"])
def test_gradients_of_several_workers_equal_those_of_one(done: Path, workers: str) -> None:
    assert farthest(gradients(done, "one"), gradients(done, workers)) < 1e-6


@pytest.mark.parametrize(
    "workers", ["weighted", "divided", "divided selectively", "copies", "copies in parts", "four parts"]
)
def test_weighted_gradients_of_any_mesh_equal_those_of_one_worker(done: Path, workers: str) -> None:
    assert farthest(gradients(done, "one weighted"), gradients(done, workers)) < 1e-6


@pytest.mark.parametrize("workers", ["sampled", "sampled parts"])
def test_policy_gradients_of_two_workers_equal_those_of_one(done: Path, workers: str) -> None:
    assert farthest(gradients(done, "one sampled"), gradients(done, workers)) < 1e-6
    assert farthest(gradients(done, "one sampled"), gradients(done, "averaged sampled")) > 1e-2  # control


@pytest.mark.parametrize("workers", ["often", "fully"])
def test_copies_have_the_gradients_of_one_worker_over_several_packs(done: Path, workers: str) -> None:
    assert farthest(gradients(done, "one often"), gradients(done, workers)) < 1e-6


def test_copies_add_up_their_gradients_once_a_step(done: Path) -> None:
    counts = json.loads((done / "fully collectives.json").read_text())
    parts, loss = 3, 1  # two layers and the root
    assert counts["packs"] > 1
    assert counts["c10d::_reduce_scatter_base_"] == parts * counts["packs"]
    assert counts["c10d::allreduce_"] == parts + loss


@pytest.mark.parametrize("fault", ["one", "unexchanged", "averaged copies"])
def test_control_a_fault_in_weights_exchange_or_copies_changes_gradients(done: Path, fault: str) -> None:
    assert farthest(gradients(done, "one weighted"), gradients(done, fault)) > 1e-2


@pytest.mark.parametrize(("whole", "rest"), [("in parts", "rest in parts"), ("copied steps", "rest of copies")])
def test_a_training_on_a_mesh_resumes_bit_equal(done: Path, whole: str, rest: str) -> None:
    everything, continued = figures(done, whole), figures(done, rest)
    assert len(everything) == 6
    assert continued == everything[3:]
    for expected, found in zip(figures(done, "one"), everything, strict=True):
        assert found == pytest.approx(expected, rel=1e-5)


def test_weights_of_two_copies_after_three_updates_equal_those_of_one_worker(done: Path) -> None:
    assert farthest(gradients(done, "weights of one weighted"), gradients(done, "weights of copies")) < 1e-5


def test_workers_wait_longer_for_an_export_and_an_upload_than_in_a_collective(done: Path) -> None:
    assert len(json.loads((done / "slow.json").read_text())) == 2


def test_workers_communicate_once_per_step_or_once_per_pack(done: Path) -> None:
    once, each = (json.loads((done / f"{name} collectives.json").read_text()) for name in ("wide", "split"))
    parts, packs = 3, once["packs"]  # two layers and the root
    assert packs == each["packs"] > 1
    assert once["c10d::_reduce_scatter_base_"] == parts
    assert each["c10d::_reduce_scatter_base_"] == parts * packs
    assert once.get("c10d::_allgather_base_", 0) < each["c10d::_allgather_base_"]


@pytest.mark.parametrize("arrangement", ["skewed", "swapped"])
def test_the_split_of_a_long_and_seven_short_examples_changes_no_gradient(done: Path, arrangement: str) -> None:
    assert farthest(gradients(done, "one skewed"), gradients(done, arrangement)) < 1e-6


@pytest.mark.parametrize(("right", "wrong"), [("one", "averaged"), ("one skewed", "local")])
def test_control_gradients_averaged_over_workers_differ(done: Path, right: str, wrong: str) -> None:
    assert farthest(gradients(done, right), gradients(done, wrong)) > 1e-2


@pytest.mark.parametrize("by", ["two", "three", "replicas"])
def test_weights_after_three_updates_equal_those_of_one_worker(done: Path, by: str) -> None:
    one = gradients(done, "weights of one")
    started = load_file(done / "steps" / "model" / "model.safetensors")
    assert farthest(started, {name: one[name] for name in started}) > 1e-3
    assert farthest(one, gradients(done, f"weights of {by}")) < 1e-5


def test_weights_by_muon_of_two_workers_equal_those_of_one(done: Path) -> None:
    one = gradients(done, "weights of one by muon")
    assert farthest(one, gradients(done, "weights of two by muon")) < 1e-5
    assert farthest(one, gradients(done, "weights of one")) > 1e-3  # control: AdamW's


def test_two_workers_by_muon_resume_bit_equal(done: Path) -> None:
    assert figures(done, "rest of muon") == figures(done, "muon steps")[3:]


def test_shards_round_moments_to_the_bits_of_the_whole(done: Path) -> None:
    write_rounding(0, 1, done / "rounded by one.pt")
    whole = torch.load(done / "rounded by one.pt")
    assert torch.equal(torch.load(done / "rounded by two.pt"), whole)
    assert not torch.equal(whole[:4], whole[4:]), "control: equal rows are rounded by other bits"


def test_weights_with_bf16_moments_of_two_workers_equal_those_of_one(done: Path) -> None:
    one = gradients(done, "weights of one with bf16 moments")
    # Sums in another order differ in the last bit, which now and then rounds a moment, and so a step, 0.4 % further.
    assert farthest(one, gradients(done, "weights of two with bf16 moments")) < 1e-4
    assert farthest(one, gradients(done, "weights of one")) > 1e-4  # control: with moments in fp32


def test_two_workers_with_bf16_moments_resume_bit_equal(done: Path) -> None:
    assert figures(done, "rest rounding") == figures(done, "rounding steps")[3:]


def test_moments_in_main_memory_change_no_step_and_resume_bit_equal(done: Path) -> None:
    in_main_memory = gradients(done, "weights of two with moments in main memory")
    assert farthest(gradients(done, "weights of two"), in_main_memory) < 1e-6
    assert figures(done, "rest kept") == figures(done, "kept steps")[3:]


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
def test_offloaded_weights_take_the_same_steps(done: Path, by: str) -> None:
    for expected, found in zip(figures(done, "one"), figures(done, by), strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    assert json.loads((done / "homes.json").read_text()) == ["CPUOffloadPolicy"] * 3, "two layers and the root"


def test_two_workers_resume_a_training_of_one(done: Path) -> None:
    one, continued = figures(done, "one"), figures(done, "continued")
    for expected, found in zip(one[len(one) // 2 :], continued, strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    steps = len(one)
    started, ended = (exported(done / "steps" / "scratch", step) for step in (steps // 2, steps))
    assert farthest(started, ended) > 1e-3
    assert farthest(ended, exported(done / "continued", steps)) < 1e-5


def test_one_worker_resumes_a_training_of_two(done: Path) -> None:
    two = figures(done, "two")
    job = make_job(done / "spread", random_examples(UNEVEN), **SETTINGS)
    started = Path(job.checkpoint_directory) / f"step-{len(two) // 2:06d}"
    rest, saved = train(replace(job, checkpoint_directory=str(done / "alone")), resume_from=started)
    for expected, found in zip(two[len(two) // 2 :], curve(rest), strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    assert farthest(exported(Path(job.checkpoint_directory), len(two)), exported(done / "alone", len(two))) < 1e-5
    assert list(saved) == [len(two)]


def test_two_workers_in_bf16_learn_like_one_in_fp32(done: Path) -> None:
    for expected, found in zip(figures(done, "one"), figures(done, "rounded"), strict=True):
        assert found[1] == pytest.approx(expected[1], rel=0.1)


def test_a_nan_loss_on_one_worker_stops_all_before_the_update(done: Path) -> None:
    assert torch.load(done / "stopped.pt").tolist() == [1, 1]


def test_a_step_smaller_than_the_world_leaves_workers_with_empty_packs_only(done: Path) -> None:
    session = loop.open_session(make_job(done / "steps", random_examples(UNEVEN), **SETTINGS), 0, 1)
    shares = [session.plan.for_rank(1, rank, 3) for rank in range(3)]
    assert [packs for packs in shares if packs == [()]]

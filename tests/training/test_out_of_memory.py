"""What a GPU without memory is told: settings that help, that are valid, and that are not set already."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reasonray.config import Training
from reasonray.errors import UserError
from reasonray.training.out_of_memory import memory_explained, remedies_from_the_start, remedies_on_resuming

TO_MAIN_MEMORY = ["activation_checkpointing", "cpu_offload", "cpu_offload"]
CUDA = "CUDA out of memory. Tried to allocate 9.39 GiB. GPU 0 has a total capacity of 79 GiB, 3 of them free."


def advice(**settings: Any) -> str:
    with pytest.raises(UserError) as fault, memory_explained(Training(**settings)):
        raise torch.OutOfMemoryError(CUDA)
    assert "\n" not in str(fault.value)
    return str(fault.value)


def names(**settings: Any) -> list[str]:
    return [key for remedy in remedies_on_resuming(Training(**settings)) for key in remedy]


def test_the_message_is_one_line_with_what_was_needed_and_what_to_set() -> None:
    assert advice(gpus=1) == (
        "the GPU's memory is too small (CUDA out of memory. Tried to allocate 9.39 GiB): resume with the first that "
        'helps of training.workers = 2, training.activation_checkpointing = "offload", '
        'training.cpu_offload = "optimiser", training.cpu_offload = true; or begin again with '
        'training.moments = "bf16", training.lora_rank = 16, training.max_tokens = 2048'
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["workers", *TO_MAIN_MEMORY]),
        ({"activation_checkpointing": True}, ["workers", *TO_MAIN_MEMORY]),
        ({"activation_checkpointing": False}, ["activation_checkpointing"] * 2 + ["workers", *TO_MAIN_MEMORY]),
        ({"activation_checkpointing": "selective"}, ["activation_checkpointing", "workers", *TO_MAIN_MEMORY]),
        ({"cpu_offload": True}, ["workers", "activation_checkpointing"]),
        ({"cpu_offload": "optimiser"}, ["workers", "activation_checkpointing", "cpu_offload"]),
        ({"activation_checkpointing": "offload"}, ["workers", "cpu_offload", "cpu_offload"]),
        (
            {"compile": True, "activation_checkpointing": False},
            ["activation_checkpointing", "workers", *TO_MAIN_MEMORY],
        ),
        ({"workers": 4}, ["context", "workers", *TO_MAIN_MEMORY]),
        ({"workers": 4, "context": 4}, ["workers", *TO_MAIN_MEMORY]),
        ({"workers": 4, "zero_stage": 1}, ["zero_stage", "context", "workers", *TO_MAIN_MEMORY]),
        ({"workers": 4, "shard": 2}, ["shard", "context", *TO_MAIN_MEMORY]),
        ({"workers": [2, 4]}, ["workers", *TO_MAIN_MEMORY]),
        ({"optimiser": "muon"}, ["workers", "activation_checkpointing"]),
    ],
    ids=str,
)
def test_it_advises_what_is_not_set_from_what_costs_least(settings: dict[str, Any], expected: list[str]) -> None:
    assert names(gpus=1, **settings) == expected


def test_what_changes_the_student_is_named_apart() -> None:
    assert [*map(list, remedies_from_the_start(Training(gpus=1)))] == [["moments"], ["lora_rank"], ["max_tokens"]]
    assert [*map(list, remedies_from_the_start(Training(gpus=1, moments="bf16")))] == [["lora_rank"], ["max_tokens"]]
    assert remedies_from_the_start(Training(gpus=1, lora_rank=8, max_tokens=64)) == [{"max_tokens": 32}]
    assert remedies_from_the_start(Training(gpus=1, optimiser="muon", max_tokens=1)) == [{"moments": "bf16"}]


@given(
    gpus=st.integers(1, 4),
    workers=st.sampled_from([1, 2, 4, (1, 3)]),
    checkpointing=st.sampled_from([None, True, False, "selective", "offload"]),
    zero_stage=st.sampled_from([None, 1, 3]),
    cpu_offload=st.sampled_from([False, True, "optimiser"]),
    lora_rank=st.sampled_from([0, 4]),
    moments=st.sampled_from(["fp32", "bf16"]),
)
def test_each_advice_is_valid_and_changes_something(
    checkpointing: bool | str | None, lora_rank: int, moments: str, **placement: Any
) -> None:
    training = Training(
        activation_checkpointing=checkpointing,  # type: ignore[arg-type]
        lora_rank=lora_rank,
        moments=moments,  # type: ignore[arg-type]
        **placement,
    )
    for remedy in (*remedies_on_resuming(training), *remedies_from_the_start(training)):
        changed = Training.model_validate(training.model_dump() | remedy)
        properties = ("recomputation", "process_bounds", "syncs_once_per_step", "activation_checkpointing")
        assert changed != training
        if "activation_checkpointing" in remedy or "zero_stage" in remedy or "workers" in remedy:
            assert [getattr(changed, name) for name in properties] != [getattr(training, name) for name in properties]
    resumed = [Training.model_validate(training.model_dump() | one) for one in remedies_on_resuming(training)]
    assert all(changed.step_settings == training.step_settings for changed in resumed)


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), memory_explained(Training()):
        _ = 1 / 0

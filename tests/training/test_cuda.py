"""Attention, training, resuming and sharding on GPUs, compared with fp32 on the CPU: pytest -m gpu."""

import json
import os
import socket
from pathlib import Path

import pytest
import torch

from reasonray.training import attention, loop
from reasonray.training.attention import attend_by_example, attend_varlen, packed_attention
from tests.students import curve, make_job, random_examples, train, train_as_worker

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]
BOUNDARIES = (0, 7, 8, 300, 555)


def states(heads: int, size: int, value_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    shapes = (8, size), (heads, size), (heads, value_size)
    query, key, value = (torch.randn(1, count, BOUNDARIES[-1], width) for count, width in shapes)
    return query, key, value


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize(("heads", "size", "value_size"), [(8, 64, 64), (2, 128, 128), (8, 192, 128)])
def test_the_kernel_has_the_outputs_and_gradients_of_fp32_on_a_cpu(
    heads: int, size: int, value_size: int, window: int | None
) -> None:
    cu_seq_lens = torch.tensor(BOUNDARIES, dtype=torch.int32)
    results = []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.bfloat16)):
        inputs = [tensor.to(device, dtype).detach().requires_grad_() for tensor in states(heads, size, value_size)]
        if device == "cuda":
            assert attention._varlen_supports(inputs[0], inputs[2])
        out, _ = packed_attention(
            torch.nn.Module(), *inputs, None, scaling=size**-0.5, sliding_window=window,
            cu_seq_lens_q=cu_seq_lens.to(device), max_length_q=292,
        )  # fmt: skip
        out.float().square().sum().backward()
        results.append([tensor.float().cpu() for tensor in (out.detach(), *(tensor.grad for tensor in inputs))])
    for expected, computed in zip(*results, strict=True):
        assert (expected - computed).abs().max() < 0.03 * expected.abs().max()


def test_control_without_boundaries_the_kernel_mixes_examples() -> None:
    inputs = [tensor.to("cuda", torch.bfloat16) for tensor in states(8, 64, 64)]
    whole = torch.tensor([0, BOUNDARIES[-1]], dtype=torch.int32, device="cuda")
    cu_seq_lens = torch.tensor(BOUNDARIES, dtype=torch.int32, device="cuda")
    separate = attend_by_example(*inputs, 0.125, None, cu_seq_lens)
    assert (attend_varlen(*inputs, 0.125, None, whole, BOUNDARIES[-1]) - separate).abs().max() > 0.1


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"activation_checkpointing": False},
        {"activation_checkpointing": "offload"},
        {"compile": True},
        {"compile": True, "activation_checkpointing": False},
        {"cpu_offload": "optimiser"},
        {"lora_rank": 4},
        {"optimiser": "muon"},
    ],
    ids=str,
)
def test_a_gpu_takes_the_steps_of_a_cpu(tmp_path: Path, settings: dict[str, object]) -> None:
    rows = random_examples((30, 200, 90, 17, 60, 120, 5, 44))
    on_cpu, _ = train(make_job(tmp_path / "cpu", rows, max_tokens=256, **settings))
    on_gpu, saved = train(make_job(tmp_path / "gpu", rows, max_tokens=256, gpus=1, precision="bf16", **settings))
    for expected, found in zip(on_cpu, on_gpu, strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=0.05)
    assert on_gpu[-1]["loss"] < on_gpu[0]["loss"]
    assert saved


def test_a_training_resumed_on_a_gpu_takes_the_remaining_steps(tmp_path: Path) -> None:
    job = make_job(tmp_path, gpus=1, batch=3, checkpoints=2)
    figures, saved = train(job)
    rest, _ = train(job, resume_from=saved[len(figures) // 2])
    for expected, found in zip(curve(figures[len(figures) // 2 :]), curve(rest), strict=True):
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("settings", [{"activation_checkpointing": "offload"}, {"cpu_offload": "optimiser"}], ids=str)
def test_what_is_in_main_memory_takes_none_of_the_gpus(tmp_path: Path, settings: dict[str, object]) -> None:
    rows = random_examples((2000,) * 4)
    peaks = []
    for own in ({}, settings):
        torch.cuda.reset_peak_memory_stats()
        train(make_job(tmp_path / str(len(own)), rows, max_tokens=8000, gpus=1, precision="bf16", **own))
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] < peaks[0]


def train_on_own_gpu(rank: int, world: int, port: int, job: loop.TrainingJob, result: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.cuda.set_device(rank)
    torch.distributed.init_process_group(job.training.backend, rank=rank, world_size=world)
    train_as_worker(rank, world, job, result)
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU shards nothing: at least two are needed")
@pytest.mark.parametrize(
    "settings", [{}, {"cpu_offload": True}, {"cpu_offload": "optimiser"}, {"compile": True}, {"zero_stage": 1}], ids=str
)
def test_a_student_sharded_over_all_gpus_takes_the_steps_of_a_cpu(tmp_path: Path, settings: dict[str, object]) -> None:
    on_cpu, _ = train(make_job(tmp_path / "one"))
    job = make_job(tmp_path / "sharded", gpus=1, precision="bf16", **settings)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = torch.cuda.device_count()
    torch.multiprocessing.spawn(train_on_own_gpu, (world, port, job, tmp_path / "figures.json"), nprocs=world)
    for expected, found in zip(on_cpu, json.loads((tmp_path / "figures.json").read_text()), strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=0.05)


def test_the_self_check_passes_on_a_gpu(tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        session = loop.open_session(make_job(tmp_path, gpus=1, precision=precision), 0, 1)
        assert session.device.type == "cuda"

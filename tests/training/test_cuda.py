"""T1, T3, T6 and T8 on GPUs: pytest -m gpu. The CPU's fp32 is the oracle."""

import json
import os
import socket
from pathlib import Path

import pytest
import torch

from reasonray.training import attention, loop
from reasonray.training.attention import by_example, by_kernel, packed_attention
from tests.students import curve, make_job, random_examples, train, train_as

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]
BORDERS = (0, 7, 8, 300, 555)


def states(heads: int, size: int, value_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    shapes = (8, size), (heads, size), (heads, value_size)
    query, key, value = (torch.randn(1, count, BORDERS[-1], width) for count, width in shapes)
    return query, key, value


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize(("heads", "size", "value_size"), [(8, 64, 64), (2, 128, 128), (8, 192, 128)])
def test_the_kernel_attends_and_learns_as_fp32_does_on_a_cpu(
    heads: int, size: int, value_size: int, window: int | None
) -> None:
    borders = torch.tensor(BORDERS, dtype=torch.int32)
    found = []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.bfloat16)):
        inputs = [it.to(device, dtype).detach().requires_grad_() for it in states(heads, size, value_size)]
        if device == "cuda":
            assert attention._kernel_takes(inputs[0], inputs[2])
        out, _ = packed_attention(
            torch.nn.Module(), *inputs, None, scaling=size**-0.5, sliding_window=window,
            cu_seq_lens_q=borders.to(device), max_length_q=292,
        )  # fmt: skip
        out.float().square().sum().backward()
        found.append([it.float().cpu() for it in (out.detach(), *(it.grad for it in inputs))])
    for expected, mine in zip(*found, strict=True):
        assert (expected - mine).abs().max() < 0.03 * expected.abs().max()


def test_control_without_borders_the_kernel_mixes_examples() -> None:
    inputs = [it.to("cuda", torch.bfloat16) for it in states(8, 64, 64)]
    whole = torch.tensor([0, BORDERS[-1]], dtype=torch.int32, device="cuda")
    borders = torch.tensor(BORDERS, dtype=torch.int32, device="cuda")
    apart = by_example(*inputs, 0.125, None, borders)
    assert (by_kernel(*inputs, 0.125, None, whole, BORDERS[-1]) - apart).abs().max() > 0.1


@pytest.mark.parametrize("settings", [{}, {"activation_checkpointing": True}, {"lora_rank": 4}], ids=str)
def test_a_gpu_takes_the_steps_that_a_cpu_takes(tmp_path: Path, settings: dict[str, object]) -> None:
    rows = random_examples((30, 200, 90, 17, 60, 120, 5, 44))
    on_cpu, _ = train(make_job(tmp_path / "cpu", rows, max_tokens=256, **settings))
    on_gpu, saved = train(make_job(tmp_path / "gpu", rows, max_tokens=256, gpus=1, precision="bf16", **settings))
    for expected, found in zip(on_cpu, on_gpu, strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=0.05)
    assert on_gpu[-1]["loss"] < on_gpu[0]["loss"]
    assert saved


def test_a_resumed_run_on_a_gpu_continues_where_it_was(tmp_path: Path) -> None:
    job = make_job(tmp_path, gpus=1, batch=3, checkpoints=2)
    figures, saved = train(job)
    rest, _ = train(job, resume_from=saved[len(figures) // 2])
    for expected, found in zip(curve(figures[len(figures) // 2 :]), curve(rest), strict=True):
        assert found == pytest.approx(expected, rel=1e-4)


def work(rank: int, world: int, port: int, job: loop.TrainingJob, result: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.cuda.set_device(rank)
    torch.distributed.init_process_group(job.training.backend, rank=rank, world_size=world)
    train_as(rank, world, job, result)
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("settings", [{}, {"cpu_offload": True}, {"zero_stage": 1}], ids=str)
def test_all_gpus_together_take_the_steps_that_a_cpu_takes(tmp_path: Path, settings: dict[str, object]) -> None:
    alone, _ = train(make_job(tmp_path / "alone"))
    job = make_job(tmp_path / "together", gpus=1, precision="bf16", **settings)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = torch.cuda.device_count()
    torch.multiprocessing.spawn(work, (world, port, job, tmp_path / "figures.json"), nprocs=world)
    for expected, found in zip(alone, json.loads((tmp_path / "figures.json").read_text()), strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=0.05)


def test_the_start_up_check_passes_on_a_gpu(tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        session = loop.open_session(make_job(tmp_path, gpus=1, precision=precision), 0, 1)
        assert session.device.type == "cuda"

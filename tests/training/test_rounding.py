"""Moments in bf16: rounded right in the mean, the same for any sharding, and AdamW takes its steps with them."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reasonray.config import Training
from reasonray.training import loop, optimiser, rounding
from tests.students import curve, make_job, take_steps, train

CPU = torch.device("cpu")
finite = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@given(value=finite, key=st.integers(0, 2**32 - 1), first=st.integers(0, 2**40))
def test_a_value_becomes_one_of_its_two_neighbours(value: float, key: int, first: int) -> None:
    exact = torch.full((64,), value)
    rounded = rounding.to_bf16(exact.clone(), rounding.random_bits(first, 64, key, CPU)).float()
    low = (exact.view(torch.int32) & -0x10000).view(torch.float32)
    high = (low.view(torch.int32) + 0x10000).view(torch.float32)
    assert bool(((rounded == low) | (rounded == high)).all())
    assert bool((rounding.to_bf16(low.clone(), rounding.random_bits(first, 64, key, CPU)) == low).all())


@given(start=st.integers(0, 40), count=st.integers(1, 40), key=st.integers(0, 2**32 - 1), first=st.integers(0, 2**40))
def test_the_bits_of_an_element_depend_on_its_place_and_the_key(start: int, count: int, key: int, first: int) -> None:
    whole = rounding.random_bits(first, 80, key, CPU)
    assert torch.equal(whole[start : start + count], rounding.random_bits(first + start, count, key, CPU))
    assert not torch.equal(whole, rounding.random_bits(first, 80, key + 1, CPU))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("shift", [0, 16], ids=["lower bits", "upper bits"])
def test_the_mean_is_the_exact_value(sign: float, shift: int) -> None:
    unit, count = 2.0**-7, 1 << 16
    exact = torch.full((count,), sign * (1 + 0.3 * unit))
    rounded = rounding.to_bf16(exact.clone(), rounding.random_bits(0, count, 7, CPU) >> shift).double()
    assert abs(float(rounded.mean() - exact.double().mean())) < 4 * 0.46 * unit / count**0.5
    assert float(exact.bfloat16().double().mean() - exact.double().mean()) == pytest.approx(-sign * 0.3 * unit, 1e-3)


def second_moment_after(steps: int, training: Training, gradient: float) -> torch.Tensor:
    """Return the second moments, which begin at 1, after some steps of equal gradients."""
    weight = torch.nn.Parameter(torch.zeros(64, 64))
    adamw = optimiser.BlockwiseAdamW([{"params": [("weight", weight)]}], training)
    adamw.state[weight] = adamw.initial_state(weight)
    adamw.state[weight]["exp_avg_sq"].fill_(1.0)
    for _ in range(steps):
        weight.grad = torch.full_like(weight, gradient)
        adamw.step()
    return adamw.state[weight]["exp_avg_sq"].double()


def test_the_second_moment_falls_as_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = 0.999**200
    assert float(second_moment_after(200, Training(moments="bf16"), 0.0).mean()) == pytest.approx(exact, rel=1e-3)
    monkeypatch.setattr(optimiser, "to_bf16", lambda values, bits: values.bfloat16())
    assert float(second_moment_after(200, Training(moments="bf16"), 0.0).mean()) == 1.0, "control: rounded to nearest"


def test_the_steps_are_those_of_torchs_adamw_to_a_percent() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(40, 24, generator=generator)
    mine, stock = (torch.nn.Parameter(start.clone()) for _ in range(2))
    training = Training(learning_rate=0.01, moments="bf16")
    rounded = optimiser.BlockwiseAdamW([{"params": [("weight", mine)], "weight_decay": 0.1}], training)
    reference = torch.optim.AdamW([stock], lr=0.01, betas=training.betas, eps=training.eps, weight_decay=0.1)
    take_steps(1, generator, (mine, rounded), (stock, reference))
    assert torch.allclose(mine, stock, rtol=0, atol=1e-7), "the first step has no rounded moment yet"
    take_steps(19, generator, (mine, rounded), (stock, reference))
    moved = (stock - start).norm()
    assert 0 < (mine - stock).norm() < 0.01 * moved


@pytest.mark.parametrize("rows", [1, 7, 40])
def test_blocks_change_no_bit(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    def trained() -> torch.Tensor:
        weight = torch.nn.Parameter(torch.ones(40, 24))
        adamw = optimiser.BlockwiseAdamW([{"params": [("weight", weight)]}], Training(moments="bf16"))
        for step in range(3):
            weight.grad = torch.randn(40, 24, generator=torch.Generator().manual_seed(step))
            adamw.step()
        return adamw.state[weight]["exp_avg_sq"]

    whole = trained()
    monkeypatch.setattr(rounding, "_BLOCK", rows * 24)
    assert torch.equal(trained(), whole)


def test_the_moments_take_half_the_bytes(tmp_path: Path) -> None:
    for kind in ("adamw", "muon"):
        job = make_job(tmp_path, optimiser=kind, moments="bf16")
        session = loop.open_session(job, 0, 1)
        loop.take_step(session, 0)
        for name, weight in session.weights.named.items():
            moments = {key: value for key, value in session.optimiser.state_of(weight).items() if key != "step"}
            assert {value.dtype for value in moments.values()} == {torch.bfloat16}, name
            assert all(value.shape == weight.shape and bool(value.any()) for value in moments.values()), name


@pytest.mark.parametrize("settings", [{}, {"precision": "bf16"}, {"optimiser": "muon"}], ids=str)
def test_a_training_resumes_bit_equal(tmp_path: Path, settings: dict[str, object]) -> None:
    job = make_job(tmp_path, batch=3, epochs=2, checkpoints=2, moments="bf16", **settings)
    figures, saved = train(job)
    half = len(figures) // 2
    rest, _ = train(job, resume_from=saved[half])
    assert curve(rest) == curve(figures[half:])
    exact = make_job(tmp_path, batch=3, epochs=2, checkpoints=2, **settings)
    assert curve(figures) != curve(train(exact)[0]), "control"
    assert figures[-1]["loss"] == pytest.approx(train(exact)[0][-1]["loss"], rel=0.02)

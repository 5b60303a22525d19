"""Accuracy, entropy and utilisation of a step are those computed plainly, and measuring changes no loss."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from reasonray.training import device, loop, losses
from reasonray.training.examples import collate
from reasonray.training.losses import TokenSums, summed_cross_entropy
from reasonray.training.sizes import Sizes
from tests.students import make_job

CPU = torch.device("cpu")
TOKENS, SIZE, VOCAB = 160, 32, 700


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("chunk", [64, 96, 1024])
def test_accuracy_and_entropy_are_those_of_the_logits_and_measuring_changes_no_bit(
    chunk: int, cap: float | None
) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(rows, SIZE, generator=generator) * 0.5 for rows in (TOKENS, VOCAB))
    weight.requires_grad_()
    logits = hidden @ weight.detach().T
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    labels = torch.where(torch.arange(TOKENS) % 3 > 0, logits.argmax(1), torch.arange(TOKENS))
    measured = TokenSums.zero(CPU)
    loss = summed_cross_entropy(hidden, weight, labels, chunk, cap=cap, measured=measured)
    loss.backward()
    gradient, weight.grad = weight.grad, None
    plain = summed_cross_entropy(hidden, weight, labels, chunk, cap=cap)
    plain.backward()
    assert torch.equal(loss, plain)
    assert gradient is not None
    assert torch.equal(gradient, weight.grad)
    tokens, likeliest, sampled, entropy, *_ = measured.sums.tolist()
    assert tokens == TOKENS
    assert likeliest == int((logits.argmax(1) == labels).sum()) < TOKENS
    entropies = torch.distributions.Categorical(logits=logits).entropy()[:: losses._ENTROPY_EVERY]
    assert sampled == len(entropies)
    assert entropy == pytest.approx(float(entropies.sum()), rel=1e-4)


def test_a_steps_figures_are_those_of_its_examples(tmp_path: Path) -> None:
    session = loop.open_session(make_job(tmp_path), 0, 1)
    step = session.plan.steps[0]
    right = targets = 0
    for row in step.rows:
        batch = collate(session.examples, [row])
        kept = batch.labels[0] >= 0
        with torch.no_grad():
            likeliest = session.student.logits(batch).argmax(1)
        right += int((likeliest == batch.labels[0])[kept].sum())
        targets += int(kept.sum())
    figures = loop.take_step(session, 0)
    assert figures["token_accuracy"] == pytest.approx(right / targets)
    assert figures["entropy"] > 0
    assert 0 < figures["mfu"] < 1
    assert 0.01 < figures["peak_gb"] < 100


def test_the_operations_are_those_of_the_products(tmp_path: Path) -> None:
    session = loop.open_session(make_job(tmp_path), 0, 1)
    sizes = Sizes.of(AutoConfig.from_pretrained(tmp_path / "model"))
    lengths = [7, 12]
    matrices = sum(
        weight.numel() for name, weight in session.weights.named.items() if weight.ndim == 2 and ".layers." in name
    )
    head = sizes.embedding
    pairs = sum(length**2 for length in lengths) / 2
    expected = 6 * (matrices * 19 + head * 10) + 12 * sizes.layers * sizes.heads * sizes.head_size * pairs
    assert sizes.operations(lengths, 10) == pytest.approx(expected, rel=0.02)  # norms count as a little
    assert sizes.operations(lengths, 10, frozen=True) < 0.75 * expected


@pytest.mark.parametrize(
    ("card", "rate"),
    [
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("A100-PCIE-40GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA H100 80GB HBM3", 989.5e12),
        ("NVIDIA H100 PCIe", 756.5e12),
        ("NVIDIA H100 NVL", 835.5e12),
        ("NVIDIA H200", 989.5e12),
        ("NVIDIA H200 NVL", 835.5e12),
        ("NVIDIA GH200 480GB", 989.5e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L40S", 362.05e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA GeForce RTX 5090", 209.5e12),
        ("AMD Instinct MI300X", 1307.4e12),
    ],
)
def test_cards_have_the_rates_of_their_data_sheets(card: str, rate: float) -> None:
    assert device.sheet_rate(card) == rate


@pytest.mark.parametrize(
    "card",
    [
        "NVIDIA L40",
        "NVIDIA A10",
        "NVIDIA H20",
        "Tesla T4",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "GRID A100-10C",
        "NVIDIA A100-SXM-64GB",
        "AMD Instinct MI300A",
        "",
    ],
)
def test_other_cards_have_none(card: str) -> None:
    assert device.sheet_rate(card) is None


def test_a_device_without_a_rate_has_no_utilisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_rate(device: torch.device, dtype: torch.dtype) -> None:
        return None

    monkeypatch.setattr(loop, "product_rate", no_rate)
    figures = loop.take_step(loop.open_session(make_job(tmp_path), 0, 1), 0)
    assert "mfu" not in figures
    assert figures["peak_gb"] > 0


def test_a_cpu_is_measured_once() -> None:
    first = device.product_rate(CPU, torch.float32)
    assert first is not None
    assert first > 1e6
    assert device.product_rate(CPU, torch.float32) == first

"""The clipped objective, its gradient and its figures are those of a direct, dense computation."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reasonray.errors import UserError
from reasonray.training import loop
from reasonray.training.examples import Example, collate
from reasonray.training.losses import TokenSums, summed_cross_entropy
from reasonray.training.surrogate import Clipping, Surrogate
from tests.students import curve, make_job, random_examples, sampled_examples, train, weighted_examples

TOKENS, SIZE, VOCAB = 150, 32, 700
CLIPPING = Clipping(0.2, 0.3)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def tokens() -> tuple[torch.Tensor, ...]:
    """Return hidden states, output layer, labels, advantages, and log-probabilities that lie to both sides of now's."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(rows, SIZE, generator=generator) for rows in (TOKENS, VOCAB))
    labels = torch.randint(VOCAB, (TOKENS,), generator=generator)
    advantages = torch.randn(TOKENS, generator=generator)
    now = (hidden * 0.5 @ weight.T).log_softmax(1).gather(1, labels[:, None])[:, 0]
    return hidden * 0.5, weight, labels, advantages, now + 0.4 * torch.randn(TOKENS, generator=generator)


def dense(clipping: Clipping, *, clip: bool = True) -> tuple[torch.Tensor, ...]:
    """Return loss, gradients, ratios and clipped tokens as PPO's formula gives them, in float64."""
    hidden, weight, labels, advantages, sampled = tokens()
    hidden, weight = (tensor.double().requires_grad_() for tensor in (hidden, weight))
    logprobs = (hidden @ weight.T).log_softmax(1)[torch.arange(TOKENS), labels]
    ratios = torch.exp(logprobs - sampled.double())
    bounded = torch.clamp(ratios, 1 - clipping.low, 1 + clipping.high) if clip else ratios
    objective = torch.minimum(ratios * advantages, bounded * advantages)
    divergence = torch.exp(sampled - logprobs) - (sampled - logprobs) - 1
    loss = (clipping.kl * divergence - objective).sum()
    loss.backward()
    is_clipped = ((advantages > 0) & (ratios > 1 + clipping.high)) | ((advantages < 0) & (ratios < 1 - clipping.low))
    return loss.detach(), hidden.grad, weight.grad, ratios.detach(), is_clipped


def difference(computed: torch.Tensor, expected: torch.Tensor) -> float:
    assert expected.norm() > 1
    return float((computed.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("chunk", [1, 65, 1024])
@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_loss_gradients_and_figures_are_those_of_ppos_formula(chunk: int, kl: float) -> None:
    clipping = replace(CLIPPING, kl=kl)
    hidden, weight, labels, advantages, sampled = tokens()
    hidden.requires_grad_()
    weight.requires_grad_()
    measured = TokenSums.zero(hidden.device)
    surrogate = Surrogate(sampled, clipping)
    computed = summed_cross_entropy(hidden, weight, labels, chunk, advantages, measured=measured, surrogate=surrogate)
    computed.backward()
    loss, hidden_grad, weight_grad, ratios, is_clipped = dense(clipping)
    assert 10 < is_clipped.sum() < TOKENS - 10
    assert float(computed) == pytest.approx(float(loss), rel=1e-5)
    assert difference(hidden.grad, hidden_grad) < 2e-6
    assert difference(weight.grad, weight_grad) < 2e-6
    expected = [float(ratios.sum()), int(is_clipped.sum()), float(advantages.sum())]
    assert measured.sums[4:].tolist() == pytest.approx(expected, rel=1e-5)
    for control in (dense(clipping, clip=False), dense(replace(clipping, kl=kl + 0.5))):
        assert difference(hidden.grad, control[1]) > 1e-2


@given(st.floats(-60, 0, width=32), st.floats(-60, 0, width=32), st.floats(-4, 4, width=32))
def test_a_token_has_no_gradient_exactly_where_its_ratio_is_beyond_its_bound(
    now: float, sampled: float, advantage: float
) -> None:
    token = Surrogate(torch.tensor([sampled]), CLIPPING).losses(torch.tensor([[-now]]), torch.tensor([[advantage]]))
    ratio = float(token.ratios)
    bound = 1 + CLIPPING.high if advantage > 0 else 1 - CLIPPING.low
    if abs(ratio - bound) > 1e-5 and abs(advantage) > 1e-30:
        assert bool(token.is_clipped) == ((ratio > bound) if advantage > 0 else (ratio < bound))
    assert float(token.slopes) == pytest.approx(0 if token.is_clipped else ratio * advantage, rel=1e-5)
    assert torch.isfinite(token.losses).all()


def gradients(root: Path, rows: list[Example], **training: object) -> dict[str, torch.Tensor]:
    session = loop.open_session(make_job(root, rows, **training), 0, 1)
    loop.backward(session, 0)
    return {name: weight.grad for name, weight in session.weights.named.items()}


def farthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    largest = max(float(tensor.abs().max()) for tensor in one.values())
    assert largest > 1e-3
    return max(float((one[name] - other[name]).abs().max()) for name in one) / largest


def own_logprobs(root: Path, rows: list[Example]) -> list[list[float]]:
    """Return the log-probabilities of target tokens by the student before training."""
    session = loop.open_session(make_job(root, rows), 0, 1)
    batches = [collate([row], [0]) for row in rows]
    with torch.no_grad():
        logprobs = [session.student.logits(batch).log_softmax(1)[:-1] for batch in batches]
    return [
        one[row.start - 1 :].gather(1, torch.tensor(row.ids[row.start :])[:, None])[:, 0].tolist()
        for one, row in zip(logprobs, rows, strict=True)
    ]


def test_the_first_step_with_advantages_of_0_and_1_is_that_of_sft_on_the_correct_samples(tmp_path: Path) -> None:
    rows = random_examples()
    logprobs = own_logprobs(tmp_path, rows)
    is_correct = [number % 3 > 0 for number in range(len(rows))]
    samples = [
        replace(row, weights=[float(correct)] * (len(row.ids) - row.start), logprobs=own)
        for row, correct, own in zip(rows, is_correct, logprobs, strict=True)
    ]
    by_policy = gradients(tmp_path / "policy", samples, objective="policy_gradient")
    by_sft = gradients(tmp_path / "sft", [row for row, correct in zip(rows, is_correct, strict=True) if correct])
    assert farthest(by_sft, by_policy) < 1e-5
    others = [replace(row, logprobs=[value - 0.1 for value in row.logprobs or ()]) for row in samples]
    assert farthest(by_sft, gradients(tmp_path / "others", others, objective="policy_gradient")) > 1e-2  # control
    assert farthest(by_sft, gradients(tmp_path / "all", rows)) > 1e-2  # control: with the wrong samples


def test_the_gradient_of_a_step_is_that_of_the_weighted_ratios(tmp_path: Path) -> None:
    samples = [row for row in sampled_examples() if row.weights]
    found = gradients(tmp_path, samples, objective="policy_gradient", max_tokens=24)
    session = loop.open_session(make_job(tmp_path, samples), 0, 1)
    loss, total = torch.zeros(()), 0.0
    for row in samples:
        logits = session.student.logits(collate([row], [0]))
        targets = torch.tensor(row.ids[row.start :])[:, None]
        now = logits[row.start - 1 : -1].log_softmax(1).gather(1, targets)[:, 0]
        ratios, advantages = (now - torch.tensor(row.logprobs)).exp(), torch.tensor(row.weights)
        loss = loss - torch.minimum(ratios * advantages, ratios.clamp(0.8, 1.2) * advantages).sum()
        total += float(advantages.abs().sum())
    (loss / total).backward()
    expected = {name: weight.grad for name, weight in session.weights.named.items()}
    assert farthest(expected, found) < 1e-5


def test_a_training_logs_its_ratios_learns_and_resumes_bit_equal(tmp_path: Path) -> None:
    job = make_job(tmp_path, sampled_examples(), objective="policy_gradient", batch=4, checkpoints=2, epochs=2)
    figures, saved = train(job)
    assert all({"ratio", "clip_fraction", "advantage"} <= row.keys() for row in figures)
    assert 0 < figures[0]["clip_fraction"] < 1
    rest, _ = train(job, resume_from=saved[2])
    assert curve(rest) == curve(figures[2:])
    plain, _ = train(make_job(tmp_path / "sft", weighted_examples(), batch=4, checkpoints=1, epochs=1))
    assert "ratio" not in plain[0]


def test_examples_without_log_probabilities_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs examples with the log-probabilities of sampling"):
        loop.open_session(make_job(tmp_path, weighted_examples(), objective="policy_gradient"), 0, 1)

"""The loss and its gradients equal those of torch's cross-entropy, in either precision."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from reasonray.training.losses import summed_cross_entropy

TOKENS, SIZE, VOCAB = 150, 32, 700
LABELS = torch.randint(VOCAB, (TOKENS,), generator=torch.Generator().manual_seed(1))


def states(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random hidden states and an output layer whose softmax is neither flat nor a single spike."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(rows, SIZE, generator=generator).to(dtype) for rows in (TOKENS, VOCAB))
    return (hidden * 0.5).requires_grad_(), weight.requires_grad_()


def relative_error(computed: torch.Tensor | None, expected: torch.Tensor | None) -> float:
    assert computed is not None
    assert expected is not None
    assert expected.norm() > 1
    return float((computed.float() - expected.float()).norm() / expected.float().norm())


@pytest.mark.parametrize("chunk", [1, 64, 65, 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_and_gradients_are_those_of_cross_entropy(dtype: torch.dtype, chunk: int) -> None:
    hidden, weight = states(dtype)
    (summed_cross_entropy(hidden, weight, LABELS, chunk) / 7).backward()
    exact = [tensor.detach().float().requires_grad_() for tensor in (hidden, weight)]
    loss = cross_entropy(exact[0] @ exact[1].T, LABELS, reduction="sum")
    (loss / 7).backward()
    computed = summed_cross_entropy(hidden, weight, LABELS, chunk)
    tolerance = 2e-6 if dtype == torch.float32 else 8e-3  # bf16 keeps eight bits
    assert computed.dtype == torch.float32
    assert computed.item() == pytest.approx(loss.item(), rel=tolerance)
    assert relative_error(hidden.grad, exact[0].grad) < tolerance
    assert relative_error(weight.grad, exact[1].grad) < tolerance
    assert relative_error(weight.grad[:, 1:], exact[1].grad[:, :-1]) > 0.5  # control: another gradient is far off


@pytest.mark.parametrize("chunk", [1, 65, 100, 1024])
def test_weighted_loss_and_gradients_are_those_of_weighted_cross_entropy(chunk: int) -> None:
    weights = torch.randn(TOKENS, generator=torch.Generator().manual_seed(2))  # some are negative
    hidden, weight = states(torch.float32)
    computed = summed_cross_entropy(hidden, weight, LABELS, chunk, weights)
    computed.backward()
    exact = [tensor.detach().clone().requires_grad_() for tensor in (hidden, weight)]
    loss = (cross_entropy(exact[0] @ exact[1].T, LABELS, reduction="none") * weights).sum()
    loss.backward()
    assert computed.item() == pytest.approx(loss.item(), rel=1e-5)
    assert relative_error(hidden.grad, exact[0].grad) < 2e-6
    assert relative_error(weight.grad, exact[1].grad) < 2e-6
    unweighted = states(torch.float32)
    summed_cross_entropy(*unweighted, LABELS, chunk).backward()
    assert relative_error(unweighted[0].grad, exact[0].grad) > 0.5  # control


def test_weights_of_one_change_no_bit() -> None:
    plain, weighted = states(torch.bfloat16), states(torch.bfloat16)
    loss = summed_cross_entropy(*plain, LABELS)
    same = summed_cross_entropy(*weighted, LABELS, token_weights=torch.ones(TOKENS))
    loss.backward()
    same.backward()
    assert torch.equal(loss, same)
    assert all(torch.equal(one.grad, other.grad) for one, other in zip(plain, weighted, strict=True))


def test_a_frozen_tensor_gets_no_gradient_and_changes_no_other() -> None:
    hidden, weight = states(torch.float32)
    summed_cross_entropy(hidden, weight, LABELS).backward()
    gradient = hidden.grad
    hidden.grad = None
    summed_cross_entropy(hidden, weight.detach(), LABELS).backward()
    assert gradient is not None
    assert torch.equal(hidden.grad, gradient)


def test_without_gradients_the_loss_is_the_same() -> None:
    hidden, weight = states(torch.bfloat16)
    training = summed_cross_entropy(hidden, weight, LABELS)
    with torch.no_grad():
        inference = summed_cross_entropy(hidden, weight, LABELS)
    assert torch.equal(inference, training.detach())
    assert training.requires_grad
    assert not inference.requires_grad


@pytest.mark.parametrize("scale", [1e4, float("inf")])
def test_large_logits_do_not_overflow_and_infinite_ones_are_not_hidden(scale: float) -> None:
    hidden, weight = states(torch.float32)
    loss = summed_cross_entropy(hidden.detach() * scale, weight.detach(), LABELS)
    assert bool(torch.isfinite(loss)) == (scale < float("inf"))


def test_a_second_backward_is_refused_instead_of_scaling_twice() -> None:
    hidden, weight = states(torch.float32)
    loss = summed_cross_entropy(hidden, weight, LABELS)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()

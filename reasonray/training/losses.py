"""Chunked cross-entropy from hidden states, without the logits of a whole pack in memory.

The gradients are computed along with the loss, while a chunk's logits are in memory, so no product is computed twice
(as in Liger Kernel, arXiv 2410.10989). torch's own linear_cross_entropy (2.13) does the same, but returns a bf16 loss
(three digits) for bf16 states, and takes twice as long on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch

from reasonray.training.surrogate import Surrogate

CHUNK = 1024
"""Tokens whose logits are in memory at once: those of a whole pack would be the largest tensor of a step by far."""

_ROWS = {"cpu": 64}
_ROWS_ON_GPU = 256
"""Tokens whose softmax is computed at once, in fp32: few enough to stay in a processor's cache, and on a GPU enough to
make a kernel take longer than its launch."""

_ENTROPY_EVERY = 16
"""One token in so many has its entropy measured, which would otherwise take a further pass over all probabilities."""


@dataclass(frozen=True)
class TokenSums:
    """Sums over target tokens, added up while their loss is computed."""

    sums: torch.Tensor
    """(7,), fp32: target tokens, those that have the largest logit, tokens with a measured entropy, their entropies in
    nats; with policy gradients also the tokens' ratios, those that are clipped, and their advantages."""

    @classmethod
    def zero(cls, device: torch.device) -> Self:
        """Return sums over no tokens."""
        return cls(torch.zeros(7, dtype=torch.float32, device=device))

    def add(self, shifted: torch.Tensor, total: torch.Tensor, is_largest: torch.Tensor, products: torch.Tensor) -> None:
        """Add tokens.

        Args:
            shifted: logits less the largest, (tokens, vocabulary), of every _ENTROPY_EVERY-th token.
            total: sum of their exponentials, (tokens, 1).
            is_largest: whether the target has the largest logit, of every token, (tokens, 1).
            products: exponentials of `shifted`, of the same shape.
        """
        entropies = total.log() - (products * shifted).sum(1, keepdim=True) / total
        self.sums[0] += len(is_largest)
        self.sums[1] += is_largest.sum()
        self.sums[2] += len(shifted)
        self.sums[3] += entropies.sum()

    def add_sampled(self, ratios: torch.Tensor, is_clipped: torch.Tensor, advantages: torch.Tensor) -> None:
        """Add what policy gradients measure of tokens, each of shape (tokens, 1)."""
        self.sums[4:] += torch.stack([ratios.sum(), is_clipped.sum(), advantages.sum()])


def summed_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    chunk: int = CHUNK,
    token_weights: torch.Tensor | None = None,
    cap: float | None = None,
    measured: TokenSums | None = None,
    surrogate: Surrogate | None = None,
) -> torch.Tensor:
    """Return the fp32 sum of the tokens' weighted cross-entropies. It supports one backward pass.

    Args:
        hidden: last hidden states, (tokens, size).
        weight: of the output layer, (vocabulary, size), in the same dtype.
        labels: the next tokens, (tokens,), none of them IGNORED.
        chunk: tokens whose logits are in memory at once.
        token_weights: loss weight of each token, (tokens,), fp32; None if each is 1.
        cap: c, where the model's logits are c · tanh(product / c); None if they are the products.
        measured: the tokens' accuracy and entropy are added to it.
        surrogate: the clipped objective, whose losses are summed in place of the cross-entropies, with the weights as
            advantages.
    """
    hidden_grad, weight_grad = (torch.is_grad_enabled() and tensor.requires_grad for tensor in (hidden, weight))
    loss: torch.Tensor = _SummedCrossEntropy.apply(
        *(hidden, weight, labels, chunk, token_weights, cap, measured, surrogate, hidden_grad, weight_grad)
    )
    return loss


class _SummedCrossEntropy(torch.autograd.Function):  # type: ignore[misc]  # torch is not followed by mypy
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        chunk: int,
        token_weights: torch.Tensor | None,
        cap: float | None,
        measured: TokenSums | None,
        surrogate: Surrogate | None,
        needs_hidden_grad: bool,
        needs_weight_grad: bool,
    ) -> torch.Tensor:
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_grad = torch.empty_like(hidden) if needs_hidden_grad else None
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if needs_weight_grad else None
        # Allocated once and reused: on a CPU, fresh pages for every chunk would take as long as the arithmetic.
        buffer = weight.new_empty(min(chunk, len(labels)), len(weight))
        block = _ROWS.get(weight.device.type, _ROWS_ON_GPU)
        scratch = torch.empty(block, len(weight), dtype=torch.float32, device=weight.device)
        addend = torch.empty_like(weight) if needs_weight_grad else None
        for start in range(0, len(labels), chunk):
            states, targets = hidden[start : start + chunk], labels[start : start + chunk, None]
            logits = torch.mm(states, weight.T, out=buffer[: len(states)])
            for first in range(0, len(states), block):
                rows, row_targets = logits[first : first + block], targets[first : first + block]
                row_weights = None if token_weights is None else token_weights[start + first :][: len(rows), None]
                sampled = None if surrogate is None else surrogate.part(start + first, len(rows))
                loss += _replace_by_gradient(
                    *(rows, row_targets, row_weights, cap, scratch[: len(rows)], measured, sampled)
                )
            if hidden_grad is not None:
                torch.mm(logits, weight, out=hidden_grad[start : start + chunk])
            if weight_grad is not None:
                weight_grad += torch.mm(logits.T, states, out=addend)
        ctx.save_for_backward(hidden_grad, weight_grad)
        ctx.dtype = weight.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_grad, weight_grad = ctx.saved_tensors
        if hidden_grad is not None:
            hidden_grad.mul_(gradient)
        if weight_grad is not None:
            weight_grad = weight_grad.mul_(gradient).to(ctx.dtype)
        return hidden_grad, weight_grad, None, None, None, None, None, None, None, None


def _replace_by_gradient(
    logits: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor | None,
    cap: float | None,
    scratch: torch.Tensor,
    measured: TokenSums | None,
    surrogate: Surrogate | None,
) -> torch.Tensor:
    """Return the summed loss of rows of logits, and overwrite them by its gradient (softmax - one-hot, times slope)."""
    rows = scratch.copy_(logits)
    slope = None
    if cap is not None:
        slope = 1 - rows.div_(cap).tanh_().square()
        rows.mul_(cap)
    largest, target_logits = rows.amax(1, keepdim=True), rows.gather(1, labels)
    sample = None if measured is None else rows.sub_(largest)[::_ENTROPY_EVERY].clone()
    total = (rows.sub_(largest) if sample is None else rows).exp_().sum(1, keepdim=True)
    if measured is not None and sample is not None:
        measured.add(sample, total[::_ENTROPY_EVERY], target_logits >= largest, rows[::_ENTROPY_EVERY])
    rows.div_(total).scatter_add_(1, labels, -torch.ones_like(target_logits))
    losses = total.log() + largest - target_logits
    if surrogate is not None:
        advantages = torch.ones_like(losses) if weights is None else weights
        token = surrogate.losses(losses, advantages)
        if measured is not None:
            measured.add_sampled(token.ratios, token.is_clipped, advantages)
        losses = token.losses
        rows *= token.slopes
    elif weights is not None:
        losses *= weights
        rows *= weights
    if slope is not None:
        rows *= slope
    logits.copy_(rows)
    return losses.sum()

"""Cross-entropy from hidden states, without ever holding the logits of a whole pack.

The gradients are taken along with the loss, while a chunk's logits are at hand, so no product is computed twice (as in
Liger Kernel, arXiv 2410.10989). torch's own linear_cross_entropy (2.13) does the same but returns a bf16 loss for bf16
states, three digits of it, and takes twice as long on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch

CHUNK = 1024
"""Tokens whose logits exist at the same time: the whole pack's would be the largest tensor of a step by far."""

_ROWS = 64
"""Tokens whose softmax is computed at the same time, in fp32: few enough to stay in a processor's cache."""


def summed_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, chunk: int = CHUNK
) -> torch.Tensor:
    """Return the fp32 sum of the tokens' cross-entropies; its gradient can be taken once.

    Args:
        hidden: last hidden states, (tokens, size).
        weight: of the output layer, (vocabulary, size), in the same type.
        labels: the next tokens, (tokens,), none of them ignored.
        chunk: tokens whose logits exist at the same time.
    """
    of_hidden, of_weight = (torch.is_grad_enabled() and it.requires_grad for it in (hidden, weight))
    loss: torch.Tensor = _SummedCrossEntropy.apply(hidden, weight, labels, chunk, of_hidden, of_weight)
    return loss


class _SummedCrossEntropy(torch.autograd.Function):  # type: ignore[misc]  # torch is not followed by mypy
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        chunk: int,
        of_hidden: bool,
        of_weight: bool,
    ) -> torch.Tensor:
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        to_hidden = torch.empty_like(hidden) if of_hidden else None
        to_weight = torch.zeros_like(weight, dtype=torch.float32) if of_weight else None
        # Made once and written over: fresh pages for every chunk would take as long as the arithmetic on a CPU.
        buffer = weight.new_empty(min(chunk, len(labels)), len(weight))
        scratch = torch.empty(_ROWS, len(weight), dtype=torch.float32, device=weight.device)
        addend = torch.empty_like(weight) if of_weight else None
        for start in range(0, len(labels), chunk):
            states, targets = hidden[start : start + chunk], labels[start : start + chunk, None]
            logits = torch.mm(states, weight.T, out=buffer[: len(states)])
            for rows, own in zip(logits.split(_ROWS), targets.split(_ROWS), strict=True):
                loss += _replace_by_gradient(rows, own, scratch[: len(rows)])
            if to_hidden is not None:
                torch.mm(logits, weight, out=to_hidden[start : start + chunk])
            if to_weight is not None:
                to_weight += torch.mm(logits.T, states, out=addend)
        ctx.save_for_backward(to_hidden, to_weight)
        ctx.dtype = weight.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        to_hidden, to_weight = ctx.saved_tensors
        if to_hidden is not None:
            to_hidden.mul_(gradient)
        if to_weight is not None:
            to_weight = to_weight.mul_(gradient).to(ctx.dtype)
        return to_hidden, to_weight, None, None, None, None


def _replace_by_gradient(logits: torch.Tensor, labels: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """Return the summed cross-entropy of some rows, and put its gradient (softmax less one-hot) where they were."""
    rows = scratch.copy_(logits)
    most, own = rows.amax(1, keepdim=True), rows.gather(1, labels)
    total = rows.sub_(most).exp_().sum(1, keepdim=True)
    rows.div_(total).scatter_add_(1, labels, -torch.ones_like(own))
    logits.copy_(rows)
    return (total.log() + most - own).sum()

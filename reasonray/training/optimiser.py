"""The optimiser: AdamW for all weights, or Muon for matrices and AdamW for the rest, whatever their sharding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from reasonray.config import Training
from reasonray.training.model import Weights, original_name

_COEFFICIENTS, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5
"""Of the quintic iteration that makes a matrix orthogonal, as in torch.optim.Muon."""


class Muon(torch.optim.Muon):  # type: ignore[misc]  # torch is not followed by mypy
    """Muon that updates a sharded matrix as it would update the whole.

    torch's own multiplies shards in bf16, so its result depends on the number of workers by some percent. Here each
    worker gathers a matrix's momentum, makes it orthogonal in the precision of the training, and keeps its part.
    """

    def __init__(self, matrices: list[nn.Parameter], training: Training) -> None:
        super().__init__(
            matrices,
            lr=training.learning_rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
        )
        self._dtype = torch.bfloat16 if training.precision == "bf16" else torch.float32

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update the matrices that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return None if closure is None else closure()

    def _update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
        update = parameter.grad.lerp(momentum, group["momentum"])
        if isinstance(update, DTensor):
            whole = orthogonal(update.full_tensor().to(self._dtype)).to(update.dtype)
            # Each worker has the whole already, so none is asked for it.
            update = distribute_tensor(whole, update.device_mesh, update.placements, src_data_rank=None)
        else:
            update = orthogonal(update.to(self._dtype)).to(update.dtype)
        # The mean square of AdamW's updates is about 0.2² (Liu et al. 2025, arXiv 2502.16982).
        scale = 0.2 * max(parameter.shape) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * scale)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Return nearly the orthogonal matrix next to one, in its dtype: all singular values become 0.7 to 1.2."""
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.T).T
    a, b, c = _COEFFICIENTS
    result = matrix / matrix.norm().clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = result @ result.T
        result = torch.addmm(result, torch.addmm(gram, gram, gram, beta=b, alpha=c), result, beta=a)
    return result


class Optimiser:
    """One or two of torch's optimisers that share a student's weights."""

    def __init__(self, *optimisers: torch.optim.Optimizer) -> None:
        self._optimisers = optimisers
        self._of = {
            parameter: optimiser
            for optimiser in optimisers
            for group in optimiser.param_groups
            for parameter in group["params"]
        }

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of weights, each with its learning rate."""
        return [group for optimiser in self._optimisers for group in optimiser.param_groups]

    def step(self) -> None:
        """Update the weights."""
        for optimiser in self._optimisers:
            optimiser.step()

    def zero_grad(self) -> None:
        """Free the gradients."""
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)

    def state_of(self, weight: nn.Parameter) -> dict[str, torch.Tensor]:
        """Return the optimiser's tensors for a weight by name; zeros before the first step."""
        optimiser = self._of[weight]
        if optimiser.state.get(weight):
            return dict(optimiser.state[weight])
        if isinstance(optimiser, Muon):
            return {"momentum_buffer": torch.zeros_like(weight.detach())}
        moments = {name: torch.zeros_like(weight.detach()) for name in ("exp_avg", "exp_avg_sq")}
        return {"step": torch.zeros((), device=weight.device)} | moments

    def set_state(self, weight: nn.Parameter, state: dict[str, torch.Tensor]) -> None:
        """Replace the optimiser's tensors for a weight by those of a checkpoint."""
        self._of[weight].state[weight] = state


def make(weights: Weights, training: Training) -> Optimiser:
    """Return the optimiser of a student's weights."""
    by_muon = _hidden_matrices(weights) if training.optimiser == "muon" else set()
    # Weight decay is for matrices; it would pull a norm's scale or a bias to zero for no reason.
    matrices = [weight for name, weight in weights.named.items() if weight.ndim > 1 and name not in by_muon]
    others = [weight for weight in weights.named.values() if weight.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": training.weight_decay}, {"params": others, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=training.learning_rate, betas=training.betas, eps=training.eps, fused=True)
    if not by_muon:
        return Optimiser(adamw)
    return Optimiser(Muon([weight for name, weight in weights.named.items() if name in by_muon], training), adamw)


def _hidden_matrices(weights: Weights) -> set[str]:
    """Return the names of the weights that multiply hidden states: matrices, but for embeddings and output layer."""
    model = weights.student.language_model
    lookups = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    lookups.add(id(model.get_output_embeddings().weight))
    excluded = {original_name(name) for name, weight in model.named_parameters() if id(weight) in lookups}
    return {name for name, weight in weights.named.items() if weight.ndim == 2 and name not in excluded}

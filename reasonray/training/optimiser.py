"""The optimiser: AdamW for all weights, or Muon for matrices and AdamW for the rest, whatever their sharding.

Moments are kept in fp32, or in bf16 with stochastic rounding, next to the weights or in main memory. torchao's 8-bit
moments are not offered: whether a weight gets them depends on the size of its shard
(https://github.com/pytorch/ao/issues/4912), so that the number of workers would change the student, and a block of
them, which shares a scale, cannot be divided when a state is read by another number of workers.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from reasonray.config import Training
from reasonray.training.model import Weights, original_name
from reasonray.training.rounding import blocks, local_part, to_bf16, write_rounded

_COEFFICIENTS, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5
"""Of the quintic iteration that makes a matrix orthogonal, as in torch.optim.Muon."""


class AdamW(torch.optim.AdamW):  # type: ignore[misc]  # torch is not followed by mypy
    """torch's AdamW, with moments in the dtype of the weights."""

    def initial_state(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the tensors for a weight by name, all zeros."""
        moments = {name: torch.zeros_like(weight.detach()) for name in ("exp_avg", "exp_avg_sq")}
        return {"step": torch.zeros((), device=weight.device)} | moments


class BlockwiseAdamW(torch.optim.Optimizer):  # type: ignore[misc]
    """AdamW that updates a block of a weight at a time, for moments in bf16 or in main memory.

    The update is computed from fp32 values on the weight's device. Moments in bf16 are rounded stochastically. That is
    deterministic, and the same for any sharding: the bits of a step depend on the weight's name and on the place of an
    element in it.
    """

    def __init__(self, groups: list[dict[str, Any]], training: Training) -> None:
        defaults = {"lr": training.learning_rate, "betas": training.betas, "eps": training.eps, "weight_decay": 0.0}
        super().__init__(groups, defaults)
        self._dtype = torch.bfloat16 if training.moments == "bf16" else torch.float32
        self._in_main_memory = training.cpu_offload == "optimiser"

    def initial_state(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the tensors for a weight by name, all zeros."""
        zeros = zeros_in_main_memory if self._in_main_memory else torch.zeros_like
        moments = {name: zeros(weight.detach(), dtype=self._dtype) for name in ("exp_avg", "exp_avg_sq")}
        # On the CPU, because a number of the GPU would be waited for.
        return {"step": torch.zeros(())} | moments

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update the weights that have a gradient."""
        _update_each(self.param_groups, self._update)
        return None if closure is None else closure()

    def _update(self, name: str, weight: nn.Parameter, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state.update(self.initial_state(weight))
        state["step"] += 1
        step = int(state["step"])
        tensors = [local_part(tensor) for tensor in (weight, weight.grad, state["exp_avg"], state["exp_avg_sq"])]
        for block in blocks(weight):
            values, gradient, first, second = (tensor[block.rows] for tensor in tensors)
            # The moments themselves where they are in fp32 and next to the weights, else copies.
            mean, square = (moment.to(values.device, torch.float32) for moment in (first, second))
            _adamw_step(values, gradient, mean, square, group, step)
            if self._dtype == torch.bfloat16:
                bits = block.bits(values, _key(name, step))
                mean, square = to_bf16(mean, bits), to_bf16(square, bits >> 16)  # upper and lower are independent
            first.copy_(mean)
            second.copy_(square)


def zeros_in_main_memory(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return zeros of a weight's shape and sharding, in main memory, from which a GPU copies without a detour."""
    if isinstance(weight, DTensor):
        like = torch.zeros_like(weight, dtype=dtype)
        local = zeros_in_main_memory(like.to_local(), dtype)
        return DTensor(local, like._spec, requires_grad=False)  # from_local would move it to the mesh's device
    return torch.zeros(weight.shape, dtype=dtype, device="cpu", pin_memory=weight.is_cuda)


def _update_each(groups: list[dict[str, Any]], update: Callable[[str, nn.Parameter, dict[str, Any]], None]) -> None:
    """Call `update` with the name, the weight and the group of each weight that has a gradient."""
    for group in groups:
        for name, weight in zip(group["param_names"], group["params"], strict=True):
            if weight.grad is not None:
                update(name, weight, group)


def _adamw_step(
    values: torch.Tensor,
    gradient: torch.Tensor,
    mean: torch.Tensor,
    square: torch.Tensor,
    group: dict[str, Any],
    step: int,
) -> None:
    """Update fp32 weights and moments in place by AdamW (Loshchilov and Hutter 2019)."""
    keep_mean, keep_square = group["betas"]
    mean.lerp_(gradient, 1 - keep_mean)
    square.mul_(keep_square).addcmul_(gradient, gradient, value=1 - keep_square)
    root = square.sqrt().div_((1 - keep_square**step) ** 0.5).add_(group["eps"])
    values.mul_(1 - group["lr"] * group["weight_decay"])
    values.addcdiv_(mean, root, value=-group["lr"] / (1 - keep_mean**step))


def _key(name: str, step: int) -> int:
    """Return what sets the random bits of a weight's step apart from others."""
    return zlib.crc32(f"{name} {step}".encode())


class Muon(torch.optim.Muon):  # type: ignore[misc]  # torch is not followed by mypy
    """Muon that updates a sharded matrix as it would update the whole.

    torch's own multiplies shards in bf16, so its result depends on the number of workers by some percent. Here each
    worker gathers a matrix's momentum, makes it orthogonal in the precision of the training, and keeps its part.
    """

    def __init__(self, matrices: list[tuple[str, nn.Parameter]], training: Training) -> None:
        super().__init__(
            matrices,
            lr=training.learning_rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
        )
        self._dtype = torch.bfloat16 if training.precision == "bf16" else torch.float32
        self._rounds = training.moments == "bf16"

    def initial_state(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the tensors for a matrix by name, all zeros."""
        if not self._rounds:
            return {"momentum_buffer": torch.zeros_like(weight.detach())}
        return {
            "momentum_buffer": torch.zeros_like(weight.detach(), dtype=torch.bfloat16),
            "step": torch.zeros(()),
        }

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update the matrices that have a gradient."""
        _update_each(self.param_groups, self._update)
        return None if closure is None else closure()

    def _update(self, name: str, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state.update(self.initial_state(parameter))
        # In fp32 this is the state itself, else a copy of it.
        momentum = state["momentum_buffer"].float().lerp_(parameter.grad, 1 - group["momentum"])
        if self._rounds:
            state["step"] += 1
            write_rounded(state["momentum_buffer"], momentum, _key(name, int(state["step"])))
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

    def __init__(self, *optimisers: AdamW | BlockwiseAdamW | Muon) -> None:
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
        return optimiser.initial_state(weight)

    def set_state(self, weight: nn.Parameter, state: dict[str, torch.Tensor]) -> None:
        """Replace the optimiser's tensors for a weight by those of a checkpoint."""
        self._of[weight].state[weight] = state


def make(weights: Weights, training: Training) -> Optimiser:
    """Return the optimiser of a student's weights."""
    by_muon = _hidden_matrices(weights) if training.optimiser == "muon" else set()
    # Weight decay is for matrices; it would pull a norm's scale or a bias to zero for no reason.
    matrices = [(name, weight) for name, weight in weights.named.items() if weight.ndim > 1 and name not in by_muon]
    others = [(name, weight) for name, weight in weights.named.items() if weight.ndim <= 1]
    decays = ((matrices, training.weight_decay), (others, 0.0))
    groups = [{"params": members, "weight_decay": decay} for members, decay in decays if members]
    adamw: AdamW | BlockwiseAdamW
    if training.moments == "bf16" or training.cpu_offload == "optimiser":
        adamw = BlockwiseAdamW(groups, training)
    else:
        adamw = AdamW(groups, lr=training.learning_rate, betas=training.betas, eps=training.eps, fused=True)
    if not by_muon:
        return Optimiser(adamw)
    return Optimiser(Muon([(name, weights.named[name]) for name in weights.named if name in by_muon], training), adamw)


def _hidden_matrices(weights: Weights) -> set[str]:
    """Return the names of the weights that multiply hidden states: matrices, but for embeddings and output layer."""
    model = weights.student.language_model
    lookups = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    lookups.add(id(model.get_output_embeddings().weight))
    excluded = {original_name(name) for name, weight in model.named_parameters() if id(weight) in lookups}
    return {name for name, weight in weights.named.items() if weight.ndim == 2 and name not in excluded}

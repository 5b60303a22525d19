"""What becomes of a layer's activations: kept, or computed again in the backward pass, all or all but the costliest.

Of the selective kind are the operations and the rule of torchtitan (https://github.com/pytorch/torchtitan): the results
of attention are kept, and of every second product of matrices. Half of the products for half of their memory costs
less than each layer whole, because what lies between them is cheap to compute again.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
import torch.nn.attention.varlen  # registers torch_attn
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper, offload_wrapper
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from reasonray.config import Training

_aten = torch.ops.aten
_PRODUCTS = {_aten.mm.default, _aten.addmm.default}
"""Without and with a bias. Not bmm, which is a score of attention for each pair of tokens, and not the grouped product
of experts, to which transformers adds the bias in place."""
_ATTENTION = {
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.torch_attn._varlen_attn.default,
}


def wrapped(layer: nn.Module, training: Training) -> nn.Module:
    """Return a layer that is compiled and computes activations again as the settings say; itself where they do not."""
    if training.compile:
        compile_layer(layer)
    if training.recomputation == "none":
        return layer
    options = {"context_fn": _selective_contexts} if training.recomputation == "some" else {}
    recomputing: nn.Module = checkpoint_wrapper(layer, **options)
    if training.activation_checkpointing == "offload":
        # Around the checkpoint, whose arguments are then what is saved, and so what is moved to main memory.
        recomputing = offload_wrapper(recomputing)
    return recomputing


def compile_layer(layer: nn.Module, backend: str = "inductor") -> None:
    """Compile a layer in place, for any number of tokens and of examples.

    Only its forward pass is compiled. Sharding and activation checkpointing, which are hooks and a module around it,
    stay outside; layers of one kind share their graphs.

    Args:
        layer: of a language model.
        backend: of torch.compile.
    """
    layer.forward = torch.compile(layer.forward, dynamic=True, backend=backend)


def _selective_contexts() -> Any:
    """Return the contexts of one layer's forward pass and of its recomputation."""
    products = Counter[bool]()

    def policy(context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
        is_product = operation in _PRODUCTS
        products[context.is_recompute] += is_product
        is_kept = operation in _ATTENTION or (is_product and products[context.is_recompute] % 2 == 1)
        return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)

"""Low-rank adapters (LoRA, Hu et al. 2021, https://arxiv.org/abs/2106.09685), by PEFT, trained instead of the model.

Only the adapters are updated, have optimiser states and are in checkpoints. The export is the model with the adapters
merged in, which every engine serves, and the adapter by itself in PEFT's layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from reasonray.config import Training
from reasonray.errors import UserError
from reasonray.training.architecture import decoder, empty_model, explained, read_config, routers

_PREFIX = "base_model.model."
"""Prefix of parameter names that PEFT's wrapper saves and that a model with adapters injected in place lacks."""
_ADAPTER = "default"
"""Name that PEFT gives an adapter."""
_READ_BY_MAMBA = ("out_proj", "x_proj", "dt_proj")
"""Layers of Mamba whose weights its kernels read directly, so that an adapter on them would do nothing."""


def adapt(model: Any, training: Training) -> None:
    """Inject adapters into a model, in place, and freeze the rest. Before training they change no output.

    Raises:
        UserError: the model has no layer that can be adapted.
    """
    with explained("training.lora_rank: adapters do not fit this student"):
        inject_adapter_in_model(_config(model, training), model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)


def initial_values(model: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Return the values that a model's adapters begin with, by name; nothing without adapters.

    As PEFT's own, but from a seed, so that it does not matter who reads the model: each product is zero.
    """
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for name, _ in scales(model):
        down, up = parts(name)
        values[down] = torch.empty(model.get_parameter(down).shape)
        nn.init.kaiming_uniform_(values[down], a=math.sqrt(5), generator=generator)
        values[up] = torch.zeros(model.get_parameter(up).shape)
    return values


def write(adapters: Mapping[str, torch.Tensor], source: str | Path, target: Path, training: Training) -> None:
    """Write adapters in PEFT's layout.

    Args:
        adapters: the trained weights by name.
        source: directory of the model that they were trained on.
        target: directory to write.
        training: has the adapters' rank and alpha.

    Raises:
        RuntimeError: the adapters do not belong to this model.
    """
    with torch.device("meta"):
        model = empty_model(read_config(source, training), torch.float32)
        adapted = get_peft_model(model, _config(model, training))
    expected = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    named = {_PREFIX + name: weight for name, weight in adapters.items()}
    if expected != named.keys():
        raise RuntimeError(f"{target}: the trained adapters are not those that {source} takes")
    adapted.load_state_dict(named, strict=False, assign=True)
    adapted.save_pretrained(target)


def scales(model: nn.Module) -> Iterator[tuple[str, float]]:
    """Yield the name of each weight that an adapter is added to, and the adapter's factor; nothing without adapters."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield f"{name}.weight", module.scaling[_ADAPTER]


def parts(name: str) -> tuple[str, str]:
    """Return the names of the two matrices that adapt a weight; their product, the second by the first, is added."""
    layer = name.removesuffix(".weight")
    return f"{layer}.lora_A.{_ADAPTER}.weight", f"{layer}.lora_B.{_ADAPTER}.weight"


def _config(model: Any, training: Training) -> LoraConfig:
    """Return the adapters' configuration: on the text model's linear layers, but for its routers.

    PEFT's own "all-linear" would adapt routers and vision towers too. The output layer is left out as well, because the
    loss reads its weight directly.
    """
    text, chosen = decoder(model), routers(model)
    prefix = next(name for name, module in model.named_modules() if module is text)
    linear = [
        f"{prefix}.{name}"
        for name, module in text.named_modules()
        if isinstance(module, nn.Linear) and not _is_read_directly(text, name)
    ]
    targets = [name for name in linear if not any(name == router or name.startswith(f"{router}.") for router in chosen)]
    if not targets:
        raise UserError("training.lora_rank: the student has no linear layer to adapt; set it to 0")
    return LoraConfig(
        r=training.lora_rank,
        lora_alpha=training.lora_alpha,
        lora_dropout=training.lora_dropout,
        target_modules=_chosen(targets, training),
        task_type="CAUSAL_LM",
    )


def _chosen(layers: list[str], training: Training) -> list[str]:
    """Return those of the layers that training.lora_targets names by the last parts of their names; by default all."""
    if not training.lora_targets:
        return layers
    known = sorted({layer.rpartition(".")[2] for layer in layers})
    for target in training.lora_targets:
        if not any(f".{layer}".endswith(f".{target}") for layer in layers):
            raise UserError(f"training.lora_targets: no linear layer is called {target}; there are {', '.join(known)}")
    return [layer for layer in layers if any(f".{layer}".endswith(f".{target}") for target in training.lora_targets)]


def _is_read_directly(text: Any, name: str) -> bool:
    """Return whether a layer's weight is read by its parent's kernel instead of being called."""
    parent, _, own = name.rpartition(".")
    mixer = text.get_submodule(parent)
    return own in _READ_BY_MAMBA and hasattr(mixer, "A_log") and hasattr(mixer, "D")

"""Low-rank adapters (LoRA, Hu et al. 2021, https://arxiv.org/abs/2106.09685), by PEFT, trained instead of the model.

Only the adapters are updated, have optimiser states and are in checkpoints. The export is the model with the adapters
merged in, which every engine serves, and the adapter by itself in PEFT's layout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from transformers import AutoModelForCausalLM

from reasonray.config import Training

_PREFIX = "base_model.model."
"""Prefix of parameter names that PEFT's wrapper saves and that a model with adapters injected in place lacks."""


def adapt(model: Any, training: Training) -> None:
    """Inject adapters into a model, in place, and freeze the rest. Before training they change no output."""
    inject_adapter_in_model(_config(training), model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)


def export(adapters: dict[str, torch.Tensor], source: str | Path, target: Path, training: Training) -> Any:
    """Write adapters in PEFT's layout, and return the model's weights with them merged in, in fp32.

    Args:
        adapters: the trained weights by name.
        source: directory of the model that they were trained on.
        target: directory to write.
        training: has the adapters' rank and alpha.

    Raises:
        RuntimeError: the adapters do not belong to this model.
    """
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    adapted = get_peft_model(model, _config(training))
    expected = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    named = {_PREFIX + name: weight for name, weight in adapters.items()}
    if expected != named.keys():
        raise RuntimeError(f"{target}: the trained adapters are not those that {source} takes")
    adapted.load_state_dict(named, strict=False)
    adapted.save_pretrained(target)
    merged = adapted.merge_and_unload(safe_merge=True)
    return {name: parameter.detach() for name, parameter in merged.named_parameters()}


def _config(training: Training) -> LoraConfig:
    # PEFT leaves the output layer out of "all-linear", as it has to be: the loss reads that layer's weight directly.
    return LoraConfig(
        r=training.lora_rank, lora_alpha=training.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )

"""The student while it learns: a causal language model whose forward pass is its loss.

The weights that the optimiser moves are always fp32. With precision bf16 the forward runs on a bf16 copy of them: FSDP
makes it on several workers, `Weights` on one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from reasonray.config import Training
from reasonray.errors import UserError
from reasonray.training.attention import NAME, packs_safely
from reasonray.training.examples import IGNORED, Batch

CHUNK = 1024
"""Tokens whose logits exist at the same time: the whole pack's would be the largest tensor of a step by far."""


class Student(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """A language model that returns the summed cross-entropy of a batch."""

    def __init__(self, language_model: Any, chunk: int = CHUNK) -> None:
        super().__init__()
        self.language_model = language_model
        self.chunk = chunk

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the loss, summed over the tokens that are learnt; zero, with zero gradients, where none is."""
        hidden = self._hidden(batch)
        weight = self.language_model.get_output_embeddings().weight
        learnt = (batch.labels[0] != IGNORED).nonzero().squeeze(1)
        if learnt.numel() == 0:  # all parameters take part all the same, so that collectives stay aligned
            return (hidden.float().sum() + weight.float().sum()) * 0.0
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        chunks = learnt.split(self.chunk)
        for chosen in chunks:
            arguments = (hidden[chosen], weight, batch.labels[0, chosen])
            # A single chunk needs no second computation: its logits are all there is.
            part = _loss(*arguments) if len(chunks) == 1 else checkpoint(_loss, *arguments, use_reentrant=False)
            loss = loss + part
        return loss

    def logits(self, batch: Batch) -> torch.Tensor:
        """Return the logits of every token of a batch."""
        hidden = self._hidden(batch)
        return hidden @ self.language_model.get_output_embeddings().weight.T

    def _hidden(self, batch: Batch) -> torch.Tensor:
        # Without a mask and without a cache, or else transformers would mix the examples of a pack.
        output = self.language_model.base_model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            use_cache=False,
            cu_seq_lens_q=batch.cu_seq_lens,
            cu_seq_lens_k=batch.cu_seq_lens,
            max_length_q=batch.max_length,
            max_length_k=batch.max_length,
        )
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden


def _loss(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return cross_entropy((hidden @ weight.T).float(), labels, reduction="sum")


def load(directory: str | Path, training: Training, device: torch.device, world: int = 1) -> Student:
    """Load a model for training, in fp32; several workers each keep a share of it.

    Raises:
        UserError: the model cannot be trained faithfully.
    """
    config = AutoConfig.from_pretrained(directory)
    _refuse_altered_logits(config)
    attention = NAME if packs_safely(config) else None
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation=attention)
    head = model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        raise UserError("the student's output layer is missing or has a bias; it is not a plain language model")
    student = Student(model)
    if training.activation_checkpointing:
        layers = model.base_model.layers
        for index, layer in enumerate(layers):
            layers[index] = checkpoint_wrapper(layer)
    student.train()
    return _shard(student, training, device, world) if world > 1 else student.to(device)


def _refuse_altered_logits(config: Any) -> None:
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(config, name, None) not in (None, 1.0):
            raise UserError(f"the student's configuration sets {name}, which training does not apply to its logits")


def _shard(student: Student, training: Training, device: torch.device, world: int) -> Student:
    """Shard layer by layer; embedding and output layer stay with the root, gathered for the whole step."""
    mesh = dist.init_device_mesh(device.type, (world,))
    bf16 = training.precision == "bf16"
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32 if bf16 else None
    )
    for layer in student.language_model.base_model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(student, mesh=mesh, mp_policy=policy)
    for module in student.modules():
        if isinstance(module, FSDPModule):
            # The loss is a sum divided by the step's own count of tokens, so gradients are summed, never averaged.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(student, "logits")
    return student


@dataclass
class Weights:
    """The fp32 weights by name; with bf16 on one worker, masters of which the student holds a rounded copy."""

    student: Student
    named: dict[str, nn.Parameter]
    rounded: bool

    @classmethod
    def of(cls, student: Student, precision: str) -> Weights:
        """Take a loaded student's weights; with bf16 on one worker this turns the student itself into bf16."""
        named = {_plain(name): parameter for name, parameter in student.language_model.named_parameters()}
        sharded = isinstance(student, FSDPModule)
        if precision == "fp32" or sharded:
            return cls(student, named, rounded=False)
        masters = {name: nn.Parameter(parameter.detach().clone()) for name, parameter in named.items()}
        for name, parameter in named.items():
            parameter.data = parameter.data.to(torch.bfloat16)
            parameter.register_post_accumulate_grad_hook(_adding_to(masters[name]))
        return cls(student, masters, rounded=True)

    def refresh(self) -> None:
        """Let the next forward pass see the weights as they are now; to be called whenever they moved."""
        if isinstance(self.student, FSDPModule):
            # A forward pass without a backward one, such as the self-check's, leaves the root's weights gathered.
            self.student.reshard()
        if self.rounded:
            copies = [parameter for _, parameter in self.student.language_model.named_parameters()]
            with torch.no_grad():
                torch._foreach_copy_(copies, list(self.named.values()))

    def whole(self) -> dict[str, torch.Tensor]:
        """Gather the weights on the CPU; every worker has to call it."""
        return {
            name: (weight.full_tensor() if isinstance(weight, DTensor) else weight.detach()).detach().cpu()
            for name, weight in self.named.items()
        }


def _adding_to(master: nn.Parameter) -> Callable[[torch.Tensor], None]:
    def add(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        master.grad = parameter.grad.float() if master.grad is None else master.grad.add_(parameter.grad)
        parameter.grad = None  # the sum over packs is kept in fp32 only

    return add


def _plain(name: str) -> str:
    return name.replace("_checkpoint_wrapped_module.", "")


def export(whole: dict[str, torch.Tensor], tokenizer: Any, source: str | Path, target: Path, precision: str) -> None:
    """Write gathered weights as a Hugging Face model, in the type of the forward pass, and prove that it loads.

    Args:
        whole: what `Weights.whole` gave.
        tokenizer: goes along, with its chat template.
        source: the model that training began with; its configuration and generation settings go along.
        target: directory to write.
        precision: of the training.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    config = AutoConfig.from_pretrained(source)
    config.dtype = dtype
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.load_state_dict({name: weight.to(dtype) for name, weight in whole.items()}, strict=False, assign=True)
    model.tie_weights()
    if (Path(source) / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(source)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    _compare(whole, target, dtype)


def _compare(whole: dict[str, torch.Tensor], target: Path, dtype: torch.dtype) -> None:
    written = dict(AutoModelForCausalLM.from_pretrained(target, dtype=dtype).named_parameters())
    if written.keys() != whole.keys():
        names = ", ".join(sorted(written.keys() ^ whole.keys())[:3])
        raise RuntimeError(f"{target}: the exported model does not hold the weights that were trained ({names})")
    for name, weight in whole.items():
        if not torch.equal(written[name], weight.to(dtype)):
            raise RuntimeError(f"{target}: {name} reads back other than it was written")

"""The student while it learns: a causal language model whose forward pass is its loss.

The weights that the optimiser moves are always fp32. With precision bf16 the forward runs on a bf16 copy of them: FSDP
makes it on several workers, `Weights` on one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import init_empty_weights
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from reasonray.config import Training
from reasonray.errors import UserError
from reasonray.training import lora
from reasonray.training.attention import NAME, off, packs_safely
from reasonray.training.examples import IGNORED, Batch, Example, collate
from reasonray.training.losses import CHUNK, summed_cross_entropy


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
        return summed_cross_entropy(hidden[learnt], weight, batch.labels[0, learnt], self.chunk)

    def logits(self, batch: Batch) -> torch.Tensor:
        """Return the logits of every token of a batch."""
        hidden = self._hidden(batch)
        return hidden @ self.language_model.get_output_embeddings().weight.T

    def stock_logits(self, batch: Batch) -> torch.Tensor:
        """Return the logits of a single example as transformers computes them, without any of this package's parts."""
        ours = self.language_model.config._attn_implementation
        self.language_model.set_attn_implementation("eager")
        logits: torch.Tensor = self.language_model(input_ids=batch.input_ids, use_cache=False).logits[0]
        self.language_model.set_attn_implementation(ours)
        return logits

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


def load(directory: str | Path, training: Training, device: torch.device, rank: int = 0, world: int = 1) -> Student:
    """Load a model for training, in fp32; of several workers the first one reads it, and each keeps a share.

    Raises:
        UserError: the model cannot be trained faithfully.
    """
    config = AutoConfig.from_pretrained(directory)
    _refuse_altered_logits(config)
    whole = _language_model(directory, config, training) if rank == 0 else None
    if not training.shards(world):
        student = _student(whole, training)
        student.to(device)
        return student
    with init_empty_weights(include_buffers=False):  # buffers that no file holds are computed where they are made
        empty = _language_model(None, config, training)
    empty.tie_weights()  # making it empty has untied it
    student = _shard(_student(empty, training), training, device, world)
    _fill(student, whole, device, torch.device("cpu") if training.cpu_offload else device)
    return student


def _language_model(directory: str | Path | None, config: Any, training: Training) -> Any:
    """Read a model, or make its skeleton where there is no directory."""
    options = {"dtype": torch.float32, "attn_implementation": NAME if packs_safely(config) else None}
    if directory is None:
        model = AutoModelForCausalLM.from_config(config, **options)
    else:
        model = AutoModelForCausalLM.from_pretrained(directory, **options)
    head = model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        raise UserError("the student's output layer is missing or has a bias; it is not a plain language model")
    if training.lora_rank:
        lora.adapt(model, training)
        if training.precision == "bf16":  # what never moves needs no fp32 master
            for parameter in model.parameters():
                parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else torch.bfloat16)
    return model


def _student(language_model: Any, training: Training) -> Student:
    if training.activation_checkpointing:
        layers = _layers(language_model)
        for index, layer in enumerate(layers):
            layers[index] = checkpoint_wrapper(layer)
    student = Student(language_model)
    student.train()
    return student


def _layers(language_model: Any) -> nn.ModuleList:
    """Return a model's layers, wherever its class keeps them."""
    count = language_model.config.get_text_config().num_hidden_layers
    lists = (it for it in language_model.base_model.modules() if isinstance(it, nn.ModuleList) and len(it) == count)
    layers = next(lists, None)
    if layers is None:
        raise UserError(
            f"the student is a {type(language_model).__name__}, whose {count} layers are not in one list: it can be "
            "trained by one worker without activation_checkpointing and cpu_offload only"
        )
    return layers


def _fill(student: Student, whole: Any, device: torch.device, home: torch.device) -> None:
    """Give every worker its share of what the first one has read, a tensor at a time; weights lie at `home`."""
    student._apply(lambda tensor: torch.empty_like(tensor, device=home) if tensor.is_meta else tensor.to(device))
    student.language_model.tie_weights()  # and so has making room
    read = dict(whole.named_parameters()) | dict(whole.named_buffers()) if whole is not None else {}
    with torch.no_grad():
        for name, share in student.language_model.named_parameters():
            full = read[_plain(name)].to(device) if read else torch.empty(share.shape, dtype=share.dtype, device=device)
            share.copy_(distribute_tensor(full, share.device_mesh, share.placements))  # what rank 0 has counts
        for name, buffer in student.language_model.named_buffers():
            if read:
                buffer.copy_(read[_plain(name)])
            dist.broadcast(buffer, 0)


def _refuse_altered_logits(config: Any) -> None:
    for name in ("final_logit_softcapping", "logits_soft_cap", "logit_scale", "logits_scaling", "lm_head_multiplier"):
        if getattr(config, name, None) not in (None, 1.0):
            raise UserError(f"the student's configuration sets {name}, which training does not apply to its logits")


def _shard(student: Student, training: Training, device: torch.device, world: int) -> Student:
    """Shard layer by layer; embedding and output layer stay with the root, gathered for the whole step."""
    mesh = dist.init_device_mesh(device.type, (world,))
    bf16 = training.precision == "bf16"
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32 if bf16 else None
    )
    offload = CPUOffloadPolicy(pin_memory=device.type == "cuda") if training.cpu_offload else OffloadPolicy()
    for layer in _layers(student.language_model):
        lets_go = not training.syncs_once_per_step
        fully_shard(layer, mesh=mesh, mp_policy=policy, offload_policy=offload, reshard_after_forward=lets_go)
    fully_shard(student, mesh=mesh, mp_policy=policy, offload_policy=offload)
    for module in _sharded(student):
        # The loss is a sum divided by the step's own count of tokens, so gradients are summed, never averaged.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(student, "logits")
    register_fsdp_forward_method(student, "stock_logits")
    return student


def _sharded(student: Student) -> list[FSDPModule]:
    """Return the parts of a student whose weights are split among workers: its layers and itself, or none."""
    return [module for module in student.modules() if isinstance(module, FSDPModule)]


def expect(student: Student, *, last_of_step: bool) -> None:
    """Tell a student of ZeRO stage 1 whether the next pack is its step's last: only then its workers talk."""
    if isinstance(student, FSDPModule):
        student.set_requires_gradient_sync(last_of_step)
        student.set_reshard_after_backward(last_of_step)


@dataclass
class Weights:
    """The fp32 weights that are trained, by name; with bf16 on one worker the student holds a rounded copy of them."""

    student: Student
    named: dict[str, nn.Parameter]
    rounded: bool

    @classmethod
    def of(cls, student: Student, precision: str) -> Weights:
        """Take a loaded student's weights; with bf16 on one worker this turns the student itself into bf16."""
        model = student.language_model
        named = {_plain(name): parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        sharded = isinstance(student, FSDPModule)
        if precision == "fp32" or sharded:
            return cls(student, named, rounded=False)
        masters = {name: nn.Parameter(parameter.detach().clone()) for name, parameter in named.items()}
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
        for name, parameter in named.items():
            parameter.register_post_accumulate_grad_hook(_adding_to(masters[name]))
        return cls(student, masters, rounded=True)

    def refresh(self) -> None:
        """Let the next forward pass see the weights as they are now; to be called whenever they moved."""
        for module in _sharded(self.student):
            module.reshard()  # a forward pass without a backward one, such as the self-check's, leaves it gathered
        if self.rounded:
            copies = [parameter for parameter in self.student.language_model.parameters() if parameter.requires_grad]
            with torch.no_grad():
                torch._foreach_copy_(copies, list(self.named.values()))

    def whole(self) -> dict[str, torch.Tensor]:
        """Gather the weights on the CPU of the first worker; every worker has to call it, the others get nothing."""
        first = not dist.is_initialized() or dist.get_rank() == 0
        whole = {}
        for name, weight in self.named.items():
            gathered = weight.detach().full_tensor() if isinstance(weight, DTensor) else weight.detach()
            if first:
                whole[name] = gathered.cpu()
        return whole


def _adding_to(master: nn.Parameter) -> Callable[[torch.Tensor], None]:
    def add(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        master.grad = parameter.grad.float() if master.grad is None else master.grad.add_(parameter.grad)
        parameter.grad = None  # the sum over packs is kept in fp32 only

    return add


def _plain(name: str) -> str:
    return name.replace("_checkpoint_wrapped_module.", "")


def probed(student: Student, device: torch.device) -> torch.Tensor:
    """Return the logits of a few fixed tokens, in fp32 on the CPU, for `export`; every worker has to call it."""
    ids = _probe(student.language_model)
    student.eval()
    with torch.no_grad():
        logits = student.logits(collate([Example("", ids, 1)], [0]).to(device)).float().cpu()
    student.train()
    return logits


def _probe(language_model: Any) -> list[int]:
    vocabulary = language_model.config.get_text_config().vocab_size
    return [(17 * place + 1) % vocabulary for place in range(16)]


def export(
    whole: dict[str, torch.Tensor],
    tokenizer: Any,
    source: str | Path,
    target: Path,
    precision: str,
    logits: torch.Tensor,
) -> None:
    """Write gathered weights as a Hugging Face model, in the type of the forward pass, and prove that it loads.

    Args:
        whole: what `Weights.whole` gave.
        tokenizer: goes along, with its chat template.
        source: the model that training began with; its configuration and generation settings go along.
        target: directory to write.
        precision: of the training.
        logits: what `probed` gave.

    Raises:
        RuntimeError: the model reads back with other weights, or computes something else.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    config = AutoConfig.from_pretrained(source)
    config.dtype = dtype
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.load_state_dict({name: weight.to(dtype) for name, weight in whole.items()}, strict=False, assign=True)
    model.tie_weights()
    if untrained := [name for name, tensor in model.state_dict().items() if tensor.is_meta]:  # stored buffers
        read = AutoModelForCausalLM.from_pretrained(source, dtype=dtype).state_dict()
        model.load_state_dict({name: read[name] for name in untrained}, strict=False, assign=True)
    settings = Path(source) / "generation_config.json"
    if settings.exists():  # as it stands: transformers writes none that it would warn of, and many models come with one
        model.generation_config = GenerationConfig()
    model.save_pretrained(target)
    if settings.exists():
        shutil.copyfile(settings, target / settings.name)
    tokenizer.save_pretrained(target)
    _compare(whole, target, dtype, logits)


def _compare(whole: dict[str, torch.Tensor], target: Path, dtype: torch.dtype, logits: torch.Tensor) -> None:
    model = AutoModelForCausalLM.from_pretrained(target, dtype=dtype)
    written = dict(model.named_parameters())
    if written.keys() != whole.keys():
        names = ", ".join(sorted(written.keys() ^ whole.keys())[:3])
        raise RuntimeError(f"{target}: the exported model does not hold the weights that were trained ({names})")
    for name, weight in whole.items():
        if not torch.equal(written[name], weight.to(dtype)):
            raise RuntimeError(f"{target}: {name} reads back other than it was written")
    with torch.no_grad():
        computed = model(input_ids=torch.tensor([_probe(model)]), use_cache=False).logits[0]
    if (difference := off(computed, logits)) is not None:
        raise RuntimeError(f"{target}: the export computes other logits, off by {difference:.2g} of their spread")

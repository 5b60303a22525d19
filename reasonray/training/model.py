"""The student in training: a causal language model whose forward pass returns its loss.

The optimiser updates fp32 weights. With precision bf16 the forward pass uses a bf16 copy of them, which FSDP makes on
several workers and `Weights` on one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import init_empty_weights
from torch import nn
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from reasonray.config import Training
from reasonray.errors import UserError
from reasonray.training import lora
from reasonray.training.architecture import (
    LogitTransform,
    decoder,
    empty_model,
    explained,
    frozen_parameters,
    layers,
    load_model,
    read_config,
    stores_quantised,
    supports_packing,
)
from reasonray.training.attention import NAME, Context
from reasonray.training.examples import IGNORED, Batch
from reasonray.training.losses import CHUNK, TokenSums, summed_cross_entropy
from reasonray.training.mesh import ALONE, Mesh
from reasonray.training.recomputation import wrapped
from reasonray.training.self_check import self_check
from reasonray.training.surrogate import Clipping, Surrogate
from reasonray.training.weight_files import StoredWeights, copy_shard


class Student(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """A language model that returns the summed cross-entropy of a batch."""

    def __init__(self, language_model: Any, chunk: int = CHUNK, context: Context | None = None) -> None:
        super().__init__()
        self.language_model = language_model
        self.chunk = chunk
        self.context = context
        self.transform = LogitTransform.of(language_model.config)
        self.measured: TokenSums | None = None
        self.clipping = Clipping()

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the weighted loss, summed over the target tokens; zero, with zero gradients, for a batch without any.

        Of tokens that were sampled with known log-probabilities it is that of the clipped objective.

        Args:
            batch: a pack; where several processes share it, this one's part of it.
        """
        hidden = self._hidden_states(batch)
        weight = self.language_model.get_output_embeddings().weight
        targets = (batch.labels[0] != IGNORED).nonzero().squeeze(1)
        if targets.numel() == 0:  # all parameters take part anyway, so that collectives stay aligned
            return (hidden.float().sum() + weight.float().sum()) * 0.0
        token_weights = None if batch.weights is None else batch.weights[0, targets]
        states, labels = self._scaled(hidden[targets]), batch.labels[0, targets]
        surrogate = None if batch.logprobs is None else Surrogate(batch.logprobs[0, targets], self.clipping)
        cap, measured = self.transform.cap, self.measured if self.training else None
        return summed_cross_entropy(states, weight, labels, self.chunk, token_weights, cap, measured, surrogate)

    def logits(self, batch: Batch) -> torch.Tensor:
        """Return the logits of every token of a whole pack, (tokens, vocabulary)."""
        context = self.context
        hidden = self._hidden_states(batch if context is None else batch.part(context.rank, context.size))
        logits = self.transform(hidden @ self.language_model.get_output_embeddings().weight.T)
        return logits if context is None else context.gather(logits)[: batch.input_ids.shape[1]]

    def stock_logits(self, batch: Batch) -> torch.Tensor:
        """Return the logits of a single example by transformers' own attention and output layer, never compiled."""
        implementation = self.language_model.config._attn_implementation
        self.language_model.set_attn_implementation("eager")
        with torch.compiler.set_stance("force_eager"):
            logits: torch.Tensor = self.language_model(input_ids=batch.input_ids, use_cache=False).logits[0]
        self.language_model.set_attn_implementation(implementation)
        return logits

    def _scaled(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden if self.transform.factor == 1.0 else hidden * self.transform.factor

    def _hidden_states(self, batch: Batch) -> torch.Tensor:
        # With a mask or a cache, transformers would mix the examples of a pack.
        output = decoder(self.language_model)(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            use_cache=False,
            cu_seq_lens_q=batch.cu_seq_lens,
            cu_seq_lens_k=batch.cu_seq_lens,
            max_length_q=batch.max_length,
            max_length_k=batch.max_length,
            **({} if self.context is None else {"context": self.context}),
        )
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden.to(self.language_model.get_output_embeddings().weight.dtype)


def load(directory: str | Path, training: Training, device: torch.device, mesh: Mesh = ALONE) -> Student:
    """Load a model for training, in fp32. With several workers each reads its shard.

    Raises:
        UserError: the model has parts that training does not support.
    """
    config = read_config(directory, training)
    packing = supports_packing(config)
    if mesh.context and not packing:
        raise UserError("training.context: the student's attention cannot be divided among processes; set it to 1")
    if training.shards(mesh.world):
        if training.precision == "bf16":  # in fp32 rounding hides no fault
            exact = training.model_copy(update={"precision": "fp32", "lora_rank": 0})
            _check(read_sharded(directory, config, exact, device, mesh), device, packing=packing)
        return read_sharded(directory, config, training, device, mesh)
    model = load_model(directory, config, torch.float32, NAME if packing else None)
    _check_head(model)
    _check(Student(model), torch.device("cpu"), packing=packing)
    with torch.no_grad():
        for name, value in lora.initial_values(_adapted(model, training), torch.initial_seed()).items():
            model.get_parameter(name).copy_(value)
    student = _wrap(model, training)
    student.to(device)
    return student


def read_sharded(directory: str | Path, config: Any, training: Training, device: torch.device, mesh: Mesh) -> Student:
    """Return a sharded student, of which each worker has read its shard.

    Where a worker lacks the model's files, or only transformers can read them, the first one reads the model and hands
    each other its shard.

    Raises:
        UserError: the model cannot be read, or is no plain language model.
    """
    stored = _stored_weights(Path(directory), config)
    student, created = _shard_empty(config, training, device, mesh)
    tensors = named_weights(student)
    if mesh.wait_for_files(stored is None):
        model = mesh.by_first(lambda: load_model(directory, config, torch.float32))
        complete = {} if model is None else dict(model.named_parameters()) | dict(model.named_buffers())
        _distribute(student, created | complete, device)
        return student
    for name, value in created.items():
        copy_shard(tensors[name], value)
    assert stored is not None
    with explained("the student cannot be read"):
        stored.read(tensors)
    return student


def _stored_weights(directory: Path, config: Any) -> StoredWeights | None:
    if stores_quantised(directory):
        return None
    with torch.device("meta"), explained("the student cannot be read"):
        return StoredWeights.find(directory, empty_model(config, torch.float32))


def _check_head(model: Any) -> None:
    head = model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        raise UserError("the student's output layer is missing or has a bias; it is not a plain language model")


def _adapted(model: Any, training: Training) -> Any:
    """Freeze what is not trained, and add the adapters."""
    for name in frozen_parameters(model):
        model.get_parameter(name).requires_grad_(False)
    if training.lora_rank:
        lora.adapt(model, training)
        if training.precision == "bf16":  # frozen weights need no fp32 master
            for parameter in model.parameters():
                parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else torch.bfloat16)
    return model


def _shard_empty(
    config: Any, training: Training, device: torch.device, mesh: Mesh
) -> tuple[Student, dict[str, torch.Tensor]]:
    """Return a sharded student whose weights are to be filled in, and by name the values that it was created with.

    Those are new adapters, and buffers, some of which are in no file.
    """
    with init_empty_weights(include_buffers=False):
        model = empty_model(config, torch.float32, NAME if supports_packing(config) else None)
    _check_head(model)
    model.tie_weights()  # init_empty_weights untied them
    adapters = lora.initial_values(_adapted(model, training), torch.initial_seed())
    student = _wrap(model, training, mesh.context)
    created = {name: tensor.detach() for name, tensor in named_weights(student).items() if not tensor.is_meta}
    created |= adapters
    student = _shard(student, training, device, mesh)
    student.to_empty(device="cpu" if training.offloads_weights else device)
    for module in student.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    student.language_model.tie_weights()  # to_empty untied them
    return student, created


def _check(student: Student, device: torch.device, *, packing: bool) -> None:
    """Check a model before it is converted or trained."""
    student.eval()  # dropout would look like a fault
    vocabulary = student.language_model.config.get_text_config().vocab_size
    with torch.no_grad(), explained("the student's architecture is not supported"):
        self_check(
            lambda batch: student.logits(batch.to(device)),
            lambda batch: student.stock_logits(batch.to(device)),
            vocabulary,
            packing=packing,
        )


def _wrap(language_model: Any, training: Training, context: Context | None = None) -> Student:
    stack = layers(language_model)
    for index, layer in enumerate(stack):
        stack[index] = wrapped(layer, training)
    student = Student(language_model, context=context)
    student.train()
    return student


def _distribute(student: Student, values: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Give every worker its shard of the model that rank 0 has read, one tensor at a time.

    Args:
        student: sharded, its weights empty.
        values: on rank 0 the values of weights and buffers by name.
        device: of the computation.
    """
    is_first = dist.get_rank() == 0
    with torch.no_grad():
        for name, target in named_weights(student, remove_duplicate=True).items():
            if isinstance(target, DTensor):
                full = torch.empty(target.shape, dtype=target.dtype, device=device)
                if is_first:
                    full.copy_(values[name])
                target.copy_(distribute_tensor(full, target.device_mesh, target.placements))  # sends rank 0's values
            else:
                if is_first:
                    target.copy_(values[name])
                dist.broadcast(target, 0)


def _shard(student: Student, training: Training, device: torch.device, processes: Mesh) -> Student:
    """Shard layer by layer. Embedding and output layer belong to the root module, gathered for the whole step."""
    mesh = processes.of_weights(device)
    bf16 = training.precision == "bf16"
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32 if bf16 else None
    )
    offload = CPUOffloadPolicy(pin_memory=device.type == "cuda") if training.offloads_weights else OffloadPolicy()
    for layer in layers(student.language_model):
        reshard = not training.syncs_once_per_step
        fully_shard(layer, mesh=mesh, mp_policy=policy, offload_policy=offload, reshard_after_forward=reshard)
    fully_shard(student, mesh=mesh, mp_policy=policy, offload_policy=offload)
    for module in _fsdp_modules(student):
        # The loss is divided by the step's number of target tokens already, so gradients are summed, never averaged.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(student, "logits")
    register_fsdp_forward_method(student, "stock_logits")
    return student


def _fsdp_modules(student: Student) -> list[FSDPModule]:
    """Return the sharded modules of a student: its layers and itself, or none."""
    return [module for module in student.modules() if isinstance(module, FSDPModule)]


def set_gradient_sync(student: Student, training: Training, *, last_of_step: bool) -> None:
    """Set whether the next pack is its step's last.

    Only then copies of the weights add up their gradients, and with ZeRO stage 1 workers communicate at all.
    """
    if isinstance(student, FSDPModule):
        student.set_requires_all_reduce(last_of_step)
        if training.syncs_once_per_step:
            student.set_requires_gradient_sync(last_of_step)
            student.set_reshard_after_backward(last_of_step)


@dataclass
class Weights:
    """The trained weights in fp32, by name. With bf16 on one worker the student holds a bf16 copy of them."""

    student: Student
    named: dict[str, nn.Parameter]
    has_bf16_copy: bool

    @classmethod
    def of_student(cls, student: Student, precision: str) -> Weights:
        """Return a loaded student's weights. With bf16 on one worker the student itself is converted to bf16."""
        model = student.language_model
        named = {
            original_name(name): parameter for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        sharded = isinstance(student, FSDPModule)
        if precision == "fp32" or sharded:
            return cls(student, named, has_bf16_copy=False)
        masters = {name: nn.Parameter(parameter.detach().clone()) for name, parameter in named.items()}
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
        for name, parameter in named.items():
            parameter.register_post_accumulate_grad_hook(_accumulate_into(masters[name]))
        return cls(student, masters, has_bf16_copy=True)

    def refresh(self) -> None:
        """Make the next forward pass use the current weights. To be called after every change of them."""
        for module in _fsdp_modules(self.student):
            module.reshard()  # a forward pass without a backward pass leaves it gathered
        if self.has_bf16_copy:
            copies = [parameter for parameter in self.student.language_model.parameters() if parameter.requires_grad]
            with torch.no_grad():
                torch._foreach_copy_(copies, list(self.named.values()))

    def gather(self) -> dict[str, torch.Tensor]:
        """Return the full weights on the CPU of rank 0, an empty dictionary elsewhere. Every worker has to call it."""
        is_first = not dist.is_initialized() or dist.get_rank() == 0
        gathered = {}
        for name, weight in self.named.items():
            full = weight.detach().full_tensor() if isinstance(weight, DTensor) else weight.detach()
            if is_first:
                gathered[name] = full.cpu()
        return gathered


def _accumulate_into(master: nn.Parameter) -> Callable[[torch.Tensor], None]:
    def accumulate(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        master.grad = parameter.grad.float() if master.grad is None else master.grad.add_(parameter.grad)
        parameter.grad = None  # the sum over packs is kept in fp32 only

    return accumulate


def named_weights(student: Student, *, remove_duplicate: bool = False) -> dict[str, torch.Tensor]:
    """Return all weights and buffers by the names that the model has without adapters; adapters by PEFT's names.

    Args:
        student: the student.
        remove_duplicate: leave out all names but the first of tied weights.
    """
    model = student.language_model
    tensors = [
        *model.named_parameters(remove_duplicate=remove_duplicate),
        *model.named_buffers(remove_duplicate=remove_duplicate),
    ]
    return {original_name(name).replace(".base_layer.", "."): tensor for name, tensor in tensors}


def original_name(name: str) -> str:
    """Return a name without the modules that activation checkpointing adds."""
    return name.replace("_checkpoint_wrapped_module.", "")

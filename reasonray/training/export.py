"""The export of a trained student: a Hugging Face model that is rehearsed before the first step, and read back.

The rehearsal needs no trained weights: whether names, shapes and ties fit, and whether the tokenizer survives being
written, is known beforehand. Whether a written model computes what the student computes is known at each checkpoint.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer

from reasonray.config import Training
from reasonray.errors import UserError
from reasonray.training import lora, weight_files
from reasonray.training.architecture import empty_model, explained, load_model, read_config
from reasonray.training.examples import Batch, Example, collate
from reasonray.training.mesh import ALONE, Mesh
from reasonray.training.model import Student, Weights, named_weights, original_name, read_sharded
from reasonray.training.self_check import logits_difference
from reasonray.training.weight_files import whole

CPU = torch.device("cpu")
_SAMPLE = "What is 2 + 2?\n\n<think>\nIt is 4.\n</think>\n\n4 ✓"


class NotExported(UserError):
    """A trained model does not read back as it was trained. What was trained is kept next to it."""


def rehearse(source: str | Path, training: Training, named: Mapping[str, nn.Parameter]) -> None:
    """Check that the trained weights can be exported, without writing them.

    Args:
        source: directory of the model that is trained.
        training: settings.
        named: the trained weights by name; of their values nothing is read.

    Raises:
        UserError: the export would fail; the message says why.
    """
    with explained("the student's export"):
        skeleton = _skeleton(source, training, named)
    if training.lora_rank:
        lora.adapt(skeleton, training)
    expected = {name: tuple(parameter.shape) for name, parameter in skeleton.named_parameters()}
    trained = {name: tuple(parameter.shape) for name, parameter in named.items()}
    if wrong := [name for name, shape in trained.items() if expected.get(name) != shape]:
        raise UserError(
            f"the student's export would lack weights that are trained ({', '.join(wrong[:3])}): its configuration "
            "describes another model than its files hold"
        )
    with tempfile.TemporaryDirectory() as scratch, explained("the student's tokenizer cannot be exported"):
        tokenizer = AutoTokenizer.from_pretrained(source)
        tokenizer.save_pretrained(scratch)
        back = AutoTokenizer.from_pretrained(scratch)
        if back(_SAMPLE)["input_ids"] != tokenizer(_SAMPLE)["input_ids"]:
            raise UserError("the student's tokenizer reads back as another one; give the model one that is saved whole")
        if back.chat_template != tokenizer.chat_template:
            raise UserError("the student's chat template reads back as another one")


def probe_logits(student: Student, device: torch.device) -> torch.Tensor:
    """Return the logits of a few fixed tokens, on the CPU, in the dtype of the computation.

    Every worker has to call it.
    """
    return _probe(student, student.logits, device)


def _probe(student: Student, logits_of: Callable[[Batch], torch.Tensor], device: torch.device) -> torch.Tensor:
    batch = collate([Example("", _probe_ids(student.language_model.config), 1)], [0])
    student.eval()
    with torch.no_grad():
        logits = logits_of(batch.to(device)).cpu()
    student.train()
    return logits


def _probe_ids(config: Any) -> list[int]:
    vocabulary = config.get_text_config().vocab_size
    return [(17 * position + 1) % vocabulary for position in range(16)]


def export(
    weights: Weights,
    source: str | Path,
    target: Path,
    training: Training,
    logits: torch.Tensor,
    mesh: Mesh = ALONE,
    device: torch.device = CPU,
    *,
    chat_template: str = "",
) -> None:
    """Write the trained model in Hugging Face layout, in the dtype of the forward pass, and check that it loads.

    Every worker has to call it, and writes its share of the files.

    Args:
        weights: the trained weights; adapters are written to `target`/adapter and merged.
        source: directory of the model that was trained; its tokenizer, configuration and generation settings are kept.
        target: directory to write `model` into, and `adapter`.
        training: settings.
        logits: from `probe_logits`.
        mesh: the workers.
        device: on which they compute.
        chat_template: of the exported tokenizer; "" for the source's.

    Raises:
        NotExported: the model reads back with other weights, or computes other logits. It is kept as
            `target`/not-exported.
    """
    dtype = torch.bfloat16 if training.precision == "bf16" else torch.float32
    model = _skeleton(source, training, weights.named, dtype)
    if training.lora_rank:
        adapters = weights.gather()
        mesh.by_first(lambda: lora.write(adapters, source, target / "adapter", training))
    mesh.by_first(lambda: _write_settings(model, Path(source), target / "model", chat_template))
    written = weight_files.write(target / "model", model, _Gathering(weights, dtype), mesh)
    try:
        _verify(target / "model", model.config, written, training, logits, mesh, device)
    except UserError as error:
        mesh.in_turn(lambda: _mark_as_not_exported(target))
        raise NotExported(str(error)) from error


def _mark_as_not_exported(target: Path) -> None:
    if (target / "model").exists():  # workers may share the directory
        (target / "model").rename(target / "not-exported")


class _Gathering:
    """The weights of a student, gathered one by one, with its adapters merged in."""

    def __init__(self, weights: Weights, dtype: torch.dtype) -> None:
        self._tensors = named_weights(weights.student) | weights.named
        self._scales = {original_name(name): scale for name, scale in lora.scales(weights.student.language_model)}
        self._dtype = dtype

    def __call__(self, name: str, empty: torch.Tensor) -> torch.Tensor:
        """Return a whole weight in the dtype of the export. Every worker has to call it.

        Args:
            name: of the weight.
            empty: the weight of the model without values.
        """
        tensor = self._tensors[name].detach()
        if not isinstance(empty, nn.Parameter):  # buffers keep their dtype
            return whole(tensor)
        if (scale := self._scales.get(name)) is None:
            return whole(tensor.to(self._dtype))
        down, up = (whole(self._tensors[part]) for part in lora.parts(name))
        return (whole(tensor).float() + up @ down * scale).to(self._dtype)


def _skeleton(
    source: str | Path, training: Training, named: Mapping[str, Any], dtype: torch.dtype = torch.float32
) -> Any:
    """Return the student's model without values, with the ties that it was trained with."""
    config = read_config(source, training)
    config.dtype = dtype
    with torch.device("meta"):
        model = empty_model(config, dtype)
        head = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
        is_tied = f"{head}.weight" not in dict(model.named_parameters())
        if is_tied and f"{head}.weight" in named:  # the files hold an output layer of its own, unlike the configuration
            config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
            model = empty_model(config, dtype)
    return model


def _write_settings(model: Any, source: Path, target: Path, chat_template: str) -> None:
    """Write a model's configuration, generation settings and tokenizer."""
    target.mkdir(parents=True, exist_ok=True)
    model.config.architectures = [type(model).__name__]
    model.config.dtype = str(model.dtype).removeprefix("torch.")
    model.config.save_pretrained(target)
    settings = source / "generation_config.json"
    if settings.exists():  # copied verbatim: transformers refuses to write settings that it would warn of
        shutil.copyfile(settings, target / settings.name)
    elif model.can_generate():
        model.generation_config.save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = chat_template or tokenizer.chat_template
    tokenizer.save_pretrained(target)


def _verify(
    target: Path,
    config: Any,
    written: Mapping[str, torch.Tensor],
    training: Training,
    logits: torch.Tensor,
    mesh: Mesh,
    device: torch.device,
) -> None:
    """Check that the files hold what was written, and that the model in them computes the student's logits.

    Workers that share no directory cannot read the model back before its files have met in the run's storage. The first
    one then compares the configuration instead, which with the weights determines the logits.
    """
    mesh.together(lambda: _check_values(target, written))
    dtype = torch.bfloat16 if training.precision == "bf16" else torch.float32
    if not training.shards(mesh.world):
        model = load_model(target, read_config(target, training), dtype)
        model.eval()
        with torch.no_grad():
            computed = model(input_ids=torch.tensor([_probe_ids(model.config)]), use_cache=False).logits[0]
        _check_logits(target, computed, logits)
    elif not mesh.wait_for_files(not (target / "config.json").exists()):
        plain = training.model_copy(update={"lora_rank": 0, "cpu_offload": True})
        student = read_sharded(target, read_config(target, training), plain, device, mesh)
        computed = _probe(student, student.stock_logits, device)
        mesh.together(lambda: _check_logits(target, computed, logits))
    else:
        mesh.by_first(lambda: _check_settings(target, config, training))


def _check_logits(target: Path, computed: torch.Tensor, logits: torch.Tensor) -> None:
    if (difference := logits_difference(computed.to(logits.dtype), logits.float())) is not None:
        raise NotExported(f"{target}: the export computes other logits, off by {difference:.2g} of their spread")


def _check_settings(target: Path, config: Any, training: Training) -> None:
    here = {"_name_or_path": str(target)}
    if read_config(target, training).to_dict() | here != config.to_dict() | here:
        raise NotExported(f"{target}: the configuration reads back other than it was written")


def _check_values(target: Path, written: Mapping[str, torch.Tensor]) -> None:
    read = weight_files.read_written(target, written)
    if lost := sorted(written.keys() - read.keys()):
        raise NotExported(f"{target}: the exported model lacks weights that were written ({', '.join(lost[:3])})")
    for name, tensor in written.items():
        if not torch.equal(read[name], tensor):
            raise NotExported(f"{target}: {name} reads back other than it was written")

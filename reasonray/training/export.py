"""The export of a trained student: a Hugging Face model that is rehearsed before the first step, and read back.

The rehearsal needs no trained weights: whether names, shapes and ties fit, and whether the tokenizer survives being
written, is known beforehand. Whether a written model computes what the student computes is known at each checkpoint.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, GenerationConfig

from reasonray.config import Training
from reasonray.errors import UserError
from reasonray.training import lora
from reasonray.training.architecture import empty_model, explained, load_model, read_config
from reasonray.training.examples import Example, collate
from reasonray.training.model import Student
from reasonray.training.self_check import logits_difference

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
    ids = _probe_ids(student.language_model.config)
    student.eval()
    with torch.no_grad():
        logits = student.logits(collate([Example("", ids, 1)], [0]).to(device)).cpu()
    student.train()
    return logits


def _probe_ids(config: Any) -> list[int]:
    vocabulary = config.get_text_config().vocab_size
    return [(17 * position + 1) % vocabulary for position in range(16)]


def export(
    trained: dict[str, torch.Tensor], source: str | Path, target: Path, training: Training, logits: torch.Tensor
) -> None:
    """Write gathered weights as a Hugging Face model, in the dtype of the forward pass, and check that it loads.

    Args:
        trained: from `Weights.gather`; adapters are written to `target`/adapter and merged.
        source: directory of the model that was trained; its tokenizer, configuration and generation settings are kept.
        target: directory to write `model` into, and `adapter`.
        training: settings.
        logits: from `probe_logits`.

    Raises:
        NotExported: the model reads back with other weights, or computes other logits. It is kept as
            `target`/not-exported.
    """
    dtype = torch.bfloat16 if training.precision == "bf16" else torch.float32
    if training.lora_rank:
        trained = lora.export(trained, source, target / "adapter", training)
    model = _skeleton(source, training, trained, dtype)
    model.load_state_dict({name: weight.to(dtype) for name, weight in trained.items()}, strict=False, assign=True)
    model.tie_weights()
    if untrained := [name for name, tensor in model.state_dict().items() if tensor.is_meta]:  # frozen, or buffers
        stored = load_model(source, read_config(source, training), dtype).state_dict()
        model.load_state_dict({name: stored[name] for name in untrained}, strict=False, assign=True)
    _write(model, Path(source), target / "model")
    try:
        _verify(target / "model", trained, training, logits)
    except UserError as error:
        (target / "model").rename(target / "not-exported")
        raise NotExported(str(error)) from error


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


def _write(model: Any, source: Path, target: Path) -> None:
    settings = source / "generation_config.json"
    if settings.exists():  # copied verbatim: transformers refuses to write settings that it would warn of
        model.generation_config = GenerationConfig()
    model.save_pretrained(target)
    if settings.exists():
        shutil.copyfile(settings, target / settings.name)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)


def _verify(target: Path, trained: dict[str, torch.Tensor], training: Training, logits: torch.Tensor) -> None:
    dtype = torch.bfloat16 if training.precision == "bf16" else torch.float32
    model = load_model(target, read_config(target, training), dtype)
    model.eval()
    written = dict(model.named_parameters())
    if lost := sorted(trained.keys() - written.keys()):
        raise NotExported(f"{target}: the exported model lacks weights that were trained ({', '.join(lost[:3])})")
    for name, weight in trained.items():
        if not torch.equal(written[name].to(dtype), weight.to(dtype)):
            raise NotExported(f"{target}: {name} reads back other than it was written")
    with torch.no_grad():
        computed = model(input_ids=torch.tensor([_probe_ids(model.config)]), use_cache=False).logits[0]
    if (difference := logits_difference(computed.to(logits.dtype), logits.float())) is not None:
        raise NotExported(f"{target}: the export computes other logits, off by {difference:.2g} of their spread")

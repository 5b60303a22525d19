"""LoRA adapters as models: merged into the model that they were trained on, once a node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from reasonray.errors import UserError
from reasonray.models.documents import read_document

CONFIGURATION = "adapter_config.json"
"""File that makes a directory an adapter, in PEFT's layout."""


def is_adapter(directory: Path) -> bool:
    """Return whether a directory holds an adapter, and not a whole model."""
    return (directory / CONFIGURATION).is_file() and not (directory / "config.json").is_file()


Model: TypeAlias = tuple[str, str | None]
"""Reference and revision of a model or an adapter."""


def base_model(configuration: dict[str, Any], chain: Sequence[Model]) -> Model:
    """Return the model that an adapter was trained on, which may be an adapter itself.

    Args:
        configuration: the adapter's.
        chain: the adapters that led here, this one last; each was trained on the next.

    Raises:
        UserError: it names no model or one of the chain, or is no LoRA adapter.
    """
    adapter, _ = chain[-1]
    if configuration.get("peft_type") != "LORA":
        kind = configuration.get("peft_type")
        raise UserError(f"model {adapter}: an adapter of kind {kind}; only LORA can be merged")
    base = configuration.get("base_model_name_or_path")
    if not base:
        missing = f"{CONFIGURATION} does not say which model it adapts (base_model_name_or_path)"
        raise UserError(f"model {adapter}: {missing}")
    model = (str(base), configuration.get("revision"))
    if model in chain:
        raise UserError(f"model {adapter}: {CONFIGURATION} leads back to the adapter {base}, and never to a model")
    return model


def read_configuration(directory: Path) -> dict[str, Any]:
    """Return the configuration of an adapter in a directory."""
    return read_document(directory / CONFIGURATION)


def merge(adapter: Path, base: Path, target: Path) -> None:
    """Write a model with an adapter merged in, in the model's own data type.

    Args:
        adapter: directory of the adapter; its tokenizer, if it has one, comes before the model's own.
        base: directory of the model that it was trained on.
        target: directory to write the model into.

    Raises:
        UserError: the adapter does not fit the model, or the model is quantised.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if "quantization_config" in read_document(base / "config.json"):
        raise UserError(f"model {adapter}: {base} is quantised, so nothing can be merged into it; name its original")
    try:
        model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
        merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"model {adapter}: cannot be merged into {base}: {reason}") from error
    merged.save_pretrained(target)
    source = adapter if (adapter / "tokenizer_config.json").is_file() else base
    AutoTokenizer.from_pretrained(source).save_pretrained(target)

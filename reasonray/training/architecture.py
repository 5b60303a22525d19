"""Properties of a student's architecture, read from its configuration and its modules, and what is refused for them.

transformers names the same thing differently in each architecture. What differs is looked up here, once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    FineGrainedFP8Config,
    Mxfp4Config,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from reasonray.config import Training
from reasonray.errors import UserError

_DEQUANTISED: Mapping[str, Any] = {"fp8": FineGrainedFP8Config, "mxfp4": Mxfp4Config}
"""Quantisation methods whose weights transformers gives back in full precision."""
_ATTENTION = {"attention", "full_attention", "sliding_attention"}
"""Kinds of layers that packed attention computes."""


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Report an exception of a library's code for one architecture as one line.

    Raises:
        UserError: something else was raised inside.
    """
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the code of any architecture may raise anything, and a retry would meet it again
        first_line = str(error).strip().partition("\n")[0]
        raise UserError(f"{what}: {type(error).__name__}: {first_line[:300]}") from error


def read_config(directory: str | Path, training: Training) -> Any:
    """Return a model's configuration as the student has it: with training.rope, and without quantisation.

    Raises:
        UserError: the model's code is not part of transformers, or its weights are quantised for good.
    """
    with explained(f"the student's config.json cannot be read ({directory})"):
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    quantisation = getattr(config, "quantization_config", None)
    if quantisation is not None:
        method = str(quantisation["quant_method"] if isinstance(quantisation, dict) else quantisation.quant_method)
        if method not in _DEQUANTISED:
            raise UserError(f"the student's weights are quantised ({method}): give the model that they were made from")
        del config.quantization_config  # the student is trained and exported in full precision
    _set_rope(config, training)
    return config


def _set_rope(config: Any, training: Training) -> None:
    values = dict(training.rope or {})
    text = config.get_text_config()
    if (positions := values.pop("max_position_embeddings", None)) is not None:
        text.max_position_embeddings = positions
    if not values:
        return
    rope = getattr(text, "rope_parameters", None)
    if not rope:
        raise UserError(f"training.rope: a {config.model_type} has no rotary embeddings")
    if "full_attention" in rope:  # other layers see a window only
        text.rope_parameters = {**rope, "full_attention": {**rope["full_attention"], **values}}
    else:
        text.rope_parameters = {**rope, **values}
    with explained("training.rope"):
        text.validate_rope()


def load_model(directory: str | Path, config: Any, dtype: torch.dtype, attention: str | None = None) -> Any:
    """Read a model with all of its weights.

    Args:
        directory: of the model.
        config: from `read_config`.
        dtype: of the weights in memory.
        attention: transformers' name of the attention's implementation; None for transformers' own choice.

    Raises:
        UserError: the model cannot be read, or weights are missing.
    """
    stored = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    quantisation = getattr(stored, "quantization_config", None)
    options: dict[str, Any] = {}
    if quantisation is not None:
        config.quantization_config = quantisation
        method = str(quantisation["quant_method"] if isinstance(quantisation, dict) else quantisation.quant_method)
        options["quantization_config"] = _DEQUANTISED[method](dequantize=True)
    with explained(f"the student cannot be read ({directory})"):
        model, found = auto_class(config).from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            attn_implementation=attention or attention_with_caps(config),
            output_loading_info=True,
            **options,
        )
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    if missing := sorted(found["missing_keys"]):
        raise UserError(f"the student's files lack weights ({', '.join(missing[:3])}); download the model again")
    return model


def stores_quantised(directory: Path) -> bool:
    """Return whether a model's files hold quantised weights."""
    return (
        getattr(AutoConfig.from_pretrained(directory, trust_remote_code=False), "quantization_config", None) is not None
    )


def auto_class(config: Any) -> Any:
    """Return transformers' class that reads a model whole: with its vision tower if it is published with one."""
    architecture = (config.architectures or [""])[0]
    is_multimodal = architecture in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values()
    return AutoModelForImageTextToText if is_multimodal else AutoModelForCausalLM


def empty_model(config: Any, dtype: torch.dtype, attention: str | None = None) -> Any:
    """Build a model without reading weights, on the default device.

    Raises:
        UserError: transformers does not know the architecture as a language model.
    """
    with explained("the student's architecture is not supported"):
        return auto_class(config).from_config(
            config, dtype=dtype, attn_implementation=attention or attention_with_caps(config)
        )


def decoder(language_model: Any) -> Any:
    """Return the part of a model that turns tokens of text into hidden states."""
    found = language_model.get_decoder()
    if found is language_model:
        found = next((child for child in language_model.children() if isinstance(child, PreTrainedModel)), None)
    if found is None:
        raise UserError(f"the student is a {type(language_model).__name__}, which is not a plain language model")
    return found


def layers(language_model: Any) -> nn.ModuleList:
    """Return a model's layers: the first list of modules that is as long as the configuration's number of layers."""
    count = language_model.config.get_text_config().num_hidden_layers
    lists = (module for module in decoder(language_model).modules() if isinstance(module, nn.ModuleList))
    found = next((modules for modules in lists if len(modules) == count), None)
    if found is None:
        raise UserError(
            f"the student is a {type(language_model).__name__}, whose {count} layers are not in one list: it can be "
            "trained by one worker with activation_checkpointing = false and without cpu_offload only"
        )
    return found


def routers(language_model: Any) -> list[str]:
    """Return the names of the modules that choose the experts of a token."""
    recorders = [
        recorder
        for module in language_model.modules()
        if isinstance(module, PreTrainedModel)
        for recorder in _recorders_of_routers(module)
    ]
    found = []
    for name, module in language_model.named_modules():
        parent, _, own = name.rpartition(".")
        is_recorded = any(isinstance(module, kind) and (part is None or part == own) for kind, part in recorders)
        chooses = own in ("gate", "router") and hasattr(language_model.get_submodule(parent), "experts")
        if is_recorded or chooses or "router" in type(module).__name__.lower():
            found.append(name)
    return found


def _recorders_of_routers(model: Any) -> list[tuple[type, str | None]]:
    """Return the classes of modules from which transformers reads router logits, each with the name that they have."""
    recorder = (model._can_record_outputs or {}).get("router_logits")
    recorders = recorder if isinstance(recorder, list) else [recorder] if recorder is not None else []
    return [(one.target_class, one.layer_name) if hasattr(one, "target_class") else (one, None) for one in recorders]


def frozen_parameters(language_model: Any) -> set[str]:
    """Return the names of the parameters that stay as they are: those of routers, and those that text never reaches.

    Nothing balances the experts in fine-tuning on few examples, and a router that is trained without a balance may
    stop using some of them.
    """
    prefixes = tuple(f"{name}." for name in routers(language_model))
    text = {id(parameter) for parameter in decoder(language_model).parameters()}
    text.add(id(language_model.get_output_embeddings().weight))
    return {
        name
        for name, parameter in language_model.named_parameters()
        if name.startswith(prefixes) or id(parameter) not in text
    }


@dataclass(frozen=True)
class LogitTransform:
    """What a model does to the products of hidden states and output layer: a factor, then a cap.

    A cap c makes c · tanh(logit / c) of a logit (Gemma 2, arXiv 2408.00118).
    """

    factor: float = 1.0
    cap: float | None = None

    @staticmethod
    def of(config: Any) -> LogitTransform:
        """Read a model's transform from its configuration."""
        text = config.get_text_config()  # only some architectures have these fields, so they are read by name
        factor = 1.0
        for name in ("logit_scale", "lm_head_multiplier"):
            factor *= getattr(text, name, None) or 1.0
        factor /= getattr(text, "logits_scaling", None) or 1.0
        caps = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
        return LogitTransform(factor, next((cap for name in caps if (cap := getattr(text, name, None))), None))

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the model's logits, from the products."""
        scaled = logits * self.factor if self.factor != 1.0 else logits
        return scaled if self.cap is None else torch.tanh(scaled / self.cap) * self.cap


def supports_packing(config: Any) -> bool:
    """Return whether all of a model's layers are attention that keeps packed examples apart.

    Recurrent layers carry state from one example to the next. Rotary embeddings that stretch with the longest example
    of a pass change the positions of the others. Some older architectures let no other attention in.
    """
    text = config.get_text_config()
    # Each architecture's configuration class has other fields, so they are read by name.
    kinds = {kind for name in ("layer_types", "layers_block_type") for kind in getattr(text, name, None) or ()}
    names = ("ssm_cfg", "state_size", "mamba_d_state", "linear_num_key_heads")
    is_recurrent = any(getattr(text, name, None) is not None for name in names)
    is_capped = getattr(text, "attn_logit_softcapping", None) is not None
    model = auto_class(config)._model_mapping.get(type(config), PreTrainedModel)
    return (
        kinds <= _ATTENTION
        and model._supports_attention_backend
        and not (is_capped or is_recurrent or _has_dynamic_rope(text))
    )


def attention_with_caps(config: Any) -> str | None:
    """Return the name of transformers' attention that caps its logits, where a model does so; None elsewhere."""
    return None if getattr(config.get_text_config(), "attn_logit_softcapping", None) is None else "eager"


def _has_dynamic_rope(text: Any) -> bool:
    ropes = getattr(text, "rope_parameters", None) or {}
    kinds = {rope.get("rope_type") for rope in (ropes, *ropes.values()) if isinstance(rope, dict)}
    return bool(kinds & {"longrope", "dynamic"})


def check_positions(config: Any, longest: int) -> None:
    """Check that the longest example has no more tokens than the model has positions.

    Raises:
        UserError: it has; the model would be trained on positions that it does not know, or fail.
    """
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if positions is not None and longest > positions:
        raise UserError(
            f"the longest example has {longest:,} tokens, and the student knows {positions:,} positions "
            "(max_position_embeddings): lower training.max_tokens, or set training.rope, such as "
            f"{{ rope_theta = 1_000_000.0, max_position_embeddings = {1 << (longest - 1).bit_length()} }}"
        )

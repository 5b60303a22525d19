"""Sizes of a student, from its configuration: what its time and memory depend on."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

from reasonray.training.architecture import empty_model


@dataclass(frozen=True)
class Sizes:
    """Sizes of a causal language model."""

    parameters: int
    """Weights in all."""
    used: float
    """Weights that each token is multiplied with: of experts the chosen ones, and the output layer."""
    embedding: int
    """Weights of the input embeddings, and so of the output layer."""
    tied: bool
    """Whether both are the same weights."""
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    """Width of the feed-forward layer, or of the experts that a token is sent to."""

    @classmethod
    def of(cls, config: Any) -> Self:
        """Return the sizes of the model with a configuration of transformers; no weights are made."""
        text = config.get_text_config()
        with torch.device("meta"):
            model = empty_model(config, torch.float32)
        named = dict(model.named_parameters())  # each tied weight once
        # Each architecture's configuration class has other fields, so they are read by name.
        experts = next(filter(None, (getattr(text, name, None) for name in ("num_local_experts", "num_experts"))), 1)
        chosen = (getattr(text, "num_experts_per_tok", None) or 1) / experts
        embedding = model.get_input_embeddings().weight.numel()
        in_experts = sum(weight.numel() for name, weight in named.items() if ".experts." in name)
        total = sum(weight.numel() for weight in named.values())
        tied = model.get_output_embeddings() is not None and (
            model.get_output_embeddings().weight is model.get_input_embeddings().weight
        )
        heads = round(_mean_of_layers(text, "num_attention_heads") or 1)
        dense = getattr(text, "intermediate_size", 4 * text.hidden_size)
        width = getattr(text, "moe_intermediate_size", dense)
        return cls(
            parameters=total,
            used=total - (0 if tied else embedding) - in_experts * (1 - chosen),
            embedding=embedding,
            tied=tied,
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            heads=heads,
            kv_heads=round(_mean_of_layers(text, "num_key_value_heads") or heads),
            head_size=round(_mean_of_layers(text, "head_dim") or text.hidden_size // heads),
            intermediate=width * text.num_experts_per_tok if in_experts else dense,
        )

    def operations(self, lengths: Sequence[int], target_tokens: float, *, frozen: bool = False) -> float:
        """Return the operations of the products of a step, forward and backward, without those that are done again.

        Windows of attention are not taken into account.

        Args:
            lengths: tokens of each example.
            target_tokens: tokens that the output layer is applied to.
            frozen: whether adapters are trained, so that the weights get no gradient.
        """
        by_weights = (self.used - self.embedding) * sum(lengths) + self.embedding * target_tokens
        by_pairs = self.layers * self.heads * self.head_size * sum(length**2 for length in lengths)
        return (4 if frozen else 6) * by_weights + 6 * by_pairs

    @property
    def even_tokens(self) -> float:
        """Tokens of an example at which causal attention takes as many operations as the matrix products.

        Each weight takes 6 operations for a token (forward and backward), each pair of tokens 12 for every channel of
        attention, and half of the pairs count.
        """
        return self.used / (self.layers * self.heads * self.head_size)


def _mean_of_layers(text: Any, name: str) -> float:
    """Return a size that may differ between layers, as Gemma 4's heads do; 0 if the configuration does not have it."""
    layers = getattr(text, "per_layer_config", None) or [text]
    return statistics.mean(getattr(layer, name, None) or 0 for layer in layers)

"""Memory of a GPU in training, by arithmetic: which student fits on how many GPUs.

    python -m reasonray.training.memory     writes the table of this room's README.md

Weights are sharded by FSDP (ZeRO 3), the forward pass is in bf16, activations are computed again in the backward pass.
The factors are those of transformers' layers as they are, without compilation; a test compares the sums with the peaks
of tensors that a small student allocates.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import LlamaConfig, Qwen2Config

from reasonray.training.losses import CHUNK
from reasonray.training.sizes import Sizes

_README = Path(__file__).with_name("README.md")
_BEGIN, _END = "<!-- generated: python -m reasonray.training.memory -->\n", "<!-- end of the generated part -->\n"

_STUDENTS = {
    "Qwen2.5-7B": Qwen2Config(
        hidden_size=3584, intermediate_size=18_944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, vocab_size=152_064, tie_word_embeddings=False,
    ),
    "Qwen2.5-32B": Qwen2Config(
        hidden_size=5120, intermediate_size=27_648, num_hidden_layers=64, num_attention_heads=40,
        num_key_value_heads=8, vocab_size=152_064, tie_word_embeddings=False,
    ),
    "Llama-3.3-70B": LlamaConfig(
        hidden_size=8192, intermediate_size=28_672, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8, vocab_size=128_256, tie_word_embeddings=False,
    ),
}  # fmt: skip
_TOKENS, _GPUS, _CONTEXTS, _ROOM = 32_768, (8, 16, 32, 64), (1, 2, 4, 8), 76e9
"""Tokens of a pack, and the bytes of an 80 GB GPU that tensors may fill: CUDA, NCCL and fragmentation take the rest."""

_CHECKPOINTING = ("offload", "selective")
"""Kinds of activation checkpointing besides that of each layer whole."""

_BYTES_OF_MOMENTS = {"fp32": 8, "bf16": 4}
"""Of AdamW's two, for each weight."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU at the peak of a step."""

    state: float
    """Shards of fp32 weights, of their gradients and of AdamW's two moments: 16 bytes for each weight, or 12 with
    moments in bf16."""
    root: float
    """Embedding and output layer in bf16, gathered for the whole pass, and their gradients."""
    saved: float
    """What layers keep for the backward pass, from which they compute the other activations again."""
    working: float
    """The larger of the two that are never there at once: a layer's backward pass, or the loss."""

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return self.state + self.root + self.saved + self.working


def memory(
    sizes: Sizes,
    *,
    shard: int,
    pack_tokens: int,
    context: int = 1,
    moments: str = "fp32",
    activation_checkpointing: bool | str = True,
) -> Memory:
    """Return the memory of a GPU.

    Args:
        sizes: of the student.
        shard: processes that share one copy of the weights.
        pack_tokens: of a full pack.
        context: processes that share each pack.
        moments: their precision, "fp32" or "bf16".
        activation_checkpointing: of each layer whole (true), "selective" or "offload".
    """
    tokens = pack_tokens / context
    root = sizes.embedding * (1 if sizes.tied else 2)
    layer = (sizes.parameters - root) / sizes.layers
    # Gathered weights of this layer and the next one, and gradients in bf16 and, to be added up, in fp32.
    weights = 10 * layer
    # What the norms, attention and the feed-forward layer of transformers keep for the backward pass, and its products.
    activations = tokens * (25 * sizes.hidden + 4 * sizes.kv_heads * sizes.head_size + 12 * sizes.intermediate)
    # The gradient of the output layer in fp32, a chunk's part of it in bf16, and the chunk's logits.
    loss = 6 * sizes.embedding + 2 * CHUNK * sizes.embedding / sizes.hidden
    return Memory(
        state=(8 + _BYTES_OF_MOMENTS[moments]) * sizes.parameters / shard,
        root=4 * root,
        saved=saved_activations(sizes, tokens, activation_checkpointing),
        working=max(weights + activations, loss),
    )


def saved_activations(sizes: Sizes, tokens: float, activation_checkpointing: bool | str) -> float:
    """Return the bytes of what all layers keep for the backward pass.

    Args:
        sizes: of the student.
        tokens: of the part of a pack that a GPU computes.
        activation_checkpointing: of each layer whole (true), "selective" or "offload".
    """
    inputs = 2 * tokens * sizes.hidden
    if activation_checkpointing == "offload":
        return 2 * inputs  # of the layer that is computed, and of the one that is moved
    # Selective: the results of attention and of every second product, which are queries, values, gate and output.
    query, value = sizes.heads * sizes.head_size, sizes.kv_heads * sizes.head_size
    results = 2 * tokens * (query + (query + value + sizes.intermediate + sizes.hidden))
    return sizes.layers * (inputs + (results if activation_checkpointing == "selective" else 0))


def memory_table() -> str:
    """Return the memory of a GPU for some students at 32k tokens as a Markdown table."""
    header = [f"GB a GPU, {_TOKENS:,} tokens", "`context`", *(f"{gpus} GPUs" for gpus in _GPUS)]
    lines = [header, ["---"] * len(header)]
    less = _BYTES_OF_MOMENTS["fp32"] - _BYTES_OF_MOMENTS["bf16"]
    for name, config in _STUDENTS.items():
        sizes = Sizes.of(config)
        for context in _CONTEXTS:
            if sizes.heads % context == 0:
                totals = [memory(sizes, shard=gpus, pack_tokens=_TOKENS, context=context).total for gpus in _GPUS]
                cells = [f"**{total / 1e9:.0f}**" if total <= _ROOM else f"{total / 1e9:.0f}" for total in totals]
                lines.append([name, str(context), *cells])
        lines.append([f"{name}, `moments` in bf16", "any", *_less(less, sizes)])
        lines.append([f'{name}, `cpu_offload = "optimiser"`', "any", *_less(_BYTES_OF_MOMENTS["fp32"], sizes)])
        for choice in _CHECKPOINTING:
            more = (saved_activations(sizes, _TOKENS, choice) - saved_activations(sizes, _TOKENS, True)) / 1e9
            cells = [f"{more:+.1f}".replace("-", "−")] * len(_GPUS)
            lines.append([f'{name}, `activation_checkpointing = "{choice}"`', "1", *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _less(bytes_of_a_weight: float, sizes: Sizes) -> list[str]:
    return [f"−{bytes_of_a_weight * sizes.parameters / gpus / 1e9:.1f}" for gpus in _GPUS]


def readme() -> str:
    """Return the room's README.md with the table as it is now."""
    before, _, rest = _README.read_text(encoding="utf-8").partition(_BEGIN)
    return f"{before}{_BEGIN}{memory_table()}{_END}{rest.partition(_END)[2]}"


if __name__ == "__main__":
    _README.write_text(readme(), encoding="utf-8")

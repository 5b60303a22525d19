"""Tiny models of many architectures, and what training can do with each: the table in the training room's README.

python -m tests.families [NAME …]     train them all (minutes), and write the table
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from reasonray.errors import UserError
from reasonray.training.architecture import supports_packing
from tests.students import VOCAB, byte_tokenizer, make_job, train
from tests.templates import CHATML, CONTROL_TOKENS

README = Path(__file__).parent.parent / "reasonray" / "training" / "README.md"
BEGIN, END = "<!-- families: written by `python -m tests.families` -->\n", "<!-- end of families -->\n"
HEADER = "| `model_type` | trains | packs | LoRA | sharded |\n|---|---|---|---|---|\n"

_BASE = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "initializer_range": 0.2,
    "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_NO_HEAD_DIM = {key: value for key, value in _BASE.items() if key != "head_dim"}
_PLAIN_HEADS = {key: value for key, value in _NO_HEAD_DIM.items() if key != "num_key_value_heads"}
_MOE = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
_LOCAL_MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
_LINEAR = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
_SLIDING = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
_GEMMA = {"query_pre_attn_scalar": 8}
_VISION = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
_QWEN_VISION = {"hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
_GEMMA_TOKENS = {"mm_tokens_per_image": 4, "image_token_index": 90, "boi_token_index": 91, "eoi_token_index": 92}


def _gemma3_with_vision(layers: int) -> dict[str, Any]:
    vision = _VISION | {"num_hidden_layers": layers}
    return {"text_config": _BASE | _GEMMA | _SLIDING, "vision_config": vision} | _GEMMA_TOKENS


FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "apertus": ("ApertusConfig", _BASE),
    "arcee": ("ArceeConfig", _BASE),
    "bamba": ("BambaConfig", _BASE | _MAMBA | {"attn_layer_indices": [1]}),
    "bitnet": ("BitNetConfig", _BASE),
    "cohere2": ("Cohere2Config", _BASE | {"logit_scale": 0.25, "sliding_window": 4}),
    "deepseek_v3": (
        "DeepseekV3Config",
        _NO_HEAD_DIM
        | {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
        | {"moe_intermediate_size": 16, "q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 8}
        | {"qk_nope_head_dim": 8, "v_head_dim": 8, "num_key_value_heads": 4},
    ),
    "ernie4_5": ("Ernie4_5Config", _BASE),
    "exaone4": ("Exaone4Config", _BASE | {"sliding_window": 4, "sliding_window_pattern": 2}),
    "falcon_h1": ("FalconH1Config", _BASE | _MAMBA | {"mamba_d_ssm": 32, "mamba_d_head": 8, "lm_head_multiplier": 0.5}),
    "gemma2": ("Gemma2Config", _BASE | _GEMMA | {"final_logit_softcapping": 2.0, "sliding_window": 4}),
    "gemma3": ("Gemma3Config", _gemma3_with_vision(3)),
    "gemma3, as many vision layers": ("Gemma3Config", _gemma3_with_vision(2)),
    "gemma3_text": ("Gemma3TextConfig", _BASE | _GEMMA | _SLIDING),
    "gemma3n_text": (
        "Gemma3nTextConfig",
        _BASE
        | {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "laurel_rank": 4, "altup_num_inputs": 2}
        | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCAB, "sliding_window": 4}
        | {"layer_types": ["sliding_attention", "full_attention"] * 2, "activation_sparsity_pattern": [0.0] * 4}
        | {"final_logit_softcapping": 2.0},
    ),
    "gemma4": (
        "Gemma4Config",
        {
            "text_config": _BASE
            | _SLIDING
            | {"final_logit_softcapping": 2.0, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0},
            "vision_config": _VISION | {"num_hidden_layers": 3, "num_key_value_heads": 2, "head_dim": 8},
            "audio_config": None, "image_token_id": 90, "boi_token_id": 91, "eoi_token_id": 92,
        },
    ),
    "gemma4_text": ("Gemma4TextConfig", _BASE | _SLIDING | {"final_logit_softcapping": 2.0}),
    "glm4": ("Glm4Config", _BASE),
    "glm4_moe": (
        "Glm4MoeConfig",
        _BASE
        | {"moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
        | {"first_k_dense_replace": 1, "n_shared_experts": 1},
    ),
    "gpt2": ("GPT2Config", {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "eos_token_id": 2}),
    "gpt_neox": ("GPTNeoXConfig", _PLAIN_HEADS),
    "gpt_oss": ("GptOssConfig", _BASE | _LOCAL_MOE | {"sliding_window": 4}),
    "granite": (
        "GraniteConfig",
        _BASE
        | {"logits_scaling": 8.0, "attention_multiplier": 0.1, "embedding_multiplier": 12.0}
        | {"residual_multiplier": 0.22},
    ),
    "granitemoehybrid": (
        "GraniteMoeHybridConfig",
        _BASE
        | _MAMBA
        | {"layer_types": ["mamba", "attention"], "num_local_experts": 0, "shared_intermediate_size": 64},
    ),
    "hunyuan_v1_dense": ("HunYuanDenseV1Config", _BASE),
    "jamba": (
        "JambaConfig",
        _NO_HEAD_DIM
        | {"num_experts": 2, "num_experts_per_tok": 1, "attn_layer_period": 2, "attn_layer_offset": 1}
        | {"mamba_d_state": 4, "use_mamba_kernels": False},
    ),
    "kimi_linear": (
        "KimiLinearConfig",
        _BASE
        | {"moe_intermediate_size": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "num_experts": 4}
        | {"qk_nope_head_dim": 8, "num_experts_per_token": 2, "linear_head_dim": 8, "linear_num_heads": 4},
    ),
    "lfm2": ("Lfm2Config", _NO_HEAD_DIM | {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8}),
    "llama": ("LlamaConfig", _BASE),
    "llama4_text": (
        "Llama4TextConfig",
        _BASE
        | {"intermediate_size_mlp": 64, "num_local_experts": 2, "num_experts_per_tok": 1, "attention_chunk_size": 8},
    ),
    "mamba2": (
        "Mamba2Config",
        {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4, "head_dim": 16, "n_groups": 1}
        | {"state_size": 8, "initializer_range": 0.2, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0},
    ),
    "minimax_m2": ("MiniMaxM2Config", _BASE | _LOCAL_MOE),
    "ministral3": ("Ministral3Config", _BASE),
    "mistral": ("MistralConfig", _BASE | {"sliding_window": 4}),
    "mistral3": (
        "Mistral3Config",
        {
            "text_config": {"model_type": "mistral"} | _BASE,
            "vision_config": {"model_type": "pixtral", "head_dim": 8} | _VISION | {"num_hidden_layers": 3},
            "image_token_index": 90,
        },
    ),
    "mixtral": ("MixtralConfig", _BASE | _LOCAL_MOE),
    "nanochat": ("NanoChatConfig", _BASE | {"final_logit_softcapping": 2.0}),
    "nemotron_h": (
        "NemotronHConfig",
        _BASE
        | {"hybrid_override_pattern": "M*", "mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8}
        | {"n_groups": 1},
    ),
    "olmo2": ("Olmo2Config", _BASE),
    "olmo3": ("Olmo3Config", _BASE | {"sliding_window": 4}),
    "olmoe": ("OlmoeConfig", _BASE | {"num_experts": 4, "num_experts_per_tok": 2}),
    "phi3": ("Phi3Config", _NO_HEAD_DIM),
    "qwen2": ("Qwen2Config", _BASE),
    "qwen3": ("Qwen3Config", _BASE),
    "qwen3_5": ("Qwen3_5Config", {"text_config": _BASE | _LINEAR, "vision_config": _QWEN_VISION | {"depth": 2}}),
    "qwen3_5_text": ("Qwen3_5TextConfig", _BASE | _LINEAR),
    "qwen3_moe": ("Qwen3MoeConfig", _BASE | _MOE),
    "qwen3_next": ("Qwen3NextConfig", _BASE | _MOE | _LINEAR | {"shared_expert_intermediate_size": 16}),
    "qwen3_vl": (
        "Qwen3VLConfig",
        {
            "text_config": _BASE,
            "vision_config": _QWEN_VISION | {"depth": 3, "deepstack_visual_indexes": [0, 1, 2]},
        },
    ),
    "seed_oss": ("SeedOssConfig", _BASE),
    "smollm3": ("SmolLM3Config", _BASE),
    "stablelm": ("StableLmConfig", _BASE),
    "starcoder2": ("Starcoder2Config", _BASE | {"sliding_window": 4}),
    "zamba2": (
        "Zamba2Config",
        _BASE
        | {"mamba_d_state": 8, "n_mamba_heads": 4, "layers_block_type": ["mamba", "hybrid"], "num_mem_blocks": 1},
    ),
}  # fmt: skip
"""Name → configuration class and values. The name begins with the configuration's model_type."""


@dataclass(frozen=True)
class Findings:
    """What training can do with a model: "yes", or the reason why not."""

    trains: str
    packs: bool
    lora: str
    sharded: str

    def row(self, name: str) -> str:
        """Return the row of the table."""
        if self.trains != "yes":
            return f"| {name} | refused: {self.trains} | | | |\n"
        packs = "yes" if self.packs else "one example a pass"
        return f"| {name} | yes | {packs} | {self.lora} | {self.sharded} |\n"


def write_family(name: str, directory: Path) -> None:
    """Write a random model with a tokenizer, as its authors publish it: with a vision tower if it has one."""
    class_name, values = FAMILIES[name]
    torch.manual_seed(1)
    config = getattr(transformers, class_name)(**values)
    auto = AutoModelForImageTextToText if "vision_config" in values else AutoModelForCausalLM
    auto.from_config(config).save_pretrained(directory)
    byte_tokenizer(CHATML, CONTROL_TOKENS[CHATML], "<|im_end|>").save_pretrained(directory)


def findings(name: str, root: Path) -> Findings:
    """Train a tiny model in every way, and return what works."""
    write_family(name, root / "model")
    ways: Mapping[str, Mapping[str, Any]] = {
        "trains": {"precision": "fp32"},
        "trains in bf16": {"precision": "bf16"},
        "lora": {"precision": "bf16", "lora_rank": 4},
        "sharded": {"precision": "fp32", "cpu_offload": True, "activation_checkpointing": True},
    }
    outcomes = {way: outcome(lambda settings=settings: _train(root, **settings)) for way, settings in ways.items()}
    trains = outcomes.pop("trains")
    if trains == "yes" and (in_bf16 := outcomes.pop("trains in bf16")) != "yes":
        trains = f"in bf16: {in_bf16}"
    return Findings(
        trains, supports_packing(AutoConfig.from_pretrained(root / "model")), outcomes["lora"], outcomes["sharded"]
    )


def _train(root: Path, **settings: Any) -> None:
    figures, saved = train(make_job(root, epochs=1, batch=4, **{"learning_rate": 1e-3, **settings}))
    assert all(0 < row["loss"] < 20 for row in figures)
    assert (saved[len(figures)] / "model" / "model.safetensors").exists()


def outcome(attempt: Callable[[], Any]) -> str:
    """Return "yes", or why training refused. Any other exception is a fault."""
    try:
        attempt()
    except UserError as error:
        return str(error)
    return "yes"


def table(names: Sequence[str]) -> str:
    """Return the table of the README for some families."""
    rows = []
    for name in names:
        with tempfile.TemporaryDirectory() as root:
            rows.append(findings(name, Path(root)).row(name))
    return HEADER + "".join(rows)


def main() -> None:
    """Write the table, or print it for some families only."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    if sys.argv[1:]:
        print(table(sys.argv[1:]))
        return
    before, _, rest = README.read_text().partition(BEGIN)
    README.write_text(before + BEGIN + table(list(FAMILIES)) + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()

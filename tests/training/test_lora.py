"""Adapters learn, the base weights do not change, and the merged export computes the same logits."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from reasonray.training import loop
from reasonray.training.examples import collate
from tests.students import curve, in_workers, make_job, random_examples, save, train, train_as_worker, write_model

pytestmark = pytest.mark.slow

ROWS = random_examples()
LORA = {"lora_rank": 4, "lora_alpha": 16.0, "batch": 3}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_merged_export_and_adapter_compute_the_trained_logits_and_the_base_is_unchanged(
    tmp_path: Path, tied: bool
) -> None:
    torch.set_num_threads(1)
    source = write_model(tmp_path / "model", tied=tied)
    base = AutoModelForCausalLM.from_pretrained(source)
    job = make_job(tmp_path, **LORA)
    session = loop.open_session(job, 0, 1)
    for index in range(3):
        loop.take_step(session, index)
    saved = save(session, job, 3)
    prompt = torch.tensor([ROWS[4].ids])
    with torch.no_grad():
        trained = session.student.logits(collate(ROWS, [4]))
        merged = AutoModelForCausalLM.from_pretrained(saved / "model")(prompt).logits[0]
        before = base(prompt).logits[0]
        adapted = PeftModel.from_pretrained(base, saved / "adapter")(prompt).logits[0]
    assert (merged - trained).abs().max() < 1e-5
    assert (adapted - trained).abs().max() < 1e-5
    assert (before - trained).abs().max() > 1e-2
    frozen = {
        name.replace("base_layer.", ""): weight for name, weight in session.student.language_model.state_dict().items()
    }
    original = AutoModelForCausalLM.from_pretrained(source).state_dict()
    assert all(torch.equal(frozen[name], weight) for name, weight in original.items())
    assert {name.split(".")[-3] for name in session.weights.named} == {"lora_A", "lora_B"}
    assert not any("embed_tokens" in name or "lm_head" in name for name in session.weights.named)


def test_a_checkpoint_holds_the_adapters_only_and_resumes_bit_equal(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    job = make_job(tmp_path, **LORA, checkpoints=2, precision="bf16")
    figures, saved = train(job)
    half, end = list(saved)
    ended = load_file(saved[end] / "adapter" / "adapter_model.safetensors")
    rest, again = train(job, resume_from=saved[half])
    assert curve(rest) == curve(figures[half:])
    assert all(
        torch.equal(weight, ended[name])
        for name, weight in load_file(again[end] / "adapter" / "adapter_model.safetensors").items()
    )
    assert figures[-1]["loss"] < figures[0]["loss"]


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 3e-2)])
def test_two_workers_train_the_same_adapters_as_one(tmp_path: Path, precision: str, tolerance: float) -> None:
    torch.set_num_threads(1)
    job = make_job(tmp_path, **LORA, epochs=1, activation_checkpointing=True, precision=precision)
    one, _ = train(job)
    in_workers(2, (train_as_worker, (job, tmp_path / "two.json")))
    two = curve(json.loads((tmp_path / "two.json").read_text()))
    for expected, found in zip(curve(one), two, strict=True):
        assert found == pytest.approx(expected, rel=tolerance)
    other_seed, _ = train(replace(job, seed=1))
    assert curve(other_seed)[0][3] != pytest.approx(two[0][3], rel=tolerance)

"""A LoRA adapter is a model: the one that it was trained on, with the adapter merged in."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from reasonray import models
from reasonray.config import UserError
from tests.students import write_model

PROMPT = torch.tensor([[5, 17, 40, 3, 66]])


@pytest.fixture
def adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REASONRAY_CACHE", str(tmp_path / "cache"))
    base = write_model(tmp_path / "base")
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj", "down_proj"])
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@torch.no_grad()
def test_it_computes_what_the_adapted_model_computes(adapter: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(adapter.parent / "base")
    before = base(PROMPT).logits
    expected = PeftModel.from_pretrained(base, str(adapter))(PROMPT).logits
    directory = models.resolve(str(adapter))
    merged = AutoModelForCausalLM.from_pretrained(directory)(PROMPT).logits
    assert (merged - expected).abs().max() < 1e-4 < (before - expected).abs().max()
    assert models.load_tokenizer(directory).chat_template
    assert models.resolve(str(adapter)) == directory, "it is merged once"
    assert models.configuration(str(adapter)) == models.configuration(str(adapter.parent / "base"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_model_name_or_path": None}, "does not say which model"),
        ({"base_model_name_or_path": "/nowhere"}, "model /nowhere: no such directory"),
        ({"peft_type": "PROMPT_TUNING"}, "PROMPT_TUNING; only LORA"),
        ({"target_modules": ["not_there"]}, "cannot be merged"),
        ({"r": 3}, "cannot be merged"),
    ],
)
def test_one_that_does_not_fit_is_refused_in_one_line(adapter: Path, changes: dict[str, object], message: str) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(UserError, match=message) as refused:
        models.resolve(str(adapter))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("ring", [["one"], ["one", "two"], ["one", "two", "three"]])
def test_adapters_of_one_another_are_refused_in_one_line(tmp_path: Path, ring: list[str]) -> None:
    for name, base in zip(ring, [*ring[1:], ring[0]], strict=True):
        (tmp_path / name).mkdir()
        content = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / base)}
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(content))
    for read in (models.resolve, models.configuration):
        with pytest.raises(UserError, match=f"leads back to the adapter {tmp_path / 'one'}, and never to a model$"):
            read(str(tmp_path / "one"))
        with pytest.raises(UserError, match="leads back to the adapter"):
            read(str(tmp_path / "one"), "main")


def test_one_of_a_quantised_model_is_refused(adapter: Path) -> None:
    file = adapter.parent / "base" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(UserError, match="is quantised"):
        models.resolve(str(adapter))

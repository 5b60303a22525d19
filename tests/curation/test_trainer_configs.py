"""Configurations for other trainers: their own classes accept them, and they name the same student and examples.

TRL is installed with the tests. LLaMA-Factory and axolotl are checked where they are installed (`pip install --no-deps`
is enough); prime-rl is on no registry, so its keys are compared with those of its configuration classes.
"""

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from reasonray.config import Prompt, Student, Training
from reasonray.curation.behaviours import annotate_table
from reasonray.curation.export import examples
from reasonray.curation.trainer_configs import TrainingPlan, trainer_configs
from reasonray.records import Annotation
from reasonray.store.schema import rollouts_to_table
from tests.factories import a_problem, a_rollout

TRAININGS = {
    "full": Training(),
    "packs": Training.model_validate({"step": {"packs": 4}, "schedule": "linear", "max_tokens": 1024}),
    "adapters": Training(lora_rank=8, schedule="constant", precision="fp32", learning_rate=2e-4, batch=32),
}


def a_plan(training: str, **changes: Any) -> TrainingPlan:
    values: dict[str, Any] = {
        "student": Student(model="Qwen/Qwen3-0.6B", revision="main"),
        "training": TRAININGS[training],
        "model": "Qwen/Qwen3-0.6B",
        "seed": 7,
        "train": ["train-a-00000.parquet", "train-a-00001.parquet"],
        "validation": ["validation-a-00000.parquet"],
        "examples": 100,
        "tokens": 50_000,
    }
    return TrainingPlan(**(values | changes))


@pytest.fixture
def curated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory like curated/, which is also the working directory; two files of four examples to train on."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "configs").mkdir()
    plan = a_plan("full")
    for file, name in enumerate((*plan.train, *plan.validation)):
        rollouts = [
            a_rollout(problem=a_problem(f"{file} + {number}?"), annotation=Annotation(selected=True))
            for number in range(4)
        ]
        pq.write_table(examples(annotate_table(rollouts_to_table(rollouts)), Prompt()), tmp_path / "data" / name)
    return tmp_path


def written(folder: Path, plan: TrainingPlan) -> Path:
    for name, text in trainer_configs(plan).items():
        (folder / "configs" / name).write_text(text)
    return folder / "configs"


@pytest.mark.slow
@pytest.mark.parametrize("training", TRAININGS)
def test_trls_classes_accept_the_configuration_and_load_the_examples(curated: Path, training: str) -> None:
    trl = pytest.importorskip("trl")
    from trl.scripts.utils import DatasetMixtureConfig, get_dataset

    configs = written(curated, a_plan(training))
    parser = trl.TrlParser((trl.ScriptArguments, trl.SFTConfig, trl.ModelConfig, DatasetMixtureConfig))
    arguments = ["--config", str(configs / "trl.yaml"), "--use_cpu", "--bf16", "false"]
    _, sft, model, mixture = parser.parse_args_and_config(args=arguments)
    wanted = TRAININGS[training]
    assert (model.model_name_or_path, model.model_revision) == ("Qwen/Qwen3-0.6B", "main")
    assert (sft.learning_rate, sft.num_train_epochs) == (wanted.learning_rate, wanted.epochs)
    assert (sft.max_length, sft.packing, sft.max_grad_norm) == (wanted.max_tokens, wanted.step is not None, wanted.clip)
    assert sft.gradient_accumulation_steps == {"full": 16, "packs": 4, "adapters": 32}[training]
    assert (model.use_peft, model.lora_r) == ((True, 8) if wanted.lora_rank else (False, model.lora_r))
    loaded = get_dataset(mixture)["train"]
    assert loaded.column_names == ["prompt", "completion"]
    assert loaded.num_rows == 8, "none of those that are set aside"


@pytest.mark.parametrize("training", TRAININGS)
def test_llama_factorys_classes_accept_the_configuration(
    curated: Path, training: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISABLE_VERSION_CHECK", "1")
    arguments = pytest.importorskip("llamafactory.hparams.parser")
    from transformers import HfArgumentParser

    configs = written(curated, a_plan(training))
    raw = yaml.safe_load((configs / "llama_factory.yaml").read_text()) | {"bf16": False, "use_cpu": True}
    _, data, train, tuning, _ = HfArgumentParser(arguments._TRAIN_ARGS).parse_dict(raw)
    assert (train.learning_rate, tuning.finetuning_type) == (TRAININGS[training].learning_rate, raw["finetuning_type"])
    described = json.loads(Path(data.dataset_dir, "dataset_info.json").read_text())
    assert data.dataset == ["train-a-00000", "train-a-00001"]
    for name in (*data.dataset, *data.eval_dataset):
        file = Path(data.dataset_dir, described[name]["file_name"])
        assert described[name]["columns"]["messages"] in pq.read_schema(file).names


@pytest.mark.parametrize("training", TRAININGS)
def test_axolotls_classes_accept_the_configuration(curated: Path, training: str) -> None:
    schemas = pytest.importorskip("axolotl.utils.schemas.config")
    configs = written(curated, a_plan(training))
    raw = yaml.safe_load((configs / "axolotl.yaml").read_text())
    config = schemas.AxolotlInputConfig(**(raw | {"bf16": False}))
    assert (config.learning_rate, config.revision_of_model) == (TRAININGS[training].learning_rate, "main")
    assert raw.keys() <= schemas.AxolotlInputConfig.model_fields.keys()
    assert all(Path(data.path).is_file() for data in (*config.datasets, *config.test_datasets))


PRIME_RL = {
    "": {"output_dir", "max_steps", "model", "data", "optim", "scheduler", "ckpt", "val"},
    "model": {"name", "trust_remote_code", "lora"},
    "model.lora": {"rank", "alpha", "dropout"},
    "data": {"type", "name", "splits", "seq_len", "batch_size", "pack_function", "seed"},
    "optim": {"type", "lr", "weight_decay", "max_norm", "betas1", "betas2"},
    "scheduler": {"type", "warmup_steps", "min_lr"},
    "ckpt": set[str](),
    "val": {"interval", "data"},
    "val.data": {"type", "name", "splits", "seq_len", "batch_size", "pack_function", "seed"},
}
"""Of prime-rl's SFTConfig, ModelConfig, SFTDataConfig, AdamWConfig and CosineSchedulerConfig (prime_rl/configs/)."""


@pytest.mark.parametrize("training", TRAININGS)
def test_prime_rls_classes_have_every_key_of_the_configuration(training: str) -> None:
    def keys(node: Any, path: str) -> None:
        assert node.keys() <= PRIME_RL[path], path
        for key, value in node.items():
            if isinstance(value, dict):
                keys(value, f"{path}.{key}".strip("."))

    config = tomllib.loads(trainer_configs(a_plan(training))["prime_rl.toml"])
    keys(config, "")
    assert config["scheduler"]["type"] in ("constant", "linear", "cosine")
    assert ("min_lr" in config["scheduler"]) == (training != "adapters"), "a constant schedule has none"
    assert config["data"]["batch_size"] >= 1
    assert config["max_steps"] >= 1


def test_numbers_survive_yaml_and_what_differs_is_said() -> None:
    slow = TRAININGS["packs"].model_copy(update={"learning_rate": 1e-5})
    plan = replace(a_plan("packs"), is_weighted=True, training=slow)
    files = trainer_configs(plan)
    for name in ("trl.yaml", "llama_factory.yaml", "axolotl.yaml"):
        assert yaml.safe_load(files[name])["learning_rate"] == 1e-5
        for note in ("loss weights (curation.loss_weight) are not used", "the linear schedule may end at 0"):
            assert f"# Note: {note}" in files[name].replace("this run's ", "")
    assert json.loads(files["dataset_info.json"]).keys() == {"train-a-00000", "train-a-00001", "validation-a-00000"}
    assert (plan.steps, plan.warmup_steps) == (37, 2), "3 × 50,000 tokens in steps of 4 × 1,024"

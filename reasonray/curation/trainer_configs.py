"""Configurations with which other trainers train the same student on the same examples as this run.

They are written to curated/configs/, and name the files of curated/data/ relative to curated/. What a trainer cannot do
as this one does is said in a comment of its file. Pure, but for `write_trainer_configs`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from reasonray import models
from reasonray.config import Student, Training
from reasonray.config.toml import written_value
from reasonray.store.run import Run

_NO_WEIGHTS = "this run's loss weights (curation.loss_weight) are not used"


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What a trainer has to know of a run."""

    student: Student
    training: Training
    model: str
    """The student's weights, as other programs find them."""
    seed: int
    train: Sequence[str]
    """Files of the examples in data/."""
    validation: Sequence[str]
    examples: int
    tokens: int
    """Of all completions."""
    is_weighted: bool = False

    @property
    def packs(self) -> int:
        """Packs of a step, an estimate where a step is a number of examples."""
        training = self.training
        if training.step:
            return training.step.in_packs(float(training.max_tokens))
        mean = self.tokens / max(1, self.examples)
        return max(1, round((training.batch or 1) * mean / training.max_tokens))

    @property
    def steps(self) -> int:
        """Steps of all epochs; an estimate where a step is in packs."""
        training = self.training
        if training.batch:
            steps = training.epochs * ceil(self.examples / training.batch)
        else:
            steps = max(1, ceil(training.epochs * self.tokens / (self.packs * training.max_tokens)))
        return min(steps, training.max_steps or steps)

    @property
    def warmup_steps(self) -> int:
        """Steps of the warmup."""
        return ceil(self.training.warmup * self.steps)

    @property
    def accumulated(self) -> int:
        """Examples or packs of a step, of which one GPU computes one at a time."""
        return self.training.batch or self.packs


def trainer_configs(plan: TrainingPlan) -> dict[str, str]:
    """Return file name → text of all configurations."""
    return {
        "trl.yaml": _yaml(_trl(plan), plan, "trl sft --config configs/trl.yaml", *_TRL_NOTES),
        "llama_factory.yaml": _yaml(
            _llama_factory(plan), plan, "llamafactory-cli train configs/llama_factory.yaml", _CUTS
        ),
        "dataset_info.json": json.dumps(_dataset_info(plan), indent=2) + "\n",
        "axolotl.yaml": _yaml(_axolotl(plan), plan, "axolotl train configs/axolotl.yaml"),
        "prime_rl.toml": _prime_rl(plan),
    }


def write_trainer_configs(run: Run, curated: Mapping[str, Any]) -> None:
    """Write the configurations of a run's student and data set to curated/configs/, where they are not there yet.

    Args:
        run: a run whose data set is written.
        curated: the manifest of curated/.
    """
    student, config = run.config.student, run.config
    plan = TrainingPlan(
        student,
        config.training,
        _as_others_find(student.model),
        config.seed,
        curated["data"],
        curated["validation"],
        curated["selected"] - curated["set_aside"],
        curated["tokens"] if "tokens" in curated else _tokens(run, curated["data"]),
        config.curation.loss_weight is not None,
    )
    for name, text in trainer_configs(plan).items():
        file, content = run.curated / "configs" / name, text.encode()
        if not file.exists() or file.read() != content:
            file.write(content)


def _tokens(run: Run, names: Sequence[str]) -> int:
    """Return the tokens of all completions to train on, which the manifests of earlier versions do not state."""
    columns = [(run.curated / "data" / name).read_table(["completion_tokens"])["completion_tokens"] for name in names]
    return sum(pc.sum(column).as_py() or 0 for column in columns)


def _as_others_find(model: str) -> str:
    if model.startswith("package:"):
        return str(models.resolve(model))
    return str(Path(model).resolve()) if Path(model).exists() else model


_CUTS = "an example that is too long is cut; here it is left out"
_TRL_NOTES = (_CUTS, "the loss on the examples that were set aside is not measured")


def _schedule(plan: TrainingPlan) -> dict[str, Any]:
    """Return the schedule in transformers' words."""
    floor = plan.training.floor
    if plan.training.schedule == "cosine" and floor:
        return {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": floor}}
    return {
        "lr_scheduler_type": {"constant": "constant_with_warmup"}.get(plan.training.schedule, plan.training.schedule)
    }


def _optimisation(plan: TrainingPlan) -> dict[str, Any]:
    """Return what transformers' Trainer and axolotl call alike."""
    training = plan.training
    return {
        "gradient_accumulation_steps": plan.accumulated,
        "learning_rate": training.learning_rate,
        "warmup_steps": plan.warmup_steps,
        **({"max_steps": training.max_steps} if training.max_steps else {}),
        "adam_beta1": training.betas[0],
        "adam_beta2": training.betas[1],
        "adam_epsilon": training.eps,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.clip,
        "bf16": training.precision == "bf16",
        "seed": plan.seed,
    }


def _arguments(plan: TrainingPlan) -> dict[str, Any]:
    """Return the arguments that every trainer on transformers' Trainer has."""
    return {
        "num_train_epochs": plan.training.epochs,
        "per_device_train_batch_size": 1,
        **_optimisation(plan),
        **_schedule(plan),
        "save_strategy": "epoch",
        "logging_steps": 1,
        "report_to": "none",
    }


def _trl(plan: TrainingPlan) -> dict[str, Any]:
    training = plan.training
    files = [f"data/{name}" for name in plan.train]
    lora = {
        "use_peft": True,
        "lora_r": training.lora_rank,
        "lora_alpha": round(training.lora_alpha),
        "lora_dropout": training.lora_dropout,
        "lora_target_modules": list(training.lora_targets) or ["all-linear"],
    }
    return {
        "model_name_or_path": plan.model,
        **({"model_revision": plan.student.revision} if plan.student.revision else {}),
        "trust_remote_code": plan.student.trust_remote_code,
        "datasets": [{"path": "parquet", "data_files": files, "split": "train", "columns": ["prompt", "completion"]}],
        "output_dir": "trl",
        "max_length": training.max_tokens,
        "packing": training.step is not None,
        "completion_only_loss": True,
        "gradient_checkpointing": bool(training.activation_checkpointing),
        **_arguments(plan),
        **(lora if training.lora_rank else {}),
    }


def _llama_factory(plan: TrainingPlan) -> dict[str, Any]:
    training = plan.training
    lora = {
        "lora_rank": training.lora_rank,
        "lora_alpha": round(training.lora_alpha),
        "lora_dropout": training.lora_dropout,
        "lora_target": ",".join(training.lora_targets) or "all",
    }
    measured = {"eval_dataset": ",".join(map(_stem, plan.validation)), "eval_strategy": "epoch"}
    return {
        "model_name_or_path": plan.model,
        **({"model_revision": plan.student.revision} if plan.student.revision else {}),
        "trust_remote_code": plan.student.trust_remote_code,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora" if training.lora_rank else "full",
        "dataset_dir": "configs",
        "dataset": ",".join(map(_stem, plan.train)),
        **(measured if plan.validation else {}),
        "cutoff_len": training.max_tokens,
        "packing": training.step is not None,
        "neat_packing": training.step is not None,
        "output_dir": "llama_factory",
        "disable_gradient_checkpointing": not training.activation_checkpointing,
        **_arguments(plan),
        **(lora if training.lora_rank else {}),
    }


def _stem(name: str) -> str:
    return name.removesuffix(".parquet")


def _dataset_info(plan: TrainingPlan) -> dict[str, Any]:
    """Return LLaMA-Factory's description of the files of examples."""
    tags = {"role": "role", "content": "content", "user": "user", "assistant": "assistant", "system": "system"}
    return {
        _stem(name): {
            "file_name": f"../data/{name}",
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": {f"{tag}_tag": value for tag, value in tags.items()},
        }
        for name in (*plan.train, *plan.validation)
    }


def _axolotl(plan: TrainingPlan) -> dict[str, Any]:
    training = plan.training
    lora = {
        "adapter": "lora",
        "lora_r": training.lora_rank,
        "lora_alpha": round(training.lora_alpha),
        "lora_dropout": training.lora_dropout,
        **(
            {"lora_target_modules": list(training.lora_targets)}
            if training.lora_targets
            else {"lora_target_linear": True}
        ),
    }
    floor = {"cosine_min_lr_ratio": training.floor} if training.schedule == "cosine" else {}
    return {
        "base_model": plan.model,
        **({"revision_of_model": plan.student.revision} if plan.student.revision else {}),
        "trust_remote_code": plan.student.trust_remote_code,
        "chat_template": "tokenizer_default",
        "datasets": [_axolotl_data(name) for name in plan.train],
        **({"test_datasets": [_axolotl_data(name) for name in plan.validation]} if plan.validation else {}),
        "dataset_prepared_path": "axolotl/prepared",
        "output_dir": "axolotl",
        "sequence_len": training.max_tokens,
        "excess_length_strategy": "drop",
        "sample_packing": training.step is not None,
        "train_on_inputs": False,
        "num_epochs": training.epochs,
        "micro_batch_size": 1,
        "optimizer": "adamw_torch_fused",
        "lr_scheduler": "constant_with_warmup" if training.schedule == "constant" else training.schedule,
        **floor,
        **_optimisation(plan),
        "gradient_checkpointing": bool(training.activation_checkpointing),
        **(lora if training.lora_rank else {}),
    }


def _axolotl_data(name: str) -> dict[str, Any]:
    return {
        "path": f"data/{name}",
        "ds_type": "parquet",
        "split": "train",
        "type": "chat_template",
        "field_messages": "messages",
        "message_property_mappings": {"role": "role", "content": "content"},
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
    }


def _prime_rl(plan: TrainingPlan) -> str:
    training = plan.training
    rate = training.learning_rate
    data = {
        "type": "sft",
        "name": ".",
        "seq_len": training.max_tokens,
        "batch_size": plan.packs,
        "pack_function": "cat",
        "seed": plan.seed,
    }
    floor = {"min_lr": training.floor * rate, "warmup_steps": plan.warmup_steps}
    sections: dict[str, Mapping[str, Any]] = {
        "model": {"name": plan.model, "trust_remote_code": plan.student.trust_remote_code},
        "data": data | {"splits": ["train"]},
        "optim": {
            "type": "adamw",
            "lr": rate,
            "weight_decay": training.weight_decay,
            "max_norm": training.clip,
            "betas1": training.betas[0],
            "betas2": training.betas[1],
        },
        "scheduler": {"type": training.schedule} | (floor if training.schedule != "constant" else {}),
        "ckpt": {},
    }
    if training.lora_rank:
        sections["model.lora"] = {
            "rank": training.lora_rank,
            "alpha": training.lora_alpha,
            "dropout": training.lora_dropout,
        }
    if plan.validation:
        sections["val"] = {"interval": max(1, plan.steps // training.epochs)}
        sections["val.data"] = data | {"splits": ["validation"]}
    steps = max(1, ceil(training.epochs * plan.tokens / (plan.packs * training.max_tokens)))
    notes = ("a step holds about as many tokens as here; packs are filled, and an example may be cut where one ends",)
    top = {"output_dir": "prime_rl", "max_steps": min(steps, training.max_steps or steps)}
    blocks = [_heading(plan, "uv run sft @ configs/prime_rl.toml", *notes, is_per_gpu=False), _toml_lines(top)]
    blocks += [f"\n[{name}]\n{_toml_lines(section)}" for name, section in sections.items()]
    return "\n".join(blocks) + "\n"


def _toml_lines(section: Mapping[str, Any]) -> str:
    return "\n".join(f"{key} = {written_value(value)}" for key, value in section.items())


def _yaml(values: Mapping[str, Any], plan: TrainingPlan, command: str, *notes: str) -> str:
    lines = [f"{key}: {_flow(value)}" for key, value in values.items()]
    return "\n".join([_heading(plan, command, *notes), *lines]) + "\n"


def _heading(plan: TrainingPlan, command: str, *notes: str, is_per_gpu: bool = True) -> str:
    """Return comments: how to run a trainer, and what it does otherwise than this run.

    Args:
        plan: of the run.
        command: that runs the trainer.
        notes: on differences.
        is_per_gpu: whether the size of a step is given per GPU.
    """
    whole = (*notes, *([_NO_WEIGHTS] if plan.is_weighted else []))
    if plan.training.optimiser != "adamw":
        whole = (*whole, f"the optimiser is AdamW, not {plan.training.optimiser} as in this run")
    if plan.training.schedule == "linear" and plan.training.floor:
        whole = (*whole, "the linear schedule may end at 0, not at training.floor")
    unit = "examples" if plan.training.batch else "packs"
    per_gpu = f"for one GPU: with n of them, divide the {plan.accumulated} {unit} of a step by n"
    return "\n".join(
        [
            f"# In the directory curated/: {command}",
            *(f"# Note: {note}." for note in ((per_gpu,) if is_per_gpu else ()) + whole),
            '# To measure the result next to this run\'s models: [evaluation] models = { NAME = "its directory" }',
        ]
    )


def _flow(value: Any) -> str:
    """Return a value as YAML 1.1 on one line: JSON, with a point in each number that has an exponent."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, float) and "e" in (text := repr(value)) and "." not in text:
        return text.replace("e", ".0e")  # else YAML 1.1 takes 1e-05 for a text
    return json.dumps(value, ensure_ascii=False)

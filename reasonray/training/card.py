"""The model card of a student: what it was trained on, with which settings, and how the loss went."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from reasonray import models
from reasonray.config import Config
from reasonray.training.trained_student import TrainingSummary

__all__ = ["model_card"]

_METHODS = {
    "sft": "Fine-tuned with reasonray on reasoning that teachers wrote and checkers found correct, the loss on the "
    "completion's tokens alone.",
    "policy_gradient": "Trained with reasonray by policy gradients on samples that checkers judged: those better than "
    "the others of their problem became likelier, the worse ones less likely.",
}


def model_card(config: Config, summary: TrainingSummary, steps: Sequence[Mapping[str, float]], checkpoint: str) -> str:
    """Return a README.md in the Hugging Face hub's format.

    Args:
        config: of the run; the card leaves out where the run is stored.
        summary: of the training.
        steps: the figures of every step.
        checkpoint: name of the checkpoint that became the student.
    """
    training, student = config.training, config.student
    on_hub = "/" in student.model and models.public_name(student.model) == student.model
    header = ["---", *([f"base_model: {student.model}"] if on_hub else []), "library_name: transformers"]
    header += ["pipeline_tag: text-generation", "tags:", "- reasoning", "- distillation", "- reasonray", "---"]
    teachers = ", ".join(sorted({models.public_name(teacher.model) for teacher in config.teachers}))
    measured = [step for step in steps if "validation_loss" in step]
    rows = [
        ("base model", f"{models.public_name(student.model)}{f' at {student.revision}' if student.revision else ''}"),
        ("teachers", teachers),
        ("examples", f"{summary.examples:,}"),
        ("target tokens, an epoch", f"{summary.target_tokens:,}"),
        ("left out as too long", f"{len(summary.overlong):,}"),
        ("steps", f"{len(steps):,} of {training.step_size}, {training.epochs} epochs; this is {checkpoint}"),
        ("loss, first and last step", f"{steps[0]['loss']:.3f} and {steps[-1]['loss']:.3f}"),
    ]
    if measured:
        before = f"{steps[0]['validation_loss_before']:.3f}" if "validation_loss_before" in steps[0] else "not measured"
        after = ", ".join(f"{step['validation_loss']:.3f} (step {step['step']:.0f})" for step in measured)
        rows.append(("loss on validation examples", f"{before} before; {after}"))
    settings = training.model_dump(mode="json", exclude={"workers", "gpus", "cpus", "max_failures"})
    return "\n".join(
        [
            *header,
            "",
            f"# Student of run {config.name}",
            "",
            _METHODS[training.objective],
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in rows),
            "",
            "```json",
            json.dumps({"training": settings, "prompt": student.prompt.model_dump(mode="json")}, indent=2),
            "```",
            "",
        ]
    )

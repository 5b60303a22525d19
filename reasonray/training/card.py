"""The model card of a student: what it was trained on, how, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from reasonray import models
from reasonray.config import Config

__all__ = ["card"]


def card(config: Config, figures: Mapping[str, Any], steps: Sequence[Mapping[str, float]], checkpoint: str) -> str:
    """Return a README.md that the Hugging Face hub understands.

    Args:
        config: of the run; where it was stored is left out.
        figures: examples, tokens and loss_tokens of an epoch, and the ids of what was overlong.
        steps: the figures of every step.
        checkpoint: name of the one that became the student.
    """
    training, student = config.training, config.student
    hub = "/" in student.model and models.public_name(student.model) == student.model
    header = ["---", *([f"base_model: {student.model}"] if hub else []), "library_name: transformers"]
    header += ["pipeline_tag: text-generation", "tags:", "- reasoning", "- distillation", "- reasonray", "---"]
    teachers = ", ".join(sorted({models.public_name(it.model) for it in config.teachers}))
    held_out = [it for it in steps if "validation_loss" in it]
    rows = [
        ("base model", f"{models.public_name(student.model)}{f' at {student.revision}' if student.revision else ''}"),
        ("teachers", teachers),
        ("examples", f"{figures['examples']:,}"),
        ("tokens learnt, an epoch", f"{figures['loss_tokens']:,}"),
        ("left out as too long", f"{len(figures['overlong']):,}"),
        ("steps", f"{len(steps):,} of {training.batch} examples, {training.epochs} epochs; this is {checkpoint}"),
        ("loss, first and last step", f"{steps[0]['loss']:.3f} and {steps[-1]['loss']:.3f}"),
    ]
    if held_out:
        before = f"{steps[0]['validation_loss_before']:.3f}" if "validation_loss_before" in steps[0] else "not measured"
        after = ", ".join(f"{it['validation_loss']:.3f} (step {it['step']:.0f})" for it in held_out)
        rows.append(("loss on held-out examples", f"{before} before; {after}"))
    settings = training.model_dump(mode="json", exclude={"workers", "gpus", "cpus", "max_failures"})
    return "\n".join(
        [
            *header,
            "",
            f"# Student of run {config.name}",
            "",
            "Fine-tuned with reasonray on reasoning that teachers wrote and checkers found correct, the loss on the "
            "completion's tokens alone.",
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

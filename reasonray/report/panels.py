"""Which figures the report shows, with their captions; drawn from metrics.json alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from reasonray.report import figures
from reasonray.report.figures import Form, percent, plain
from reasonray.report.headline import PAIR
from reasonray.report.rollouts import TRAIN

_REASONING: tuple[tuple[str, str, str, Form], ...] = (
    ("verification", "Verification", "share of responses", percent),
    ("backtracking", "Backtracking", "share of responses", percent),
    ("num_steps", "Depth", "reasoning steps per response", plain),
    ("completion_tokens", "Length", "tokens per response", plain),
)


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure: what it shows, in which unit, and the drawing."""

    title: str
    unit: str
    drawing: Markup


def draw(metrics: Mapping[str, Any]) -> dict[str, list[Panel]]:
    """Return the panels of each section; a section without data has none."""
    return {
        "accuracy": _accuracy(metrics["evaluation"]),
        "changes": _changes(metrics["difference"].get(PAIR, {})),
        "k": _k(metrics["k_curve"]),
        "difficulty": _difficulty(metrics["evaluation"], metrics["behaviours"]),
        "pass_rate": _pass_rate(metrics["by_pass_rate"]),
        "checkpoints": _checkpoints(metrics["checkpoints"]),
        "checkpoints_by_difficulty": _checkpoints_by_difficulty(metrics["checkpoints"]),
        "checkpoints_by_correctness": _checkpoints_by_correctness(metrics["checkpoints"]),
        "training": _training(metrics["training"]["curve"]),
        "outcomes": _outcomes(metrics),
    }


def _accuracy(evaluation: Mapping[str, Any]) -> list[Panel]:
    """Show pass@1, and the largest k beside it."""
    if not evaluation:
        return []
    arms = list(evaluation)
    slices = list(evaluation[arms[0]])
    ks = [int(name.removeprefix("pass@")) for name in evaluation[arms[0]]["all"] if name.startswith("pass@")]
    found = []
    for k in sorted({1, max(ks)}):
        rows = {name: {arm: evaluation[arm][name][f"pass@{k}"] for arm in arms} for name in slices}
        unit = "share of samples that are correct" if k == 1 else f"share of problems solved within {k} samples"
        found.append(Panel(f"pass@{k}", unit, figures.dots_and_whiskers(rows, arms, f"pass@{k} by difficulty and arm")))
    return found


def _changes(difference: Mapping[str, Any]) -> list[Panel]:
    if not difference:
        return []
    rows = {name: (row["lost"], row["gained"], row["problems"]) for name, row in difference.items()}
    label = "problems lost and gained by difficulty"
    return [Panel("Problems that changed", "number of problems", figures.gains_and_losses(rows, label))]


def _k(rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
    if not rows:
        return []
    ks = [row["k"] for row in rows]
    wanted: tuple[tuple[str, str, str, Form], ...] = (
        ("coverage", "Coverage", "problems with a correct sample", percent),
        ("kept", "Data set", "rollouts selected for training", plain),
        ("acceptance", "Acceptance", "share of samples that are correct", percent),
        ("tokens_per_kept", "Price", "tokens generated per selected", plain),
    )
    return [
        Panel(title, unit, figures.against_k(ks, [row[name] for row in rows], f"{title} against K", form))
        for name, title, unit, form in wanted
    ]


def _difficulty(evaluation: Mapping[str, Any], behaviours: Mapping[str, Any]) -> list[Panel]:
    names = [name for name in next(iter(evaluation.values()), {}) if name != "all"]
    if len(names) < 2:
        return []
    accuracy = {arm: [slices[name]["pass@1"] for name in names] for arm, slices in evaluation.items()}
    label = "accuracy against difficulty, by arm"
    found = [Panel("Accuracy", "pass@1", figures.against_difficulty(names, accuracy, label, percent))]
    annotated = {arm: found["by_difficulty"] for arm, found in behaviours.items() if found}
    if not annotated:
        return found
    return found + [
        Panel(title, unit, figures.against_difficulty(names, _by_arm(annotated, names, key), f"{title}, by arm", form))
        for key, title, unit, form in _REASONING
        if key != "backtracking"
    ]


def _by_arm(annotated: Mapping[str, Any], names: Sequence[str], key: str) -> dict[str, list[Any]]:
    return {arm: [slices.get(name, {}).get(key) for name in names] for arm, slices in annotated.items()}


def _checkpoints(rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
    if len(rows) < 2:
        return []
    steps = [row["step"] for row in rows]
    wanted = (("pass@1", "Accuracy", "pass@1", percent), *_REASONING)
    return [
        Panel(title, unit, figures.over_steps(steps, {"all": [row[name] for row in rows]}, f"{title}, steps", form))
        for name, title, unit, form in wanted
        if name in rows[0]
    ]


def _checkpoints_by_difficulty(rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
    names = list(rows[0]["by_difficulty"]) if len(rows) > 1 else []
    if len(names) < 2:
        return []
    wanted = (("pass@1", "Accuracy", "pass@1", percent), *_REASONING)
    slices = {name: [row["by_difficulty"][name] for row in rows] for name in names}
    return _over_steps(rows, slices, wanted, "by difficulty")


def _checkpoints_by_correctness(rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
    if len(rows) < 2 or any("correct" not in row for row in rows):
        return []
    slices = {name: [row[name.replace(" ", "_")] for row in rows] for name in ("correct", "not correct")}
    return _over_steps(rows, slices, _REASONING, "by correctness")


def _over_steps(
    rows: Sequence[Mapping[str, Any]],
    slices: Mapping[str, Sequence[Mapping[str, Any]]],
    wanted: Sequence[tuple[str, str, str, Form]],
    label: str,
) -> list[Panel]:
    steps = [row["step"] for row in rows]
    lines = {key: {name: [it.get(key) for it in found] for name, found in slices.items()} for key, *_ in wanted}
    return [
        Panel(title, unit, figures.over_steps(steps, lines[key], f"{title} over training {label}", form))
        for key, title, unit, form in wanted
        if any(interval is not None for line in lines[key].values() for interval in line)
    ]


def _pass_rate(rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
    if len(rows) < 2:
        return []
    names = [_band(row["above"], row["up_to"]) for row in rows]
    lines = {key: {TRAIN: [row[key] for row in rows]} for key, *_ in _REASONING}
    return [
        Panel(title, unit, figures.against_difficulty(names, lines[key], f"{title} against the pass rate", form))
        for key, title, unit, form in _REASONING
    ]


def _band(above: float, up_to: float) -> str:
    """Name a band of pass rates."""
    if above == up_to:
        return "never" if above == 0 else "always"
    return f"to {up_to:.0%}" if up_to < 1 else f"over {above:.0%}"


def _training(rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
    wanted = (
        ("loss", "Loss", "nats per completion token"),
        ("learning_rate", "Learning rate", "AdamW step size"),
        ("gradient_norm", "Gradient norm", "before clipping"),
        ("tokens_per_second", "Throughput", "tokens per second"),
    )
    steps = [row["step"] for row in rows]
    panels = [
        Panel(title, unit, figures.training_curve(steps, [row[name] for row in rows], f"{title} at each step"))
        for name, title, unit in wanted
        if rows and name in rows[0]
    ]
    measured = [(row["step"], row["validation_loss"]) for row in rows if "validation_loss" in row]
    if measured:
        before = [(0.0, rows[0]["validation_loss_before"])] if "validation_loss_before" in rows[0] else []
        at, losses = zip(*before, *measured, strict=True)
        label = "Loss on held-out examples at each checkpoint"
        panels.insert(1, Panel("Held-out loss", "nats per completion token", figures.training_curve(at, losses, label)))
    return panels


def _outcomes(metrics: Mapping[str, Any]) -> list[Panel]:
    rows = {arm: slices["all"]["outcomes"] for arm, slices in metrics["evaluation"].items()}
    rollouts = metrics["funnel"]["rollouts"]
    if rollouts:
        sampled = {name: count / rollouts for name, count in metrics["funnel"]["outcomes"].items()}
        rows = {TRAIN: sampled} | rows
    if not rows:
        return []
    return [Panel("Outcomes", "share of samples", figures.stacked_shares(rows, "outcomes by arm"))]

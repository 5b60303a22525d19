"""The panels of the report: each figure with its caption, plotted from metrics.json alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from reasonray.records import Interval
from reasonray.reporting import figures
from reasonray.reporting.figures import AxisFormat, percent, plain
from reasonray.reporting.headline import PAIR
from reasonray.reporting.numbers import Numbers, plotted
from reasonray.reporting.rollouts import TRAIN


@dataclass(frozen=True, slots=True)
class Panel:
    """A figure with its caption."""

    title: str
    unit: str
    figure: Markup


@dataclass(frozen=True, slots=True)
class Quantity:
    """A measured quantity: its key in metrics.json, its caption, and how its axis is printed."""

    key: str
    title: str
    unit: str
    axis_format: AxisFormat = plain


_ACCURACY = Quantity("pass@1", "Accuracy", "pass@1", percent)
_REASONING = (
    Quantity("verification", "Verification", "share of responses", percent),
    Quantity("backtracking", "Backtracking", "share of responses", percent),
    Quantity("num_steps", "Reasoning steps", "steps per response"),
    Quantity("completion_tokens", "Length", "tokens per response"),
)
_AGAINST_K = (
    Quantity("coverage", "Coverage", "problems with a correct sample", percent),
    Quantity("kept", "Data set", "rollouts selected for training"),
    Quantity("acceptance", "Acceptance", "share of samples that are correct", percent),
    Quantity("tokens_per_kept", "Cost", "tokens per selected rollout"),
)
_TRAINING = (
    Quantity("loss", "Loss", "nats per completion token"),
    Quantity("learning_rate", "Learning rate", "AdamW step size"),
    Quantity("gradient_norm", "Gradient norm", "before clipping"),
    Quantity("token_accuracy", "Token accuracy", "share of target tokens that are the likeliest", percent),
    Quantity("entropy", "Entropy", "nats per target token, one in 16 measured"),
    Quantity("ratio", "Ratio", "probability now to probability when sampled, mean over tokens"),
    Quantity("clip_fraction", "Clipped", "share of tokens whose ratio is beyond its bound", percent),
    Quantity("advantage", "Advantage", "mean over tokens"),
    Quantity("tokens_per_second", "Throughput", "tokens per second"),
    Quantity("mfu", "Utilisation", "share of the devices' product rate (MFU)", percent),
    Quantity("peak_gb", "Peak memory", "GB of the first worker"),
)


def panels(numbers: Numbers) -> dict[str, list[Panel]]:
    """Return the panels of each section; a section without data has none."""
    metrics = numbers.metrics
    return {
        "accuracy": _accuracy(metrics["evaluation"]),
        "changes": _changes(numbers),
        "k": _k(metrics["k_curve"]),
        "difficulty": _difficulty(numbers),
        "pass_rate": _pass_rate(metrics["by_pass_rate"]),
        "checkpoints": _checkpoints(metrics["checkpoints"]),
        "checkpoints_by_difficulty": _checkpoints_by_difficulty(metrics["checkpoints"]),
        "checkpoints_by_correctness": _checkpoints_by_correctness(metrics["checkpoints"]),
        "training": _training(metrics["training"]["curve"]),
        "outcomes": _outcomes(numbers),
    }


def interval_rows(
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]], slices: Sequence[str], key: str
) -> dict[str, dict[str, Interval]]:
    """Return slice → model → interval of one score, for models that were measured on the slice."""
    measured = {
        name: {arm: plotted(by_slice[name][key]) for arm, by_slice in scores.items() if name in by_slice}
        for name in slices
    }
    return {
        name: {arm: interval for arm, interval in row.items() if interval is not None} for name, row in measured.items()
    }


def _accuracy(evaluation: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[Panel]:
    """Show pass@1 and, next to it, pass@k of the largest k."""
    if not evaluation:
        return []
    arms = list(evaluation)
    slices = evaluation[arms[0]]
    ks = [int(name.removeprefix("pass@")) for name in slices["all"] if name.startswith("pass@")]
    found = []
    for k in sorted({1, max(ks)}):
        unit = "share of samples that are correct" if k == 1 else f"share of problems solved within {k} samples"
        rows = interval_rows(evaluation, list(slices), f"pass@{k}")
        label = f"pass@{k} by difficulty and model"
        found.append(Panel(f"pass@{k}", unit, figures.dots_and_whiskers(rows, arms, label)))
    return found


def _changes(numbers: Numbers) -> list[Panel]:
    difference = numbers.get("difference", PAIR)
    if not difference:
        return []
    rows = {name: (row["lost"], row["gained"]) for name, row in difference.items()}
    label = "problems lost and gained by difficulty"
    return [Panel("Problems that changed", "number of problems", figures.gains_and_losses(rows, label))]


def _k(rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
    if not rows:
        return []
    ks = [row["k"] for row in rows]
    found = []
    for quantity in _AGAINST_K:
        intervals = [plotted(row[quantity.key]) for row in rows]
        figure = figures.against_k(ks, intervals, f"{quantity.title} against K", quantity.axis_format)
        found.append(Panel(quantity.title, quantity.unit, figure))
    return found


def _difficulty(numbers: Numbers) -> list[Panel]:
    evaluation = numbers.metrics["evaluation"]
    names = [name for name in next(iter(evaluation.values()), {}) if name != "all"]
    if len(names) < 2:
        return []
    accuracy = {arm: [plotted(slices[name]["pass@1"]) for name in names] for arm, slices in evaluation.items()}
    label = "accuracy against difficulty, by model"
    found = [
        Panel(_ACCURACY.title, _ACCURACY.unit, figures.against_difficulty(names, accuracy, label, percent)),
    ]
    annotated = [arm for arm, behaviours in numbers.metrics["behaviours"].items() if behaviours]
    if not annotated:
        return found
    for quantity in _REASONING:
        if quantity.key == "backtracking":
            continue
        by_arm = {
            arm: [plotted(numbers.get("behaviours", arm, "by_difficulty", name, quantity.key)) for name in names]
            for arm in annotated
        }
        found.append(_against_difficulty(quantity, names, by_arm, f"{quantity.title}, by model"))
    return found


def _against_difficulty(
    quantity: Quantity, names: Sequence[str], lines: Mapping[str, Sequence[Interval | None]], label: str
) -> Panel:
    figure = figures.against_difficulty(names, lines, label, quantity.axis_format)
    return Panel(quantity.title, quantity.unit, figure)


def _checkpoints(rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
    if len(rows) < 2:
        return []
    steps = [row["step"] for row in rows]
    found = []
    for quantity in (_ACCURACY, *_REASONING):
        if quantity.key in rows[0]:
            lines = {"all": [plotted(row[quantity.key]) for row in rows]}
            figure = figures.over_steps(steps, lines, f"{quantity.title}, steps", quantity.axis_format)
            found.append(Panel(quantity.title, quantity.unit, figure))
    return found


def _checkpoints_by_difficulty(rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
    names = list(rows[0]["by_difficulty"]) if len(rows) > 1 else []
    if len(names) < 2:
        return []
    slices = {name: [row["by_difficulty"][name] for row in rows] for name in names}
    return _over_steps(rows, slices, (_ACCURACY, *_REASONING), "by difficulty")


def _checkpoints_by_correctness(rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
    if len(rows) < 2 or any("correct" not in row for row in rows):
        return []
    slices = {name: [row[name.replace(" ", "_")] for row in rows] for name in ("correct", "not correct")}
    return _over_steps(rows, slices, _REASONING, "by correctness")


def _over_steps(
    rows: Sequence[Mapping[str, Any]],
    slices: Mapping[str, Sequence[Mapping[str, Any]]],
    quantities: Sequence[Quantity],
    label: str,
) -> list[Panel]:
    steps = [row["step"] for row in rows]
    found = []
    for quantity in quantities:
        lines = {name: [plotted(part.get(quantity.key)) for part in parts] for name, parts in slices.items()}
        if any(interval is not None for line in lines.values() for interval in line):
            title = f"{quantity.title} over training {label}"
            figure = figures.over_steps(steps, lines, title, quantity.axis_format)
            found.append(Panel(quantity.title, quantity.unit, figure))
    return found


def _pass_rate(rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
    if len(rows) < 2:
        return []
    names = [_band(row["above"], row["up_to"]) for row in rows]
    return [
        _against_difficulty(
            quantity,
            names,
            {TRAIN: [plotted(row[quantity.key]) for row in rows]},
            f"{quantity.title} against the pass rate",
        )
        for quantity in _REASONING
    ]


def _band(above: float, up_to: float) -> str:
    """Return the name of a band of pass rates."""
    if above == up_to:
        return "never" if above == 0 else "always"
    return f"to {up_to:.0%}" if up_to < 1 else f"over {above:.0%}"


def _training(rows: Sequence[Mapping[str, float]]) -> list[Panel]:
    steps = [row["step"] for row in rows]
    found = []
    for quantity in _TRAINING:
        if rows and quantity.key in rows[0]:
            values = [row[quantity.key] for row in rows]
            figure = figures.training_curve(steps, values, f"{quantity.title} at each step")
            found.append(Panel(quantity.title, quantity.unit, figure))
    measured = [(row["step"], row["validation_loss"]) for row in rows if "validation_loss" in row]
    if measured:
        before = [(0.0, rows[0]["validation_loss_before"])] if "validation_loss_before" in rows[0] else []
        at, losses = zip(*before, *measured, strict=True)
        label = "Loss on held-out examples at each checkpoint"
        found.insert(1, Panel("Held-out loss", "nats per completion token", figures.training_curve(at, losses, label)))
    return found


def _outcomes(numbers: Numbers) -> list[Panel]:
    rows: dict[str, Mapping[str, float]] = {}
    rollouts = numbers.get("funnel", "rollouts")
    if rollouts:
        rows[TRAIN] = {name: count / rollouts for name, count in numbers.get("funnel", "outcomes").items()}
    rows |= {arm: slices["all"]["outcomes"] for arm, slices in numbers.metrics["evaluation"].items()}
    if not rows:
        return []
    return [Panel("Outcomes", "share of samples", figures.stacked_shares(rows, "outcomes by model"))]

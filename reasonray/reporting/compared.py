"""The page and the Markdown that compare runs, made from comparison.json and the rollouts of their students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from markupsafe import Markup

from reasonray.analysis.estimators import CONFIDENCE
from reasonray.records import STUDENT
from reasonray.reporting import figures
from reasonray.reporting.figures import marks
from reasonray.reporting.headline import unfinished
from reasonray.reporting.markdown import finished
from reasonray.reporting.numbers import Form, Numbers, accuracies
from reasonray.reporting.panels import Panel, interval_rows
from reasonray.reporting.rollouts import BUDGET, RULE, choose, pack
from reasonray.reporting.templates import inlined, template


@dataclass(frozen=True, slots=True)
class Metric:
    """A row of the table of runs."""

    name: str
    path: tuple[str, ...]
    """Where the number is, below a run in comparison.json."""
    form: Form
    is_interval: bool = False


METRICS: Mapping[str, Sequence[Metric]] = {
    "Funnel": (
        Metric("Rollouts", ("funnel", "rollouts"), "count"),
        Metric("Acceptance", ("sampling", "acceptance"), "percent", is_interval=True),
        Metric("Problems covered", ("sampling", "problems_covered"), "count"),
        Metric("Selected", ("funnel", "selected"), "count"),
        Metric("Trained tokens", ("funnel", "trained_tokens"), "count"),
        Metric("Tokens per correct rollout", ("sampling", "cost", "tokens_per_correct"), "count"),
    ),
    "Held-out problems": (
        Metric("Base, pass@1", ("evaluation", "base", "all", "pass@1"), "percent", is_interval=True),
        Metric("Student, pass@1", ("evaluation", STUDENT, "all", "pass@1"), "percent", is_interval=True),
        Metric("Student − base, points", ("difference", "student-base", "all"), "points", is_interval=True),
        Metric("Student, truncated", ("evaluation", STUDENT, "all", "truncated"), "percent"),
        Metric("Problems", ("evaluation", STUDENT, "all", "problems"), "count"),
        Metric("Samples per problem", ("evaluation", STUDENT, "all", "samples"), "count"),
    ),
    "The student’s reasoning": (
        Metric("Verification", ("behaviours", STUDENT, "verification"), "percent", is_interval=True),
        Metric("Backtracking", ("behaviours", STUDENT, "backtracking"), "percent", is_interval=True),
        Metric("Reasoning steps", ("behaviours", STUDENT, "num_steps"), "measure", is_interval=True),
        Metric("Tokens", ("behaviours", STUDENT, "completion_tokens"), "count", is_interval=True),
    ),
    "Training": (
        Metric("Steps", ("training", "steps"), "count"),
        Metric("First loss", ("training", "first_loss"), "loss"),
        Metric("Last loss", ("training", "last_loss"), "loss"),
    ),
}
"""Group of rows → its rows."""


@dataclass(frozen=True, slots=True)
class ComparisonInputs:
    """Everything that a comparison shows."""

    metrics: Mapping[str, Any]
    """The content of comparison.json: runs, pairs, unfinished, config."""
    students: Mapping[str, pa.Table]
    """Rollouts of test problems by run, with their texts."""


def render(inputs: ComparisonInputs) -> str:
    """Return the page as HTML. The same inputs give the same bytes."""
    numbers, runs = Numbers(inputs.metrics), list(inputs.metrics["runs"])
    return template("compared.html.j2").render(
        **_context(numbers),
        panels=_panels(inputs.metrics),
        marks=marks(runs),
        embedded=pack(choose(None, inputs.students, BUDGET)),
        total=sum(_count_evaluated(numbers, run) for run in runs),
        rule=RULE,
        **inlined(),
    )


def render_markdown(metrics: Mapping[str, Any]) -> str:
    """Return the comparison as Markdown."""
    return finished(traced(metrics))


def traced(metrics: Mapping[str, Any]) -> str:
    """Return the comparison with each number still in the <data> element that names its source in comparison.json."""
    return template("compared.md.j2").render(**_context(Numbers(metrics)))


def _context(numbers: Numbers) -> dict[str, Any]:
    return {
        "metrics": numbers.metrics,
        "runs": list(numbers.metrics["runs"]),
        "number": numbers.number,
        "interval": numbers.interval,
        "value": lambda run, metric: _value(numbers, run, metric),
        "groups": METRICS,
        "headlines": _headlines(numbers),
    }


def _value(numbers: Numbers, run: str, metric: Metric) -> Markup:
    show = numbers.interval if metric.is_interval else numbers.number
    return show("runs", run, *metric.path, form=metric.form)


def _headlines(numbers: Numbers) -> list[Markup]:
    """Return one sentence for each pair of runs that share problems; none claims more than its adjusted p-value."""
    sentences = [_sentence(numbers, pair) for pair in numbers.metrics["pairs"]] or [
        Markup("The runs share no evaluated problem, so their students cannot be paired; they are shown side by side.")
    ]
    return [*sentences, *unfinished(numbers, "The student of {}")]


def _sentence(numbers: Numbers, pair: str) -> Markup:
    path = ("pairs", pair, "slices", "all")
    mean, p = (numbers.get(*path, name) for name in ("mean", "p_holm"))
    verdict = "no measurable difference" if p >= 1 - CONFIDENCE else "a lift" if mean > 0 else "a loss"
    adjusted = Markup("")
    if len(numbers.metrics["pairs"]) > 1:
        adjusted = Markup(", p = {} adjusted for several pairs").format(numbers.number(*path, "p_holm", form="p"))
    return Markup("{} against {}: <em>{}</em>, {} points {} of pass@1 on {} that both hold out{}.").format(
        numbers.get("pairs", pair, "after"),
        numbers.get("pairs", pair, "before"),
        verdict,
        numbers.number(*path, "mean", form="points"),
        numbers.bounds(*path, form="points"),
        numbers.counted(*path, "problems", noun="problem"),
        adjusted,
    )


def _panels(metrics: Mapping[str, Any]) -> list[Panel]:
    scores = {
        run: reported["evaluation"][STUDENT]
        for run, reported in metrics["runs"].items()
        if STUDENT in reported["evaluation"]
    }
    if not scores:
        return []
    slices = list(dict.fromkeys(name for by_slice in scores.values() for name in by_slice))
    k = next(iter(accuracies({"evaluation": scores})), "pass@1")
    label = f"{k} of the students by difficulty and run"
    figure = figures.dots_and_whiskers(interval_rows(scores, slices, k), list(scores), label)
    return [Panel(f"{k} of the students", "share of samples", figure)]


def _count_evaluated(numbers: Numbers, run: str) -> int:
    scores = numbers.get("runs", run, "evaluation", STUDENT, "all")
    return int(scores["problems"] * scores["samples"]) if scores else 0

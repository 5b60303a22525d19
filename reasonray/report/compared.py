"""The page and the Markdown that hold runs side by side, from comparison.json and their students' rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from markupsafe import Markup

from reasonray.analysis.estimators import CONFIDENCE
from reasonray.records import STUDENT
from reasonray.report import figures
from reasonray.report.figures import marks
from reasonray.report.headline import unfinished
from reasonray.report.markdown import finished
from reasonray.report.numbers import Numbers, accuracies
from reasonray.report.panels import Panel
from reasonray.report.rollouts import BUDGET, RULE, choose, pack
from reasonray.report.templates import inlined, template

Value = tuple[str, tuple[str | int, ...], str]
"""What a row says, the path of its number below a run, and its form; a path that ends in "~" is an interval."""
ROWS: Sequence[tuple[str, Sequence[Value]]] = (
    (
        "Funnel",
        (
            ("Rollouts", ("funnel", "rollouts"), "count"),
            ("Acceptance", ("sampling", "acceptance", "~"), "percent"),
            ("Problems covered", ("sampling", "problems_covered"), "count"),
            ("Selected", ("funnel", "selected"), "count"),
            ("Trained tokens", ("funnel", "trained_tokens"), "count"),
            ("Tokens per correct rollout", ("sampling", "cost", "tokens_per_correct"), "count"),
        ),
    ),
    (
        "Held-out problems",
        (
            ("Base, pass@1", ("evaluation", "base", "all", "pass@1", "~"), "percent"),
            ("Student, pass@1", ("evaluation", STUDENT, "all", "pass@1", "~"), "percent"),
            ("Student − base, points", ("difference", "student-base", "all", "~"), "points"),
            ("Student, truncated", ("evaluation", STUDENT, "all", "truncated"), "percent"),
            ("Problems", ("evaluation", STUDENT, "all", "problems"), "count"),
            ("Samples of each", ("evaluation", STUDENT, "all", "samples"), "count"),
        ),
    ),
    (
        "The student’s reasoning",
        (
            ("Verification", ("behaviours", STUDENT, "verification", "~"), "percent"),
            ("Backtracking", ("behaviours", STUDENT, "backtracking", "~"), "percent"),
            ("Depth, steps", ("behaviours", STUDENT, "num_steps", "~"), "measure"),
            ("Tokens", ("behaviours", STUDENT, "completion_tokens", "~"), "count"),
        ),
    ),
    (
        "Training",
        (
            ("Steps", ("training", "steps"), "count"),
            ("First loss", ("training", "first_loss"), "loss"),
            ("Last loss", ("training", "last_loss"), "loss"),
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class ComparisonInputs:
    """What a comparison is made of."""

    metrics: Mapping[str, Any]
    """comparison.json: runs, pairs, unfinished, config."""
    students: Mapping[str, pa.Table]
    """Rollouts of test problems by run, with their texts."""


def render(inputs: ComparisonInputs) -> str:
    """Return the page. The same inputs give the same bytes."""
    numbers, runs = Numbers(inputs.metrics), list(inputs.metrics["runs"])
    return template("compared.html.j2").render(
        **_words(numbers),
        panels=_panels(inputs.metrics),
        marks=marks(runs),
        embedded=pack(choose(None, inputs.students, BUDGET)),
        total=sum(_evaluated(inputs.metrics, run) for run in runs),
        rule=RULE,
        **inlined(),
    )


def render_markdown(metrics: Mapping[str, Any]) -> str:
    """Return the comparison as Markdown."""
    return finished(traced(metrics))


def traced(metrics: Mapping[str, Any]) -> str:
    """Return the comparison's Markdown while each number still says where in comparison.json it is from."""
    return template("compared.md.j2").render(**_words(Numbers(metrics)))


def _words(numbers: Numbers) -> dict[str, Any]:
    return {
        "metrics": numbers.metrics,
        "runs": list(numbers.metrics["runs"]),
        "one": numbers.one,
        "interval": numbers.interval,
        "value": lambda run, path, form: _value(numbers, run, path, form),
        "rows": ROWS,
        "headlines": _headlines(numbers),
    }


def _value(numbers: Numbers, run: str, path: Sequence[str | int], form: str) -> Markup:
    if path[-1] == "~":
        return numbers.interval("runs", run, *path[:-1], form=form)
    return numbers.one("runs", run, *path, form=form)


def _headlines(numbers: Numbers) -> list[Markup]:
    """Return a sentence a pair of runs that share problems, each claiming no more than its adjusted p-value does."""
    sentences = [_pair(numbers, *pair) for pair in numbers.metrics["pairs"].items()] or [
        Markup("The runs share no evaluated problem, so their students cannot be paired; they stand side by side.")
    ]
    return [*sentences, *unfinished(numbers, "The student of {}")]


def _pair(numbers: Numbers, pair: str, found: Mapping[str, Any]) -> Markup:
    path = ("pairs", pair, "slices", "all")
    mean, p = (found["slices"]["all"][name] for name in ("mean", "p_holm"))
    verdict = "no measurable difference" if p >= 1 - CONFIDENCE else "a lift" if mean > 0 else "a loss"
    adjusted = Markup("")
    if len(numbers.metrics["pairs"]) > 1:
        adjusted = Markup(", p = {} as one of several pairs").format(numbers.one(*path, "p_holm", form="p"))
    return Markup("{} against {}: <em>{}</em>, {} points {} of pass@1 on {} that both hold out{}.").format(
        found["after"],
        found["before"],
        verdict,
        numbers.one(*path, "mean", form="points"),
        numbers.bounds(*path, form="points"),
        numbers.counted(*path, "problems", noun="problem"),
        adjusted,
    )


def _panels(metrics: Mapping[str, Any]) -> list[Panel]:
    found = {run: it["evaluation"][STUDENT] for run, it in metrics["runs"].items() if STUDENT in it["evaluation"]}
    if not found:
        return []
    slices = list(dict.fromkeys(name for scores in found.values() for name in scores))
    k = next(iter(accuracies({"evaluation": found})), "pass@1")
    rows = {name: {run: scores[name][k] for run, scores in found.items() if name in scores} for name in slices}
    label = f"{k} of the students by difficulty and run"
    return [Panel(f"{k} of the students", "share of samples", figures.dots_and_whiskers(rows, list(found), label))]


def _evaluated(metrics: Mapping[str, Any], run: str) -> int:
    scores = metrics["runs"][run]["evaluation"].get(STUDENT)
    return int(scores["all"]["problems"] * scores["all"]["samples"]) if scores else 0

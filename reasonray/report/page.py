"""The report: one self-contained HTML page of a run, from metrics.json and the rollouts.

Needs no network and no other file. Whatever has not run, or cannot be drawn, is said in a plain sentence in its place.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import resources
from typing import Any

import jinja2
import pyarrow as pa
from markupsafe import Markup

from reasonray.report import panels
from reasonray.report.figures import OUTCOME_COLOURS, marks
from reasonray.report.headline import headline, remarks
from reasonray.report.numbers import Numbers
from reasonray.report.rollouts import RULE, embed


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportInputs:
    """What a report is made of."""

    metrics: Mapping[str, Any]
    """What summary.summarise returned, or metrics.json read again."""
    config: Mapping[str, Any]
    """The run's resolved configuration, as JSON holds it."""
    training: Sequence[Mapping[str, float]] = ()
    """One row a step: step, loss, learning_rate, gradient_norm, tokens_per_second."""
    sampled: pa.Table | None = None
    """Rollouts of train problems (tables.ROLLOUT_SCHEMA), annotated once curation has run."""
    arms: Mapping[str, pa.Table] = field(default_factory=dict)
    """Rollouts of test problems by arm."""
    budget: int = 20_000_000
    """Bytes of rollouts that the page may carry, before packing."""


def render(inputs: ReportInputs) -> str:
    """Return the page. The same inputs give the same bytes."""
    numbers = Numbers(inputs.metrics)
    script = _asset("rollouts.js")
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    arms = list(inputs.metrics["evaluation"])
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_asset("page.html.j2")).render(
        run=inputs.config.get("name", "run"),
        metrics=inputs.metrics,
        config=json.dumps(inputs.config, indent=2, sort_keys=True, ensure_ascii=False),
        one=numbers.one,
        counted=numbers.counted,
        bounds=numbers.bounds,
        interval=numbers.interval,
        headline=headline(numbers),
        remarks=remarks(numbers),
        arms=arms,
        marks=marks(arms),
        slices=list(inputs.metrics["evaluation"][arms[0]]) if arms else [],
        ks=_ks(inputs.metrics),
        panels=panels.draw(inputs.metrics, inputs.training),
        outcome_colours=OUTCOME_COLOURS,
        embedded=embed(inputs.sampled, inputs.arms, inputs.budget),
        total=_rollouts(inputs.metrics),
        rule=RULE,
        style=Markup(_asset("page.css")),
        script=Markup(script),
        script_digest=digest,
    )


def _asset(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _rollouts(metrics: Mapping[str, Any]) -> int:
    """Return how many rollouts the run has; the page may have been handed fewer."""
    measured = sum(slices["all"]["problems"] * slices["all"]["samples"] for slices in metrics["evaluation"].values())
    return int(metrics["funnel"]["rollouts"] + measured)


def _ks(metrics: Mapping[str, Any]) -> list[str]:
    """Return the names of the accuracies measured, such as pass@1, pass@4 and maj@4."""
    return [
        name
        for slices in list(metrics["evaluation"].values())[:1]
        for name in slices["all"]
        if name.startswith(("pass@", "maj@"))
    ]

"""The report: one self-contained HTML page of a run, from metrics.json and the rollouts.

Needs no network and no other file. Whatever has not run, or cannot be drawn, is said in a plain sentence in its place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from reasonray.report import panels
from reasonray.report.evidence import quotes
from reasonray.report.figures import OUTCOME_COLOURS, OUTCOME_SIGNS, marks, series
from reasonray.report.markdown import words
from reasonray.report.numbers import Numbers
from reasonray.report.rollouts import BUDGET, RULE, choose, pack
from reasonray.report.templates import inlined, template


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportInputs:
    """What a report is made of."""

    metrics: Mapping[str, Any]
    """What summary.summarise returned, or metrics.json read again."""
    config: Mapping[str, Any]
    """The run's resolved configuration, as JSON holds it."""
    sampled: pa.Table | None = None
    """Rollouts of train problems (tables.ROLLOUT_SCHEMA), annotated once curation has run."""
    arms: Mapping[str, pa.Table] = field(default_factory=dict)
    """Rollouts of test problems by arm, checkpoints last."""
    changes: Mapping[str, str] = field(default_factory=dict)
    """Test problem → gained, lost or same (rollouts.changes)."""
    budget: int = BUDGET
    """Bytes of rollouts that the page may carry, before packing."""


def render(inputs: ReportInputs) -> str:
    """Return the page. The same inputs give the same bytes."""
    numbers = Numbers(inputs.metrics)
    chosen = choose(inputs.sampled, inputs.arms, inputs.budget)
    return template("page.html.j2").render(
        **words(inputs.metrics),
        run=inputs.config.get("name", "run"),
        config=json.dumps(inputs.config, indent=2, sort_keys=True, ensure_ascii=False),
        counted=numbers.counted,
        bounds=numbers.bounds,
        marks=marks(list(inputs.metrics["evaluation"])),
        series=series,
        panels=panels.draw(inputs.metrics),
        outcome_colours=OUTCOME_COLOURS,
        outcome_signs=OUTCOME_SIGNS,
        quotes=quotes(chosen),  # a quote leads to its rollout, which the page must carry
        embedded=pack(chosen, inputs.changes),
        total=_rollouts(inputs.metrics),
        rule=RULE,
        **inlined(),
    )


def _rollouts(metrics: Mapping[str, Any]) -> int:
    """Return how many rollouts the run has; the page may have been handed fewer."""
    arms = {arm: slices["all"] for arm, slices in metrics["evaluation"].items()}
    arms |= {row["arm"]: row for row in metrics["checkpoints"] if row["arm"] not in arms}
    return int(metrics["funnel"]["rollouts"] + sum(it["problems"] * it["samples"] for it in arms.values()))

"""The report of a run: one self-contained HTML page, made from metrics.json and the rollouts.

The page needs neither network nor other files. A sentence takes the place of anything that has not run yet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from reasonray.reporting.evidence import quotes
from reasonray.reporting.figures import OUTCOME_COLOURS, OUTCOME_SIGNS, marks, series
from reasonray.reporting.markdown import shared_context
from reasonray.reporting.numbers import Numbers
from reasonray.reporting.panels import panels
from reasonray.reporting.rollouts import BUDGET, RULE, choose, pack
from reasonray.reporting.templates import inlined, template


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportInputs:
    """Everything that the page shows."""

    metrics: Mapping[str, Any]
    """The content of metrics.json."""
    config: Mapping[str, Any]
    """The run's resolved configuration as JSON."""
    sampled: pa.Table | None = None
    """Rollouts of train problems (schema.ROLLOUT_SCHEMA), annotated once curation has run."""
    arms: Mapping[str, pa.Table] = field(default_factory=dict)
    """Rollouts of test problems by model under evaluation, checkpoints last."""
    changes: Mapping[str, str] = field(default_factory=dict)
    """Test problem → gained, lost or same (rollouts.changes)."""
    budget: int = BUDGET
    """Bytes of rollouts that the page may carry, before compression."""


def render(inputs: ReportInputs) -> str:
    """Return the page as HTML. The same inputs give the same bytes."""
    numbers = Numbers(inputs.metrics)
    chosen = choose(inputs.sampled, inputs.arms, inputs.budget)
    return template("page.html.j2").render(
        **shared_context(inputs.metrics),
        run=inputs.config.get("name", "run"),
        config=json.dumps(inputs.config, indent=2, sort_keys=True, ensure_ascii=False),
        counted=numbers.counted,
        bounds=numbers.bounds,
        marks=marks(list(inputs.metrics["evaluation"])),
        series=series,
        panels=panels(numbers),
        outcome_colours=OUTCOME_COLOURS,
        outcome_signs=OUTCOME_SIGNS,
        quotes=quotes(chosen),  # a quotation links to its rollout, so the page must carry that rollout
        embedded=pack(chosen, inputs.changes),
        total=_count_rollouts(inputs.metrics),
        rule=RULE,
        **inlined(),
    )


def _count_rollouts(metrics: Mapping[str, Any]) -> int:
    """Return the number of rollouts of the run; `inputs` may hold fewer."""
    measured = {arm: slices["all"] for arm, slices in metrics["evaluation"].items()}
    measured |= {row["arm"]: row for row in metrics["checkpoints"] if row["arm"] not in measured}
    return int(
        metrics["funnel"]["rollouts"] + sum(scores["problems"] * scores["samples"] for scores in measured.values())
    )

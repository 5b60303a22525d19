"""The report of a run: one self-contained HTML page, made from metrics.json and the rollouts.

The page needs neither network nor other files. A sentence takes the place of anything that has not run yet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from reasonray.records import content_hash
from reasonray.reporting.evidence import quotes
from reasonray.reporting.figures import OUTCOME_COLOURS, OUTCOME_SIGNS, marks, series
from reasonray.reporting.markdown import shared_context
from reasonray.reporting.numbers import Numbers
from reasonray.reporting.panels import panels
from reasonray.reporting.rollouts import BUDGET, RULE, choose, pack
from reasonray.reporting.templates import inlined, template

_WORTH_A_LOOK = ("funnel", "evaluation", "unfinished", "checkpoints", "verdicts", "labels")
"""Of metrics.json: what changes with the rollouts, and not with time alone."""


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
    is_live: bool = False
    """Whether the page asks its server for a newer one (cli/view.py)."""

    @property
    def version(self) -> str | None:
        """What changes when a reader would want the page again; None unless it is live."""
        return content_hash(json.dumps([self.metrics[key] for key in _WORTH_A_LOOK])) if self.is_live else None


def render_waiting(run: str, reason: str) -> str:
    """Return a page for a run that cannot be reported yet, which asks its server for a newer one."""
    return template("waiting.html.j2").render(run=run, reason=reason, version=reason, **inlined())


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
        version=inputs.version,
        **inlined(),
    )


def _count_rollouts(metrics: Mapping[str, Any]) -> int:
    """Return the number of rollouts of the run; `inputs` may hold fewer."""
    unfinished = sum(part["samples"] for part in metrics["unfinished"].values())
    measured = {arm: slices["all"] for arm, slices in metrics["evaluation"].items()}
    measured |= {row["arm"]: row for row in metrics["checkpoints"] if row["arm"] not in measured}
    whole = sum(scores["problems"] * scores["samples"] for scores in measured.values())
    return int(metrics["funnel"]["rollouts"] + whole + unfinished)

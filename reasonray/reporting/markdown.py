"""report.md: the numbers of the page for terminals and pull requests, printed from the same metrics.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reasonray.analysis.comparisons import pair_name, pairs
from reasonray.records import Outcome
from reasonray.reporting.advice import next_steps
from reasonray.reporting.headline import headline, remarks
from reasonray.reporting.numbers import Numbers, accuracies
from reasonray.reporting.templates import cell, template

_TAGS = re.compile(r"</?(?:a|data|span|em|strong)\b[^>]*>")
_CODE = re.compile(r"</?code>")
_LEFT_OUT = {
    "overlong": "longer than max_tokens",
    "refused": "contains a stop token",
    "validation": "held out for validation",
}
"""Why a selected rollout was not trained on, by its key in `funnel.left_out`."""


@dataclass(frozen=True, slots=True)
class Removal:
    """A count of rollouts that one stage of the funnel removed."""

    reason: str
    path: tuple[str, ...]
    """Where the count is, below `funnel` in metrics.json."""


def render_markdown(metrics: Mapping[str, Any], run: str) -> str:
    """Return the report as Markdown with aligned tables, readable as plain text.

    Args:
        metrics: metrics.json.
        run: name of the run.
    """
    return finished(traced(metrics, run))


def finished(document: str) -> str:
    """Return Markdown without the <data> elements of its numbers, its tables aligned."""
    return _aligned(_CODE.sub("`", _TAGS.sub("", document)))


def traced(metrics: Mapping[str, Any], run: str) -> str:
    """Return the report with each number still in the <data> element that names its source (numbers.Numbers)."""
    return template("report.md.j2").render(
        **shared_context(metrics), run=cell(run), outcomes=[str(outcome) for outcome in Outcome]
    )


def shared_context(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables that the templates of page and Markdown share, from metrics.json alone."""
    numbers, arms = Numbers(metrics), list(metrics["evaluation"])
    return {
        "metrics": metrics,
        "get": numbers.get,
        "number": numbers.number,
        "interval": numbers.interval,
        "headline": headline(numbers),
        "remarks": remarks(numbers),
        "steps": next_steps(numbers),
        "arms": arms,
        "pairs": [(pair_name(before, after), before, after) for before, after in pairs(arms)],
        "slices": list(metrics["evaluation"][arms[0]]) if arms else [],
        "ks": accuracies(metrics),
        "removals": removals(metrics["funnel"]),
    }


def removals(funnel: Mapping[str, Any]) -> dict[str, list[Removal]]:
    """Return the rollouts that each stage of the funnel removed from the stage before it, by stage.

    Args:
        funnel: `funnel` of metrics.json.
    """
    left_out = funnel["left_out"] or {}
    return {
        "kept": [Removal(rule.replace("_", " "), ("dropped", rule)) for rule in funnel["dropped"]],
        "selected": [Removal("over the quota", ("over_quota",))] if funnel["over_quota"] else [],
        "trained": [Removal(_LEFT_OUT[reason], ("left_out", reason)) for reason, count in left_out.items() if count],
    }


def _aligned(document: str) -> str:
    lines, table = [], []
    for line in [*document.splitlines(), ""]:
        if line.startswith("|"):
            table.append([text.strip() for text in re.split(r"(?<!\\)\|", line)[1:-1]])
            continue
        lines += _table(table)
        table = []
        lines.append(line)
    return "\n".join(lines).rstrip("\n") + "\n"


def _table(rows: list[list[str]]) -> list[str]:
    """Return the lines of a table, with names aligned left and numbers right."""
    if not rows:
        return []
    body = [rows[0], *rows[2:]]
    widths = [max(3, *(len(text) for text in column)) for column in zip(*body, strict=True)]
    is_name = [all(not re.match(r"[+\u2212]?\d|–", row[i]) for row in rows[2:]) for i in range(len(widths))]
    padded = [
        [
            text.ljust(width) if left else text.rjust(width)
            for text, width, left in zip(row, widths, is_name, strict=True)
        ]
        for row in body
    ]
    rule = ["-" * width if left else "-" * (width - 1) + ":" for width, left in zip(widths, is_name, strict=True)]
    return ["| " + " | ".join(row) + " |" for row in [padded[0], rule, *padded[1:]]]

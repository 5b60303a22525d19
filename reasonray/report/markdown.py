"""report.md: the page's numbers for terminals and pull requests, from the same metrics.json by the same forms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from reasonray.analysis.comparisons import pair_name, pairs
from reasonray.records import Outcome
from reasonray.report.advice import next_steps
from reasonray.report.headline import headline, remarks
from reasonray.report.numbers import Numbers, accuracies
from reasonray.report.templates import cell, template

_TAGS = re.compile(r"</?(?:a|data|span|em|strong)\b[^>]*>")
_CODE = re.compile(r"</?code>")


def render_markdown(metrics: Mapping[str, Any], run: str) -> str:
    """Return the report as Markdown, its tables aligned so that they can be read as they are."""
    return finished(traced(metrics, run))


def finished(document: str) -> str:
    """Return Markdown without the traces of its numbers, its tables aligned."""
    return _aligned(_CODE.sub("`", _TAGS.sub("", document)))


def traced(metrics: Mapping[str, Any], run: str) -> str:
    """Return the report while each of its numbers still says where in metrics.json it is from (numbers.Numbers)."""
    return template("report.md.j2").render(**words(metrics), run=cell(run), outcomes=[str(it) for it in Outcome])


def words(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the templates of page and Markdown both say, from metrics.json alone."""
    numbers, arms = Numbers(metrics), list(metrics["evaluation"])
    return {
        "metrics": metrics,
        "find": numbers.find,
        "one": numbers.one,
        "interval": numbers.interval,
        "headline": headline(numbers),
        "remarks": remarks(numbers),
        "steps": next_steps(numbers),
        "arms": arms,
        "pairs": [(pair_name(before, after), before, after) for before, after in pairs(arms)],
        "slices": list(metrics["evaluation"][arms[0]]) if arms else [],
        "ks": accuracies(metrics),
        "losses": losses(metrics["funnel"]),
    }


def losses(funnel: Mapping[str, Any]) -> dict[str, list[tuple[str, tuple[str, ...]]]]:
    """Return what each stage of the funnel lost of the one before: why, and where in the funnel its count stands."""
    left_out = {
        "overlong": "over max_tokens",
        "refused": "a stop token within",
        "validation": "set aside to validate",
    }
    return {
        "kept": [(rule.replace("_", " "), ("dropped", rule)) for rule in funnel["dropped"]],
        "selected": [("over the quota", ("over_quota",))] if funnel["over_quota"] else [],
        "trained": [(left_out[why], ("left_out", why)) for why, count in (funnel["left_out"] or {}).items() if count],
    }


def _aligned(document: str) -> str:
    lines, table = [], []
    for line in [*document.splitlines(), ""]:
        if line.startswith("|"):
            table.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
            continue
        lines += _table(table)
        table = []
        lines.append(line)
    return "\n".join(lines).rstrip("\n") + "\n"


def _table(rows: list[list[str]]) -> list[str]:
    """Return a table's lines: names to the left, numbers to the right."""
    if not rows:
        return []
    body = [rows[0], *rows[2:]]
    widths = [max(3, *(len(cell) for cell in column)) for column in zip(*body, strict=True)]
    named = [all(not re.match(r"[+\u2212]?\d|–", row[i]) for row in rows[2:]) for i in range(len(widths))]
    padded = [
        [cell.ljust(width) if left else cell.rjust(width) for cell, width, left in zip(row, widths, named, strict=True)]
        for row in body
    ]
    rule = ["-" * width if left else "-" * (width - 1) + ":" for width, left in zip(widths, named, strict=True)]
    return ["| " + " | ".join(row) + " |" for row in [padded[0], rule, *padded[1:]]]

"""Runs side by side: what each reported, and their students paired where the problems are the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from reasonray.analysis.comparisons import across_runs, clusters_of
from reasonray.analysis.metrics_json import plain
from reasonray.analysis.scores import Clusters
from reasonray.config import UserError
from reasonray.curation.annotations import drawn
from reasonray.records import STUDENT, Split
from reasonray.reporting import rollouts
from reasonray.reporting.compared import ComparisonInputs, render, render_markdown
from reasonray.reporting.rollouts import MARGIN, TEXT, with_columns
from reasonray.sampling.cluster import in_tasks
from reasonray.store.compatibility import flatten
from reasonray.store.evaluations import missing_samples
from reasonray.store.progress import log_line
from reasonray.store.run import Run, find_run
from reasonray.store.storage import place

_COMPARED = ("funnel", "sampling", "training", "evaluation", "difference", "behaviours", "stages", "config_sha256")
_NOT_COMPARED = ("name", "root")


def compare(paths: Sequence[str], out: str) -> None:
    """Write comparison.json, comparison.md and comparison.html of runs that have been reported.

    Raises:
        UserError: a path holds no run, or one that was not reported yet.
    """
    runs = _named([find_run(path) for path in paths])
    students = {name: drawn(run, STUDENT, in_tasks) for name, run in runs.items() if run.evaluation(STUDENT).segments()}
    unfinished = {name: lack for name, table in students.items() if (lack := missing_samples(runs[name], table))}
    students = {name: table for name, table in students.items() if name not in unfinished}
    metrics = plain(
        {
            "runs": {name: _reported(run) for name, run in runs.items()},
            "pairs": across_runs(students, _clusters(runs.values())),
            "unfinished": unfinished,
            "config": _differing({name: run.config.model_dump(mode="json") for name, run in runs.items()}),
        }
    )
    target = place(out)
    (target / "comparison.json").write(json.dumps(metrics, indent=2, allow_nan=False).encode())
    (target / "comparison.md").write(render_markdown(metrics).encode())
    inputs = ComparisonInputs(metrics, _shown(runs, students))
    (target / "comparison.html").write(render(inputs).encode())
    log_line("report", str(target / "comparison.html"))


def _named(runs: Sequence[Run]) -> dict[str, Run]:
    """Return the runs by name; those that share a name by their places."""
    names = [run.name for run in runs]
    return {run.name if names.count(run.name) == 1 else str(run.place): run for run in runs}


def _clusters(runs: Iterable[Run]) -> Clusters:
    """Return which test problems are variants of one another, by any run's word."""
    found = [clusters_of(run.problems(Split.TEST), run.config.evaluation.cluster) for run in runs]
    return {problem: cluster for each in found if each for problem, cluster in each.items()}


def _reported(run: Run) -> dict[str, Any]:
    stored = run.place / "metrics.json"
    if not stored.exists():
        raise UserError(f"run {run.name} has no metrics.json yet; run jobs/report.py with its configuration first")
    metrics = stored.read_json()
    return {name: metrics[name] for name in _COMPARED}


def _differing(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return key → run → value, of the keys in which configurations differ; a run without the key has a dash."""
    flattened = {name: flatten(config) for name, config in configs.items()}
    keys = sorted({key for values in flattened.values() for key in values} - set(_NOT_COMPARED))
    shown = {
        key: {name: _short(values[key]) if key in values else "–" for name, values in flattened.items()} for key in keys
    }
    return {key: values for key, values in shown.items() if len(set(values.values())) > 1}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _shown(runs: Mapping[str, Run], students: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    chosen = rollouts.choose(None, students, MARGIN * rollouts.BUDGET)
    return {name: with_columns(rows, runs[name].evaluation(STUDENT).segments(), TEXT) for name, rows in chosen.items()}

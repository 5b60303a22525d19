"""Runs compared: what each reported, and their students paired on the problems that both hold out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from reasonray.analysis.comparisons import clusters_of, compare_runs
from reasonray.analysis.json_records import to_json
from reasonray.analysis.metrics import Metrics
from reasonray.analysis.scores import Clusters
from reasonray.config import UserError
from reasonray.curation.annotations import evaluation_rollouts
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

_SECTIONS = ("funnel", "sampling", "training", "evaluation", "difference", "behaviours", "stages", "config_sha256")
"""Sections of each run's metrics.json that comparison.json holds."""
_IGNORED_KEYS = ("name", "root")
"""Keys of a configuration in which runs always differ."""


def compare(paths: Sequence[str], out: str) -> None:
    """Write comparison.json, comparison.md and comparison.html of runs that have been reported.

    Args:
        paths: the runs' directories, two or more.
        out: the directory to write to.

    Raises:
        UserError: a path holds no run, or one that was not reported yet.
    """
    runs = _named([find_run(path) for path in paths])
    students = {
        name: evaluation_rollouts(run, STUDENT, in_tasks)
        for name, run in runs.items()
        if run.evaluation(STUDENT).segments()
    }
    unfinished = {name: lack for name, table in students.items() if (lack := missing_samples(runs[name], table))}
    students = {name: table for name, table in students.items() if name not in unfinished}
    comparison = to_json(
        {
            "runs": {name: _reported(run) for name, run in runs.items()},
            "pairs": compare_runs(students, _clusters(runs.values())),
            "unfinished": unfinished,
            "config": _differing({name: run.config.model_dump(mode="json") for name, run in runs.items()}),
        }
    )
    target = place(out)
    (target / "comparison.json").write(json.dumps(comparison, indent=2, allow_nan=False).encode())
    (target / "comparison.md").write(render_markdown(comparison).encode())
    inputs = ComparisonInputs(comparison, _with_text(runs, students))
    (target / "comparison.html").write(render(inputs).encode())
    log_line("report", str(target / "comparison.html"))


def _named(runs: Sequence[Run]) -> dict[str, Run]:
    """Return the runs by name; those that share a name by their places."""
    names = [run.name for run in runs]
    return {run.name if names.count(run.name) == 1 else str(run.place): run for run in runs}


def _clusters(runs: Iterable[Run]) -> Clusters:
    """Return the clusters of the test problems of all runs; each run's configuration names its own."""
    by_run = [clusters_of(run.problems(Split.TEST), run.config.evaluation.cluster) for run in runs]
    return {problem: cluster for clusters in by_run if clusters for problem, cluster in clusters.items()}


def _reported(run: Run) -> dict[str, Any]:
    """Return the sections of a run's metrics.json, under the names of this version.

    Raises:
        UserError: there is no metrics.json, or none that this version can read.
    """
    stored = run.place / "metrics.json"
    if not stored.exists():
        raise UserError(f"run {run.name} has no metrics.json yet; run jobs/report.py with its configuration first")
    try:
        metrics = Metrics.from_json(stored.read_json())
    except ValueError as error:
        raise UserError(
            f"{stored} cannot be read ({error}); run jobs/report.py with its configuration again"
        ) from error
    return {section: getattr(metrics, section) for section in _SECTIONS}


def _differing(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return {key: {run: value}} of the keys in which configurations differ; a run without the key has a dash."""
    flattened = {name: flatten(config) for name, config in configs.items()}
    keys = sorted({key for values in flattened.values() for key in values} - set(_IGNORED_KEYS))
    shown = {
        key: {name: _short(values[key]) if key in values else "–" for name, values in flattened.items()} for key in keys
    }
    return {key: values for key, values in shown.items() if len(set(values.values())) > 1}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _with_text(runs: Mapping[str, Run], students: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    chosen = rollouts.choose(None, students, MARGIN * rollouts.BUDGET)
    return {name: with_columns(rows, runs[name].evaluation(STUDENT).segments(), TEXT) for name, rows in chosen.items()}

"""What a run holds → metrics.json, scores.json of every arm, report.md, report.html. Cheap: made anew each time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from reasonray.analysis import metrics_json
from reasonray.analysis.comparisons import part
from reasonray.analysis.funnel import Trained
from reasonray.checkers import consensus
from reasonray.config import UserError
from reasonray.curation.annotations import annotated, drawn
from reasonray.records import BASE, STUDENT, Problem, Split
from reasonray.reporting import rollouts
from reasonray.reporting.headline import headline
from reasonray.reporting.markdown import render_markdown
from reasonray.reporting.numbers import Numbers
from reasonray.reporting.page import ReportInputs, render
from reasonray.reporting.rollouts import BUDGET, MARGIN, TEXT, with_columns
from reasonray.sampling.cluster import in_tasks
from reasonray.store.evaluations import checkpoint_step, evaluated_checkpoints, evaluated_models, missing_samples
from reasonray.store.progress import log_line
from reasonray.store.run import Run, versions
from reasonray.store.schema import read_rollouts

_AUDITED = ("problem_id", "verdict_outcome", "verdict_extracted")
_NAMING = ("id", "sample", "problem_source", "verdict_detail")
"""What is read of train rollouts beside metrics_json.COLUMNS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A report that has been written."""

    headline: str
    """The sentence that the page opens with, as plain text."""
    path: str
    """Where report.html is; metrics.json and report.md are next to it."""
    metrics: Mapping[str, Any]
    """The content of metrics.json."""


def report(run: Run) -> Report:
    """Write metrics.json, report.md, report.html and every arm's scores.json from what the run holds so far.

    Raises:
        UserError: nothing was sampled yet.
    """
    if not run.has_problems:
        raise UserError(f"run {run.name} holds nothing to report; run jobs/sample.py or jobs/distill.py first")
    arms, unfinished = _arms(run)
    checkpoints = _checkpoints(run)
    sampled = _sampled(run, (*metrics_json.COLUMNS, *_NAMING))
    metrics = _metrics(run, sampled, arms, checkpoints, unfinished)
    for arm, scores in metrics["evaluation"].items():
        (run.evaluation(arm).place / "scores.json").write(json.dumps(scores, indent=2, allow_nan=False).encode())
    (run.place / "metrics.json").write(json.dumps(metrics, indent=2, allow_nan=False).encode())
    (run.place / "report.md").write(render_markdown(metrics, run.name).encode())
    shown = _shown(run, rollouts.choose(sampled, arms | checkpoints, MARGIN * BUDGET))
    inputs = ReportInputs(
        metrics=metrics,
        config=run.config.model_dump(mode="json"),
        sampled=shown.pop(rollouts.TRAIN, None),
        arms=shown,
        changes=rollouts.changes(arms),
        budget=BUDGET,
    )
    target = run.place / "report.html"
    target.write(render(inputs).encode())
    _tell(metrics)
    log_line("report", str(target))
    return Report(headline=headline(Numbers(metrics)).striptags(), path=str(target), metrics=metrics)


def _arms(run: Run) -> tuple[dict[str, pa.Table], dict[str, Any]]:
    """Return the rollouts of the arms that are measured whole, and of the others how much of them there is."""
    tables = {name: drawn(run, name, in_tasks) for name in evaluated_models(run)}
    unfinished = {name: lack for name, table in tables.items() if (lack := missing_samples(run, table))}
    for name, lack in unfinished.items():
        log_line("report", f"{name} is left out: {lack['samples']:,} of {lack['of']:,} samples are drawn")
    return {name: table for name, table in tables.items() if name not in unfinished}, unfinished


def _checkpoints(run: Run) -> dict[str, pa.Table]:
    """Return the rollouts of the checkpoints that are measured whole, by the arm's name."""
    few = min(run.config.evaluation.checkpoint_problems, len(run.problems(Split.TEST)))
    found = {name: annotated(run.evaluation(name), in_tasks) for name in evaluated_checkpoints(run)}
    return {name: it for name, it in found.items() if it.num_rows == few * run.config.evaluation.checkpoint_samples}


def _metrics(
    run: Run,
    sampled: pa.Table,
    arms: Mapping[str, pa.Table],
    checkpoints: Mapping[str, pa.Table],
    unfinished: Mapping[str, Any],
) -> dict[str, Any]:
    train = run.problems(Split.TRAIN)
    stages = {it: _seconds(run, it) for it in ("sample", "verify", "evaluate", "curate", "train")}
    return metrics_json.summarise(
        config=run.config,
        versions=versions(),
        problems=len(train),
        sampled=sampled,
        sampling_seconds=_seconds(run, "sample", "drawing_seconds"),
        cost=_cost(run),
        trained=trained(run),
        training=_training(run),
        arms=arms,
        test=run.problems(Split.TEST) if arms else None,
        checkpoints=_with_ends(run, {checkpoint_step(name): it for name, it in checkpoints.items()}, arms),
        trust=_trust(run, train, sampled),
        stages={it: seconds for it, seconds in stages.items() if seconds},
        provenance=_provenance(run),
        unfinished=unfinished,
    )


def _tell(metrics: Mapping[str, Any]) -> None:
    for arm, scores in metrics["evaluation"].items():
        found, of = scores["all"]["pass@1"], f"{scores['all']['problems']:,} problems × {scores['all']['samples']}"
        share = f"{100 * found['mean']:5.1f} % [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"
        log_line("report", f"{share:<22} pass@1 of {arm}, {of}")


def _shown(run: Run, chosen: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """Return the rollouts that the page may show, with their texts."""
    curated = run.curated_rollouts()
    found = {}
    for arm, rows in chosen.items():
        if arm != rollouts.TRAIN:
            found[arm] = with_columns(rows, run.evaluation(arm).segments(), TEXT)
        else:
            files = run.ledger.segments() if curated is None else curated
            found[arm] = with_columns(rows, files, (*TEXT, "annotation_spans"))
    return found


def _trust(run: Run, train: Sequence[Problem], sampled: pa.Table) -> metrics_json.Trust:
    manifest, labelled = run.verified / "manifest.json", run.place / "labels.json"
    verdicts = zip(*(sampled[it].to_pylist() for it in _AUDITED), strict=True)
    suspects, looked_at = consensus.suspects(train, verdicts)
    return metrics_json.Trust(
        verified=manifest.read_json_or_none(),
        labels=labelled.read_json_or_none(),
        suspects=suspects,
        looked_at=looked_at,
    )


def _sampled(run: Run, columns: Sequence[str]) -> pa.Table:
    """Return the teachers' rollouts: with their fates once curated, else as they were committed."""
    curated = run.curated_rollouts()
    if curated is None:
        return run.ledger.read(columns)
    return pa.concat_tables([read_rollouts(file, columns) for file in curated])


def _with_ends(run: Run, found: Mapping[int, pa.Table], arms: Mapping[str, pa.Table]) -> dict[int, pa.Table]:
    """Return the rollouts of the checkpoints by training step, base and student at its ends, same problems."""
    if not found:
        return {}
    few = pc.unique(next(iter(found.values()))["problem_id"])
    ends = {BASE: 0, STUDENT: checkpoint_step(run.chosen_checkpoint())}
    return dict(found) | {
        step: part(arms[arm], few, run.config.evaluation.checkpoint_samples)
        for arm, step in ends.items()
        if arm in arms
    }


def _training(run: Run) -> list[dict[str, float]]:
    steps = run.student / "steps.jsonl"
    return [json.loads(line) for line in steps.read().decode().splitlines()] if steps.exists() else []


def trained(run: Run) -> Trained | None:
    """Return what the student learned from, None before training on the data set that is there now.

    Every selected sample is an example or left out.
    """
    manifest = run.student / "final" / "manifest.json"
    if not manifest.exists():
        return None
    figures, curated = manifest.read_json(), (run.curated / "manifest.json").read_json()
    if figures["data"] != curated.get("examples", figures["data"]):
        return None
    return Trained(
        examples=figures["examples"],
        tokens=figures["loss_tokens"],
        left_out={
            "overlong": figures["overlong"],
            "refused": figures["refused"],
            "validation": curated.get("set_aside", 0),
        },
    )


def _cost(run: Run) -> metrics_json.Cost | None:
    sessions = [it for it in run.events.last_of_sessions("sample") if "replica_seconds" in it]
    if not sessions:
        return None
    totals = {field.name: sum(it.get(field.name, 0) for it in sessions) for field in fields(metrics_json.Cost)}
    return metrics_json.Cost(**totals)


def _provenance(run: Run) -> dict[str, Any]:
    manifest, models = run.student / "final" / "manifest.json", run.place / "models.json"
    clusters = run.events.read("cluster")
    hours = {
        stage: sum(it["accelerator_seconds"] for it in sessions) / 3600
        for stage in ("sample", "verify", "label", "train", "evaluate")
        if (sessions := [it for it in run.events.last_of_sessions(stage) if "accelerator_seconds" in it])
    }
    return {
        "seed": run.config.seed,
        "models": {_local(run, it): of for it, of in (models.read_json_or_none() or {}).items()},
        "data": (manifest.read_json_or_none() or {}).get("data"),
        "machines": list(dict.fromkeys(machine for it in clusters for machine in it["machines"])),
        "accelerator_hours": hours,
    }


def _local(run: Run, reference: str) -> str:
    """Return a model's reference (reference@revision) as it is read: without its run's place or an empty revision."""
    return reference.removesuffix("@").rpartition(f"/{run.name}/")[2]


def _seconds(run: Run, stage: str, figure: str = "seconds") -> float | None:
    """Return the wall time of a stage, over all the sessions that it took."""
    sessions = run.events.last_of_sessions(stage)
    return round(sum(it.get(figure, 0.0) for it in sessions), 3) if sessions else None

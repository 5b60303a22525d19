"""What a run holds → metrics.json, scores.json of every arm and report.html. Cheap, so it is made anew each time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reasonray import summary
from reasonray.checkers import consensus
from reasonray.config import UserError
from reasonray.console import say
from reasonray.curation.behaviours import annotate_table
from reasonray.funnel import Trained
from reasonray.ledger import Ledger
from reasonray.records import Split
from reasonray.report.page import ReportInputs, render
from reasonray.run import Run, versions

_AUDITED = ("problem_id", "verdict_outcome", "verdict_extracted")
_SHOWN_ROLLOUTS = 20_000
"""Rollouts of train problems that the page chooses from, so that a run of any size reports in bounded memory."""


def report(run: Run) -> None:
    """Write what the run holds so far.

    Raises:
        UserError: nothing was sampled yet.
    """
    if not run.has_problems:
        raise UserError(f"run {run.name} holds nothing to report; run jobs/sample.py or jobs/distill.py first")
    arms, training = _arms(run), _training(run)
    sampled, train = _sampled(run, summary.COLUMNS), run.problems(Split.TRAIN)
    metrics = summary.summarise(
        config=run.config,
        versions=versions(),
        problems=len(train),
        sampled=sampled,
        sampling_seconds=_seconds(run, "sample", "drawing_seconds"),
        cost=_cost(run),
        trained=trained(run),
        training=training,
        arms=arms,
        test_problems=len(run.problems(Split.TEST)) if arms else None,
        checkpoints=_checkpoints(run, arms),
        trust=_trust(run, sampled),
        stages={
            it: seconds for it in ("sample", "verify", "evaluate", "curate", "train") if (seconds := _seconds(run, it))
        },
    )
    for arm, scores in metrics["evaluation"].items():
        (run.evaluation(arm).place / "scores.json").write(json.dumps(scores, indent=2, allow_nan=False).encode())
    (run.place / "metrics.json").write(json.dumps(metrics, indent=2, allow_nan=False).encode())
    inputs = ReportInputs(
        metrics=metrics,
        config=run.config.model_dump(mode="json"),
        training=training,
        sampled=_sampled(run, None, most=_SHOWN_ROLLOUTS),
        arms=arms,
    )
    target = run.place / "report.html"
    target.write(render(inputs).encode())
    say("report", str(target))


def _trust(run: Run, sampled: pa.Table) -> summary.Trust:
    manifest, labelled = run.verified / "manifest.json", run.place / "labels.json"
    verdicts = zip(*(sampled[it].to_pylist() for it in _AUDITED), strict=True)
    suspects, looked_at = consensus.suspects(run.problems(Split.TRAIN), verdicts)
    return summary.Trust(
        verified=json.loads(manifest.read()) if manifest.exists() else None,
        labels=json.loads(labelled.read()) if labelled.exists() else None,
        suspects=suspects,
        looked_at=looked_at,
    )


def _sampled(run: Run, columns: Sequence[str] | None, *, most: int | None = None) -> pa.Table:
    """Return the teachers' rollouts: with their fates once curated, else as they were committed."""
    manifest = run.curated / "manifest.json"
    if not manifest.exists():
        return run.rollouts.read(columns).slice(0, most)
    tables, rows = [], 0
    for name in json.loads(manifest.read())["rollouts"]:
        file = run.curated / "rollouts" / name
        tables.append(pq.read_table(file.path, columns=columns and list(columns), filesystem=file.filesystem))
        rows += tables[-1].num_rows
        if most is not None and rows >= most:
            break
    return pa.concat_tables(tables).slice(0, most)


def _arms(run: Run) -> dict[str, pa.Table]:
    """Return the rollouts of every arm that is measured, in the order in which people read them."""
    names = ["base", *(teacher.name for teacher in run.config.teachers), "student"]
    ledgers = {name: run.evaluation(name) for name in names}
    return {name: _annotated(ledger) for name, ledger in ledgers.items() if ledger.segments()}


def _checkpoints(run: Run, arms: dict[str, pa.Table]) -> dict[int, pa.Table]:
    """Return the rollouts of the checkpoints by training step, base and student at its ends, same problems."""
    steps = {int(it.name.removeprefix("step-")): run.evaluation(it.name) for it in run.checkpoints()}
    found = {step: _annotated(ledger) for step, ledger in steps.items() if ledger.segments()}
    if not found:
        return {}
    few = pc.unique(next(iter(found.values()))["problem_id"])
    ends = {"base": 0, "student": max(steps)}
    return found | {
        step: _part(arms[arm], few, run.config.evaluation.checkpoint_samples)
        for arm, step in ends.items()
        if arm in arms
    }


def _part(rollouts: pa.Table, problems: pa.Array, samples: int) -> pa.Table:
    same = pc.is_in(rollouts["problem_id"], value_set=problems)
    return rollouts.filter(pc.and_(same, pc.less(rollouts["sample"], samples)))


def _annotated(ledger: Ledger) -> pa.Table:
    return annotate_table(ledger.read())


def _training(run: Run) -> list[dict[str, float]]:
    steps = run.student / "steps.jsonl"
    return [json.loads(line) for line in steps.read().decode().splitlines()] if steps.exists() else []


def trained(run: Run) -> Trained | None:
    """Return what the student learned from, None before training; every selected sample is an example or left out."""
    manifest = run.student / "final" / "manifest.json"
    if not manifest.exists():
        return None
    figures, curated = json.loads(manifest.read()), json.loads((run.curated / "manifest.json").read())
    return Trained(
        examples=figures["examples"],
        tokens=figures["loss_tokens"],
        left_out=figures["overlong"] + figures["refused"] + curated.get("set_aside", 0),
    )


def _cost(run: Run) -> summary.Cost | None:
    sessions = [it for it in run.events.last_of_sessions("sample") if "replica_seconds" in it]
    if not sessions:
        return None
    totals = {field.name: sum(it.get(field.name, 0) for it in sessions) for field in fields(summary.Cost)}
    return summary.Cost(**totals)


def _seconds(run: Run, stage: str, figure: str = "seconds") -> float | None:
    """Return the wall time of a stage, over all the sessions that it took."""
    sessions = run.events.last_of_sessions(stage)
    return round(sum(it.get(figure, 0.0) for it in sessions), 3) if sessions else None

"""The report of a run: metrics.json, report.md, report.html, and scores.json of every arm.

It is cheap, and written as a whole each time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from reasonray.analysis.comparisons import first_samples
from reasonray.analysis.funnel import Trained
from reasonray.analysis.json_records import from_json
from reasonray.analysis.metrics import Cost, LabelMetrics, Metrics, Provenance, Spent, Unfinished, Verification
from reasonray.analysis.metrics_json import COLUMNS, MetricsInputs, summarise
from reasonray.analysis.scores import ALL
from reasonray.checkers import consensus
from reasonray.checkers.consensus import Suspect
from reasonray.config import UserError
from reasonray.curation.annotations import annotated, evaluation_rollouts
from reasonray.curation.paraphrases import stored_findings
from reasonray.records import BASE, STUDENT, Outcome, Problem, Split
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
from reasonray.store.spending import Spending, spending

_AUDITED_COLUMNS = ("problem_id", "verdict_outcome", "verdict_extracted")
_PAGE_COLUMNS = ("id", "sample", "problem_source", "verdict_detail")
"""Columns of train rollouts that the page needs besides metrics_json.COLUMNS."""
_TIMED_STAGES = ("sample", "verify", "evaluate", "curate", "train")
_STAGES_WITH_ACCELERATORS = ("sample", "verify", "label", "train", "evaluate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A report that has been written."""

    headline: str
    """The sentence that the page opens with, as plain text."""
    path: str
    """Path of report.html; metrics.json and report.md are next to it."""
    metrics: Metrics
    """The content of metrics.json."""


def report(run: Run) -> Report:
    """Write metrics.json, report.md, report.html and every arm's scores.json from what the run holds so far.

    Raises:
        UserError: nothing was sampled yet.
    """
    metrics, inputs = page_inputs(run)
    document = inputs.metrics
    for arm, part in metrics.unfinished.items():
        log_line("report", f"{arm} is left out: {part.samples:,} of {part.expected:,} samples exist")
    for arm, scores in document["evaluation"].items():
        (run.evaluation(arm).place / "scores.json").write(_encoded(scores))
    (run.place / "metrics.json").write(_encoded(document))
    (run.place / "report.md").write(render_markdown(document, run.name).encode())
    target = run.place / "report.html"
    target.write(render(inputs).encode())
    _log_scores(metrics)
    log_line("report", str(target))
    return Report(headline=headline(Numbers(document)).striptags(), path=str(target), metrics=metrics)


def page_inputs(run: Run) -> tuple[Metrics, ReportInputs]:
    """Return the metrics of a run and all that its page shows; writes annotations only.

    Rollouts of arms that are not measured whole can be read on the page, and are in none of its numbers.

    Raises:
        UserError: nothing was sampled yet.
    """
    if not run.has_problems:
        raise UserError(f"run {run.name} holds nothing to report; run jobs/sample.py or jobs/distill.py first")
    arms, unfinished = _arms(run)
    whole = {arm: table for arm, table in arms.items() if arm not in unfinished}
    checkpoints = _checkpoints(run)
    sampled = _sampled(run, (*COLUMNS, *_PAGE_COLUMNS))
    metrics = summarise(_inputs(run, sampled, whole, checkpoints, unfinished))
    shown = _with_text(run, rollouts.choose(sampled, arms | checkpoints, MARGIN * BUDGET))
    return metrics, ReportInputs(
        metrics=metrics.to_json(),
        config=run.config.model_dump(mode="json"),
        sampled=shown.pop(rollouts.TRAIN, None),
        arms=shown,
        changes=rollouts.changes(whole),
        budget=BUDGET,
    )


def trained(run: Run) -> Trained | None:
    """Return what the student was trained on, None before it was trained on the data set that is there now.

    Every selected rollout is an example or left out. With policy gradients the student learned from others too, so the
    funnel ends at the selection.
    """
    manifest = run.final_student / "manifest.json"
    if not manifest.exists():
        return None
    student, curated = manifest.read_json(), (run.curated / "manifest.json").read_json()
    if student["data"] != curated.get("examples", student["data"]):
        return None
    return Trained(
        examples=student["examples"],
        tokens=student["loss_tokens"],
        left_out={
            "overlong": student["overlong"],
            "refused": student["refused"],
            "validation": curated.get("set_aside", 0),
        },
    )


def _arms(run: Run) -> tuple[dict[str, pa.Table], dict[str, Unfinished]]:
    """Return the rollouts of the arms, and how much there is of those that are not measured whole."""
    tables = {arm: evaluation_rollouts(run, arm, in_tasks) for arm in evaluated_models(run)}
    unfinished = {
        arm: Unfinished(samples=missing["samples"], expected=missing["of"])
        for arm, table in tables.items()
        if (missing := missing_samples(run, table))
    }
    return tables, unfinished


def _checkpoints(run: Run) -> dict[str, pa.Table]:
    """Return the rollouts of the checkpoints that are measured whole, by the arm's name."""
    problems = min(run.config.evaluation.checkpoint_problems, len(run.problems(Split.TEST)))
    expected = problems * run.config.evaluation.checkpoint_samples
    tables = {arm: annotated(run.evaluation(arm), in_tasks) for arm in evaluated_checkpoints(run)}
    return {arm: table for arm, table in tables.items() if table.num_rows == expected}


def _inputs(
    run: Run,
    sampled: pa.Table,
    arms: Mapping[str, pa.Table],
    checkpoints: Mapping[str, pa.Table],
    unfinished: Mapping[str, Unfinished],
) -> MetricsInputs:
    train = run.problems(Split.TRAIN)
    by_step = {checkpoint_step(arm): table for arm, table in checkpoints.items()}
    seconds = {stage: _seconds(run, stage) for stage in _TIMED_STAGES}
    suspects, audited_problems = _gold_suspects(train, sampled)
    return MetricsInputs(
        config=run.config,
        versions=versions(),
        problems=len(train),
        sampled=sampled,
        sampling_seconds=_seconds(run, "sample", "drawing_seconds"),
        cost=_cost(run),
        trained=trained(run),
        training=_training_rows(run),
        arms=arms,
        test=run.problems(Split.TEST) if arms else None,
        checkpoints=_with_base_and_student(run, by_step, arms),
        verification=_verification(run),
        labels=_labels(run),
        paraphrases=(found := stored_findings(run)) and found.metrics,
        suspects=suspects,
        audited_problems=audited_problems,
        stages={stage: figure for stage, figure in seconds.items() if figure},
        provenance=_provenance(run),
        unfinished=unfinished,
        spent=[_spent(cost, sampled, arms) for cost in spending(run)],
    )


def _spent(cost: Spending, sampled: pa.Table, arms: Mapping[str, pa.Table]) -> Spent:
    if cost.stage == "sample":
        rollouts = sampled.filter(pc.equal(sampled["teacher"], cost.model))
    else:
        rollouts = arms.get(cost.model, sampled.slice(0, 0))
    correct = pc.sum(pc.equal(rollouts["verdict_outcome"], Outcome.CORRECT.value)).as_py() or 0
    return Spent(
        stage=cost.stage,
        model=cost.model,
        prompt_tokens=cost.prompt_tokens,
        completion_tokens=cost.completion_tokens,
        amount=cost.amount,
        currency=cost.price.currency,
        per_correct=cost.amount / correct if correct else None,
    )


def _log_scores(metrics: Metrics) -> None:
    for arm, slices in metrics.evaluation.items():
        overall = slices[ALL]
        accuracy = overall.pass_at[1]
        share = f"{100 * accuracy.mean:5.1f} % [{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}]"
        log_line("report", f"{share:<22} pass@1 of {arm}, {overall.problems:,} problems × {overall.samples}")


def _with_text(run: Run, chosen: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """Return the rollouts that the page may show, with their texts."""
    curated = run.curated_rollouts()
    tables = {}
    for arm, rows in chosen.items():
        if arm != rollouts.TRAIN:
            tables[arm] = with_columns(rows, run.evaluation(arm).segments(), TEXT)
        else:
            files = run.ledger.segments() if curated is None else curated
            tables[arm] = with_columns(rows, files, (*TEXT, "annotation_spans"))
    return tables


def _verification(run: Run) -> Verification | None:
    manifest = (run.verified / "manifest.json").read_json_or_none()
    if manifest is None:
        return None
    return from_json(Verification, {field.name: manifest[field.name] for field in fields(Verification)})


def _labels(run: Run) -> LabelMetrics | None:
    document = (run.place / "labels.json").read_json_or_none()
    return None if document is None else from_json(LabelMetrics, document)


def _gold_suspects(train: Sequence[Problem], sampled: pa.Table) -> tuple[list[Suspect], int]:
    verdicts = zip(*(sampled[name].to_pylist() for name in _AUDITED_COLUMNS), strict=True)
    return consensus.suspects(train, verdicts)


def _sampled(run: Run, columns: Sequence[str]) -> pa.Table:
    """Return the teachers' rollouts: with their fates once curated, before as they were committed."""
    curated = run.curated_rollouts()
    if curated is None:
        return run.ledger.read(columns)
    return pa.concat_tables([read_rollouts(file, columns) for file in curated])


def _with_base_and_student(
    run: Run, checkpoints: Mapping[int, pa.Table], arms: Mapping[str, pa.Table]
) -> dict[int, pa.Table]:
    """Return the rollouts of the checkpoints by training step, and those of base and student on the same problems."""
    if not checkpoints:
        return {}
    problems = pc.unique(next(iter(checkpoints.values()))["problem_id"])
    steps = {BASE: 0, STUDENT: checkpoint_step(run.chosen_checkpoint())}
    return dict(checkpoints) | {
        step: first_samples(arms[arm], problems, run.config.evaluation.checkpoint_samples)
        for arm, step in steps.items()
        if arm in arms
    }


def _training_rows(run: Run) -> list[dict[str, float]]:
    steps = run.student / "steps.jsonl"
    return [json.loads(line) for line in steps.read().decode().splitlines()] if steps.exists() else []


def _cost(run: Run) -> Cost | None:
    sessions = _sessions_with(run, "sample", "replica_seconds")
    if not sessions:
        return None
    return Cost(**{field.name: sum(event.get(field.name, 0) for event in sessions) for field in fields(Cost)})


def _provenance(run: Run) -> Provenance:
    student = (run.final_student / "manifest.json").read_json_or_none() or {}
    models = (run.place / "models.json").read_json_or_none() or {}
    machines = (machine for event in run.events.read("cluster") for machine in event["machines"])
    hours = {
        stage: sum(event["accelerator_seconds"] for event in sessions) / 3600
        for stage in _STAGES_WITH_ACCELERATORS
        if (sessions := _sessions_with(run, stage, "accelerator_seconds"))
    }
    return Provenance(
        seed=run.config.seed,
        models={_without_place(run, reference): identity for reference, identity in models.items()},
        data=student.get("data"),
        machines=tuple(dict.fromkeys(machines)),
        accelerator_hours=hours,
    )


def _without_place(run: Run, reference: str) -> str:
    """Return a model's reference (reference@revision) without its run's place and without an empty revision."""
    return reference.removesuffix("@").rpartition(f"/{run.name}/")[2]


def _sessions_with(run: Run, stage: str, key: str) -> list[dict[str, Any]]:
    """Return the last event of every session of a stage that has a key; events of earlier versions may lack it."""
    return [event for event in run.events.last_of_sessions(stage) if key in event]


def _seconds(run: Run, stage: str, key: str = "seconds") -> float | None:
    """Return the wall time of a stage over all its sessions, None before it has run."""
    sessions = run.events.last_of_sessions(stage)
    return round(sum(event.get(key, 0.0) for event in sessions), 3) if sessions else None


def _encoded(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2, allow_nan=False).encode()

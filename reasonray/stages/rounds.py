"""Rounds: the checks before a series of rounds goes on, what a round is built on, and the report by round."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reasonray import models
from reasonray.analysis import rounds as analysis
from reasonray.analysis.comparisons import clusters_of
from reasonray.analysis.estimators import wilson
from reasonray.analysis.json_records import to_json
from reasonray.analysis.rounds import RoundCost, RoundData, RoundMetrics, SeriesMetrics, SolvedProblem, Values
from reasonray.config import Rounds, UserError
from reasonray.curation.annotations import evaluation_rollouts
from reasonray.curation.dedup import reasoning_key
from reasonray.records import BASE, STUDENT, Outcome, Split, content_hash
from reasonray.reporting import rounds as reporting
from reasonray.sampling.cluster import in_tasks
from reasonray.store.compatibility import is_extension
from reasonray.store.evaluations import missing_samples
from reasonray.store.progress import log_line
from reasonray.store.run import Run, stored_config
from reasonray.store.schema import read_rollouts
from reasonray.store.series import HINTED, Series
from reasonray.store.siblings import is_of_run

_SHOWN_SOLUTIONS = 20
"""Newly solved problems of a round that the report lists."""
_STAGES = ("sample", "verify", "label", "curate", "train", "evaluate")


def refuse_broken(series: Series) -> None:
    """Check before anything starts that rounds stand on what they were built on.

    Raises:
        UserError: the run before a round is missing, or its student was trained again; or a round would be extended on
            which a later one is built.
    """
    for number in range(2, series.rounds.count + 1):
        run, before = series.run_of(number), series.run_of(number - 1)
        if run is None:
            continue
        cure = f"restore it, or remove {run.place} and what follows, and the same command makes these rounds again"
        if before is None:
            raise UserError(f"round {number} was taught by run {series.name(number - 1)}, which is missing; {cure}")
        manifest = (run.place / "round.json").read_json_or_none() or {}
        if manifest.get("weights", now := weights_of(before)) != now:
            what = f"the student of run {before.name}, which has other weights now"
            raise UserError(f"round {number} was taught by {what}; {cure}")
        asked = series.round_config(number - 1)
        stored = stored_config(asked)
        if stored and is_extension(stored.model_dump(mode="json"), asked.model_dump(mode="json")):
            raise UserError(
                f"round {number - 1} would be extended, and round {number} is built on it; give the series another "
                f"name for the new settings, or remove {run.place} and what follows"
            )


def record_round(series: Series, number: int, run: Run) -> None:
    """Write round.json of a round from the second on: the run before, and the hash of the weights that teach it."""
    if number == 1 or (before := series.run_of(number - 1)) is None:
        return
    manifest = {
        "series": series.config.name,
        "round": number,
        "parent": before.name,
        "weights": weights_of(before),
        "teachers": [teacher.name for teacher in run.config.teachers],
    }
    (run.place / "round.json").write(json.dumps(manifest, indent=2).encode())


def weights_of(run: Run) -> str:
    """Return the hash of a run's finished student, "" before there is one.

    In an object store it is that of the student's manifest, which every training writes again: so nothing is fetched.
    """
    student = run.final_student
    manifest = student / "manifest.json"
    if not manifest.exists():
        return ""
    return models.content_identity(Path(student.path)) if student.is_local else content_hash(manifest.read().decode())


def conclude_round(series: Series, number: int) -> str:
    """Write the report by round after a finished round, and return why no further one is made, "" if one is."""
    metrics = measured(series)
    reason = _why_to_stop(series.rounds, metrics, number) if number < series.rounds.count else ""
    report_rounds(series, replace(metrics, stopped=reason or None))
    return reason


def _why_to_stop(rounds: Rounds, metrics: SeriesMetrics, number: int) -> str:
    newest = metrics.rounds[number - 1]
    if rounds.problems == "unsolved" and newest.solved == newest.problems:
        return "every train problem is solved"
    if rounds.stop == "no gain" and newest.to_previous is not None:
        return analysis.no_gain(newest.to_previous, metrics.k)
    return ""


def measured(series: Series) -> SeriesMetrics:
    """Measure all rounds that have begun: their students, paired with one another, and their train problems.

    Raises:
        UserError: none has.
    """
    runs = [run for run in series.runs() if run.has_problems]
    if not runs:
        raise UserError(f"no round of {series.config.name} holds anything to report yet; distil it first")
    k, key = max(series.config.evaluation.k), series.config.evaluation.cluster
    models_by_round = {0: _model(runs[0], BASE)} | {number: _model(run, STUDENT) for number, run in enumerate(runs, 1)}
    whole = {number: model for number, model in models_by_round.items() if model is not None}
    ids = [set(rollouts["problem_id"].to_pylist()) for rollouts, _ in whole.values()]
    shared = sorted(set.intersection(*ids)) if ids else []
    units = analysis.units_of(shared, clusters_of(runs[0].problems(Split.TEST), key))
    values = {number: _values(*model, shared, k) for number, model in whole.items()} if shared else {}
    rounds = _rounds(runs, values, units, k)
    return SeriesMetrics(
        series=series.config.name,
        k=k,
        test_problems=len(shared),
        samples=series.config.evaluation.samples,
        base=analysis.measures(values[0], units) if 0 in values else None,
        rounds=rounds,
        total=sum((one.cost for one in rounds), analysis.NO_COST),
        planned=series.rounds.count,
    )


def _rounds(
    runs: Sequence[Run], values: Mapping[int, Values], units: NDArray[np.int64] | None, k: int
) -> tuple[RoundMetrics, ...]:
    """Return the metrics of each round.

    Args:
        runs: of the rounds, in order.
        values: measures by test problem, of the student of each round that is measured whole, and of the base (0).
        units: clusters of the test problems.
        k: of pass@k.
    """
    rows = [_train_rows(run) for run in runs]
    rounds, solved = [], set[str]()
    for number, run in enumerate(runs, 1):
        own, before = rows[number - 1], solved
        solved = before | set(_correct(own)["problem_id"].to_pylist())
        pairs = {earlier: _difference(values, earlier, number, units) for earlier in {0, 1, number - 1} - {number}}
        rounds.append(
            RoundMetrics(
                round=number,
                run=run.name,
                measures=analysis.measures(values[number], units) if number in values else None,
                to_base=pairs[0],
                to_first=pairs.get(1),
                to_previous=pairs[number - 1],
                problems=(problems := run.num_problems(Split.TRAIN)),
                solved=len(solved),
                coverage=wilson(len(solved), problems) if problems else None,
                newly_solved=len(solved - before),
                first_solutions=_first_solutions(run, rows[: number - 1], own, before),
                data=_data(run),
                cost=_cost(run, own.num_rows),
                warnings=analysis.narrowed(pairs[number - 1] or {}, k) if number > 1 else (),
            )
        )
    return tuple(rounds)


def _difference(
    values: Mapping[int, Values], before: int, after: int, units: NDArray[np.int64] | None
) -> analysis.Measures | None:
    if before not in values or after not in values:
        return None
    return analysis.differences(values[before], values[after], units)


def _model(run: Run, name: str) -> tuple[pa.Table, pa.Table] | None:
    """Return the annotated rollouts of a model under evaluation and their texts, None unless it is measured whole."""
    ledger = run.evaluation(name)
    if not ledger.segments():
        return None
    rollouts = evaluation_rollouts(run, name, in_tasks)
    return None if missing_samples(run, rollouts) else (rollouts, ledger.read(["id", "completion"]))


def _values(rollouts: pa.Table, written: pa.Table, problems: Sequence[str], k: int) -> Values:
    kept = rollouts.filter(pc.is_in(rollouts["problem_id"], value_set=pa.array(problems, pa.large_string())))
    texts = dict(zip(written["id"].to_pylist(), written["completion"].to_pylist(), strict=True))
    keys = {id_: reasoning_key(text) for id_, text in texts.items()}
    return analysis.values_by_problem(kept, texts, k, keys)


def _train_rows(run: Run) -> pa.Table:
    """Return the rollouts that a round's own teachers wrote without a hint, with the newest verdicts."""
    columns = ["id", "problem_id", "teacher", "sample", "verdict_outcome"]
    files = run.curated_rollouts()
    rows = run.ledger.read(columns) if files is None else pa.concat_tables([read_rollouts(f, columns) for f in files])
    names = [teacher.name for teacher in run.config.teachers if not (is_of_run(teacher) or teacher.sees_gold)]
    return rows.filter(pc.is_in(rows["teacher"], value_set=pa.array(names, rows["teacher"].type)))


def _correct(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.equal(rows["verdict_outcome"], Outcome.CORRECT.value))


def _first_solutions(
    run: Run, earlier: Sequence[pa.Table], rows: pa.Table, solved_before: set[str]
) -> tuple[SolvedProblem, ...]:
    """Return problems that a round solved for the first time, those that earlier rounds tried most often first."""
    correct = _correct(rows).sort_by([("problem_id", "ascending"), ("sample", "ascending")])
    first: dict[str, str] = {}
    for problem, rollout in zip(correct["problem_id"].to_pylist(), correct["id"].to_pylist(), strict=True):
        if problem not in solved_before:
            first.setdefault(problem, rollout)
    tried: dict[str, int] = {}
    for table in earlier:
        for counted in table["problem_id"].value_counts().to_pylist():
            tried[counted["values"]] = tried.get(counted["values"], 0) + counted["counts"]
    chosen = sorted(first, key=lambda problem: (-tried.get(problem, 0), problem))[:_SHOWN_SOLUTIONS]
    questions = {problem.id: problem.question for problem in run.problems(Split.TRAIN)} if chosen else {}
    return tuple(
        SolvedProblem(
            problem=problem, question=questions[problem], rollout=first[problem], earlier=tried.get(problem, 0)
        )
        for problem in chosen
    )


def _data(run: Run) -> RoundData:
    counts: dict[str, int] = {}
    for file in run.curated_rollouts() or ():
        rows = read_rollouts(file, ["teacher", "annotation_selected"])
        chosen = rows.filter(pc.fill_null(rows["annotation_selected"], False))
        for counted in chosen["teacher"].value_counts().to_pylist():
            counts[counted["values"]] = counts.get(counted["values"], 0) + counted["counts"]
    live = {teacher.name for teacher in run.config.teachers if not is_of_run(teacher)}
    manifest = (run.final_student / "manifest.json").read_json_or_none() or {}
    return RoundData(
        examples=sum(counts.values()),
        own=sum(count for name, count in counts.items() if name in live),
        hinted=sum(count for name, count in counts.items() if name.endswith(HINTED)),
        trained_tokens=manifest.get("loss_tokens"),
    )


def _cost(run: Run, rollouts: int) -> RoundCost:
    sessions = {stage: run.events.last_of_sessions(stage) for stage in _STAGES}
    tokens = {
        stage: sum(session.get("generated_tokens", session.get("tokens", 0)) for session in sessions[stage])
        for stage in ("sample", "evaluate")
    }
    every = [session for of_stage in sessions.values() for session in of_stage]
    return RoundCost(
        sampled_tokens=tokens["sample"],
        evaluated_tokens=tokens["evaluate"],
        rollouts=rollouts,
        seconds=sum(session.get("seconds", 0.0) for session in every),
        accelerator_hours=sum(session.get("accelerator_seconds", 0.0) for session in every) / 3600,
    )


def report_rounds(series: Series, metrics: SeriesMetrics | None = None) -> str:
    """Write rounds.json, rounds.md and rounds.html of a series, and return the headline.

    Args:
        series: of which at least one round has begun.
        metrics: of the series; measured here if they are not given.

    Raises:
        UserError: no round has begun.
    """
    place = series.place
    if metrics is None:
        before = (place / "rounds.json").read_json_or_none() or {}
        metrics = replace(measured(series), stopped=before.get("stopped"))
    document: Mapping[str, Any] = to_json(metrics)
    (place / "rounds.json").write(json.dumps(document, indent=2, allow_nan=False).encode())
    (place / "rounds.md").write(reporting.render_markdown(document).encode())
    (place / "rounds.html").write(reporting.render(document).encode())
    log_line("report", str(place / "rounds.html"))
    return str(reporting.headline(document).striptags())

"""The evaluation of a run as logs of inspect_ai, next to the rollouts that they are made of.

<run>/evaluation/<model>/inspect/<time>_<run>-<model>_<hash>.json
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from reasonray.config import PromptedModel
from reasonray.errors import UserError
from reasonray.records import Split, content_hash
from reasonray.reporting.inspect_logs import LogHeader, inspect_log, log_name
from reasonray.store.evaluations import (
    evaluated_checkpoints,
    evaluated_models,
    missing_samples,
    models_under_evaluation,
)
from reasonray.store.run import Run, versions

_COLUMNS = ["problem_id", "sample", "model", "verdict_outcome", "prompt_tokens", "completion_tokens"]


def write_inspect_logs(run: Run) -> str:
    """Write a log of each model under evaluation, unless it is there already, and return how to look at them.

    Raises:
        UserError: no model has been evaluated yet.
    """
    if not run.has_problems or not (arms := [*evaluated_models(run), *evaluated_checkpoints(run)]):
        raise UserError(f"run {run.name} holds no evaluation yet; run jobs/evaluate.py or jobs/distill.py first")
    lines = [_write_log(run, arm) for arm in arms]
    return "\n".join([*lines, f"look at them: inspect view --log-dir {run.place / 'evaluation'}"])


def _write_log(run: Run, arm: str) -> str:
    """Write the log of an arm, delete those that it replaces, and return a line about it."""
    ledger = run.evaluation(arm)
    segments = [segment.name for segment in ledger.segments()]
    samples = _samples(run, arm)
    header = _header(run, arm, ledger.read(_COLUMNS), segments[0], samples)
    folder = ledger.place / "inspect"
    target = folder / log_name(header, content_hash(samples, *segments))
    if not target.exists():
        rollouts = (rollout for rollout in run.evaluation_rollouts(arm) if rollout.sample < samples)
        target.write(b"".join(text.encode() for text in inspect_log(header, rollouts)))
    for file in folder.list(".json"):
        if file.name != target.name:
            file.delete()
    part = "" if header.is_whole else f" of {header.problems * header.samples:,}: it is not measured whole"
    return f"{header.rollouts:>7,} samples of {arm}{part}"


def _header(run: Run, arm: str, rollouts: pa.Table, first_segment: str, samples: int) -> LogHeader:
    rollouts = rollouts.filter(pc.less(rollouts["sample"], samples))
    is_checkpoint = arm in evaluated_checkpoints(run)
    problems = pc.count_distinct(rollouts["problem_id"]).as_py()
    return LogHeader(
        run=run.name,
        arm=arm,
        model=next(iter(rollouts["model"].to_pylist()), arm),
        prompted=_prompted(run, arm),
        created=datetime.fromtimestamp(int(first_segment.partition("-")[0]) / 1e9, UTC),
        problems=problems if is_checkpoint else run.num_problems(Split.TEST),
        samples=samples,
        outcomes=Counter(rollouts["verdict_outcome"].to_pylist()),
        prompt_tokens=pc.sum(rollouts["prompt_tokens"]).as_py() or 0,
        completion_tokens=pc.sum(rollouts["completion_tokens"]).as_py() or 0,
        is_whole=is_checkpoint or missing_samples(run, rollouts) is None,
        versions=versions(),
    )


def _samples(run: Run, arm: str) -> int:
    """Return how many samples of a problem an arm has."""
    evaluation = run.config.evaluation
    return evaluation.checkpoint_samples if arm in evaluated_checkpoints(run) else evaluation.samples


def _prompted(run: Run, arm: str) -> PromptedModel:
    """Return how an arm was asked: base, checkpoints and student as the student is."""
    return models_under_evaluation(run.config).get(arm, run.config.student)

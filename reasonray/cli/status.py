"""What a run holds and what a configuration would draw: for a terminal, by reading alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow.compute as pc

from reasonray import problems
from reasonray.analysis.comparisons import clusters_of
from reasonray.config import Config, PromptedModel
from reasonray.records import Split
from reasonray.sampling.policy import assign_problems, most
from reasonray.store.ledger import Ledger
from reasonray.store.run import Run


def describe(run: Run) -> str:
    """Return a few lines: what each stage has brought so far."""
    lines = [f"{run.name}  {run.place}"]
    if run.has_problems:
        counts = {split: len(run.problems(split)) for split in Split}
        lines.append(f"problems   {counts[Split.TRAIN]:>8,} to distil   {counts[Split.TEST]:,} held out")
    for teacher in run.config.teachers:
        lines.append(_ledger_line("sample", teacher.name, run.ledger, teacher.name))
    done = {"curate": run.has_examples, "train": (run.student / "final" / "manifest.json").exists()}
    lines += [f"{stage:<10} {'done' if is_done else 'not done':>8}" for stage, is_done in done.items()]
    arms = [
        "base",
        *(it.name for it in (*run.config.teachers, *run.config.evaluation.arms)),
        *(it.name for it in run.checkpoints()),
        "student",
    ]
    lines += [_ledger_line("evaluate", arm, run.evaluation(arm)) for arm in arms if run.evaluation(arm).segments()]
    report = run.place / "report.html"
    lines.append(f"report     {str(report) if report.exists() else 'not done':>8}")
    return "\n".join(lines)


def forecast(config: Config) -> str:
    """Return what a configuration would draw at most, after loading its problems for real.

    Raises:
        UserError: a source is wrong, or the test problems have no evaluation.cluster.
    """
    loaded = problems.load(config.sources, to_distil=bool(config.teachers)).problems
    train, test = ([it for it in loaded if it.split is split] for split in (Split.TRAIN, Split.TEST))
    clusters_of(test, config.evaluation.cluster)
    dealt = assign_problems(config.teachers, train)
    rollouts = {teacher.name: len(dealt[teacher.name]) * most(config.policy) for teacher in config.teachers}
    drawn = sum(rollouts.values())
    lines = [f"problems   {len(train):>10,} to distil   {len(test):,} held out"]
    lines += [_drawn("sample", rollouts[it.name], f"rollouts at most by {it.name}", [it]) for it in config.teachers]
    if limits := [f"{limit:,} {name.replace('_', ' ')}" for name, limit in config.budget if limit is not None]:
        lines.append(f"budget     sampling ends at {' or '.join(limits)}")
    if judge := config.checking.judge:
        lines.append(f"verify     {drawn:>10,} rollouts at most are shown to {judge.model}")
    lines += _measured(config, len(test))
    if labeller := config.curation.labeller:
        labelled = min(drawn, config.curation.labelled)
        lines.append(_drawn("label", labelled, f"rollouts at most by {labeller.model}", [labeller]))
    lines.append(
        f"gpus       {sum(it.replica_bounds[1] * it.gpus for it in config.teachers):>10,} for teachers   "
        f"{config.training.worker_bounds[1] * config.training.gpus} for training"
    )
    return "\n".join(lines)


def _measured(config: Config, problems: int) -> list[str]:
    evaluation, student, training = config.evaluation, config.student, config.training
    arms = [student, *config.teachers, *evaluation.arms, *([student] if config.teachers else [])]
    lines = [_drawn("evaluate", problems * evaluation.samples, f"samples of {len(arms)} arms", arms)]
    few = min(problems, evaluation.checkpoint_problems) * evaluation.checkpoint_samples
    before = min(training.checkpoints - 1, training.keep or training.checkpoints)  # one becomes the student
    if config.teachers and few and before:
        lines.append(_drawn("evaluate", few, f"samples of checkpoints, {before} at most", [student] * before))
    return lines


def _drawn(stage: str, each: int, what: str, asked: Sequence[PromptedModel]) -> str:
    tokens = each * sum(it.sampling.max_tokens for it in asked)
    return f"{stage:<10} {each * len(asked):>10,} {what}   {tokens:,} tokens at most"


def _ledger_line(stage: str, arm: str, ledger: Ledger, teacher: str | None = None) -> str:
    table = ledger.read(["id", "teacher", "verdict_outcome"])
    if teacher:
        table = table.filter(pc.equal(table["teacher"], teacher))
    outcomes = Counter(table["verdict_outcome"].to_pylist())
    told = "  ".join(f"{name} {count:,}" for name, count in outcomes.most_common())
    return f"{stage:<10} {table.num_rows:>8,} rollouts by {arm}   {told}".rstrip()

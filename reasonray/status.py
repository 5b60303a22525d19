"""What a run holds and what a configuration would cost: for a terminal, by reading alone."""

from __future__ import annotations

from collections import Counter

import pyarrow.compute as pc

from reasonray import problems
from reasonray.comparison import clusters_of
from reasonray.config import Config
from reasonray.ledger import Ledger
from reasonray.policy import most
from reasonray.records import Split
from reasonray.run import Run


def describe(run: Run) -> str:
    """Return a few lines: what each stage has brought so far."""
    lines = [f"{run.name}  {run.place}"]
    if run.has_problems:
        counts = {split: len(run.problems(split)) for split in Split}
        lines.append(f"problems   {counts[Split.TRAIN]:>8,} to distil   {counts[Split.TEST]:,} held out")
    for teacher in run.config.teachers:
        lines.append(_ledger_line("sample", teacher.name, run.rollouts, teacher.name))
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
    """Return what a configuration would do, after loading its problems for real.

    Raises:
        UserError: a source is wrong, or the test problems have no evaluation.cluster.
    """
    loaded = problems.load(config.sources, to_distil=bool(config.teachers))
    clusters_of([it for it in loaded.problems if it.split is Split.TEST], config.evaluation.cluster)
    counts = Counter(problem.split for problem in loaded.problems)
    rollouts = counts[Split.TRAIN] * most(config.policy)
    arms = len(config.teachers) + len(config.evaluation.arms) + (2 if config.teachers else 1)
    samples = counts[Split.TEST] * config.evaluation.samples * arms
    lines = [
        f"problems   {counts[Split.TRAIN]:>10,} to distil   {counts[Split.TEST]:,} held out",
        f"evaluate   {samples:>10,} samples of {arms} arms",
    ]
    for teacher in config.teachers:
        tokens = rollouts * teacher.sampling.max_tokens
        lines.insert(1, f"sample     {rollouts:>10,} rollouts at most by {teacher.name}   {tokens:,} tokens at most")
    lines.append(
        f"gpus       {sum(it.crew[1] * it.gpus for it in config.teachers):>10,} for teachers   "
        f"{config.training.crew[1] * config.training.gpus} for training"
    )
    return "\n".join(lines)


def _ledger_line(stage: str, arm: str, ledger: Ledger, teacher: str | None = None) -> str:
    table = ledger.read(["id", "teacher", "verdict_outcome"])
    if teacher:
        table = table.filter(pc.equal(table["teacher"], teacher))
    outcomes = Counter(table["verdict_outcome"].to_pylist())
    told = "  ".join(f"{name} {count:,}" for name, count in outcomes.most_common())
    return f"{stage:<10} {table.num_rows:>8,} rollouts by {arm}   {told}".rstrip()

"""What a run holds so far, for a terminal; found by reading alone."""

from __future__ import annotations

from collections import Counter

import pyarrow.compute as pc

from reasonray.records import Split
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


def _ledger_line(stage: str, arm: str, ledger: Ledger, teacher: str | None = None) -> str:
    table = ledger.read(["id", "teacher", "verdict_outcome"])
    if teacher:
        table = table.filter(pc.equal(table["teacher"], teacher))
    outcomes = Counter(table["verdict_outcome"].to_pylist())
    told = "  ".join(f"{name} {count:,}" for name, count in outcomes.most_common())
    return f"{stage:<10} {table.num_rows:>8,} rollouts by {arm}   {told}".rstrip()

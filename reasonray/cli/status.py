"""The state of a run, as text for a terminal. Reads the run and changes nothing."""

from __future__ import annotations

from collections import Counter

import pyarrow.compute as pc

from reasonray.records import BASE, STUDENT, Split
from reasonray.store.ledger import Ledger
from reasonray.store.run import Run


def describe(run: Run) -> str:
    """Return a few lines: what each stage has finished so far."""
    lines = [f"{run.name}  {run.place}"]
    if run.has_problems:
        counts = {split: len(run.problems(split)) for split in Split}
        lines.append(f"problems   {counts[Split.TRAIN]:>8,} to distil   {counts[Split.TEST]:,} held out")
    for teacher in run.config.teachers:
        lines.append(_ledger_line("sample", teacher.name, run.ledger, teacher.name))
    done = {"curate": run.has_examples, "train": (run.student / "final" / "manifest.json").exists()}
    lines += [f"{stage:<10} {'done' if is_done else 'not done':>8}" for stage, is_done in done.items()]
    models = [
        BASE,
        *(model.name for model in (*run.config.teachers, *run.config.evaluation.arms)),
        *(checkpoint.name for checkpoint in run.checkpoints()),
        STUDENT,
    ]
    for model in models:
        if run.evaluation(model).segments():
            lines.append(_ledger_line("evaluate", model, run.evaluation(model)))
    report = run.place / "report.html"
    lines.append(f"report     {str(report) if report.exists() else 'not done':>8}")
    return "\n".join(lines)


def _ledger_line(stage: str, model: str, ledger: Ledger, teacher: str | None = None) -> str:
    """Return how many rollouts a ledger holds, those of one teacher if given, and how many of each outcome."""
    table = ledger.read(["id", "teacher", "verdict_outcome"])
    if teacher:
        table = table.filter(pc.equal(table["teacher"], teacher))
    counts = Counter(table["verdict_outcome"].to_pylist()).most_common()
    outcomes = "  ".join(f"{outcome} {count:,}" for outcome, count in counts)
    return f"{stage:<10} {table.num_rows:>8,} rollouts by {model}   {outcomes}".rstrip()

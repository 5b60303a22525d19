"""The state of a run, as text for a terminal. Reads the run and changes nothing."""

from __future__ import annotations

from collections.abc import Iterable

from reasonray.records import Split
from reasonray.store.evaluations import models_under_evaluation
from reasonray.store.run import Run
from reasonray.store.spending import spending
from reasonray.store.tally import CommittedCounts


def describe(run: Run) -> str:
    """Return a few lines: what each stage has finished so far."""
    lines = [f"{run.name}  {run.place}"]
    if run.has_problems:
        train, test = (run.num_problems(split) for split in (Split.TRAIN, Split.TEST))
        lines.append(f"problems   {train:>8,} to distil   {test:,} held out")
    sampled = run.ledger.counts()
    for name in (teacher.name for teacher in run.config.teachers):
        counts = [counts for (teacher, _), counts in sampled.items() if teacher == name]
        lines.append(_counts_line("sample", name, counts))
    lines += [f"spent      {spent}" for spent in spending(run)]
    done = {"curate": run.has_examples, "train": (run.final_student / "manifest.json").exists()}
    lines += [f"{stage:<10} {'done' if is_done else 'not done':>8}" for stage, is_done in done.items()]
    *others, student = models_under_evaluation(run.config)
    for model in (*others, *(checkpoint.name for checkpoint in run.checkpoints()), student):
        if evaluated := run.evaluation(model).counts():
            lines.append(_counts_line("evaluate", model, evaluated.values()))
    report = run.place / "report.html"
    lines.append(f"report     {str(report) if report.exists() else 'not done':>8}")
    return "\n".join(lines)


def _counts_line(stage: str, model: str, counts: Iterable[CommittedCounts]) -> str:
    """Return how many samples are committed, and how many rollouts of each outcome."""
    total = CommittedCounts()
    for committed in counts:
        total.add(committed)
    outcomes = [f"{outcome} {count:,}" for outcome, count in total.outcomes.most_common()]
    again = [f"({total.again:,} generated again)"] if total.again else []
    return (
        f"{stage:<10} {total.rollouts - total.again:>8,} rollouts by {model}   {'  '.join(outcomes + again)}".rstrip()
    )

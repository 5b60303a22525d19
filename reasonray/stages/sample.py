"""Problems → rollouts: every teacher writes its attempts at the train problems, each judged and committed."""

from __future__ import annotations

from collections import Counter

from reasonray import problems
from reasonray.config import Student, Teacher
from reasonray.console import say
from reasonray.records import Split
from reasonray.run import Run
from reasonray.stages.leases import Order, draw
from reasonray.stages.replicas import EngineSpec, Fleet


def engine_spec(run: Run, who: Teacher | Student, model: str | None = None) -> EngineSpec:
    """Return what a replica for a teacher or for the student (or another model in its place) runs."""
    revision = who.revision if model is None else None
    return EngineSpec(model or who.model, revision, who.engine, who.gpus, who.cpus, run.config.seed)


def load_problems(run: Run) -> None:
    """Take the snapshot of the problems, once.

    Raises:
        UserError: a source is wrong; the message names the place.
    """
    if run.has_problems:
        return
    loaded = problems.load(run.config.sources)
    run.store_problems(loaded.problems)
    counts = Counter(problem.split for problem in loaded.problems)
    dropped = f"   {loaded.dropped:,} dropped (duplicates)" if loaded.dropped else ""
    say("problems", f"{counts[Split.TRAIN]:>7,} to distil   {counts[Split.TEST]:,} held out{dropped}")
    run.events.emit("problems", train=counts[Split.TRAIN], test=counts[Split.TEST], dropped=loaded.dropped)


def sample(run: Run, fleet: Fleet) -> None:
    """Draw what the teachers still owe the train problems.

    Raises:
        UserError: see stages/leases.py.
    """
    load_problems(run)
    train = run.problems(Split.TRAIN)
    for teacher in run.config.teachers:
        order = Order(teacher.name, train, teacher.prompt, teacher.sampling, run.config.policy, run.rollouts)
        drawn = draw(run, "sample", [order], engine_spec(run, teacher), teacher.replicas, fleet)
        if not drawn.rollouts:
            say("sample", f"done before   teacher {teacher.name}")
            continue
        say(
            "sample",
            f"{drawn.rollouts:>7,} rollouts by {teacher.name}   {drawn.correct:,} correct "
            f"({drawn.correct / drawn.rollouts:.1%})   {drawn.tokens / max(drawn.seconds, 1e-9):,.0f} tokens/s",
        )

"""Problems → rollouts: every teacher writes its attempts at the train problems, each judged and committed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from reasonray import problems
from reasonray.analysis.comparisons import clusters_of
from reasonray.checkers import sandbox
from reasonray.config import UserError
from reasonray.records import Split
from reasonray.sampling.policy import assign_problems
from reasonray.sampling.pool import ReplicaPool, fits, refuse_impossible
from reasonray.sampling.sampler import SamplingResult, Spent, run_jobs
from reasonray.sampling.work import Counts, EngineSpec, SamplingJob
from reasonray.store.progress import say
from reasonray.store.run import Run


def load_problems(run: Run) -> None:
    """Take the snapshot of the problems, once; where the sources have grown, add what is new.

    Raises:
        UserError: a source is wrong, no longer holds what was drawn, or has no evaluation.cluster; the message names
            the place.
    """
    if run.has_problems and not run.problems_are_stale:
        return
    loaded = problems.load(run.config.sources, to_distil=bool(run.config.teachers))
    if any(problem.checker == "program" for problem in loaded.problems):
        sandbox.refuse_without(sandbox.Limits.of(run.config.checking))
    clusters_of([it for it in loaded.problems if it.split is Split.TEST], run.config.evaluation.cluster)
    before = run.store_problems(loaded.problems)
    counts = Counter(problem.split for problem in loaded.problems)
    dropped = f"   {loaded.dropped:,} dropped (duplicates)" if loaded.dropped else ""
    dropped += f"   {before:,} of them known before" if before else ""
    say("problems", f"{counts[Split.TRAIN]:>7,} to distil   {counts[Split.TEST]:,} held out{dropped}")
    reasons = problems.unverifiable(loaded.problems)
    unread = [problem for problem in loaded.problems if problem.id in reasons]
    if unread:
        example = f"{unread[0].answer!r} to {unread[0].question[:60]!r} ({reasons[unread[0].id]})"
        say("problems", f"{len(unread):>7,} cannot be judged, such as the answer {example}")
    run.events.emit(
        "problems",
        train=counts[Split.TRAIN],
        test=counts[Split.TEST],
        dropped=loaded.dropped,
        unverifiable=len(unread),
    )


def sample(run: Run, pool: ReplicaPool) -> None:
    """Draw what the teachers still owe the train problems, as far as the budget goes.

    Teachers work at the same time where the cluster can hold their replicas, else one after the other.

    Raises:
        UserError: see stages/draw.py.
    """
    if not run.config.teachers:
        raise UserError("there are no [[teachers]] to sample from; jobs/evaluate.py measures models without any")
    load_problems(run)
    train = run.problems(Split.TRAIN)
    dealt = assign_problems(run.config.teachers, train)
    jobs = [
        SamplingJob(
            teacher.name,
            dealt[teacher.name],
            teacher.prompt,
            teacher.sampling,
            run.config.policy,
            run.ledger,
            EngineSpec.of(run, teacher),
            teacher.replica_range,
            run.earlier_max_tokens(teacher) if teacher.extend_truncated else frozenset(),
        )
        for teacher in run.config.teachers
    ]
    refuse_impossible([(job.spec, job.replicas[0]) for job in jobs])
    for together in _rounds(jobs):
        drawn = run_jobs(run, "sample", together, pool, budget=run.config.budget, spent=_spent(run))
        _tell(run, together, drawn)
        if drawn.exhausted:
            break
    if merged := run.ledger.compact():
        run.events.emit("compact", segments=merged)


def _rounds(jobs: Sequence[SamplingJob]) -> list[list[SamplingJob]]:
    """Group jobs whose crews the cluster can hold at the same time."""
    rounds: list[list[SamplingJob]] = []
    for job in jobs:
        together = [*(rounds[-1] if rounds else []), job]
        crews = {it.spec: it.replicas[0] for it in together}
        if rounds and fits(list(crews.items())):
            rounds[-1].append(job)
        else:
            rounds.append([job])
    return rounds


def _spent(run: Run) -> Spent:
    sessions = run.events.last_of_sessions("sample")
    return Spent(
        sum(it.get("generated_tokens", it.get("tokens", 0)) for it in sessions),
        sum(it.get("accelerator_seconds", 0.0) for it in sessions),
        sum(it["seconds"] for it in sessions),
    )


def _tell(run: Run, jobs: Sequence[SamplingJob], drawn: SamplingResult) -> None:
    for job in jobs:
        figures = drawn.arms.get(job.name, Counts())
        if not (figures.rollouts or drawn.exhausted):
            say("sample", f"done before   teacher {job.name}")
            continue
        say(
            "sample",
            f"{figures.rollouts:>7,} rollouts by {job.name}   {figures.correct:,} correct "
            f"({figures.correct / max(1, figures.rollouts):.1%})   "
            f"{figures.tokens / max(drawn.seconds, 1e-9):,.0f} tokens/s",
        )
    if drawn.exhausted:
        limit = getattr(run.config.budget, drawn.exhausted)
        say("sample", f"budget.{drawn.exhausted} = {limit:,} is spent: raise it and the same command goes on from here")
        run.events.emit("budget", limit=drawn.exhausted, value=limit)

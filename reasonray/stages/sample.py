"""Sample: every teacher writes solutions to the train problems; each is checked and committed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

from reasonray import problems
from reasonray.analysis.comparisons import clusters_of
from reasonray.checkers import find_checker, own, sandbox
from reasonray.checkers.pool import refuse_faulty
from reasonray.config import Teacher, UserError
from reasonray.records import Problem, Split
from reasonray.sampling.compaction import compacting
from reasonray.sampling.policy import assign_problems
from reasonray.sampling.pool import ReplicaPool, pool_for
from reasonray.sampling.sampler import SamplingResult, Spent, run_jobs
from reasonray.sampling.work import Counts, ResolvedJob, SamplingJob
from reasonray.store.problem_table import ProblemTable
from reasonray.store.progress import log_line
from reasonray.store.run import Run

_NUM_SHOWN = 3
"""The problems shown of those that cannot be judged."""


def load_problems(run: Run) -> None:
    """Load the problems and store a snapshot of them, once; if the sources have grown, add the new ones.

    Raises:
        UserError: a source is wrong, no longer holds a problem of the snapshot, or lacks evaluation.cluster; the
            message names the place.
    """
    own.refuse_changed(run.checker_versions())
    if run.has_problems and not run.problems_are_stale:
        return
    loaded = problems.load(run.config.sources, to_distil=bool(run.config.teachers))
    if any(find_checker(problem.checker).needs_sandbox(problem) for problem in loaded.problems):
        sandbox.refuse_without(sandbox.Limits.of(run.config.checking))
    refuse_faulty(loaded.problems, run.config.checking)
    clusters_of([problem for problem in loaded.problems if problem.split is Split.TEST], run.config.evaluation.cluster)
    run.record_checker_versions(own.versions(problem.checker for problem in loaded.problems))
    before = run.store_problems(loaded.problems)
    counts = Counter(problem.split for problem in loaded.problems)
    dropped = f"   {loaded.dropped:,} dropped (duplicates)" if loaded.dropped else ""
    dropped += f"   {before:,} of them known before" if before else ""
    log_line("problems", f"{counts[Split.TRAIN]:>7,} to distil   {counts[Split.TEST]:,} held out{dropped}")
    for note in loaded.notes:
        log_line("problems", note)
    reasons = problems.unverifiable(loaded.problems)
    unread = [problem for problem in loaded.problems if problem.id in reasons]
    if unread:
        log_line("problems", f"{len(unread):>7,} cannot be judged, such as:")
    for problem in unread[:_NUM_SHOWN]:
        answer = repr(problem.answer)[:60]
        log_line("problems", f"        the answer {answer} to {problem.question[:60]!r}: {reasons[problem.id]}")
    run.events.emit(
        "problems",
        train=counts[Split.TRAIN],
        test=counts[Split.TEST],
        dropped=loaded.dropped,
        unverifiable=len(unread),
        notes=loaded.notes,
    )


def sample(run: Run, pool: ReplicaPool | None = None) -> SamplingResult:
    """Sample the train problems with every teacher until the policy is satisfied or the budget is spent.

    Problems that are not loaded yet are loaded first. Teachers work at the same time if the cluster can hold their
    replicas, otherwise one after the other.

    Args:
        run: the run.
        pool: replicas to use; without one, replicas are started here and stopped at the end.

    Returns:
        What this call added, of all teachers.

    Raises:
        UserError: there are no teachers, or see `load_problems` and `sampling.sampler.run_jobs`.
    """
    if not run.config.teachers:
        raise UserError("there are no [[teachers]] to sample from; jobs/evaluate.py measures models without any")
    load_problems(run)
    train = run.problems(Split.TRAIN)
    assigned = assign_problems(run.config.teachers, train.ids)
    first = [
        _job(run, teacher, train.take(assigned[teacher.name]))
        for teacher in run.config.teachers
        if teacher.share != "unsolved"
    ]
    result = SamplingResult()
    with compacting(run.ledger), pool_for(run, pool) as replicas:
        for jobs in chain([first], _cascade(run, first)):
            added = run_jobs(run, "sample", jobs, replicas, budget=run.config.budget, spent=_spent(run))
            _print_result(run, jobs, added)
            result = result.followed_by(added)
            if added.exhausted:
                break
    return result


def _job(run: Run, teacher: Teacher, problems: Sequence[Problem]) -> SamplingJob:
    earlier = run.earlier_max_tokens(teacher) if teacher.extend_truncated else frozenset()
    return SamplingJob.of(
        run, teacher.name, teacher, problems, run.config.policy, run.ledger, earlier_max_tokens=earlier
    )


def _cascade(run: Run, before: Sequence[SamplingJob]) -> Iterator[list[SamplingJob]]:
    """Yield the jobs of teachers that get the unsolved problems: each when those before it are done."""
    jobs = list(before)
    for teacher in run.config.teachers:
        if teacher.share == "unsolved":
            jobs.append(_job(run, teacher, _unsolved(run, jobs)))
            yield [jobs[-1]]


def _unsolved(run: Run, jobs: Sequence[SamplingJob]) -> ProblemTable:
    """Return the train problems of which no job has a correct sample."""
    train = run.problems(Split.TRAIN)
    arrays = run.ledger.sample_arrays(train.ids)
    solved = np.zeros(len(train), bool)
    for job in jobs:
        identity = run.model_identity(job.spec.model, job.spec.revision)
        if identity and (samples := arrays.get(ResolvedJob.of(run, job, identity).fingerprint)):
            solved |= samples.num_correct > 0
    return train.take(np.flatnonzero(~solved))


def _spent(run: Run) -> Spent:
    sessions = run.events.last_of_sessions("sample")
    return Spent(
        sum(session.get("generated_tokens", session.get("tokens", 0)) for session in sessions),
        sum(session.get("accelerator_seconds", 0.0) for session in sessions),
        sum(session["seconds"] for session in sessions),
    )


def _print_result(run: Run, jobs: Sequence[SamplingJob], result: SamplingResult) -> None:
    for job in jobs:
        counts = result.counts_by_job.get(job.name, Counts())
        if not (counts.rollouts or result.exhausted):
            log_line("sample", f"done before   teacher {job.name}")
            continue
        log_line(
            "sample",
            f"{counts.rollouts:>7,} rollouts by {job.name}   {counts.correct:,} correct "
            f"({counts.correct / max(1, counts.rollouts):.1%})   "
            f"{counts.tokens / max(result.seconds, 1e-9):,.0f} tokens/s",
        )
    if result.exhausted:
        limit = getattr(run.config.budget, result.exhausted)
        log_line(
            "sample",
            f"budget.{result.exhausted} = {limit:,} is spent: raise it, and the same command continues from here",
        )
        run.events.emit("budget", limit=result.exhausted, value=limit)

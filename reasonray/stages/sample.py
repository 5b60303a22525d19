"""Sample: every teacher writes solutions to the train problems; each is checked and committed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import numpy as np

from reasonray import engines, problems
from reasonray.analysis.comparisons import clusters_of
from reasonray.checkers import find_checker, own, sandbox
from reasonray.checkers.pool import refuse_faulty
from reasonray.config import RecordedEngine, Teacher, UserError
from reasonray.records import Split
from reasonray.sampling.compaction import compacting
from reasonray.sampling.policy import assign_problems, frontier, max_samples, needs_none
from reasonray.sampling.pool import ReplicaPool, pool_for
from reasonray.sampling.sampler import SamplingResult, Spent, run_jobs
from reasonray.sampling.state import Terms
from reasonray.sampling.work import Counts, ResolvedJob, SamplingJob
from reasonray.store.progress import log_line
from reasonray.store.run import Run
from reasonray.store.sample_arrays import Indices
from reasonray.store.siblings import is_of_run
from reasonray.store.spending import record_spending

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
    terms = {teacher.name: _terms(run, teacher) for teacher in run.config.teachers}
    assigned = assign_problems(run.config.teachers, train.ids)
    first = [
        _job(run, teacher, np.array(assigned[teacher.name], np.int64), terms[teacher.name])
        for teacher in run.config.teachers
        if not isinstance(teacher.share, str)
    ]
    result = SamplingResult()
    with compacting(run.ledger), pool_for(run, pool) as replicas:
        for jobs in chain([first], _cascade(run, first, terms)):
            added = run_jobs(run, "sample", jobs, replicas, budget=run.config.budget, spent=_spent(run))
            _print_result(run, jobs, added)
            result = result.followed_by(added)
            if added.exhausted:
                break
    for spent in record_spending(run, "sample"):
        log_line("sample", f"spent {spent}")
    return result


def _terms(run: Run, teacher: Teacher) -> Terms | None:
    """Return how many samples of each train problem a teacher can give; None if it can give any number.

    Raises:
        UserError: it can give none of any problem.
    """
    supply = engines.supply(teacher.engine, teacher.asking, run.problems(Split.TRAIN), run.problems(Split.TEST))
    if supply is None:
        return None
    if not is_of_run(teacher):  # a teacher of an earlier round may have had nothing to do
        supply.refuse_empty()
    for note in supply.notes:
        log_line("recorded", f"{note}   ({teacher.name})")
    return Terms.up_to(supply.samples)


def _job(run: Run, teacher: Teacher, indices: Indices, terms: Terms | None) -> SamplingJob:
    """Return the job that samples some of the train problems.

    Args:
        run: the run.
        teacher: of the configuration.
        indices: of the problems.
        terms: of all train problems.
    """
    # What is recorded does not become longer by asking again.
    asks_again = teacher.extend_truncated and not isinstance(teacher.engine, RecordedEngine)
    return SamplingJob.of(
        run,
        teacher.name,
        teacher,
        run.problems(Split.TRAIN).take(indices),
        run.config.policy,
        run.ledger,
        earlier_max_tokens=run.earlier_max_tokens(teacher) if asks_again else frozenset(),
        terms=terms and terms.take(indices),
    )


def _cascade(run: Run, before: Sequence[SamplingJob], terms: Mapping[str, Terms | None]) -> Iterator[list[SamplingJob]]:
    """Yield the jobs of teachers that get what others leave: each when those before it are done."""
    jobs = list(before)
    for teacher in run.config.teachers:
        if isinstance(teacher.share, str):
            indices, own = _left_for(run, teacher, _counts(run, jobs), terms[teacher.name])
            jobs.append(_job(run, teacher, indices, own))
            yield [jobs[-1]]


def _left_for(
    run: Run, teacher: Teacher, counts: tuple[Indices, Indices, Indices], own: Terms | None
) -> tuple[Indices, Terms | None]:
    """Return the train problems that earlier teachers leave to one, and its terms of all train problems.

    Args:
        run: the run.
        teacher: its share is a word.
        counts: finished, correct and judged samples of each problem by the teachers before.
        own: how many samples the teacher can give; None for any number.

    Raises:
        UserError: no problem's pass rate lies within the teacher's frontier.
    """
    finished, correct, judged = counts
    policy, none = run.config.policy, np.zeros_like(finished)
    limits = np.full_like(finished, max_samples(policy)) if own is None else own.limits
    if teacher.share == "unsolved":
        indices = np.flatnonzero(correct == 0)
    elif teacher.share == "unfinished":
        indices = np.flatnonzero([not needs_none(policy, *tried) for tried in np.stack(counts, 1).tolist()])
        own = Terms(np.minimum(max_samples(policy) - finished, limits), correct, judged)
    elif teacher.share == "unmet":
        indices = np.flatnonzero([not needs_none(policy, 0, solved, 0) for solved in correct.tolist()])
        own = Terms(limits, correct, none)
    else:
        indices = np.array(frontier(teacher.frontier, judged.tolist(), correct.tolist()), np.int64)
        if not indices.size:
            raise UserError(_nothing_within(teacher, judged, correct))
    if teacher.sees_gold:
        train = run.problems(Split.TRAIN)
        indices = np.array([index for index in indices.tolist() if train[index].answer is not None], np.int64)
    return indices, own


def _nothing_within(teacher: Teacher, judged: Indices, correct: Indices) -> str:
    """Return the message for a frontier that holds no problem, with what lies on either side of it."""
    low, high = teacher.frontier
    rates = (correct + 1) / (judged + 2)
    return (
        f"no train problem's pass rate probably lies between {low:g} and {high:g}, as teacher {teacher.name} wants: of "
        f"{len(rates):,} problems {np.count_nonzero(rates < low):,} lie below and {np.count_nonzero(rates > high):,} "
        "above by their mean; widen the band, or measure pass rates with more samples"
    )


def _counts(run: Run, jobs: Sequence[SamplingJob]) -> tuple[Indices, Indices, Indices]:
    """Return the finished, correct and judged samples of each train problem, of all jobs together."""
    train = run.problems(Split.TRAIN)
    arrays = run.ledger.sample_arrays(train.ids)
    finished, correct, judged = np.zeros((3, len(train)), np.int64)
    for job in jobs:
        identity = run.model_identity(job.spec.known_as, job.spec.revision)
        if identity and (samples := arrays.get(ResolvedJob.of(run, job, identity).fingerprint)):
            finished += samples.num_finished
            correct += samples.num_correct
            judged += samples.num_judged
    return finished, correct, judged


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

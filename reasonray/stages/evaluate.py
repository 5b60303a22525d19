"""Evaluate: base, teachers, checkpoints and student solve the held-out problems, by the same sampler.

An arm is a model under a prompt and sampling parameters. The base arm is the untrained student under the student's
prompt, so the difference between the two is what training did. A teacher's arm has the prompt of its rollouts. Further
arms are listed in [[evaluation.arms]]. An engine samples the problems of all sets in one pass.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from reasonray import engines
from reasonray.analysis.answer_groups import group_equal_answers
from reasonray.analysis.comparisons import clusters_of
from reasonray.analysis.scores import score
from reasonray.config import Arm, Fixed, PromptedModel, RecordedEngine, Teacher
from reasonray.curation.annotations import evaluation_rollouts
from reasonray.records import BASE, STUDENT, Problem, Score, Split
from reasonray.sampling.cluster import in_tasks
from reasonray.sampling.pool import ReplicaPool, pool_for
from reasonray.sampling.sampler import run_jobs
from reasonray.sampling.work import ResolvedJob, SamplingJob
from reasonray.store.evaluations import evaluated_models, missing_samples
from reasonray.store.progress import log_line
from reasonray.store.run import Run, find_run
from reasonray.store.schema import ROLLOUT_SCHEMA
from reasonray.store.siblings import is_of_run
from reasonray.store.spending import record_spending


def evaluate(run: Run, pool: ReplicaPool | None = None, arms: Collection[str] | None = None) -> dict[str, Score]:
    """Sample the test problems with the models under evaluation, and score the models.

    What a run whose rollouts are a recorded teacher has measured already is taken over.

    Args:
        run: the run.
        pool: replicas to use; without one, replicas are started here and stopped at the end.
        arms: names of the arms to measure; by default all whose model exists already.

    Returns:
        Arm → score on all test problems, as the report shows it. Arms without all their samples, and checkpoints, which
        solve only some of the problems, are left out.

    Raises:
        UserError: there are no problems yet, or see `sampling.sampler.run_jobs`.
    """
    adopt(run, _recorded_runs(run))
    jobs = [job for job in _jobs(run) if arms is None or job.name in arms]
    with pool_for(run, pool) as replicas:
        for spec in dict.fromkeys(job.spec for job in jobs):  # one engine for all jobs that it can serve
            group = [job for job in jobs if job.spec == spec]
            result = run_jobs(run, "evaluate", group, replicas)
            names = ", ".join(job.name for job in group)
            if not result.total.rollouts:
                log_line("evaluate", f"done before   {names}")
            else:
                log_line("evaluate", f"{result.total.rollouts:>7,} samples of {names}   {result.seconds:.0f} s")
    for spent in record_spending(run, "evaluate"):
        log_line("evaluate", f"spent {spent}")
    # Annotated now, while there is a cluster: the report reads the stored annotations.
    sampled = [job.name for job in jobs if job.ledger.segments()]
    return _scores(run, {name: evaluation_rollouts(run, name, in_tasks) for name in sampled})


def _scores(run: Run, rollouts: Mapping[str, pa.Table]) -> dict[str, Score]:
    """Return the scores of the arms that have all their samples."""
    evaluation, test = run.config.evaluation, run.problems(Split.TEST)
    ks = sorted({1, *evaluation.k})
    clusters = clusters_of(test, evaluation.cluster)
    problems = {problem.id: problem for problem in test}
    scores = {}
    for arm in evaluated_models(run):
        if arm in rollouts and missing_samples(run, rollouts[arm]) is None:
            votes = group_equal_answers(rollouts[arm], problems) if max(ks) > 1 else rollouts[arm]
            scores[arm] = score(votes, arm, ks, clusters)[0]
    return scores


def adopt(run: Run, earlier: Sequence[Run]) -> None:
    """Take over what earlier runs measured of the same models, asked in the same way on the same problems.

    A model is the same if the fingerprint of its rollouts is: then its weights, prompt and sampling parameters are. So
    the base, and a student that teaches, are measured once in a series of rounds.

    Args:
        run: an open run whose problems are loaded.
        earlier: runs that may have measured its models.
    """
    test = pa.array([problem.id for problem in run.problems(Split.TEST)], pa.large_string())
    for job in _jobs(run):
        if job.ledger.segments():
            continue
        for other in reversed(earlier):
            if (identity := other.model_identity(job.spec.known_as, job.spec.revision)) is None:
                continue
            rollouts = _measured(other, ResolvedJob.of(run, job, identity).fingerprint)
            rollouts = rollouts.filter(pc.is_in(rollouts["problem_id"], value_set=test))
            if not rollouts.num_rows:
                continue
            names = pa.repeat(job.name, rollouts.num_rows).cast(rollouts.schema.field("teacher").type)
            run.record_model_identity(job.spec.known_as, job.spec.revision, identity)
            column = rollouts.schema.get_field_index("teacher")
            job.ledger.append_table(rollouts.set_column(column, rollouts.schema.field(column), names))
            log_line("evaluate", f"{rollouts.num_rows:>7,} samples of {job.name}, as run {other.name} measured it")
            break


def _recorded_runs(run: Run) -> list[Run]:
    engines_of_runs = (teacher.engine for teacher in run.config.teachers if is_of_run(teacher))
    places = dict.fromkeys(engine.run for engine in engines_of_runs if isinstance(engine, RecordedEngine))
    return [find_run(path) for path in places]


def _measured(run: Run, fingerprint: str) -> pa.Table:
    """Return the rollouts of a fingerprint among those of a run's models under evaluation."""
    for name in evaluated_models(run):
        ledger = run.evaluation(name)
        if any(stored == fingerprint for _, stored in ledger.counts()):
            rollouts = ledger.read()
            return rollouts.filter(pc.equal(rollouts["fingerprint"], fingerprint))
    return ROLLOUT_SCHEMA.empty_table()


def arms_before_training(run: Run) -> list[str]:
    """Return the arms that can be measured before training, while the teachers are still up."""
    return [BASE, *(arm.name for arm in _further(run))]


def _further(run: Run) -> list[Teacher | Arm]:
    """Return the models besides base, checkpoints and student.

    Neither teachers that see the gold answers, nor earlier rounds, which hold train problems only; arms of the run's
    own student once it is trained.
    """
    own = run.final_student
    is_trained = (own / "manifest.json").exists()
    teachers = [teacher for teacher in run.config.teachers if not (teacher.sees_gold or is_of_run(teacher))]
    further: list[Teacher | Arm] = [*teachers, *run.config.evaluation.arms]
    return [arm for arm in further if is_trained or arm.model != str(own)]


def _is_measurable(run: Run, model: Teacher | Arm, problems: Sequence[Problem]) -> bool:
    """Return whether a model can give all its samples: recordings often hold none of the held-out problems."""
    supply = engines.supply(model.engine, model.asking, problems)
    samples = run.config.evaluation.samples
    if supply is None or (missing := int((supply.samples < samples).sum())) == 0:
        return True
    what = f"{samples} recorded samples of {missing:,} of {len(problems):,} held-out problems are missing"
    log_line("evaluate", f"not measured  {model.name}: {what}")
    return False


def _jobs(run: Run) -> list[SamplingJob]:
    config, test = run.config, run.problems(Split.TEST)
    if not test:
        return []
    few = _spread(test, config.evaluation.checkpoint_problems)
    jobs = [_job(run, BASE, config.student, None, test, config.evaluation.samples)]
    measurable = [arm for arm in _further(run) if _is_measurable(run, arm, test)]
    jobs += [_job(run, arm.name, arm, None, test, config.evaluation.samples) for arm in measurable]
    if few:
        chosen = run.chosen_checkpoint()  # it is the student, which has an arm of its own
        for checkpoint in (checkpoint for checkpoint in run.checkpoints() if checkpoint.name != chosen):
            model = str(checkpoint / "model")
            jobs.append(_job(run, checkpoint.name, config.student, model, few, config.evaluation.checkpoint_samples))
    final = run.final_student
    if (final / "manifest.json").exists():
        model = str(final)
        jobs.append(_job(run, STUDENT, config.student, model, test, config.evaluation.samples))
    return jobs


def _job(
    run: Run, arm: str, prompted: PromptedModel, model: str | None, problems: Sequence[Problem], samples: int
) -> SamplingJob:
    return SamplingJob.of(run, arm, prompted, problems, Fixed(samples=samples), run.evaluation(arm), model=model)


def _spread(problems: Sequence[Problem], count: int) -> list[Problem]:
    """Return `count` problems, evenly over the difficulties: round-robin, in the order of the snapshot."""
    ranks: dict[str, int] = {}
    numbered = []
    for problem in problems:
        ranks[problem.difficulty] = ranks.get(problem.difficulty, -1) + 1
        numbered.append((ranks[problem.difficulty], problem.difficulty, problem))
    return [problem for _, _, problem in sorted(numbered, key=lambda item: item[:2])[:count]]

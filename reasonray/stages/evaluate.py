"""Models → scores: base, teachers, checkpoints and student solve the held-out problems, by the same sampler.

An arm is a model under a prompt and sampling parameters. The base arm is the untrained student asked as the student is,
so that the difference is what training did; a teacher's arm is asked as it was for its rollouts; [[evaluation.arms]]
are whatever else is to be measured. Problems of all sets go to an engine in one pass.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from reasonray.analysis.answer_groups import alike
from reasonray.analysis.comparisons import clusters_of
from reasonray.analysis.scores import score
from reasonray.config import Arm, Fixed, PromptedModel, Teacher
from reasonray.curation.annotations import annotated, drawn
from reasonray.records import BASE, STUDENT, Problem, Score, Split
from reasonray.sampling.cluster import in_tasks
from reasonray.sampling.pool import ReplicaPool, pool_for
from reasonray.sampling.sampler import run_jobs
from reasonray.sampling.work import EngineSpec, SamplingJob
from reasonray.store.evaluations import evaluated_models, missing_samples
from reasonray.store.progress import log_line
from reasonray.store.run import Run


def evaluate(run: Run, pool: ReplicaPool | None = None, arms: Collection[str] | None = None) -> dict[str, Score]:
    """Sample the test problems with the models under evaluation, and score the models.

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
    for job in jobs:
        if job.ledger.segments():
            annotated(job.ledger, in_tasks)  # now, while there is a cluster: the report reads the stored annotations
    return _scores(run, {job.name for job in jobs})


def _scores(run: Run, arms: Collection[str]) -> dict[str, Score]:
    evaluation, test = run.config.evaluation, run.problems(Split.TEST)
    ks = sorted({1, *evaluation.k})
    clusters = clusters_of(test, evaluation.cluster)
    problems = {problem.id: problem for problem in test}
    scores = {}
    for name in (name for name in evaluated_models(run) if name in arms):
        rollouts = drawn(run, name, in_tasks)
        if missing_samples(run, rollouts) is None:
            votes = alike(rollouts, problems) if max(ks) > 1 else rollouts
            scores[name] = score(votes, name, ks, clusters)[0]
    return scores


def arms_before_training(run: Run) -> list[str]:
    """Return the arms that can be measured while the teachers are still up."""
    return [BASE, *(it.name for it in _further(run))]


def _further(run: Run) -> list[Teacher | Arm]:
    return [*run.config.teachers, *run.config.evaluation.arms]


def _jobs(run: Run) -> list[SamplingJob]:
    config, test = run.config, run.problems(Split.TEST)
    if not test:
        return []
    few = _spread(test, config.evaluation.checkpoint_problems)
    arms = [_job(run, BASE, config.student, None, test, config.evaluation.samples)]
    arms += [_job(run, it.name, it, None, test, config.evaluation.samples) for it in _further(run)]
    if few:
        chosen = run.chosen_checkpoint()  # the student, who has an arm of its own
        for checkpoint in (it for it in run.checkpoints() if it.name != chosen):
            model = str(checkpoint / "model")
            arms.append(_job(run, checkpoint.name, config.student, model, few, config.evaluation.checkpoint_samples))
    if (run.student / "final" / "manifest.json").exists():
        model = str(run.student / "final")
        arms.append(_job(run, STUDENT, config.student, model, test, config.evaluation.samples))
    return arms


def _job(
    run: Run, arm: str, who: PromptedModel, model: str | None, problems: Sequence[Problem], samples: int
) -> SamplingJob:
    policy, spec = Fixed(samples=samples), EngineSpec.of(run, who, model)
    return SamplingJob(arm, problems, who.prompt, who.sampling, policy, run.evaluation(arm), spec, who.replica_bounds)


def _spread(problems: Sequence[Problem], count: int) -> list[Problem]:
    """Take `count` problems evenly over the difficulties: round-robin in the snapshot's job."""
    ranks: dict[str, int] = {}
    numbered = []
    for problem in problems:
        ranks[problem.difficulty] = ranks.get(problem.difficulty, -1) + 1
        numbered.append((ranks[problem.difficulty], problem.difficulty, problem))
    return [problem for _, _, problem in sorted(numbered, key=lambda item: item[:2])[:count]]

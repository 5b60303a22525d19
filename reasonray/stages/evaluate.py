"""Models → scores: base, teachers, checkpoints and student solve the held-out problems, by the same sampler.

An arm is a model under a prompt and sampling parameters. The base arm is the untrained student asked as the student is,
so that the difference is what training did; a teacher's arm is asked as it was for its rollouts; [[evaluation.arms]]
are whatever else is to be measured. Problems of all sets go to an engine in one pass.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from reasonray.config import Arm, Fixed, PromptedModel, Teacher
from reasonray.curation.annotations import annotated
from reasonray.records import BASE, STUDENT, Problem, Split
from reasonray.sampling.cluster import in_tasks
from reasonray.sampling.pool import ReplicaPool
from reasonray.sampling.sampler import run_jobs
from reasonray.sampling.work import EngineSpec, SamplingJob
from reasonray.store.progress import say
from reasonray.store.run import Run


def evaluate(run: Run, pool: ReplicaPool, arms: Collection[str] | None = None) -> None:
    """Draw the samples of the arms named, or of all whose model is there already.

    Raises:
        UserError: there are no problems yet; or see stages/draw.py.
    """
    jobs = [job for job in _jobs(run) if arms is None or job.name in arms]
    specs = list(dict.fromkeys(job.spec for job in jobs))
    for spec in specs:  # one engine for all that it is asked, on all problem sets
        together = [job for job in jobs if job.spec == spec]
        drawn = run_jobs(run, "evaluate", together, pool)
        names = ", ".join(job.name for job in together)
        if not drawn.total.rollouts:
            say("evaluate", f"done before   {names}")
        else:
            say("evaluate", f"{drawn.total.rollouts:>7,} samples of {names}   {drawn.seconds:.0f} s")
    for job in jobs:
        if job.ledger.segments():
            annotated(job.ledger, in_tasks)  # now, while the cluster is there: reports find the behaviours looked for


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
    return SamplingJob(arm, problems, who.prompt, who.sampling, policy, run.evaluation(arm), spec, who.replica_range)


def _spread(problems: Sequence[Problem], count: int) -> list[Problem]:
    """Take `count` problems evenly over the difficulties: round-robin in the snapshot's job."""
    ranks: dict[str, int] = {}
    numbered = []
    for problem in problems:
        ranks[problem.difficulty] = ranks.get(problem.difficulty, -1) + 1
        numbered.append((ranks[problem.difficulty], problem.difficulty, problem))
    return [problem for _, _, problem in sorted(numbered, key=lambda item: item[:2])[:count]]

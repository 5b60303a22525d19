"""Sampling jobs with what their ledgers hold: where each problem stands when a stage begins."""

from __future__ import annotations

from dataclasses import dataclass

from reasonray.sampling.events import JobWork
from reasonray.sampling.state import ProblemStates
from reasonray.sampling.work import EngineSpec, ResolvedJob, SamplingJob
from reasonray.store.run import Run
from reasonray.store.sample_arrays import no_samples


@dataclass(frozen=True, slots=True)
class LoadedJob:
    """A job whose weights are known, and where its problems stand."""

    job: SamplingJob
    resolved: ResolvedJob
    work: JobWork

    @property
    def has_unfinished(self) -> bool:
        """Whether a problem needs more samples."""
        return bool(self.work.states.first_waves().any())


def load_job(run: Run, job: SamplingJob, identity: str) -> LoadedJob:
    """Return a job with the states of its problems, by what its ledger holds.

    Args:
        run: the run.
        job: the job.
        identity: of its model's weights.
    """
    resolved = ResolvedJob.of(run, job, identity)
    samples = job.ledger.sample_arrays(job.problems.ids).get(resolved.fingerprint)
    samples = samples or no_samples(len(job.problems))
    states = ProblemStates.stored(job.policy, samples, job.earlier_max_tokens, job.sampling.max_tokens, job.terms)
    codes, difficulties = job.problems.difficulties()
    return LoadedJob(job, resolved, JobWork(job.name, states, codes, difficulties))


def load_known(run: Run, job: SamplingJob) -> LoadedJob | None:
    """Return a job with its states if the run knows the weights of its model; None before they were ever loaded."""
    identity = run.model_identity(job.spec.known_as, job.spec.revision)
    return None if identity is None else load_job(run, job, identity)


@dataclass(slots=True)
class JobGroup:
    """The jobs of one engine spec, and what serves them."""

    spec: EngineSpec
    jobs: list[SamplingJob]
    identity: str | None = None
    """Of the weights that its first replica reported."""

    @property
    def replicas(self) -> tuple[int, int]:
        """The least and the most replicas: the largest of its jobs."""
        return max(job.replicas[0] for job in self.jobs), max(job.replicas[1] for job in self.jobs)

    @property
    def names(self) -> str:
        """The names of its jobs, for the terminal."""
        return ", ".join(job.name for job in self.jobs)

"""The records that pass between driver and replicas: sampling jobs, problem states, leases, counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import date
from enum import StrEnum

from reasonray.config import Policy, Prompt, PromptedModel, Sampling
from reasonray.config.engines import Engine
from reasonray.engines.protocol import Completion, SampleRequest
from reasonray.prompts import FALLBACK_DATE
from reasonray.records import Outcome, Problem, Rollout, Verdict, content_hash
from reasonray.sampling.policy import SampleState, is_satisfied, max_samples, next_samples
from reasonray.store.ledger import Ledger
from reasonray.store.run import Run
from reasonray.store.stored_samples import StoredSamples


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """A replica's model, engine and resources."""

    model: str
    revision: str | None
    engine: Engine
    gpus: int
    pipeline: int
    cpus: float
    seed: int
    trust_remote_code: bool = False

    def __hash__(self) -> int:
        return hash((self.model, self.gpus, self.cpus))  # an engine's arguments can be compared but not hashed

    @staticmethod
    def of(run: Run, prompted: PromptedModel, model: str | None = None) -> EngineSpec:
        """Return the spec of a configured model, or of another model (such as a checkpoint) in its place."""
        revision = prompted.revision if model is None else None
        return EngineSpec(
            model or prompted.model,
            revision,
            prompted.engine,
            prompted.gpus,
            prompted.pipeline,
            prompted.cpus,
            run.config.seed,
            prompted.trust_remote_code,
        )

    def serves(self, other: EngineSpec) -> bool:
        """Return whether a replica of this spec can load the other spec's model instead of its own."""
        return replace(self, model=other.model, revision=other.revision) == other


@dataclass(frozen=True, slots=True)
class SamplingJob:
    """Problems to sample, and the model, prompt, sampling parameters and policy to sample them with."""

    name: str
    """Of the teacher or of the model under evaluation; the rollouts carry it."""
    problems: Sequence[Problem]
    prompt: Prompt
    sampling: Sampling
    policy: Policy
    ledger: Ledger
    spec: EngineSpec
    replicas: tuple[int, int] = (1, 1)
    """The minimum and the maximum number of replicas."""
    earlier_max_tokens: frozenset[int] = frozenset()
    """Earlier values of max_tokens: samples that one of them truncated are generated again."""

    @staticmethod
    def of(
        run: Run,
        name: str,
        prompted: PromptedModel,
        problems: Sequence[Problem],
        policy: Policy,
        ledger: Ledger,
        *,
        model: str | None = None,
        earlier_max_tokens: frozenset[int] = frozenset(),
    ) -> SamplingJob:
        """Return the job that samples problems by a configured model, or by another model in its place."""
        return SamplingJob(
            name,
            problems,
            prompted.prompt,
            prompted.sampling,
            policy,
            ledger,
            EngineSpec.of(run, prompted, model),
            prompted.replica_bounds,
            earlier_max_tokens,
        )


@dataclass(frozen=True, slots=True)
class ResolvedJob:
    """A sampling job whose model's weights are known, and so its fingerprint."""

    name: str
    model: str
    fingerprint: str
    """Hash of model, weights, prompt and sampling parameters except max_tokens."""
    prompt: Prompt
    sampling: Sampling
    policy: Policy
    ledger: Ledger
    seed: int
    earlier_max_tokens: frozenset[int] = frozenset()
    today: date = FALLBACK_DATE
    """The date for chat templates that write it: that of the run's beginning."""

    @staticmethod
    def of(run: Run, job: SamplingJob, identity: str) -> ResolvedJob:
        """Return a job with the identity of its model's weights resolved."""
        prompt, sampling = job.prompt.model_dump_json(), job.sampling.identity()
        fingerprint = content_hash(job.spec.model, identity, prompt, sampling)
        return ResolvedJob(
            job.name,
            job.spec.model,
            fingerprint,
            job.prompt,
            job.sampling,
            job.policy,
            job.ledger,
            run.config.seed,
            job.earlier_max_tokens,
            run.begun_on or FALLBACK_DATE,
        )

    def request(self, problem: Problem, sample: int) -> SampleRequest:
        """Return the request for one sample."""
        return SampleRequest(problem, sample, self.seed_of(problem, sample), self.prompt, self.sampling, self.today)

    def seed_of(self, problem: Problem, sample: int) -> int:
        """Return the 63-bit seed of one sample, a hash: no two samples of a run share a random stream."""
        return int(content_hash(self.seed, self.fingerprint, problem.id, sample)[:16], 16) >> 1

    def problem_state(self, problem: Problem, stored: StoredSamples) -> ProblemState:
        """Return a problem's state; samples that an earlier max_tokens truncated count as not finished."""
        resamples = {
            sample: resample + 1
            for sample, (resample, tokens) in stored.truncated.items()
            if tokens in self.earlier_max_tokens and tokens < self.sampling.max_tokens
        }
        return ProblemState(
            problem,
            stored.samples - resamples.keys(),
            stored.correct,
            stored.judged - len(resamples),
            resamples,
        )


@dataclass(frozen=True, slots=True)
class ProblemState:
    """One problem's progress under one job."""

    problem: Problem
    finished: frozenset[int] = frozenset()
    """Indices of finished samples."""
    correct: int = 0
    judged: int = 0
    resamples: Mapping[int, int] = field(default_factory=dict)
    """Sample → how many times it was generated before, for samples that are generated again."""

    def sample_state(self) -> SampleState:
        """Return the state as policies take it, with nothing in flight."""
        return SampleState(self.finished, frozenset(), self.correct, self.judged)

    def is_satisfied(self, policy: Policy) -> bool:
        """Return whether the problem needs no more samples."""
        return is_satisfied(policy, self.sample_state())

    def remaining(self, policy: Policy) -> int:
        """Return how many samples the problem can still get."""
        return max_samples(policy) - len(self.finished)

    def first_wave(self, policy: Policy) -> int:
        """Return how many samples start at once."""
        return len(next_samples(policy, self.sample_state()))


class Isolation(StrEnum):
    """How far a lease is kept apart from others, to find the problem or the sample that kills replicas."""

    NONE = "none"
    PROBLEM = "problem"
    """Nothing else is in flight on the replica: if it dies, this problem was the only one there."""
    SAMPLE = "sample"
    """One sample at a time, each committed at once: if the replica dies, this sample was the only one there."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Problems of one job, assigned to one replica."""

    job: ResolvedJob
    problems: tuple[ProblemState, ...]
    isolation: Isolation = Isolation.NONE


@dataclass(slots=True)
class Counts:
    """Counts of one job's finished rollouts."""

    rollouts: int = 0
    correct: int = 0
    covered: int = 0
    """Problems that got their first correct rollout."""
    tokens: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    rollouts_by_difficulty: Counter[str] = field(default_factory=Counter)
    tokens_by_difficulty: Counter[str] = field(default_factory=Counter)

    def count(self, rollout: Rollout) -> None:
        """Add one finished rollout."""
        self.rollouts += 1
        self.tokens += rollout.completion_tokens
        self.correct += rollout.verdict.outcome is Outcome.CORRECT
        self.outcomes[rollout.verdict.outcome.value] += 1
        self.rollouts_by_difficulty[rollout.problem.difficulty] += 1
        self.tokens_by_difficulty[rollout.problem.difficulty] += rollout.completion_tokens

    def add(self, other: Counts) -> None:
        """Add another's counts."""
        self._add_times(1, other)

    def subtract(self, other: Counts) -> None:
        """Subtract another's counts."""
        self._add_times(-1, other)

    def _add_times(self, times: int, other: Counts) -> None:
        for name in (count.name for count in fields(self)):
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, Counter):
                for key, count in theirs.items():
                    mine[key] += times * count
            else:
                setattr(self, name, mine + times * theirs)


@dataclass(frozen=True, slots=True)
class Usage:
    """Time and tokens that replicas used."""

    idle_seconds: float = 0.0
    """Replica seconds with nothing in flight."""
    replica_seconds: float = 0.0
    """Seconds from the creation of each replica on."""
    generated_tokens: int = 0
    """Tokens generated, those of aborted samples included."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.idle_seconds + other.idle_seconds,
            self.replica_seconds + other.replica_seconds,
            self.generated_tokens + other.generated_tokens,
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            self.idle_seconds - other.idle_seconds,
            self.replica_seconds - other.replica_seconds,
            self.generated_tokens - other.generated_tokens,
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A replica's counts and usage since it was created; they only grow."""

    counts_by_job: Mapping[str, Counts] = field(default_factory=dict)
    usage: Usage = Usage()


def make_rollout(
    job: ResolvedJob, request: SampleRequest, completion: Completion, verdict: Verdict, resample: int = 0
) -> Rollout:
    """Return the record of one finished sample."""
    return Rollout(
        id=Rollout.identify(request.problem.id, job.fingerprint, request.sample),
        problem=request.problem,
        teacher=job.name,
        model=job.model,
        fingerprint=job.fingerprint,
        sample=request.sample,
        seed=request.seed,
        resample=resample,
        opening=completion.opening,
        completion=completion.text,
        finish=completion.finish,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        verdict=verdict,
    )

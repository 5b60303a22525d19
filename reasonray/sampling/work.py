"""The records that pass between driver and replicas: sampling jobs, leases, reports, counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from enum import StrEnum
from typing import NamedTuple

from reasonray.config import Policy, PromptedModel, Sampling
from reasonray.config.engines import Engine
from reasonray.config.models import Asking
from reasonray.engines.protocol import Completion, SampleRequest
from reasonray.prompts import FALLBACK_DATE
from reasonray.records import Outcome, Problem, Rollout, Verdict, content_hash
from reasonray.sampling.fingerprints import fingerprint, is_present_rule
from reasonray.sampling.policy import ProblemState, next_samples
from reasonray.sampling.state import Terms
from reasonray.store.ledger import Ledger
from reasonray.store.problem_table import ProblemTable
from reasonray.store.run import Run


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
    labels: tuple[tuple[str, str], ...] = ()
    """Labels that a node must have to hold a replica."""

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
            tuple(sorted(prompted.labels.items())),
        )

    @property
    def known_as(self) -> str:
        """The name under which a run remembers the identity of what the model's completions come from."""
        origin = self.engine.origin()
        return f"{self.model} in {origin}" if origin else self.model

    def can_serve(self, other: EngineSpec) -> bool:
        """Return whether a replica of this spec may be asked to load the other spec's model instead of its own.

        Its engine decides then whether the weights can be swapped or another engine has to start.
        """
        return replace(self, model=other.model, revision=other.revision) == other


@dataclass(frozen=True, slots=True)
class SamplingJob:
    """Problems to sample, and the model, prompts, sampling parameters and policy to sample them with."""

    name: str
    """Of the teacher or of the model under evaluation; the rollouts carry it."""
    problems: ProblemTable
    asking: Asking
    sampling: Sampling
    policy: Policy
    ledger: Ledger
    spec: EngineSpec
    replicas: tuple[int, int] = (1, 1)
    """The minimum and the maximum number of replicas."""
    earlier_max_tokens: frozenset[int] = frozenset()
    """Earlier values of max_tokens: samples that one of them truncated are generated again."""
    terms: Terms | None = None
    """What the policy has to respect of each problem, if anything."""

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
        terms: Terms | None = None,
    ) -> SamplingJob:
        """Return the job that samples problems by a configured model, or by another model in its place."""
        return SamplingJob(
            name,
            ProblemTable.of(problems),
            prompted.asking,
            prompted.sampling,
            policy,
            ledger,
            EngineSpec.of(run, prompted, model),
            prompted.replica_bounds,
            earlier_max_tokens,
            terms,
        )


@dataclass(frozen=True, slots=True)
class ResolvedJob:
    """A sampling job whose model's weights are known, and so its fingerprint."""

    name: str
    model: str
    revision: str | None
    identity: str
    """Of the model's weights."""
    fingerprint: str
    """Hash of model, weights, prompt and sampling parameters except max_tokens."""
    asking: Asking
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
        spec = job.spec
        return ResolvedJob(
            job.name,
            job.spec.model,
            job.spec.revision,
            identity,
            fingerprint(spec.model, spec.engine, identity, job.asking, job.sampling),
            job.asking,
            job.sampling,
            job.policy,
            job.ledger,
            run.config.seed,
            job.earlier_max_tokens,
            run.begun_on or FALLBACK_DATE,
        )

    def request(self, problem: Problem, sample: int) -> SampleRequest:
        """Return the request for one sample."""
        return SampleRequest(
            problem,
            sample,
            self.seed_of(problem, sample),
            self.asking.prompt(problem.source, sample),
            self.asking.sampling(self.sampling, sample),
            self.today,
            self.asking.prompt_number(problem.source, sample),
            self.ledger.place,
        )

    def seed_of(self, problem: Problem, sample: int) -> int:
        """Return the 63-bit seed of one sample, a hash: no two samples of a run share a random stream."""
        return int(content_hash(self.seed, self.fingerprint, problem.id, sample)[:16], 16) >> 1


class Isolation(StrEnum):
    """How far a lease is kept apart from others, to find the problem or the sample that kills replicas."""

    NONE = "none"
    PROBLEM = "problem"
    """Nothing else is in flight on the replica: if it dies, this problem was the only one there."""
    SAMPLE = "sample"
    """One sample, then the lease ends: if the replica dies, this sample was the only one there."""


@dataclass(frozen=True, slots=True)
class LeasedProblem:
    """A problem of a lease, and where it stands."""

    index: int
    """Of the problem among those of its job."""
    problem: Problem
    state: ProblemState = field(default_factory=ProblemState)
    resamples: Mapping[int, int] = field(default_factory=dict)
    """Sample → how many times it was generated before, for samples that are generated again."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Problems of one job, assigned to one replica."""

    number: int
    """Never used again in a stage."""
    job: ResolvedJob
    problems: tuple[LeasedProblem, ...]
    isolation: Isolation = Isolation.NONE

    def samples_to_start(self, state: ProblemState) -> list[int]:
        """Return the samples of a problem that its replica should start now; isolated ones one after another."""
        if self.isolation is not Isolation.SAMPLE:
            return next_samples(self.job.policy, state)
        return [] if state.in_flight else next_samples(self.job.policy, state)[:1]


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

    def add_sample(self, outcome: Outcome, tokens: int, difficulty: str) -> None:
        """Add one finished sample."""
        self._add(1, outcome, tokens, difficulty)

    def subtract_sample(self, outcome: Outcome, tokens: int, difficulty: str) -> None:
        """Subtract one finished sample, which was lost before it was committed."""
        self._add(-1, outcome, tokens, difficulty)

    def _add(self, times: int, outcome: Outcome, tokens: int, difficulty: str) -> None:
        self.rollouts += times
        self.tokens += times * tokens
        self.correct += times * (outcome is Outcome.CORRECT)
        self.outcomes[outcome.value] += times
        self.rollouts_by_difficulty[difficulty] += times
        self.tokens_by_difficulty[difficulty] += times * tokens

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.rollouts + other.rollouts,
            self.correct + other.correct,
            self.covered + other.covered,
            self.tokens + other.tokens,
            self.outcomes + other.outcomes,
            self.rollouts_by_difficulty + other.rollouts_by_difficulty,
            self.tokens_by_difficulty + other.tokens_by_difficulty,
        )


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


class FinishedSample(NamedTuple):
    """A sample that a replica has finished and judged; it is safe once it is committed."""

    lease: int
    problem: int
    """Index in the lease's job."""
    sample: int
    outcome: Outcome
    tokens: int


@dataclass(frozen=True, slots=True)
class Started:
    """What a replica serves, once its engine is up."""

    identity: str
    """Of the model's weights."""
    first_identity: str
    """The same by the rule of the first version."""
    capacity: int
    """Requests in flight that keep the engine busy; grows where samples turn out short."""

    def identity_as(self, recorded: str | None) -> str:
        """Return the identity by the rule of a recorded one, or by the present rule if none is recorded."""
        return self.identity if recorded is None or is_present_rule(recorded) else self.first_identity


@dataclass(frozen=True, slots=True)
class Report:
    """What a replica did since its last report. A replica's reports, in order, are its whole history in a stage."""

    node: str = ""
    started: Started | None = None
    """Set from the moment on that the engine is up."""
    phase: str = ""
    """What a starting engine is doing."""
    samples: tuple[FinishedSample, ...] = ()
    """In the order in which they are committed."""
    ended: tuple[tuple[int, int, int], ...] = ()
    """(lease, problem, samples reported before it) of problems that are not sampled any more."""
    released: tuple[tuple[int, int], ...] | None = None
    """(lease, problem) of problems that were returned without a sample started; None if no release was asked for."""
    committed: int = 0
    """How many samples of all reports are committed: always the first ones."""
    in_flight: int = 0
    """Requests in the engine."""
    usage: Usage = Usage()
    """Since the stage began."""
    is_failing: bool = False
    """The replica has a fault, which its next report raises."""


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
        prompt=request.prompt_number,
        opening=completion.opening,
        completion=completion.text,
        finish=completion.finish,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        tokens_estimated=completion.tokens_estimated,
        token_ids=completion.token_ids,
        logprobs=completion.logprobs,
        verdict=verdict,
    )

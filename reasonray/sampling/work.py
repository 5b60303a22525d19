"""What the driver asks of replicas: orders become arms, arms become leases of problems that are owed attempts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum

from reasonray.config import Policy, Prompt, PromptedModel, Sampling
from reasonray.config.models import Engine
from reasonray.engines.protocol import Completion, SampleRequest
from reasonray.records import Outcome, Problem, Rollout, Verdict, content_hash
from reasonray.sampling.policy import SampleState, is_satisfied, most, owed
from reasonray.store.ledger import Ledger
from reasonray.store.run import Run
from reasonray.store.stored_samples import StoredSamples


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Everything that decides what a replica runs and where."""

    model: str
    revision: str | None
    engine: Engine
    gpus: int
    pipeline: int
    cpus: float
    seed: int

    def __hash__(self) -> int:
        return hash((self.model, self.gpus, self.cpus))  # an engine's arguments compare, but do not hash

    @staticmethod
    def of(run: Run, who: PromptedModel, model: str | None = None) -> EngineSpec:
        """Return what a replica for a teacher or for the student (or another model in its place) runs."""
        revision = who.revision if model is None else None
        return EngineSpec(model or who.model, revision, who.engine, who.gpus, who.pipeline, who.cpus, run.config.seed)

    def serves(self, other: EngineSpec) -> bool:
        """Say whether a replica of this spec can take the other's model instead of its own."""
        return replace(self, model=other.model, revision=other.revision) == other


@dataclass(frozen=True, slots=True)
class SamplingJob:
    """Problems to draw for one arm, and who draws them."""

    name: str
    problems: Sequence[Problem]
    prompt: Prompt
    sampling: Sampling
    policy: Policy
    ledger: Ledger
    spec: EngineSpec
    replicas: tuple[int, int] = (1, 1)
    """The least and the most replicas."""
    cut_at: frozenset[int] = frozenset()
    """Lengths at which an earlier max_tokens cut rollouts: those are drawn again."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A model under one prompt and one set of sampling parameters, and the ledger that its rollouts go to."""

    name: str
    model: str
    fingerprint: str
    prompt: Prompt
    sampling: Sampling
    policy: Policy
    ledger: Ledger
    seed: int
    cut_at: frozenset[int] = frozenset()

    @staticmethod
    def of(run: Run, order: SamplingJob, identity: str) -> Arm:
        """Return the arm of an order, once the weights behind its model are known."""
        sampling = order.sampling.model_dump_json(exclude={"max_tokens"})
        fingerprint = content_hash(order.spec.model, identity, order.prompt.model_dump_json(), sampling)
        return Arm(
            order.name,
            order.spec.model,
            fingerprint,
            order.prompt,
            order.sampling,
            order.policy,
            order.ledger,
            run.config.seed,
            order.cut_at,
        )

    def seed_of(self, problem: Problem, sample: int) -> int:
        """Return the 63-bit seed of one attempt; hashed, so that no two attempts of a run share a stream."""
        return int(content_hash(self.seed, self.fingerprint, problem.id, sample)[:16], 16) >> 1

    def problem_state(self, problem: Problem, stored_samples: StoredSamples) -> ProblemState:
        """Return where a problem stands; what an earlier max_tokens cut counts as not drawn."""
        again = {
            sample: resample + 1
            for sample, (resample, tokens) in stored_samples.truncated.items()
            if tokens in self.cut_at and tokens < self.sampling.max_tokens
        }
        return ProblemState(
            problem,
            stored_samples.samples - again.keys(),
            stored_samples.correct,
            stored_samples.judged - len(again),
            again,
        )


@dataclass(frozen=True, slots=True)
class ProblemState:
    """Where one problem stands under one arm."""

    problem: Problem
    samples: frozenset[int] = frozenset()
    """Sample indices that are drawn for good."""
    correct: int = 0
    judged: int = 0
    rounds: Mapping[int, int] = field(default_factory=dict)
    """The round in which a sample is drawn now, where that is not the first."""

    def standing(self) -> SampleState:
        """Return what the policy wants to know."""
        return SampleState(self.samples, frozenset(), self.correct, self.judged)

    def is_satisfied(self, policy: Policy) -> bool:
        """Say whether the policy wants nothing more."""
        return is_satisfied(policy, self.standing())

    def most(self, policy: Policy) -> int:
        """Return how many attempts the problem can still cost."""
        return most(policy) - len(self.samples)

    def opening(self, policy: Policy) -> int:
        """Return how many attempts start at once."""
        return len(owed(policy, self.standing()))


class Isolation(StrEnum):
    """How carefully a lease is drawn: problems that replicas died with are singled out step by step."""

    NONE = "none"
    PROBLEM = "problem"
    """Nothing else is in flight on the replica, so that a death names its problem."""
    SAMPLE = "sample"
    """One sample at a time, each committed at once, so that a death names its sample."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Problems of one arm, handed to one replica."""

    arm: Arm
    problems: tuple[ProblemState, ...]
    care: Isolation = Isolation.NONE


@dataclass(slots=True)
class Counts:
    """Counts of what was done for one arm."""

    rollouts: int = 0
    correct: int = 0
    covered: int = 0
    """Problems that got their first correct rollout."""
    tokens: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    drawn: Counter[str] = field(default_factory=Counter)
    """Rollouts by difficulty."""
    written: Counter[str] = field(default_factory=Counter)
    """Tokens by difficulty."""

    def count(self, rollout: Rollout) -> None:
        """Add one finished rollout."""
        self.rollouts += 1
        self.tokens += rollout.completion_tokens
        self.correct += rollout.verdict.outcome is Outcome.CORRECT
        self.outcomes[rollout.verdict.outcome.value] += 1
        self.drawn[rollout.problem.difficulty] += 1
        self.written[rollout.problem.difficulty] += rollout.completion_tokens

    def add(self, other: Counts, times: int = 1) -> None:
        """Add another's counts, or with -1 take them away."""
        for name in (it.name for it in fields(self)):
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, Counter):
                for key, count in theirs.items():
                    mine[key] += times * count
            else:
                setattr(self, name, mine + times * theirs)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a replica has done since it started; all of it only grows."""

    arms: Mapping[str, Counts] = field(default_factory=dict)
    generated: int = 0
    """Tokens, those of aborted attempts included."""
    idle_seconds: float = 0.0
    """With nothing in flight."""
    up_seconds: float = 0.0


def make_rollout(
    arm: Arm, attempt: SampleRequest, completion: Completion, verdict: Verdict, resample: int = 0
) -> Rollout:
    """Return the record of one finished attempt."""
    return Rollout(
        id=Rollout.identify(attempt.problem.id, arm.fingerprint, attempt.sample),
        problem=attempt.problem,
        teacher=arm.name,
        model=arm.model,
        fingerprint=arm.fingerprint,
        sample=attempt.sample,
        seed=attempt.seed,
        resample=resample,
        completion=completion.text,
        finish=completion.finish,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        verdict=verdict,
    )

"""The nouns of a run: what a problem, a rollout, a verdict, an annotation and a score are.

Records are frozen and hold plain values, so that they pickle, hash and flatten into Arrow columns (tables.py).
This room knows nothing of files, models or Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Self


class Split(StrEnum):
    """Which half of the problems: TRAIN ones are sampled and distilled, TEST ones only measured."""

    TRAIN = "train"
    TEST = "test"


class Finish(StrEnum):
    """Why a completion ended: a stop token or string, the token limit, or a fault of the engine."""

    STOP = "stop"
    LENGTH = "length"
    ERROR = "error"


class Outcome(StrEnum):
    """What a checker found. Only CORRECT and WRONG speak of the answer; the rest are never counted as wrong.

    TRUNCATED: cut by the token limit before an answer. NO_ANSWER: ended without an answer that could be extracted.
    UNVERIFIABLE: the gold answer cannot be judged. TIMEOUT: the checker hit its limit. FAILED: engine or checker fault.
    """

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    TRUNCATED = "truncated"
    UNVERIFIABLE = "unverifiable"
    TIMEOUT = "timeout"
    FAILED = "failed"


JUDGED = (Outcome.CORRECT, Outcome.WRONG, Outcome.NO_ANSWER, Outcome.TRUNCATED)
"""Outcomes that say something of the model: the denominator of a pass rate."""
UNJUDGED = tuple(outcome for outcome in Outcome if outcome not in JUDGED)
"""Outcomes that say nothing of the answer: faults of the gold answer, the checker or the engine."""

BASE, STUDENT = "base", "student"
"""Names of two models under evaluation: the student before and after training."""
OVER_QUOTA = "over_quota"
"""What stands in `dropped_by` of a rollout that every rule would keep, but of which its problem has enough."""


def content_hash(*parts: str | int) -> str:
    """Return 20 hex digits that identify the parts; each is length-prefixed, so no two lists run together."""
    hasher = blake2b(digest_size=10)
    for part in parts:
        encoded = str(part).encode()
        hasher.update(f"{len(encoded)}:".encode())
        hasher.update(encoded)
    return hasher.hexdigest()


def hash_fraction(identity: str) -> float:
    """Return where a hash in hex lies among all, in [0, 1): a share s of all things lies below s."""
    return int(identity[:12], 16) / 16**12


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A question with a known answer. `id` is a content hash, so re-ordering a source changes nothing."""

    id: str
    source: str
    question: str
    answer: str | None
    checker: str
    difficulty: str = ""
    split: Split = Split.TRAIN
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Whatever the checker needs beside the answer; must survive JSON."""

    @classmethod
    def of(cls, question: str, answer: str | None, *, checker: str = "math_answer", **fields: Any) -> Self:
        """Return a problem made by hand, its id computed.

        Args:
            question: the text that a model is asked.
            answer: the gold answer; None where there is none.
            checker: the name of the checker that judges its completions.
            **fields: any other field; `source` is "" by default.
        """
        source = fields.pop("source", "")
        identity = cls.identify(source, question, answer)
        return cls(**{"id": identity} | fields, source=source, question=question, answer=answer, checker=checker)

    @staticmethod
    def identify(source: str, question: str, answer: str | None) -> str:
        """Return the id of a problem: a hash of where it is from, what it asks and what it expects."""
        return content_hash(source, question, "" if answer is None else answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A checker's finding on one completion."""

    outcome: Outcome
    extracted: str | None = None
    """The final answer as it stands in the completion."""
    checker: str = ""
    detail: str = ""
    """Which rule decided, or the reason of a fault."""
    seconds: float = 0.0


BEHAVIOURS = ("verification", "backtracking", "subgoals", "backward_chaining")
"""The reasoning behaviours that are annotated, as fields of Annotation and in the order in which all tables list them.

Gandhi et al. 2025, Cognitive Behaviors that Enable Self-Improving Reasoners (arXiv 2503.01307)."""


@dataclass(frozen=True, slots=True)
class Span:
    """Evidence of a behaviour: the characters [start, end) of the completion."""

    behaviour: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """What curation found in one rollout, and what it decided."""

    verification: int = 0
    backtracking: int = 0
    subgoals: int = 0
    backward_chaining: int = 0
    num_steps: int = 0
    """Reasoning steps: numbered ones, else sentences of the reasoning."""
    spans: tuple[Span, ...] = ()
    failed_branch_fraction: float | None = None
    """Share of the reasoning's sentences that it takes back later."""
    foreign_share: float | None = None
    """Share of letters that are not of the text's main script."""
    compression_ratio: float | None = None
    """How many times smaller zlib makes the text: high where it repeats itself."""
    ngram_loop: int | None = None
    """How often the commonest run of words (curation.repetition_ngram of them) stands in it."""
    code_share: float | None = None
    """Share of characters between code fences."""
    reasoning_format: str | None = None
    """How the reasoning is set off: tags, lone close, none, broken."""
    pass_rate: float | None = None
    """Share of CORRECT among the problem's judged rollouts (CORRECT + WRONG + NO_ANSWER + TRUNCATED)."""
    dropped_by: str = ""
    """The first rule that dropped it, OVER_QUOTA if its problem had better ones, "" if neither."""
    selected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One completion of one problem. Identity = hash(problem id, fingerprint, sample), never a row position."""

    id: str
    problem: Problem
    teacher: str
    model: str
    fingerprint: str
    """Model and revision, prompt and sampling parameters (without max_tokens) that produced it."""
    sample: int
    seed: int
    resample: int = 0
    """How many times this sample was drawn again because a raised max_tokens made its first completion obsolete."""
    completion: str
    """The raw text, verbatim: it is never re-rendered, only judged, masked and trained on."""
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    verdict: Verdict
    annotation: Annotation | None = None

    @staticmethod
    def identify(problem_id: str, fingerprint: str, sample: int) -> str:
        """Return the id of a rollout."""
        return content_hash(problem_id, fingerprint, sample)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over problems with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How one arm did on one slice ("all" or a difficulty) of the test problems."""

    arm: str
    model: str
    difficulty: str
    problems: int
    samples: int
    """Samples per problem; the same for every problem, or the score is refused."""
    pass_at: Mapping[int, Interval]
    majority_at: Mapping[int, Interval]
    """Credit of a majority vote over k samples."""
    outcomes: Mapping[Outcome, float]
    """Share of each outcome among all samples; sums to 1."""
    completion_tokens: Interval
    """Length of a completion."""

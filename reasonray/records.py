"""The records of a run: problems, rollouts, verdicts, annotations and scores.

Records are frozen and hold plain values, so that they pickle, hash and flatten into Arrow columns (store/schema.py).
This module knows nothing of files, models or Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Self


class Split(StrEnum):
    """The two sets of problems: TRAIN problems are distilled, TEST problems are only used for evaluation."""

    TRAIN = "train"
    TEST = "test"


class Finish(StrEnum):
    """Why a completion ended: a stop token or string, the token limit, or an engine error."""

    STOP = "stop"
    LENGTH = "length"
    ERROR = "error"


class Outcome(StrEnum):
    """The outcome of a check. Only CORRECT and WRONG are about the answer; the others never count as wrong.

    TRUNCATED: the token limit was reached before an answer. NO_ANSWER: no answer could be extracted.
    UNVERIFIABLE: the gold answer cannot be judged. TIMEOUT: the checker reached its time limit. FAILED: an error of the
    engine or the checker.
    """

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    TRUNCATED = "truncated"
    UNVERIFIABLE = "unverifiable"
    TIMEOUT = "timeout"
    FAILED = "failed"


JUDGED = (Outcome.CORRECT, Outcome.WRONG, Outcome.NO_ANSWER, Outcome.TRUNCATED)
"""Outcomes that are about the model: the denominator of a pass rate."""
UNJUDGED = tuple(outcome for outcome in Outcome if outcome not in JUDGED)
"""Outcomes that are not about the model, but about the gold answer, the checker or the engine."""

BASE, STUDENT = "base", "student"
"""Names of two models under evaluation: the student before and after training."""
OVER_QUOTA = "over_quota"
"""The value of `dropped_by` for a rollout that no rule drops, but whose problem has enough better ones."""


def content_hash(*parts: str | int) -> str:
    """Return a hash of the parts as 20 hex digits; parts are length-prefixed, so different lists never look alike."""
    hasher = blake2b(digest_size=10)
    for part in parts:
        encoded = str(part).encode()
        hasher.update(f"{len(encoded)}:".encode())
        hasher.update(encoded)
    return hasher.hexdigest()


def storable(text: str) -> str:
    """Return a text that can be encoded as UTF-8: surrogate pairs are joined, lone surrogates become U+FFFD.

    JSON may escape half of a pair (`"\\ud83d"`), so any server may send one; Arrow and most files refuse it.
    """
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def hash_fraction(identity: str) -> float:
    """Return a hash in hex as a number in [0, 1). A share s of all hashes is below s."""
    return int(identity[:12], 16) / 16**12


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A question with a known answer. Its id is a hash of its content, so the order of a source does not matter."""

    id: str
    source: str
    question: str
    answer: str | None
    checker: str
    difficulty: str = ""
    split: Split = Split.TRAIN
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Further values for the checker, and for clustering; must be serialisable as JSON."""

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
        """Return the id of a problem: a hash of its source's name, its question and its answer."""
        return content_hash(source, question, "" if answer is None else answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of checking one completion."""

    outcome: Outcome
    extracted: str | None = None
    """The final answer, as written in the completion."""
    checker: str = ""
    detail: str = ""
    """The rule that decided, or the reason of an error."""
    seconds: float = 0.0
    """Time that the check took."""


BEHAVIOURS = ("verification", "backtracking", "subgoals", "backward_chaining")
"""The reasoning behaviours that are annotated, as fields of Annotation and in the order in which all tables list them.

Gandhi et al. 2025, Cognitive Behaviors that Enable Self-Improving Reasoners (arXiv 2503.01307)."""


@dataclass(frozen=True, slots=True)
class Span:
    """Evidence of a behaviour: characters [start, end) of the completion."""

    behaviour: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """Curation's measurements of one rollout, and its decision."""

    verification: int = 0
    backtracking: int = 0
    subgoals: int = 0
    backward_chaining: int = 0
    num_steps: int = 0
    """Reasoning steps: numbered ones, else sentences of the reasoning."""
    spans: tuple[Span, ...] = ()
    failed_branch_fraction: float | None = None
    """Share of the reasoning's sentences that are taken back later."""
    foreign_share: float | None = None
    """Share of letters outside the text's main script."""
    compression_ratio: float | None = None
    """Size of the text divided by its size compressed by zlib; high for repetitive text."""
    ngram_loop: int | None = None
    """Occurrences of the most frequent n-gram of words (n = curation.repetition_ngram)."""
    code_share: float | None = None
    """Share of characters between code fences."""
    reasoning_format: str | None = None
    """Delimiters of the reasoning: tags, lone close, none, broken."""
    pass_rate: float | None = None
    """Share of CORRECT among the problem's judged rollouts (CORRECT + WRONG + NO_ANSWER + TRUNCATED)."""
    dropped_by: str = ""
    """The first rule that drops the rollout, OVER_QUOTA if its problem has enough better ones, else ""."""
    selected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One completion of one problem. Its id is hash(problem id, fingerprint, sample), never a row's position."""

    id: str
    problem: Problem
    teacher: str
    model: str
    fingerprint: str
    """Hash of the model's weights, the prompt and the sampling parameters (without max_tokens)."""
    sample: int
    """Index among the samples of the problem under this fingerprint."""
    seed: int
    resample: int = 0
    """Times that this sample was generated again, because max_tokens was raised after it was truncated."""
    prompt: int = 0
    """Index among the prompts of the teacher."""
    opening: str = ""
    """Text that the prompt opened and that belongs to the completion, such as "<think>"."""
    completion: str
    """The raw text, verbatim. It is judged, masked and trained on, but never re-rendered."""
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    tokens_estimated: bool = False
    """Whether the token counts are estimates, because the server did not report any."""
    token_ids: tuple[int, ...] | None = None
    """Of the completion, with its end, as sampled; None unless they were asked for (`sampling.logprobs`)."""
    logprobs: tuple[float, ...] | None = None
    """Log-probability of each token when it was sampled, in float16; None unless they were asked for."""
    verdict: Verdict
    annotation: Annotation | None = None

    @property
    def answer(self) -> str:
        """The answer from its beginning: what the prompt opened of it, and the completion."""
        return self.opening + self.completion

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
    """The score of one model under evaluation on one slice ("all" or a difficulty) of the test problems."""

    arm: str
    model: str
    difficulty: str
    problems: int
    samples: int
    """Samples per problem; the same for every problem, otherwise there is no score."""
    pass_at: Mapping[int, Interval]
    """k → pass@k: probability that at least one of k samples is correct."""
    majority_at: Mapping[int, Interval]
    """k → maj@k: credit of a majority vote over k samples."""
    outcomes: Mapping[Outcome, float]
    """Outcome → its share of all samples; the shares sum to 1."""
    completion_tokens: Interval
    """Tokens per completion."""

"""The interface of a checker, with the behaviour that most checkers share as its defaults."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from reasonray.answers import ExtractedAnswer, final_answer
from reasonray.records import Outcome, Problem


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one comparison."""

    outcome: Outcome
    detail: str
    """The rule that decided, or the reason of a fault."""
    is_undecided: bool = False
    """The answer could not be read: WRONG is the default here, and a language model may know better."""


@runtime_checkable
class Checker(Protocol):
    """Judges the answers to a problem. Stateless: one instance serves a process.

    Subclass it to inherit the defaults. An answer goes to `fast` first, and to `compare` if `fast` passes on it.
    """

    needs_answer: bool = True
    """Whether a problem needs a gold answer. If False, its metadata say what is correct."""
    has_independent_rules: bool = False
    """Whether `fast` and `compare` can each judge any answer, so that their agreement is worth measuring."""

    @abstractmethod
    def unverifiable(self, problem: Problem) -> str | None:
        """Return why no completion of a problem can be judged, or None if completions can be."""

    def needs_sandbox(self, problem: Problem) -> bool:
        """Return whether answers are run, or handed to code that is not ours: in the sandbox of checkers/sandbox.py."""
        return False

    def extract(self, problem: Problem, response: str) -> ExtractedAnswer | None:
        """Return the final answer of a response, or None if it has none. Linear in the response's length."""
        return final_answer(response, last_number=bool(problem.metadata.get("last_number")))

    def fast(self, problem: Problem, answer: str) -> Finding | None:
        """Judge an answer in microseconds, or return None to pass on it. It must not be able to hang."""
        return None

    @abstractmethod
    def compare(self, problem: Problem, answer: str) -> Finding:
        """Judge an answer that `fast` passed on. It runs in a process that can be killed."""

    def combine(self, problem: Problem, boxes: tuple[str, ...]) -> str | None:
        """Return several boxed answers as one, or None if the gold answer is not a list."""
        return None

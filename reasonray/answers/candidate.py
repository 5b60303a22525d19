"""A candidate for the final answer, and the answer that is chosen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A place of a text that states an answer, or takes the place of one (an empty box)."""

    text: str
    """The answer as the text writes it; "" for an empty box."""
    start: int
    end: int
    """The answer is within text[start:end]."""
    rule: str
    """boxed, tag, hashes, phrase, conclusion, whole response, last number; a checker may have rules of its own."""
    closed: bool = True
    """False if the answer ends where the text ends, because a cut may have gone through it."""
    retracted: bool = False
    """The text takes the answer back, or the box is empty or never closes."""
    remark: bool = False
    """It may say something about the answer ("the answer is unique") and counts only if nothing else states one."""


@dataclass(frozen=True, slots=True)
class ExtractedAnswer:
    """The final answer of a text, as the text writes it."""

    text: str
    rule: str
    """The rule that found it: boxed, phrase, hashes or last number; a checker may have rules of its own."""
    closed: bool
    """False if the answer ends where the text ends, because a cut may have gone through it."""
    other_boxes: tuple[str, ...] = ()
    """The boxed answers listed with this one that differ from it, in their order."""

"""Rounds of distillation, in which the student of one teaches the next."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import PositiveInt, model_validator

from reasonray.config.prompt import GOLD
from reasonray.config.section import Change, Section, ShareRange


class Rounds(Section):
    """Rounds of distillation. Each is a run of its own: `NAME-r1`, `NAME-r2`, …; `<root>/NAME/rounds.html` shows all.

    The first round is the configuration as it is. A run NAME that was begun without this section is the first round.
    `budget` holds for each round.
    """

    CHANGE: ClassVar[Change | None] = Change.FREE

    count: PositiveInt = 2
    """Number of rounds."""
    teacher: Literal["student", "fixed", "both"] = "student"
    """Who writes from the second round on: the student of the round before, asked as a student with the first teacher's
    sampling parameters and temperatures; the [[teachers]], with new samples; or both."""
    start: Literal["base", "previous"] = "base"
    """The weights from which each student is trained: those of [student], or the student of the round before."""
    data: Literal["union", "newest"] = "union"
    """The rollouts that a student learns from: those of all rounds so far, or those of its own. Rollouts of earlier
    rounds are never sampled again: they are recorded teachers. Where they are learnt from, a policy that wants correct
    samples (until_correct) counts theirs."""
    problems: Literal["all", "unsolved", "band"] = "all"
    """Train problems of the second round and later ones: all; those that no earlier round has solved; or those whose
    pass rate, as the earlier rounds measured it, probably lies within `band`, the most probable ones first."""
    band: ShareRange = (0.1, 0.9)
    """Lowest and highest pass rate of problems = "band"."""
    stop: Literal["never", "no gain"] = "never"
    """no gain: no further round once the interval of a student's paired difference in pass@1 to the one before it (in
    the first round: to the base) no longer lies above 0, or that in pass@k, for the largest k, lies below 0."""
    rationalise: str | None = None
    """STaR's rationalisation (Zelikman et al. 2022): the user's turn with which the round's teacher is asked again
    where it has solved nothing, with `{question}` and `{gold_answer}`, such as "{question}\\n(Hint: it is
    {gold_answer}.)". What it writes then carries the teacher's name with `-hinted`. Students never see the hint, and
    the rule `leaked_answer` is on."""

    @model_validator(mode="after")
    def _band_does_something(self) -> Self:
        if self.band != type(self).model_fields["band"].default and self.problems != "band":
            raise ValueError('band does nothing without problems = "band"')
        return self

    @model_validator(mode="after")
    def _hint_holds_the_answer(self) -> Self:
        if self.rationalise is not None and not ("{question}" in self.rationalise and GOLD in self.rationalise):
            raise ValueError(f'rationalise must contain "{{question}}" and "{GOLD}"')
        return self

    @property
    def own_student_teaches(self) -> bool:
        """Whether a round's student teaches the next."""
        return self.teacher != "fixed"

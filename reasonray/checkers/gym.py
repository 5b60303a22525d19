"""Answers to reasoning-gym tasks, by the task's own scorer. A full score of 1 is CORRECT; partial credit is not."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from reasonray.answers import ExtractedAnswer, final_answer
from reasonray.checkers.checker import Checker, Finding
from reasonray.records import Outcome, Problem


class Gym(Checker):
    """Asks the scorer of the task that the problem's metadata name; they hold the task's entry, too."""

    def unverifiable(self, problem: Problem) -> str | None:
        """Return why the task's scorer cannot be asked, or None if it can."""
        is_complete = problem.metadata.get("task") is not None and "entry" in problem.metadata
        return None if is_complete else "the problem does not come from reasoning-gym"

    def extract(self, problem: Problem, response: str) -> ExtractedAnswer | None:
        """Return the content of reasoning-gym's own <answer> tag, which may span lines; else the final answer."""
        before, opened, after = response.rpartition("<answer>")
        if opened:
            inside, closed, _ = after.partition("</answer>")
            return ExtractedAnswer(inside.strip(), "tag", bool(closed))
        return final_answer(before or response)

    def compare(self, problem: Problem, answer: str) -> Finding:
        """Score an answer."""
        if reason := self.unverifiable(problem):
            return Finding(Outcome.UNVERIFIABLE, reason)
        if problem.answer != str(None) and answer.split() == (problem.answer or "").split():
            # Some scorers expect the entry's tuples, which JSON stores as lists, and would refuse the gold answer.
            return Finding(Outcome.CORRECT, "the gold answer itself")
        task = problem.metadata["task"]
        score = float(_scorer(str(task)).score_answer(answer=answer, entry=problem.metadata["entry"]))
        return Finding(Outcome.CORRECT if score > 1 - 1e-9 else Outcome.WRONG, f"{task} scores {score:.3g}")


@lru_cache(maxsize=64)
def _scorer(task: str) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(task, size=1, seed=0)

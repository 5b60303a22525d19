"""Answers to reasoning-gym tasks, by the task's own scorer; its full score of 1 is CORRECT, partial credit is not."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from reasonray.answers import Found, final_answer
from reasonray.records import Outcome, Problem


def compare(problem: Problem, answer: str) -> tuple[Outcome, str]:
    """Score an answer; the problem's metadata holds the task's name and entry."""
    if reason := unverifiable(problem):
        return Outcome.UNVERIFIABLE, reason
    if problem.answer != str(None) and answer.split() == (problem.answer or "").split():
        # Some scorers compare tuples with the entry's, which are lists once it has been stored.
        return Outcome.CORRECT, "the gold answer itself"
    task = problem.metadata["task"]
    score = float(_scorer(str(task)).score_answer(answer=answer, entry=problem.metadata["entry"]))
    return (Outcome.CORRECT if score > 1 - 1e-9 else Outcome.WRONG), f"{task} scores {score:.3g}"


def extract(problem: Problem, response: str) -> Found | None:
    """Return the answer in the tag that is reasoning-gym's convention, as it may run over lines; else by the rules."""
    before, opened, after = response.rpartition("<answer>")
    if opened:
        inside, closed, _ = after.partition("</answer>")
        return Found(inside.strip(), "tag", bool(closed))
    return final_answer(before or response)


def unverifiable(problem: Problem) -> str | None:
    """Return why the task's scorer cannot be asked, None if it can."""
    complete = problem.metadata.get("task") is not None and "entry" in problem.metadata
    return None if complete else "the problem does not come from reasoning-gym"


@lru_cache(maxsize=64)
def _scorer(task: str) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(task, size=1, seed=0)

"""Answers to reasoning-gym tasks: full credit is CORRECT, partial credit is not.

Most tasks are judged by our own rules (checkers/gym_rules.py), in microseconds and without the library: its scorers
evaluate some answers and accept some wrong ones. The library scores the rest, in the sandbox (checkers/gym_scorer.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reasonray.answers import ExtractedAnswer, final_answer
from reasonray.checkers import gym_scorer
from reasonray.checkers.checker import Checker, Finding
from reasonray.checkers.gym_rules import FORMATS, RULES, WITHOUT_GOLD, Rule, lines
from reasonray.records import Outcome, Problem

_MAX_CHARACTERS = 20_000


class Gym(Checker):
    """Judges by the rule or the scorer of the task that the problem's metadata name; they hold its entry, too."""

    def unverifiable(self, problem: Problem) -> str | None:
        """Return why no answer can be judged, or None if answers can be. A rule must accept the gold answer."""
        if reason := _incomplete(problem):
            return reason
        if rule := RULES.get(_task(problem)):
            finding = _by_rule(rule, problem, problem.answer or "")
            return None if finding.outcome is Outcome.CORRECT else f"its own gold answer: {finding.detail}"
        return None

    def needs_sandbox(self, problem: Problem) -> bool:
        """Return whether the library must score the answers."""
        return _incomplete(problem) is None and _task(problem) not in RULES

    def extract(self, problem: Problem, response: str) -> ExtractedAnswer | None:
        """Return the content of reasoning-gym's own <answer> tag, which may span lines; else the final answer."""
        before, opened, after = response.rpartition("<answer>")
        if opened:
            inside, closed, _ = after.partition("</answer>")
            return ExtractedAnswer(inside.strip(), "tag", bool(closed))
        return final_answer(before or response)

    def fast(self, problem: Problem, answer: str) -> Finding | None:
        """Judge by the task's rule; None if the library must score the answer."""
        if reason := _incomplete(problem):
            return Finding(Outcome.UNVERIFIABLE, reason)
        task, gold = _task(problem), problem.answer or ""
        if len(answer) > _MAX_CHARACTERS + 4 * len(gold):
            return Finding(Outcome.WRONG, "far longer than the gold answer")
        if lines(answer) == lines(gold):
            return Finding(Outcome.CORRECT, "the gold answer itself")
        if rule := RULES.get(task):
            return _by_rule(rule, problem, answer)
        if (form := FORMATS.get(task)) and not form.fullmatch(answer):
            return Finding(Outcome.WRONG, f"not an answer of the form that {task} asks for")
        return None

    def compare(self, problem: Problem, answer: str) -> Finding:
        """Let the library score an answer, in the sandbox. A scorer that fails at the answer alone makes it wrong.

        Raises:
            UserError: no sandbox can be made on this machine.
        """
        if finding := self.fast(problem, answer):
            return finding
        task, gold = str(problem.metadata["task"]), problem.answer or ""
        scored = gym_scorer.score(problem.metadata, answer)
        if scored.limit:
            return Finding(Outcome.TIMEOUT, f"{task}: {scored.limit}")
        if scored.error and (gold_error := gym_scorer.score(problem.metadata, gold).error):
            return Finding(Outcome.FAILED, f"{task} cannot score its own gold answer: {gold_error}")
        if scored.error:
            return Finding(Outcome.WRONG, f"{task} cannot score it: {scored.error}")
        outcome = Outcome.CORRECT if scored.score > 1 - 1e-9 else Outcome.WRONG
        return Finding(outcome, f"{task} scores {scored.score:.3g}")


def _incomplete(problem: Problem) -> str | None:
    """Return what the problem's metadata lack, or None if they are complete."""
    entry = problem.metadata.get("entry")
    if not isinstance(problem.metadata.get("task"), str) or not (
        isinstance(entry, Mapping) and isinstance(entry.get("metadata", {}), Mapping)
    ):
        return "the problem does not come from reasoning-gym"
    if problem.answer == str(None) and _task(problem) in WITHOUT_GOLD:
        return f"the task {_task(problem)} has no gold answer"
    return None


def _by_rule(rule: Rule, problem: Problem, answer: str) -> Finding:
    try:
        agrees = rule.agrees(answer, problem.answer or "", _facts(problem))
    except (ValueError, ArithmeticError, RecursionError) as error:
        return Finding(Outcome.WRONG, f"cannot be read: {error}"[:200])
    except (LookupError, TypeError, AttributeError) as error:
        return Finding(
            Outcome.FAILED, f"the entry of {_task(problem)} is damaged ({type(error).__name__}: {error})"[:200]
        )
    return Finding(Outcome.CORRECT if agrees else Outcome.WRONG, f"our rule for {_task(problem)}")


def _facts(problem: Problem) -> Mapping[str, Any]:
    facts: Mapping[str, Any] = problem.metadata["entry"].get("metadata", {})
    return facts


def _task(problem: Problem) -> str:
    """Return the task of a problem; an entry of the task `composite` names the task that it comes from."""
    task = problem.metadata["task"]
    return str(_facts(problem).get("source_dataset", task) if task == "composite" else task)

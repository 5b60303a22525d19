"""Was it right. A checker looks at the response (what follows the reasoning) and finds one of seven outcomes.

The error model. What the model did is an outcome: CORRECT, WRONG, NO_ANSWER, or TRUNCATED where the token limit came
before (or may have gone through) the answer. What is no fault of the model is never counted against it: a gold answer
that cannot be judged is UNVERIFIABLE, a check that runs too long is killed and TIMEOUT, a fault of the engine or of the
checker itself is FAILED with its reason. This room has the package's one broad `except`, in `check`.

`check_fast` decides in microseconds what needs no algebra and cannot hang; the rest belongs into checkers.pool.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module

from reasonray.answers import Found, final_answer
from reasonray.checkers import numbers
from reasonray.errors import UserError
from reasonray.prompts import REASONING_CLOSE, REASONING_OPEN, split_reasoning
from reasonray.records import Finish, Outcome, Problem, Verdict

Finding = tuple[Outcome, str]
"""An outcome and the rule or reason behind it."""

CHECKERS = {
    "math_answer": "reasonray.checkers.math_answer",
    "text_answer": "reasonray.checkers.text_answer",
    "gym": "reasonray.checkers.gym",
}
"""Name → module with `compare(problem, answer) -> Finding`; loaded on demand, some are heavy."""


def find_checker(name: str) -> Callable[[Problem, str], Finding]:
    """Return a checker's comparison.

    Raises:
        UserError: there is none of that name.
    """
    if name not in CHECKERS:
        raise UserError(f"no checker is called {name!r}; there are {', '.join(CHECKERS)}")
    compare: Callable[[Problem, str], Finding] = import_module(CHECKERS[name]).compare
    return compare


def check(problem: Problem, completion: str, finish: Finish) -> Verdict:
    """Judge one completion, whatever it takes; run it where it can be killed (checkers.pool)."""
    begun = time.perf_counter()
    verdict = _before_comparing(problem, completion, finish)
    if isinstance(verdict, Found):
        verdict = _compared(problem, verdict)
    return _timed(verdict, begun)


def check_fast(problem: Problem, completion: str, finish: Finish) -> Verdict | None:
    """Judge one completion if that needs no algebra; None if it does. Linear in the text, safe on an event loop."""
    begun = time.perf_counter()
    verdict = _before_comparing(problem, completion, finish)
    if isinstance(verdict, Found):
        finding = _fast_finding(problem, verdict)
        if finding is None:
            return None
        verdict = _verdict(problem, *finding, verdict)
    return _timed(verdict, begun)


def _before_comparing(problem: Problem, completion: str, finish: Finish) -> Verdict | Found:
    """Settle what the answer's value has no say in; else return the answer found."""
    if finish is Finish.ERROR:
        return _verdict(problem, Outcome.FAILED, "the engine gave no completion")
    if problem.answer is None:
        return _verdict(problem, Outcome.UNVERIFIABLE, "the problem has no gold answer")
    cut = finish is Finish.LENGTH
    if REASONING_OPEN in completion and REASONING_CLOSE not in completion:
        outcome = Outcome.TRUNCATED if cut else Outcome.NO_ANSWER
        return _verdict(problem, outcome, "the reasoning never ends")
    _, response = split_reasoning(completion)
    found = _extract(problem, response)
    if cut and (found is None or not found.closed):
        return _verdict(problem, Outcome.TRUNCATED, "cut before the answer was complete")
    if found is None:
        return _verdict(problem, Outcome.NO_ANSWER, "no rule finds an answer")
    if found.rivals:
        return _verdict(problem, Outcome.WRONG, f"boxed answers differ: {', '.join(found.rivals)[:80]}", found)
    return found


def _extract(problem: Problem, response: str) -> Found | None:
    if problem.checker != "gym":
        return final_answer(response)
    # Answers of reasoning-gym may run over lines; its own convention is a tag.
    before, opened, after = response.rpartition("<answer>")
    if opened:
        inside, closed, _ = after.partition("</answer>")
        return Found(inside.strip(), "tag", bool(closed))
    return final_answer(before or response)


def _compared(problem: Problem, found: Found) -> Verdict:
    try:
        outcome, rule = _fast_finding(problem, found) or find_checker(problem.checker)(problem, found.text)
    except UserError:
        raise
    except Exception as error:  # a checker's fault must not count against the model, nor end the batch
        return _verdict(problem, Outcome.FAILED, f"{type(error).__name__}: {error}"[:300], found)
    return _verdict(problem, outcome, rule, found)


def _fast_finding(problem: Problem, found: Found) -> Finding | None:
    if problem.checker == "math_answer":
        return numbers.compare(problem.answer or "", found.text)
    if problem.checker == "text_answer":
        return find_checker("text_answer")(problem, found.text)
    return None


def _verdict(problem: Problem, outcome: Outcome, detail: str, found: Found | None = None) -> Verdict:
    rule = f"{found.rule}: {detail}" if found else detail
    return Verdict(outcome=outcome, extracted=found.text if found else None, checker=problem.checker, detail=rule)


def _timed(verdict: Verdict, begun: float) -> Verdict:
    return Verdict(
        outcome=verdict.outcome,
        extracted=verdict.extracted,
        checker=verdict.checker,
        detail=verdict.detail,
        seconds=time.perf_counter() - begun,
    )

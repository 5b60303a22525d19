"""Checkers: functions that decide whether a completion answers its problem correctly.

A checker reads the response (the text after the reasoning) and returns one of seven outcomes. CORRECT, WRONG, NO_ANSWER
and TRUNCATED describe the model's work. The other three are never counted against the model: UNVERIFIABLE (the gold
answer cannot be judged), TIMEOUT (the check was killed at its time limit) and FAILED (a fault of the engine or of the
checker, with its reason). An answer at which a checker raises is WRONG, unless the gold answer makes it raise, too.

`check` judges a completion in the calling process. checkers/pool.py does so in processes that can be killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pkgutil import resolve_name
from typing import TypeVar

from reasonray.answers import ExtractedAnswer
from reasonray.checkers import own
from reasonray.checkers.checker import Checker, Finding
from reasonray.errors import UserError
from reasonray.prompts import REASONING_CLOSE, REASONING_OPEN, split_reasoning
from reasonray.records import Finish, Outcome, Problem, Verdict

CHECKERS = {
    "math_answer": "reasonray.checkers.math_answer:MathAnswer",
    "numeric": "reasonray.checkers.numeric:Numeric",
    "choice": "reasonray.checkers.choice:Choice",
    "text_answer": "reasonray.checkers.text_answer:TextAnswer",
    "gym": "reasonray.checkers.gym:Gym",
    "program": "reasonray.checkers.program:Program",
    "judgement": "reasonray.checkers.judgement:Judgement",
    "labels": "reasonray.checkers.labels:Labels",
}
"""Name → `module:class`. Modules are loaded on first use, because some are heavy. Other names with a colon are the
user's own checkers (checkers/own.py)."""

F = TypeVar("F", Finding, Finding | None)

_MAX_OTHER_BOXES = 8


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A verdict, and a fact about it that is not stored."""

    verdict: Verdict
    is_undecided: bool = False
    """The checker could not read the answer (checkers/checker.py, Finding)."""


@dataclass(frozen=True, slots=True)
class PendingCheck:
    """An extracted answer that the fast path passed on."""

    problem: Problem
    answer: ExtractedAnswer
    seconds: float
    """The time spent so far."""


@cache
def find_checker(name: str) -> Checker:
    """Return the checker of a name, or the one that `package.module:Name` names.

    Raises:
        UserError: there is no checker of that name.
    """
    if own.is_own(name):
        return own.load(name).checker
    if name not in CHECKERS:
        known = ", ".join(CHECKERS)
        raise UserError(f"no checker is called {name!r}; there are {known}, and your own as package.module:Name")
    checker: Checker = resolve_name(CHECKERS[name])()
    return checker


def unverifiable(problem: Problem) -> str | None:
    """Return why no completion of a problem can be judged, or None if completions can be.

    Raises:
        UserError: the problem's checker does not exist.
    """
    checker = find_checker(problem.checker)
    if reason := _without_gold(problem, checker):
        return reason
    try:
        return next((reason for each in _golds(problem) if (reason := checker.unverifiable(each))), None)
    except Exception as error:  # of a checker of the user's: one problem may not end the loading of the others
        return f"the checker raises {type(error).__name__}: {error}"[:300]


def check(problem: Problem, completion: str, finish: Finish = Finish.STOP) -> Verdict:
    """Judge one completion in this process. Hostile answers can take forever: the pool runs checks that can be killed.

    Raises:
        UserError: the problem's checker does not exist, or cannot work on this machine.
    """
    result = begin(problem, completion, finish)
    return (complete(result) if isinstance(result, PendingCheck) else result).verdict


def check_fast(problem: Problem, completion: str, finish: Finish = Finish.STOP) -> Verdict | None:
    """Judge one completion if that takes microseconds, or return None. Linear in the text, safe on an event loop."""
    if own.is_own(problem.checker):
        return None
    result = begin(problem, completion, finish)
    return None if isinstance(result, PendingCheck) else result.verdict


def begin(problem: Problem, completion: str, finish: Finish) -> CheckResult | PendingCheck:
    """Extract the answer and judge it by the fast path: linear in the text and safe on an event loop, if not own."""
    begun = time.perf_counter()
    answer = _extracted(problem, completion, finish)
    if isinstance(answer, Verdict):
        return CheckResult(replace(answer, seconds=time.perf_counter() - begun))
    finding = _without_fault(_fast_finding, problem, answer)
    seconds = time.perf_counter() - begun
    return _result(problem, answer, finding, seconds) if finding else PendingCheck(problem, answer, seconds)


def complete(pending: PendingCheck) -> CheckResult:
    """Judge an answer that the fast path passed on."""
    begun = time.perf_counter()
    finding = _without_fault(_slow_finding, pending.problem, pending.answer)
    return _result(pending.problem, pending.answer, finding, pending.seconds + time.perf_counter() - begun)


def compare_rules(problem: Problem, completion: str, finish: Finish) -> tuple[Outcome | None, Outcome | None]:
    """Return the outcomes of the fast path and of the algebra, each on its own; None where one does not apply.

    A verdict takes the first that decides. This measures how far the two agree. Run it in the pool.
    """
    answer, checker = _extracted(problem, completion, finish), find_checker(problem.checker)
    if isinstance(answer, Verdict) or answer.other_boxes or not checker.has_independent_rules:
        return None, None
    if len(_golds(problem)) > 1:
        return None, None
    fast = _without_fault(_fast_finding, problem, answer)
    return fast.outcome if fast else None, _without_fault(_slow_finding, problem, answer).outcome


def _extracted(problem: Problem, completion: str, finish: Finish) -> ExtractedAnswer | Verdict:
    """Return the answer of a completion, or the verdict where the answer's value does not matter."""
    if finish is Finish.ERROR:
        return Verdict(
            outcome=Outcome.FAILED, checker=own.signature(problem.checker), detail="the engine returned no completion"
        )
    is_cut = finish is Finish.LENGTH
    reads_reasoning = bool(problem.metadata.get("from_reasoning"))
    if not reads_reasoning and REASONING_OPEN in completion and REASONING_CLOSE not in completion:
        outcome = Outcome.TRUNCATED if is_cut else Outcome.NO_ANSWER
        return Verdict(outcome=outcome, checker=own.signature(problem.checker), detail="the reasoning never ends")
    response = completion if reads_reasoning else split_reasoning(completion)[1]
    checker = find_checker(problem.checker)
    try:
        answer = checker.extract(problem, response)
    except Exception as error:  # of a checker of the user's
        return Verdict(outcome=Outcome.FAILED, checker=own.signature(problem.checker), detail=_fault(error))
    if is_cut and (answer is None or not answer.closed):
        detail = "cut before the answer was complete"
        return Verdict(outcome=Outcome.TRUNCATED, checker=own.signature(problem.checker), detail=detail)
    if answer is None:
        return Verdict(
            outcome=Outcome.NO_ANSWER, checker=own.signature(problem.checker), detail="no rule finds an answer"
        )
    if reason := _without_gold(problem, checker):
        return _result(problem, answer, Finding(Outcome.UNVERIFIABLE, reason), 0.0).verdict
    return answer


def _without_gold(problem: Problem, checker: Checker) -> str | None:
    if problem.answer is None and checker.needs_answer:
        return "the problem has no gold answer"
    is_list = isinstance(problem.metadata.get("accepted", ()), list | tuple)
    return None if is_list else "accepted must be a list of texts"


def _without_fault(
    rule: Callable[[Problem, ExtractedAnswer], F], problem: Problem, answer: ExtractedAnswer
) -> F | Finding:
    """Apply a rule. If it raises at the answer but not at the gold answer, the answer is wrong; else it has failed."""
    finding = _attempted(rule, problem, answer)
    if not isinstance(finding, str):
        return finding
    gold = ExtractedAnswer(problem.answer, "gold", True) if problem.answer is not None else None
    if gold is None or isinstance(_attempted(rule, problem, gold), str):
        return Finding(Outcome.FAILED, finding)
    return Finding(Outcome.WRONG, f"the checker cannot take this answer: {finding}"[:300], is_undecided=True)


def _attempted(
    rule: Callable[[Problem, ExtractedAnswer], F], problem: Problem, answer: ExtractedAnswer
) -> F | Finding | str:
    """Return what a rule finds, or its fault: it must neither count against the model nor end the batch."""
    try:
        return rule(problem, answer)
    except UserError:
        raise
    except OSError as error:  # of the machine, whatever the answer
        return Finding(Outcome.FAILED, _fault(error))
    except Exception as error:
        return _fault(error)


def _fault(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _golds(problem: Problem) -> list[Problem]:
    """Return a problem once for each of its gold answers: its own, and those of `metadata["accepted"]`."""
    accepted = problem.metadata.get("accepted")
    if problem.answer is None or not accepted or not isinstance(accepted, list | tuple):
        return [problem]
    return [problem, *(replace(problem, answer=str(answer)) for answer in accepted)]


def _fast_finding(problem: Problem, answer: ExtractedAnswer) -> Finding | None:
    """Judge an answer by the fast path: by each gold answer, or only by some if one of them is correct."""
    golds = _golds(problem)
    if len(golds) == 1:
        return _fast_finding_of_one(problem, answer)
    findings = [_fast_finding_of_one(each, answer) for each in golds]
    correct = next((finding for finding in findings if finding and finding.outcome is Outcome.CORRECT), None)
    return correct or (None if None in findings else findings[0])


def _slow_finding(problem: Problem, answer: ExtractedAnswer) -> Finding:
    """Judge an answer that the fast path passed on by each gold answer, up to the first that it is equal to."""
    first, *others = _golds(problem)
    finding = (_fast_finding_of_one(first, answer) if others else None) or _slow_finding_of_one(first, answer)
    for each in others:
        if finding.outcome is Outcome.CORRECT:
            break
        further = _fast_finding_of_one(each, answer) or _slow_finding_of_one(each, answer)
        finding = further if further.outcome is Outcome.CORRECT else finding
    return finding


def _fast_finding_of_one(problem: Problem, answer: ExtractedAnswer) -> Finding | None:
    """Judge an answer by the fast path; of several boxes each must be decided, or one be wrong."""
    if len(answer.other_boxes) > _MAX_OTHER_BOXES:
        return Finding(Outcome.WRONG, f"{len(answer.other_boxes) + 1} boxed answers differ")
    checker = find_checker(problem.checker)
    if not answer.other_boxes:
        return checker.fast(problem, answer.text)
    if checker.combine(problem, answer.other_boxes):
        return None
    findings = [checker.fast(problem, box) for box in (*answer.other_boxes, answer.text)]
    decided = [finding for finding in findings if finding is not None]
    is_open = len(decided) < len(findings) and all(finding.outcome is Outcome.CORRECT for finding in decided)
    return None if is_open else _agreed(decided, answer)


def _slow_finding_of_one(problem: Problem, answer: ExtractedAnswer) -> Finding:
    """Judge an answer that the fast path passed on; of several boxes each must be correct, or all of them as a list."""
    checker = find_checker(problem.checker)
    if not answer.other_boxes:
        return checker.compare(problem, answer.text)
    boxes = (*answer.other_boxes, answer.text)
    combined = checker.combine(problem, boxes)
    if combined and (finding := _one_box(checker, problem, combined)).outcome is Outcome.CORRECT:
        return Finding(Outcome.CORRECT, f"boxes as a list: {finding.detail}")
    return _agreed([_one_box(checker, problem, box) for box in boxes], answer)


def _one_box(checker: Checker, problem: Problem, box: str) -> Finding:
    return checker.fast(problem, box) or checker.compare(problem, box)


def _agreed(findings: Sequence[Finding], answer: ExtractedAnswer) -> Finding:
    """Return the first finding that is not CORRECT, else the last: boxes that differ are right only if each is."""
    fault = next((finding for finding in findings if finding.outcome is not Outcome.CORRECT), None)
    if fault and fault.outcome is Outcome.WRONG:
        return Finding(Outcome.WRONG, f"boxed answers differ: {', '.join(answer.other_boxes)[:80]}")
    return fault or findings[-1]


def _result(problem: Problem, answer: ExtractedAnswer, finding: Finding, seconds: float) -> CheckResult:
    verdict = Verdict(
        outcome=finding.outcome,
        extracted=answer.text,
        checker=own.signature(problem.checker),
        detail=f"{answer.rule}: {finding.detail}",
        seconds=seconds,
    )
    return CheckResult(verdict, finding.is_undecided)

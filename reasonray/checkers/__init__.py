"""Was it right. A checker looks at the response (what follows the reasoning) and finds one of seven outcomes.

The error model. What the model did is an outcome: CORRECT, WRONG, NO_ANSWER, or TRUNCATED where the token limit came
before (or may have gone through) the answer. What is no fault of the model is never counted against it: a gold answer
that cannot be judged is UNVERIFIABLE, a check that runs too long is killed and TIMEOUT, a fault of the engine or of the
checker itself is FAILED with its reason. This room has the package's one broad `except`, in `check`.

`check_fast` decides in microseconds what needs no algebra and cannot hang; the rest belongs into checkers.pool.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from reasonray.answers import Found, final_answer
from reasonray.errors import UserError
from reasonray.prompts import REASONING_CLOSE, REASONING_OPEN, split_reasoning
from reasonray.records import Finish, Outcome, Problem, Verdict

Finding = tuple[Outcome, str]
"""An outcome and the rule or reason behind it."""

CHECKERS = {
    "math_answer": "reasonray.checkers.math_answer",
    "numeric": "reasonray.checkers.numeric",
    "choice": "reasonray.checkers.choice",
    "text_answer": "reasonray.checkers.text_answer",
    "gym": "reasonray.checkers.gym",
    "program": "reasonray.checkers.program",
    "judgement": "reasonray.checkers.judgement",
    "labels": "reasonray.checkers.labels",
}
"""Name → module, loaded on demand, as some are heavy.

Each has `compare(problem, answer) -> Finding` and `unverifiable(problem) -> reason | None`. It may have

    fast(problem, answer) -> Finding | None     decides in microseconds, or passes
    symbolic(problem, answer) -> Finding        what compare does with what `fast` passes
    list_of(problem, answers) -> str | None     makes one answer of several boxes
    extract(problem, response) -> Found | None  finds the answer by rules of its own
    NEEDS_NO_ANSWER                             what is right stands in the metadata alone
"""

_MOST_RIVALS = 8


def find_checker(name: str) -> Any:
    """Return a checker's module.

    Raises:
        UserError: there is none of that name.
    """
    if name not in CHECKERS:
        raise UserError(f"no checker is called {name!r}; there are {', '.join(CHECKERS)}")
    return import_module(CHECKERS[name])


def unverifiable(problem: Problem) -> str | None:
    """Return why no completion of a problem can be judged, None if it can; to be asked when problems are loaded.

    Raises:
        UserError: there is no checker of the problem's.
    """
    checker = find_checker(problem.checker)
    if problem.answer is None and not needs_no_answer(problem.checker):
        return "the problem has no gold answer"
    reason: str | None = checker.unverifiable(problem)
    return reason


def needs_no_answer(name: str) -> bool:
    """Say whether a checker's problems have what is right in their metadata alone."""
    return bool(getattr(find_checker(name), "NEEDS_NO_ANSWER", False))


def check(problem: Problem, completion: str, finish: Finish = Finish.STOP) -> Verdict:
    """Judge one completion, whatever it takes; run it where it can be killed (checkers.pool)."""
    begun = time.perf_counter()
    verdict = _before_comparing(problem, completion, finish)
    if isinstance(verdict, Found):
        finding = _without_fault(_judged, problem, verdict) or (Outcome.FAILED, "no finding")
        verdict = _verdict(problem, *finding, verdict)
    return _timed(verdict, begun)


def check_fast(problem: Problem, completion: str, finish: Finish) -> Verdict | None:
    """Judge one completion if that needs no algebra; None if it does. Linear in the text, safe on an event loop."""
    begun = time.perf_counter()
    verdict = _before_comparing(problem, completion, finish)
    if isinstance(verdict, Found):
        finding = _without_fault(_fast_finding, problem, verdict)
        if finding is None:
            return None
        verdict = _verdict(problem, *finding, verdict)
    return _timed(verdict, begun)


def compare_rules(problem: Problem, completion: str, finish: Finish) -> tuple[Outcome | None, Outcome | None]:
    """Return what the fast path and the algebra find, each by itself, None for what does not apply; run it in the pool.

    For measuring how far the two agree: a verdict takes the first that decides.
    """
    found, checker = _before_comparing(problem, completion, finish), find_checker(problem.checker)
    if isinstance(found, Verdict) or found.rivals or not hasattr(checker, "symbolic"):
        return None, None
    fast, symbolic = (_without_fault(step, problem, found) for step in (_fast_finding, _symbolic_finding))
    return fast and fast[0], symbolic and symbolic[0]


def _symbolic_finding(problem: Problem, found: Found) -> Finding:
    finding: Finding = find_checker(problem.checker).symbolic(problem, found.text)
    return finding


def _before_comparing(problem: Problem, completion: str, finish: Finish) -> Verdict | Found:
    """Settle what the answer's value has no say in; else return the answer found."""
    if finish is Finish.ERROR:
        return _verdict(problem, Outcome.FAILED, "the engine gave no completion")
    cut = finish is Finish.LENGTH
    whole = bool(problem.metadata.get("from_reasoning"))
    if not whole and REASONING_OPEN in completion and REASONING_CLOSE not in completion:
        outcome = Outcome.TRUNCATED if cut else Outcome.NO_ANSWER
        return _verdict(problem, outcome, "the reasoning never ends")
    response = completion if whole else split_reasoning(completion)[1]
    found = _extract(problem, response)
    if cut and (found is None or not found.closed):
        return _verdict(problem, Outcome.TRUNCATED, "cut before the answer was complete")
    if found is None:
        return _verdict(problem, Outcome.NO_ANSWER, "no rule finds an answer")
    if problem.answer is None and not needs_no_answer(problem.checker):
        return _verdict(problem, Outcome.UNVERIFIABLE, "the problem has no gold answer", found)
    return found


def _extract(problem: Problem, response: str) -> Found | None:
    extract: Callable[[Problem, str], Found | None] | None = getattr(find_checker(problem.checker), "extract", None)
    if extract:
        return extract(problem, response)
    return final_answer(response, last_number=bool(problem.metadata.get("last_number")))


def _without_fault(step: Callable[[Problem, Found], Finding | None], problem: Problem, found: Found) -> Finding | None:
    try:
        return step(problem, found)
    except UserError:
        raise
    except Exception as error:  # a checker's fault must not count against the model, nor end the batch
        return Outcome.FAILED, f"{type(error).__name__}: {error}"[:300]


def _judged(problem: Problem, found: Found) -> Finding:
    """Compare what was found; of several boxes each must be right, or all together where the gold is a list."""
    checker = find_checker(problem.checker)
    if finding := _fast_finding(problem, found):
        return finding
    if not found.rivals:
        compared: Finding = checker.compare(problem, found.text)
        return compared
    boxes = (*found.rivals, found.text)
    together = checker.list_of(problem, boxes) if hasattr(checker, "list_of") else None
    if together and (whole := checker.compare(problem, together))[0] is Outcome.CORRECT:
        return Outcome.CORRECT, f"boxes as a list: {whole[1]}"
    return _agreed([checker.compare(problem, box) for box in boxes], found)


def _fast_finding(problem: Problem, found: Found) -> Finding | None:
    if len(found.rivals) > _MOST_RIVALS:
        return Outcome.WRONG, f"{len(found.rivals) + 1} boxed answers differ"
    checker = find_checker(problem.checker)
    fast = getattr(checker, "fast", None)
    if fast is None:
        return None
    if not found.rivals:
        finding: Finding | None = fast(problem, found.text)
        return finding
    if hasattr(checker, "list_of") and checker.list_of(problem, found.rivals):
        return None
    findings = [fast(problem, box) for box in (*found.rivals, found.text)]
    decided = [it for it in findings if it is not None]
    undecided = len(decided) < len(findings)
    return None if undecided and all(it[0] is Outcome.CORRECT for it in decided) else _agreed(decided, found)


def _agreed(findings: Sequence[Finding], found: Found) -> Finding:
    """Return the first finding that is not CORRECT, else the last: boxes that differ are right only if each is."""
    fault = next((it for it in findings if it[0] is not Outcome.CORRECT), None)
    if fault and fault[0] is Outcome.WRONG:
        return Outcome.WRONG, f"boxed answers differ: {', '.join(found.rivals)[:80]}"
    return fault or findings[-1]


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

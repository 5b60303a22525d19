import json
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from factories import a_problem
from hypothesis import given
from hypothesis import strategies as st

from reasonray.answers import final_answer
from reasonray.checkers import check, check_fast, find_checker
from reasonray.checkers.numbers import read
from reasonray.checkers.pool import CheckerPool
from reasonray.config import UserError
from reasonray.records import Finish, Outcome

CASES = [json.loads(line) for line in (Path(__file__).parent / "cases.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['why']}: {case['completion'][:40]} vs {case['gold']}")
def test_case(case: dict[str, Any]) -> None:
    problem = a_problem(answer=case["gold"], checker=case["checker"], metadata=case.get("metadata", {}))
    finish = Finish(case.get("finish", "stop"))
    assert check(problem, case["completion"], finish).outcome == case["outcome"]
    fast = check_fast(problem, case["completion"], finish)
    assert fast is None or fast.outcome == case["outcome"], "the fast path may pass, but not differ"


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_integers_are_equal_only_if_they_are(gold: int, answer: int) -> None:
    for completion in (f"The answer is {answer}.", rf"\boxed{{{answer:,}}}", f"#### {answer}"):
        verdict = check_fast(a_problem(answer=str(gold)), completion, Finish.STOP)
        assert verdict is not None
        assert (verdict.outcome is Outcome.CORRECT) == (gold == answer)


@given(st.fractions(min_value=-1000, max_value=1000, max_denominator=999))
def test_a_fraction_is_read_exactly(value: Fraction) -> None:
    sign, positive = "-" if value < 0 else "", abs(value)
    whole, rest = divmod(positive.numerator, positive.denominator)
    forms = [f"{sign}{positive.numerator}/{positive.denominator}"]
    forms.append(rf"{sign}\frac{{{positive.numerator}}}{{{positive.denominator}}}")
    forms += [f"{sign}{whole} {rest}/{positive.denominator}"]
    for form in forms:
        number = read(form)
        assert number is not None
        assert number.value == value


@given(st.text(max_size=300), st.sampled_from([Finish.STOP, Finish.LENGTH]))
def test_any_text_gets_a_verdict(text: str, finish: Finish) -> None:
    verdict = check_fast(a_problem(), text, finish)
    assert verdict is None or verdict.outcome in set(Outcome)


def test_extraction_takes_time_in_proportion_to_length() -> None:
    def seconds(text: str) -> float:
        begun = time.perf_counter()
        final_answer(text)
        return time.perf_counter() - begun

    for piece in ("the answer is ", "\\boxed{", "{", "answer " * 3, " " * 8, "####"):
        small, large = piece * (200_000 // len(piece)), piece * (1_600_000 // len(piece))
        # 8 times the text: 8 times the time, where a quadratic rule would take 64 times.
        assert seconds(large) < 30 * max(seconds(small), 0.002)


def test_a_checker_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match="no checker is called 'vibes'"):
        find_checker("vibes")


def test_a_checkers_own_fault_is_not_the_models() -> None:
    problem = a_problem(checker="gym", metadata={"task": "no_such_task", "entry": {}})
    verdict = check(problem, "The answer is 42.", Finish.STOP)
    assert verdict.outcome is Outcome.FAILED
    assert "no_such_task" in verdict.detail


@pytest.fixture(scope="module")
def pool() -> Any:
    pool = CheckerPool(processes=1, timeout_seconds=6.0, memory_mb=3000)
    warm = pool.submit(a_problem(answer=r"\sqrt{12}"), r"\boxed{2\sqrt{3}}", Finish.STOP)
    assert warm.result(timeout=60).outcome is Outcome.CORRECT
    yield pool
    pool.close()


def test_a_check_that_hangs_is_killed_and_the_next_one_goes_on(pool: CheckerPool) -> None:
    hostile = r"\boxed{9^{9^{9^{9^{9}}}} + 1}"
    begun = time.perf_counter()
    stuck = pool.submit(a_problem(answer=r"10^{10^{10^{10}}} + x"), hostile, Finish.STOP)
    after = pool.submit(a_problem(answer=r"\sqrt{12}"), r"\boxed{2\sqrt{3}}", Finish.STOP)
    assert stuck.result(timeout=30).outcome in {Outcome.TIMEOUT, Outcome.WRONG, Outcome.FAILED}
    assert after.result(timeout=60).outcome is Outcome.CORRECT
    assert time.perf_counter() - begun < 40


@pytest.mark.parametrize(
    "completion",
    ["\\boxed{" + "{" * 100_000 + "}" * 100_000 + "}", "x" * 5_000_000, "The answer is " + "9" * 1_000_000],
    ids=["nested braces", "five megabytes", "a million digits"],
)
def test_hostile_text_costs_no_more_than_the_limit(pool: CheckerPool, completion: str) -> None:
    begun = time.perf_counter()
    verdict = pool.submit(a_problem(), completion, Finish.STOP).result(timeout=60)
    assert verdict.outcome is not Outcome.CORRECT
    assert time.perf_counter() - begun < 15

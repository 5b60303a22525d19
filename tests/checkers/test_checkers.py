import json
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from math_verify import parse, verify

from reasonray.answers import final_answer
from reasonray.checkers import CHECKERS, PendingCheck, begin, check, check_fast, complete, find_checker, unverifiable
from reasonray.checkers.checker import Checker
from reasonray.checkers.numbers import read
from reasonray.checkers.pool import CheckerPool
from reasonray.config import Checking, GymSource, UserError
from reasonray.problems import golds, gym
from reasonray.records import Finish, Outcome, Problem
from tests.factories import a_problem

ROOM = Path(__file__).parent
CASES = [json.loads(line) for line in (ROOM / "cases.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['why']}: {case['completion'][:40]} vs {case['gold']}")
def test_case(case: dict[str, Any]) -> None:
    problem = a_problem(answer=case["gold"], checker=case["checker"], metadata=case.get("metadata", {}))
    finish = Finish(case.get("finish", "stop"))
    assert check(problem, case["completion"], finish).outcome == case["outcome"]
    fast = check_fast(problem, case["completion"], finish)
    assert fast is None or fast.outcome == case["outcome"], "the fast path may pass, but it may not decide otherwise"


def test_judging_one_completion_loads_neither_ray_nor_torch_nor_transformers() -> None:
    script = """
import sys
from reasonray.checkers import check
from reasonray.records import Problem
print(check(Problem.of("6 * 7?", "42"), r"\\boxed{42}").outcome)
print([module for module in ("ray", "torch", "transformers", "vllm") if module in sys.modules])
"""
    printed = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert printed.split() == ["correct", "[]"]


def test_a_problem_made_by_hand_has_the_id_of_its_content() -> None:
    problem = Problem.of("6 * 7?", "42", metadata={"ordered": True})
    assert problem.id == Problem.identify("", "6 * 7?", "42")
    assert (problem.source, problem.checker, problem.metadata) == ("", "math_answer", {"ordered": True})
    assert Problem.of("6 * 7?", "42", source="book").id == Problem.identify("book", "6 * 7?", "42")


def test_the_cases_cover_every_checker_and_a_third_are_traps() -> None:
    assert len(CASES) >= 400
    assert sum(case.get("trap", False) for case in CASES) >= len(CASES) / 3
    assert not [case for case in CASES if case.get("trap") and case["outcome"] == "correct"]
    assert all(case["why"] for case in CASES)
    assert {case["checker"] for case in CASES} == {"math_answer", "numeric", "choice", "text_answer"}
    keys = [json.dumps({name: case[name] for name in case if name not in {"why", "outcome"}}) for case in CASES]
    assert len(set(keys)) == len(keys)


def problem_of(case: dict[str, Any]) -> Problem:
    return a_problem(answer=case["gold"], checker=case["checker"], metadata=case.get("metadata", {}))


def test_a_gold_answer_that_cannot_be_judged_is_found_before_any_completion() -> None:
    for case in CASES:
        if case["outcome"] == "unverifiable":
            assert unverifiable(problem_of(case)), case
        elif case["outcome"] in {"correct", "wrong"}:
            assert unverifiable(problem_of(case)) is None, case


@pytest.mark.parametrize("form", [r"\boxed{%s}", "The answer is %s.", "#### %s\n", "**Answer:** %s."])
def test_every_gold_answer_passes_its_own_checker(form: str) -> None:
    for case in CASES:
        if case["outcome"] in {"correct", "wrong"}:
            verdict = check(problem_of(case), form % case["gold"])
            assert verdict.outcome is Outcome.CORRECT, (case["gold"], verdict)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("gsm8k", "She sells 3 * 6 = <<3*6=18>>18 eggs.\n#### 18"),
        ("gsm8k", "It costs $1,250 in all.\n#### 1,250"),
        ("gsm8k", "#### -3"),
        ("gsm8k", "#### 0.5"),
        ("boxed", r"Thus the answer is $\boxed{\frac{14}{3}}$."),
        ("boxed", r"so $x \in \boxed{[-2,7]}$"),
        ("boxed", r"\boxed{\left( 3, \frac{\pi}{2} \right)}"),
        ("boxed", r"\boxed{\text{Evelyn}}"),
        ("boxed", r"\boxed{\$32,\!348}"),
        ("boxed", r"\boxed{2220_5}"),
        ("boxed", r"\boxed{70 \sqrt{2}\text{ cm}}"),
        ("boxed", r"\boxed{\begin{pmatrix} -1/3 \\ 2/3 \\ 5/3 \end{pmatrix}}"),
        ("boxed", r"\boxed{3, 5, 7}"),
        ("boxed", r"\boxed{x^3+3x-6}"),
        ("boxed", r"\boxed{\text{(B)}}"),
        ("boxed", r"$\boxed 2$."),
        ("boxed", r"\boxed{120^\circ}"),
        ("boxed", r"\boxed{25\%}"),
        ("boxed", r"\boxed{(-\infty, 2) \cup (3, \infty)}"),
    ],
)
def test_the_gold_answers_of_hub_data_sets_pass_their_own_checker(form: str, text: str) -> None:
    problem = a_problem(answer=golds.read(text, form).answer)
    assert unverifiable(problem) is None
    for completion in (text, rf"\boxed{{{problem.answer}}}", f"The answer is ${problem.answer}$."):
        assert check(problem, completion).outcome is Outcome.CORRECT


@pytest.mark.parametrize(
    "task", ["basic_arithmetic", "arc_agi", "sudoku", "word_sorting", "knights_knaves", "countdown"]
)
def test_the_gold_answers_of_gym_tasks_pass_their_own_checker(task: str) -> None:
    for problem, _ in gym.load(GymSource(kind="gym", task=task, train=3, test=0)):
        assert unverifiable(problem) is None
        assert check(problem, f"<answer>{problem.answer}</answer>").outcome is Outcome.CORRECT


@pytest.mark.slow
def test_every_disagreement_with_math_verify_is_listed_and_justified() -> None:
    listed = [json.loads(line) for line in (ROOM / "disagreements.jsonl").read_text().splitlines()]
    assert all(row["why"] for row in listed)
    disagreements = set()
    for case in CASES:
        verdict = check_fast(problem_of(case), case["completion"], Finish(case.get("finish", "stop")))
        if (
            case["checker"] == "math_answer"
            and verdict
            and verdict.outcome in {"correct", "wrong"}
            and verdict.extracted
        ):
            parsed = [parse(f"${text}$", parsing_timeout=None) for text in (case["gold"], verdict.extracted)]
            theirs = Outcome.CORRECT if verify(*parsed, timeout_seconds=None) else Outcome.WRONG
            if theirs is not verdict.outcome:
                disagreements.add((case["gold"], verdict.extracted, verdict.outcome.value, theirs.value))
    assert {(row["gold"], row["answer"], row["ours"], row["math_verify"]) for row in listed} == disagreements


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_integers_in_any_form_are_equal_exactly_if_their_values_are(gold: int, answer: int) -> None:
    for completion in (f"The answer is {answer}.", rf"\boxed{{{answer:,}}}", f"#### {answer}"):
        verdict = check_fast(a_problem(answer=str(gold)), completion)
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


PIECES = [
    r"\boxed{",
    "}",
    "{",
    "The answer is ",
    "#### ",
    "4",
    "2",
    ",",
    " ",
    "/",
    "$",
    "%",
    "°",
    r"\frac",
    r"\text{",
    "^",
    "½",
]
PIECES += [
    "cm",
    "A",
    "(",
    ")",
    "not",
    "and",
    "\n",
    "**",
    "-",
    ".",
    "³",
    "10",
    "e",
    "\\",
    r"\overline{",
    "_2",
    ":",
    "thousand",
    "pm",
]


@given(
    st.one_of(st.text(max_size=300), st.lists(st.sampled_from(PIECES), max_size=30).map("".join)),
    st.one_of(
        st.sampled_from(["42", r"\sqrt{2}", "B", "10 cm", "yes"]), st.lists(st.sampled_from(PIECES)).map("".join)
    ),
    st.sampled_from(sorted(set(CHECKERS) - {"gym"})),
    st.sampled_from([Finish.STOP, Finish.LENGTH]),
)
def test_the_fast_path_never_fails(text: str, gold: str, checker: str, finish: Finish) -> None:
    problem = a_problem(answer=gold, checker=checker, metadata={"last_number": True})
    for completion in (text, rf"\boxed{{{text}}}"):
        verdict = check_fast(problem, completion, finish)
        assert verdict is None or verdict.outcome is not Outcome.FAILED, verdict


def test_extraction_takes_time_in_proportion_to_length() -> None:
    def seconds(text: str) -> float:
        best = []
        for _ in range(3):
            begun = time.process_time()  # of this process alone: the machine may be busy
            final_answer(text)
            best.append(time.process_time() - begun)
        return min(best)

    for piece in ("the answer is ", "\\boxed{", "{", "answer " * 3, " " * 8, "####"):
        small, large = piece * (200_000 // len(piece)), piece * (1_600_000 // len(piece))
        # 8 times the text: 8 times the time, where a quadratic rule would take 64 times.
        assert seconds(large) < 30 * max(seconds(small), 0.002)


def test_a_checker_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match="no checker is called 'vibes'; there are math_answer, numeric, choice, "):
        find_checker("vibes")


@pytest.mark.parametrize("name", CHECKERS)
def test_a_checker_is_one_object_with_every_member(name: str) -> None:
    checker = find_checker(name)
    assert isinstance(checker, Checker)
    assert checker is find_checker(name)


def test_an_answer_that_cannot_be_read_is_undecided() -> None:
    problem = a_problem(answer="7" * 2000)
    unread, wrong = (begin(problem, rf"\boxed{{{answer}}}", Finish.STOP) for answer in ("8" * 5000, r"\sqrt{2}"))
    assert isinstance(unread, PendingCheck)
    assert isinstance(wrong, PendingCheck)
    assert complete(unread).verdict.outcome is complete(wrong).verdict.outcome is Outcome.WRONG
    assert complete(unread).is_undecided
    assert not complete(wrong).is_undecided


def test_a_fault_of_the_checker_is_not_counted_against_the_model() -> None:
    problem = a_problem(checker="gym", metadata={"task": "countdown", "entry": {}})
    verdict = check(problem, "The answer is 41.")
    assert verdict.outcome is Outcome.FAILED
    assert "the entry of countdown is damaged (KeyError: 'target')" in verdict.detail
    assert "damaged" in (unverifiable(problem) or "")


LIMIT_SECONDS = 6.0


@pytest.fixture(scope="module")
def pool() -> Any:
    pool = CheckerPool(Checking(processes=1, timeout_seconds=LIMIT_SECONDS, memory_mb=3000))
    warm = pool.submit(a_problem(answer=r"\sqrt{12}"), r"\boxed{2\sqrt{3}}")
    assert warm.result(timeout=60).verdict.outcome is Outcome.CORRECT
    yield pool
    pool.close()


def living_children() -> set[int]:
    return {child.pid for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE}


@pytest.mark.slow
def test_hostile_answers_restart_no_process(pool: CheckerPool) -> None:
    before = living_children()
    for answer in (
        "9^{9^{9^{9^{9}}}} + 1",
        "99999999! + 1",
        "((((9!)!)!)!)!",
        r"\sum_{k=1}^{999999999} \frac{1}{k^{k}}",
    ):
        verdict = pool.submit(a_problem(answer="x + 1"), rf"\boxed{{{answer}}}").result(timeout=30).verdict
        assert verdict.outcome is Outcome.WRONG, answer
    assert living_children() == before


@pytest.mark.parametrize(
    ("completion", "outcome"),
    [
        ("\\boxed{" + "{" * 100_000 + "}" * 100_000 + "}", Outcome.NO_ANSWER),
        ("x" * 5_000_000, Outcome.NO_ANSWER),
        ("The answer is " + "9" * 1_000_000, Outcome.WRONG),
        ("\\boxed{4" + " " * 5_000_000 + "2}", Outcome.WRONG),
        ("\\boxed{1} \\boxed{2} " * 250_000, Outcome.WRONG),
        ("\\boxed{" + r"\text{a}" * 600_000 + "}", Outcome.NO_ANSWER),
    ],
    ids=["nested braces", "five megabytes", "a million digits", "spaces", "boxes", "text commands"],
)
def test_a_long_hostile_text_is_judged_by_the_fast_path_in_little_time(completion: str, outcome: Outcome) -> None:
    begun = time.process_time()
    verdict = check_fast(a_problem(), completion)
    assert verdict is not None
    assert verdict.outcome is outcome
    assert time.process_time() - begun < 5, "1.6 s at most on a slow core; an expression that backtracks takes minutes"

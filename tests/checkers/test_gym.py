"""Our rules for reasoning-gym's tasks: what they accept, and the README's table of why they are ours."""

import json
import operator
import random
import re
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonray.checkers import check, find_checker, gym_rules, unverifiable
from reasonray.checkers.expressions import exact_value, is_antiderivative, polynomial
from reasonray.checkers.gym_rules import FORMATS, RULES
from reasonray.config import GymSource
from reasonray.problems import gym
from reasonray.records import Outcome, Problem
from tests.factories import a_problem

README = Path(gym_rules.__file__).with_name("README.md")
SAMPLE = ["advanced_geometry", "calendar_arithmetic", "chain_sum", "coin_flip", "complex_arithmetic", "countdown"]
SAMPLE += ["cryptarithm", "decimal_arithmetic", "fraction_simplification", "game_of_life_halting", "gsm_symbolic"]
SAMPLE += ["knights_knaves", "n_queens", "number_format", "number_sorting", "polynomial_equations", "pool_matrix"]
SAMPLE += ["polynomial_multiplication", "puzzle24", "simple_integration", "spell_backward", "survo", "time_intervals"]
SAMPLE += ["word_sorting", "spiral_matrix", "group_anagrams", "power_function", "game_of_life"]


@cache
def problems_of(task: str) -> tuple[Problem, ...]:
    return tuple(problem for problem, _ in gym.load(GymSource(kind="gym", task=task, train=4, test=0)))


def wrong_answers(problem: Problem, others: list[str], dice: random.Random) -> Iterator[str]:
    """Return answers that are wrong to any task: the gold answer with something more, or something else."""
    gold = problem.answer or ""
    yield from (
        "",
        problem.question,
        " ".join(map(str, range(101))),
        json.dumps([*range(101)]),
        problem.question + gold,
    )
    yield from ("nan", "NaN", "inf", "None", "[]", "{}", "[[]]", '"', "(", "1/0", "0*x", "[NaN]", "-")
    yield from (f"{gold} or something else", f"{gold}, 7", f"{gold}\n7", f"{gold} # 7", f"{gold} because it is so")
    yield from (f"{gold} and then", f"{gold} nan", f"{gold} !", f"{gold}, {gold}", f"not {gold}", f"It is not {gold}")
    yield from (f"nan {gold}", f"{gold})", f"({gold}", f"{gold} {gold}")
    if re.fullmatch(r"\[.*\]", gold, re.DOTALL) and (numbers := re.findall(r"[^,\s\[\]]+", gold)):
        yield json.dumps([float("nan")] * len(numbers))
    tokens = re.findall(r"\d+|[A-Za-z]+|\W", gold)
    digits = [place for place, token in enumerate(tokens) if token.isdigit()]
    for place in dice.sample(digits, min(3, len(digits))):
        changed = str(int(tokens[place]) + 1).rjust(len(tokens[place]), "0")
        yield "".join((*tokens[:place], changed, *tokens[place + 1 :]))


def is_alternative(task: str, problem: Problem, answer: str) -> bool:
    """Return whether a task, as its question has it, may well accept a changed answer."""
    return task == "power_function" and bool(re.fullmatch(r"[-+.\de]+", answer))  # three figures are asked for


def assert_exact(task: str) -> None:
    problems, dice = problems_of(task), random.Random(task)
    for problem in problems:
        assert unverifiable(problem) is None
        assert check(problem, f"<answer>{problem.answer}</answer>").outcome is Outcome.CORRECT
        others = [other.answer or "" for other in problems if other.answer != problem.answer]
        for answer in wrong_answers(problem, others, dice):
            same = answer.split() == (problem.answer or "").split()
            if not same and not is_alternative(task, problem, answer):
                finding = find_checker("gym").fast(problem, answer) or find_checker("gym").compare(problem, answer)
                assert finding.outcome is Outcome.WRONG, (task, answer, problem.answer, finding)


@pytest.mark.parametrize("task", SAMPLE)
def test_an_answer_is_read_whole(task: str) -> None:
    assert_exact(task)


@pytest.mark.slow
def test_an_answer_to_any_task_is_read_whole() -> None:
    from tests.checkers.test_hostile import TASKS

    for task in sorted(set(TASKS) - set(SAMPLE)):
        assert_exact(task)


RIGHT = [
    ("coin_flip", {"rational": {"numerator": 5, "denominator": 16}}, "0.3125", ["5/16", ".3125", "0.31250", "10/32"]),
    ("gsm_symbolic", {}, "1250", ["1,250", "$1250", "1250.0", "+1250", "1.25e3"]),
    ("complex_arithmetic", {}, "-15.0 + 3.0i", ["-15+3i", "(-15 + 3i)", "-15 + 3j"]),
    ("complex_arithmetic", {}, "0.0 - 1.0i", ["-i", "0 - i", "-1j"]),
    ("number_sorting", {}, "['30.0', '-2.5']", ["[30, -2.5]", '["30", "-2.50"]']),
    ("polynomial_equations", {}, "-0.7757, 0.0", ["0, -0.7757", "-0.77571, 0.00001"]),
    ("polynomial_equations", {}, "", ['""']),
    ("time_intervals", {}, "06:09", ["6:09", "06:09:00"]),
    ("time_intervals", {}, "5 days", ["5", "5 day", "05 days"]),
    ("time_intervals", {}, "3 days, 06:09", ["3 days, 6:09:00"]),
    ("fraction_simplification", {}, "$244/607$", ["244/607", r"\frac{244}{607}", r"$\dfrac{244}{607}$"]),
    (
        "countdown",
        {"numbers": [30, 4, 23, 42], "target": 126},
        "42*(30 - 4 - 23)",
        ["(30-23-4)*42", "42 × (30 − 4 − 23)"],
    ),
    ("puzzle24", {"numbers": [9, 9, 3, 8]}, "9*3*8/9", ["(9/9)*3*8", "8*3 + 9 - 9"]),
    ("polynomial_multiplication", {}, "6*x**2 - 4*x", ["-4*x + 6*x^2", "6*x*x - 4*x", "2*(3*x**2 - 2*x)"]),
    (
        "simple_integration",
        {"integrand": "2 - 18*x**2", "variable": "x"},
        "-6*x**3 + 2*x + C",
        ["2*x - 6*x^3", "2*x*(1 - 3*x**2) + K"],
    ),
    (
        "intermediate_integration",
        {"integrand": "sqrt(-2*x - 8)", "variable": "x"},
        "-(-2*x - 8)**(3/2)/3 + C",
        ["-1/3*sqrt(-2*x-8)**3", "(2*x+8)*sqrt(-2*x-8)/3 + C"],
    ),
    ("intermediate_integration", {"integrand": "1/x", "variable": "x"}, "log(x) + C", ["ln(abs(x)) + C", "log(3*x)"]),
    (
        "knights_knaves",
        {},
        "Ann is a knight, and Bob is a knave.",
        ["Bob is a knave, Ann is a knight", "ann is a knight and bob is a knave"],
    ),
    ("calendar_arithmetic", {}, "Yes", ["yes"]),
    ("calendar_arithmetic", {}, "12", ["12.0", "+12"]),
    ("game_of_life_halting", {}, "True", ["true"]),
    ("pool_matrix", {}, "4.5 3.67\n2.0 1.0", ["4.50 3.67\n2 1", "4.5 3.6667\n2 1"]),
    ("bitwise_arithmetic", {}, "0x5b993", ["375187", "0x5B993"]),
    ("decimal_arithmetic", {}, "6.32098837209", ["6.320988372093", "6.3209883720900"]),
]


@pytest.mark.parametrize(("task", "facts", "gold", "answers"), RIGHT, ids=[f"{case[0]} {case[2]}" for case in RIGHT])
def test_a_right_answer_in_another_form_is_right(
    task: str, facts: dict[str, object], gold: str, answers: list[str]
) -> None:
    problem = a_problem(answer=gold, checker="gym", metadata={"task": task, "entry": {"metadata": facts}})
    for answer in answers:
        assert check(problem, f"<answer>{answer}</answer>").outcome is Outcome.CORRECT, answer


OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
Valued = tuple[str, Fraction]


def joined(parts: tuple[Valued, str, Valued]) -> Valued:
    (left, one), sign, (right, other) = parts
    sign = "+" if sign == "/" and other == 0 else sign
    return f"({left} {sign} {right})", OPERATIONS[sign](one, other)


EXPRESSIONS = st.recursive(
    st.integers(0, 99).map(lambda number: (str(number), Fraction(number))),
    lambda part: st.tuples(part, st.sampled_from("+-*/"), part).map(joined),
    max_leaves=12,
)


@given(EXPRESSIONS)
def test_an_expression_has_the_value_of_its_tree(expression: Valued) -> None:
    text, value = expression
    assert exact_value(text) == value
    assert exact_value(text.strip("()") if text.count("(") == 1 else text.replace(" ", "")) == value


@given(st.text("0123456789xyC+-*/^(). ", max_size=60))
def test_an_expression_is_read_or_refused(text: str) -> None:
    for read in (exact_value, polynomial, lambda text: is_antiderivative(text, "2*x", "x")):
        try:
            read(text)
        except (ValueError, ArithmeticError):
            continue


def table() -> str:
    """Return the README's table of the tasks that the library's scorers would judge badly."""
    why = {"evaluates": "evaluates it by", "accepts": "accepts", "refuses": "refuses"}
    rows: dict[str, list[str]] = {}
    for task, rule in RULES.items():
        if rule.kind != "same":
            rows.setdefault(f"{why[rule.kind]} {rule.library}", []).append(task)
    lines = [f"| {', '.join(tasks)} | {library} |" for library, tasks in rows.items()]
    lines.append(
        f"| {', '.join(FORMATS)}: the library scores answers of this form | accepts words around some answers |"
    )
    same = sum(rule.kind == "same" for rule in RULES.values())
    lines.append(f"| {same} more, such as chain_sum and sudoku | compares texts or numbers, as our rule does |")
    return "\n".join(["| task | the library's scorer |", "|---|---|", *lines])


def test_the_readme_shows_the_table_of_our_rules() -> None:
    assert table() in README.read_text(), table()

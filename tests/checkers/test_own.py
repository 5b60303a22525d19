"""Checkers of the user's own: found by name, tried before a run starts, killed where they hang, known by a version."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from reasonray.checkers import check, check_fast, find_checker, own, unverifiable
from reasonray.checkers.pool import CheckerPool, refuse_faulty
from reasonray.config import Checking, FilesSource, UserError
from reasonray.problems import files
from reasonray.records import Outcome, Problem
from reasonray.stages.sample import load_problems
from reasonray.store.run import begin_or_resume
from tests.factories import a_problem, a_scripted_config

README = Path(own.__file__).with_name("README.md").read_text()
EXAMPLE = re.search(r"## A checker of your own.*?```python\n(.*?)```", README, re.DOTALL)
HEAD = """
from reasonray.checkers.checker import Checker, Finding
from reasonray.records import Outcome
"""
FAULTS = {
    "no_such_module:Checker": "module no_such_module cannot be imported (ModuleNotFoundError: No module named",
    "mine:Absent": "module mine has no Absent",
    "mine:": "module mine has no empty name",
    "mine:Half": "lacks compare",
    "mine:Other": "lacks needs_answer, has_independent_rules, unverifiable, needs_sandbox, extract, fast, compare",
    "mine:Needy": "cannot be made without arguments (TypeError: ",
    "broken:Checker": "module broken cannot be imported (ZeroDivisionError: division by zero)",
}
TRIED = {
    "mine:Raises": "raises ValueError: 42 in compare; problem ",
    "mine:Refuses": "finds its own gold answer wrong (never)",
    "mine:Returns": "returns bool from compare, not Finding",
    "mine:Extracts": "returns str from extract, not ExtractedAnswer",
    "mine:Reads": "raises KeyError: 'x' in unverifiable",
    "mine:Hangs": "needs more than 2 s, its import included, so it would be killed (checking.timeout_seconds)",
    "mine:Dies": "kills its process",
}
MINE = (
    HEAD
    + """
import os, time
def found(is_same): return Finding(Outcome.CORRECT if is_same else Outcome.WRONG, "compared")
class Base(Checker):
    def unverifiable(self, problem): return None
    def compare(self, problem, answer): return found(answer == problem.answer)
class Good(Base): pass
class Half(Checker):
    def unverifiable(self, problem): return None
class Other: pass
class Needy(Base):
    def __init__(self, needed): pass
class Raises(Base):
    def compare(self, problem, answer): raise ValueError(answer)
class Refuses(Base):
    def compare(self, problem, answer): return Finding(Outcome.WRONG, "never")
class Returns(Base):
    def compare(self, problem, answer): return True
class Extracts(Base):
    def extract(self, problem, response): return response
class Reads(Base):
    def unverifiable(self, problem): raise KeyError("x")
class Hangs(Base):
    def fast(self, problem, answer): time.sleep(600)
class Dies(Base):
    def compare(self, problem, answer): os._exit(3)
class HangsAtOne(Base):
    def fast(self, problem, answer): time.sleep(600 if answer == "1" else 0)
class Picky(Base):
    def compare(self, problem, answer): return found(int(answer) == int(problem.answer))
class Declared(Base):
    version = "3"
"""
)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "mine.py"
    forget()


def forget() -> None:
    for name in ("mine", "broken"):
        sys.modules.pop(name, None)
    own.load.cache_clear()
    find_checker.cache_clear()


def judged_by(name: str, answer: str = "42") -> Problem:
    return a_problem(answer=answer, checker=name)


def test_the_example_of_the_readme_is_a_checker(monkeypatch: pytest.MonkeyPatch) -> None:
    assert EXAMPLE
    module = ModuleType("my_dates")
    exec(EXAMPLE[1], module.__dict__)
    module.Dates.version = "1"  # a module without a file
    monkeypatch.setitem(sys.modules, "my_dates", module)
    problem = judged_by("my_dates:Dates", "2024-05-01")
    assert own.trial(problem) == ""
    assert unverifiable(problem) is None
    assert check(problem, "The answer is 2024-05-01.").outcome is Outcome.CORRECT
    assert check(problem, r"\boxed{20240501}").outcome is Outcome.CORRECT
    assert check(problem, "The answer is 2024-05-02.").outcome is Outcome.WRONG
    assert check(problem, "The answer is May.").outcome is Outcome.WRONG, "it raises at this answer alone"
    assert unverifiable(judged_by("my_dates:Dates", "May")) == "the gold answer is not a date"
    assert len(EXAMPLE[1].strip().splitlines()) <= 12


@pytest.mark.parametrize(("name", "fault"), FAULTS.items())
def test_a_checker_that_cannot_be_loaded_is_refused_in_a_line(mine: Path, name: str, fault: str) -> None:
    with pytest.raises(UserError, match=f"^checker {re.escape(name)}:? {re.escape(fault)}") as caught:
        find_checker(name)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fault"), TRIED.items())
def test_a_checker_that_fails_at_a_gold_answer_is_refused_in_a_line(mine: Path, name: str, fault: str) -> None:
    with pytest.raises(UserError, match=f"^checker {re.escape(name)} {re.escape(fault)}") as caught:
        refuse_faulty([judged_by(name)], Checking(timeout_seconds=2.0))
    assert "\n" not in str(caught.value)


def test_without_checkers_of_the_users_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reasonray.checkers.pool.CheckerPool", None)
    refuse_faulty([a_problem()], Checking())


def test_a_few_problems_are_tried_from_the_first_to_the_last() -> None:
    problems = [judged_by("a:B", str(number)) for number in range(1, 102)]
    assert [problem.answer for problem in own.sample([*problems, a_problem()], "a:B")] == ["1", "26", "51", "76", "101"]
    assert len(own.sample(problems[:3], "a:B")) == 3
    assert own.sample(problems, "c:D") == []


def test_a_verdict_names_the_version_of_the_code(mine: Path) -> None:
    good, declared = (check(judged_by(f"mine:{name}"), "The answer is 42.") for name in ("Good", "Declared"))
    assert (good.outcome, declared.outcome, declared.checker) == (Outcome.CORRECT, Outcome.CORRECT, "mine:Declared@3")
    assert re.fullmatch(r"mine:Good@[0-9a-f]{12}", good.checker)
    mine.write_text(MINE + "\n")
    forget()
    assert check(judged_by("mine:Good"), "The answer is 42.").checker != good.checker
    assert check(judged_by("mine:Declared"), "The answer is 42.").checker == "mine:Declared@3"


def test_none_of_it_runs_on_the_event_loop(mine: Path) -> None:
    assert check_fast(judged_by("mine:Hangs"), "The answer is 42.") is None


@pytest.mark.slow
def test_in_the_pool_it_is_killed_where_it_hangs_and_wrong_where_it_raises(mine: Path) -> None:
    pool = CheckerPool(Checking(timeout_seconds=3.0))
    try:
        outcomes = []
        for name, answer in (
            ("HangsAtOne", "42"),
            ("HangsAtOne", "1"),
            ("Picky", "42"),
            ("Picky", "x"),
            ("Raises", "x"),
        ):
            verdict = pool.submit(judged_by(f"mine:{name}"), f"The answer is {answer}.").result(60).verdict
            outcomes.append(verdict.outcome)
            assert verdict.checker.startswith(f"mine:{name}@")
        assert outcomes == [Outcome.CORRECT, Outcome.TIMEOUT, Outcome.CORRECT, Outcome.WRONG, Outcome.FAILED]
        died = pool.submit(judged_by("mine:Dies"), "The answer is 42.").result(60).verdict
        assert died.outcome is Outcome.FAILED
    finally:
        pool.close()


@pytest.mark.slow
def test_a_run_goes_on_only_with_the_checkers_that_judged_it(mine: Path, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"question": "6 * 7?", "answer": "42"}\n')
    source = {"kind": "files", "train": str(tmp_path / "data.jsonl"), "checker": "mine:Good", "name": "own"}
    run = begin_or_resume(a_scripted_config(tmp_path, sources=[source]))
    load_problems(run)
    load_problems(run)
    mine.write_text(MINE + "\n")
    forget()
    with pytest.raises(UserError, match=r"checker mine:Good is of version .*, the run's verdicts are of version"):
        load_problems(run)


def test_a_row_of_data_names_no_code(mine: Path, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"question": "6 * 7?", "answer": "42", "judge": "mine:Good"}\n')
    values = {"kind": "files", "train": str(tmp_path / "data.jsonl"), "columns": {"checker": "judge"}}
    with pytest.raises(UserError, match="only the configuration may name code as a checker, not a row"):
        files.load(FilesSource.model_validate(values))
    problems = files.load(FilesSource.model_validate(values | {"checker": "mine:Good"}))
    assert problems[0][0].checker == "mine:Good"

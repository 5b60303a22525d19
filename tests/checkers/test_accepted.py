"""The README's table of what each checker accepts is that of the cases."""

import subprocess
import sys

import pytest

from tests.checkers.accepted import BEGIN, README, document, read_cases, table
from tests.commands import ENVIRONMENT, ROOT

COMMAND = "tests/checkers/accepted.py"
CASE = {
    "checker": "numeric",
    "gold": "a|b",
    "completion": "The answer is 7.",
    "outcome": "wrong",
    "why": "a | b",
}


def test_the_table_is_current() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == document(text, read_cases()), f"run: python {COMMAND}"


@pytest.mark.slow
def test_a_command_updates_the_table() -> None:
    before = README.read_text(encoding="utf-8")
    subprocess.run([sys.executable, COMMAND], cwd=ROOT, env=ENVIRONMENT, check=True)
    assert README.read_text(encoding="utf-8") == before


def test_every_checker_with_cases_shows_answers_of_both_kinds() -> None:
    shown = {(case["checker"], case["outcome"]) for case in read_cases() if case.get("shown")}
    assert shown == {(case["checker"], outcome) for case in read_cases() for outcome in ("correct", "wrong")}


def test_a_changed_case_changes_the_table() -> None:
    assert table([CASE | {"shown": True}]) == (
        "`numeric`:\n\n| gold answer | right | wrong |\n|---|---|---|\n| `a\\|b` |  | `7` a \\| b |\n"
    )
    assert "a |" not in table([CASE])


def test_a_readme_without_the_place_of_the_table_is_named() -> None:
    with pytest.raises(SystemExit, match="Generated from"):
        document("no table", [])
    assert BEGIN in README.read_text(encoding="utf-8")

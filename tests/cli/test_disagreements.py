"""`reasonray show RUN --disagreements`: aligned counts, then the answers that opinions differ on."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from reasonray.cli.disagreements import show_disagreements
from reasonray.cli.main import main
from reasonray.cli.show import Query
from reasonray.errors import UserError
from reasonray.records import Outcome, Rollout, Verdict
from reasonray.store.run import Run
from reasonray.store.verdicts import VERIFIED_SCHEMA
from tests.analysis.test_disagreements import answered, finding
from tests.factories import a_problem, a_run_with, a_scripted_config

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e 41\nnext [bold]"
HARD = a_problem("What is 7 * 8?", "56", difficulty="hard")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return a_run_with(a_scripted_config(tmp_path), answered("41 41.0 41 42"), answered("55 56", HARD, "56"))


def verify(run: Run, rollouts: list[Rollout], judge: str) -> None:
    rows = [finding(rollout, judge_outcome=judge, judged_for="audit", audited=True) for rollout in rollouts]
    (run.verified / "a.parquet").write_table(pa.Table.from_pylist(rows, schema=VERIFIED_SCHEMA))
    (run.verified / "manifest.json").write(json.dumps({"files": ["a.parquet"]}).encode())


def printed(run: Run, query: Query | None = None, *, width: int = 0, limit: int | None = None) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width or None, force_terminal=bool(width), highlight=False, markup=False)
    show_disagreements(run, query or Query(), console, limit=limit)
    return file.getvalue()


def test_without_a_verification_rules_and_majority_are_compared(run: Run) -> None:
    text = printed(run)
    assert "rules accept, majority refuses         1         1" in text
    assert "majority accepts, rules refuse         3         1" in text
    assert "`reasonray verify` audits the rules, and asks a judge" in text
    assert "  answer  41   2 of 4 answers: teacher #0, teacher #2\n  rules refuse · majority accepts (3 votes)" in text
    assert "3 of 3 answers" in text
    assert f"open one: reasonray show {run.place} --problem ID" in text


def test_a_judges_disagreements_come_first_with_gold_and_answer(run: Run) -> None:
    verify(run, answered("55 56", HARD, "56"), "correct")
    text = printed(run)
    assert "`reasonray verify`" not in text
    assert "judge accepts, rules refuse" in text
    assert "50.0 % [" in text
    entries = text.split("\n\n")
    assert entries[1].startswith(HARD.id)
    assert "  gold    56\n  answer  55   1 of 2 answers: teacher #0\n  rules refuse · judge accepts" in entries[1]


def test_columns_are_aligned_whatever_the_kinds(run: Run) -> None:
    verify(run, answered("55 56", HARD, "56"), "wrong")
    table = printed(run).split("\n\n")[0].splitlines()
    ends = {line.index("rollouts") + len("rollouts") for line in table[:1]}
    for line in table[1:]:
        (end,) = ends
        assert line[end - 1].isdigit()
        assert line[end] == " "


@pytest.mark.parametrize(
    ("query", "answers"),
    [
        (Query(problem=HARD.id[:8]), 0),
        (Query(problem=a_problem().id[:8]), 3),
        (Query(outcome="correct"), 1),
        (Query(text="6 * 7"), 3),
        (Query(difficulty="hard"), 0),
    ],
)
def test_the_list_can_be_narrowed(run: Run, query: Query, answers: int) -> None:
    assert f"{answers} of {answers} answers that opinions differ on" in printed(run, query)


def test_the_limit_is_on_the_answers_and_mistakes_are_named(run: Run) -> None:
    assert "1 of 3 answers that opinions differ on" in printed(run, limit=1)
    with pytest.raises(UserError, match="1 or more"):
        printed(run, limit=0)
    with pytest.raises(UserError, match="leave out --arm"):
        printed(run, Query(arm="base"))
    with pytest.raises(UserError, match="no rollouts with teacher nobody"):
        printed(run, Query(teacher="nobody"))


@pytest.mark.parametrize("width", [0, 50, 120])
def test_hostile_text_is_one_harmless_line(tmp_path: Path, width: int) -> None:
    problem = a_problem(HOSTILE, HOSTILE)
    verdict = Verdict(outcome=Outcome.WRONG, extracted=HOSTILE, checker="math_answer")
    rollouts = [replace(each, verdict=verdict, teacher=HOSTILE) for each in answered("1 2 3", problem)]
    text = printed(a_run_with(a_scripted_config(tmp_path), rollouts), width=width)
    assert not set("\x07\u202e") & set(text)
    assert "\x1b]" not in text
    assert "\x1b[2J" not in text
    assert "[bold]" in text


def test_the_command_prints_them(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", run.place.path, "--disagreements", "--limit", "2"]) == 0
    assert "2 of 3 answers" in capsys.readouterr().out
    assert main(["show", run.place.path, "--disagreements", "--arm", "base"]) == 2

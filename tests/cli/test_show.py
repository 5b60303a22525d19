"""Rollouts in the terminal: the requested ones, safe to print, side by side if there is room."""

import io
import json
import unicodedata
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from reasonray.cli.main import main
from reasonray.cli.show import Query, printable, show
from reasonray.curation.behaviours import annotate
from reasonray.errors import UserError
from reasonray.records import Annotation, Outcome, Rollout
from reasonray.store.run import Run, begin_or_resume
from reasonray.store.schema import rollouts_to_table
from tests.factories import a_problem, a_rollout, a_scripted_config

HOSTILE = "\x1b]0;owned\x07\x1b[2Jred [bold]not bold[/bold] [link=x]:smile: \u202e\x9b31m"
HARD = a_problem("What is 7 * 8?", "56", difficulty="hard")


def _annotated(completion: str, outcome: Outcome, dropped_by: str, **changes: object) -> Rollout:
    found = annotate(completion, "")
    values = {name: getattr(found, name) for name in Annotation.__dataclass_fields__}
    annotation = Annotation(**values | {"dropped_by": dropped_by, "selected": not dropped_by})
    return a_rollout(completion, outcome, annotation=annotation, **changes)


ROLLOUTS = [
    _annotated("<think>Alpha. Let me check: 42.</think> 42", Outcome.CORRECT, ""),
    _annotated("<think>Beta. Wait, that's wrong.</think> 41", Outcome.WRONG, "incorrect", sample=1),
    _annotated("<think>Gamma.</think> 42", Outcome.CORRECT, "over_quota", sample=2, teacher="other"),
    _annotated("<think>Delta.</think> 56", Outcome.CORRECT, "", problem=HARD),
]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A curated run of two parts."""
    run = begin_or_resume(a_scripted_config(tmp_path))
    folder = Path(run.place.path) / "curated" / "rollouts"
    folder.mkdir(parents=True)
    for number, part in enumerate((ROLLOUTS[:2], ROLLOUTS[2:])):
        pq.write_table(rollouts_to_table(part), folder / f"{number}.parquet")
    (run.curated / "manifest.json").write(json.dumps({"rollouts": ["0.parquet", "1.parquet"]}).encode())
    return run


def _printed(run: Run, query: Query, *, width: int = 0, limit: int | None = None) -> str:
    """Return the output for a terminal of this width, or for a pipe if the width is 0."""
    file = io.StringIO()
    console = Console(file=file, width=width or None, force_terminal=bool(width), highlight=False, markup=False)
    show(run, query, console, limit=limit)
    return file.getvalue()


@pytest.mark.parametrize(
    ("query", "names"),
    [
        (Query(), "Alpha Beta Gamma Delta"),
        (Query(outcome="wrong"), "Beta"),
        (Query(rule="over_quota"), "Gamma"),
        (Query(rule="selected"), "Alpha Delta"),
        (Query(difficulty="hard"), "Delta"),
        (Query(behaviour="verification"), "Alpha"),
        (Query(behaviour="backtracking", outcome="wrong"), "Beta"),
        (Query(teacher="other"), "Gamma"),
        (Query(text="gAMMA"), "Gamma"),
        (Query(text="7 * 8"), "Delta"),
        (Query(problem=HARD.id[:12]), "Delta"),
        (Query(problem=a_problem().id), "Alpha Beta Gamma"),
    ],
)
def test_rollouts_that_match_every_filter_are_shown(run: Run, query: Query, names: str) -> None:
    printed = _printed(run, query)
    assert [name for name in ("Alpha", "Beta", "Gamma", "Delta") if name in printed] == names.split()
    assert f"{len(names.split())} of {len(names.split())}" in printed


def test_no_more_rollouts_than_the_limit_are_shown(run: Run) -> None:
    printed = _printed(run, Query(), limit=3)
    assert printed.count("#") == 3
    assert "3 of 4" in printed
    with pytest.raises(UserError, match="1 or more"):
        _printed(run, Query(), limit=0)


def test_every_sample_of_one_problem_is_shown_but_only_ten_of_all_rollouts(tmp_path: Path) -> None:
    run = begin_or_resume(a_scripted_config(tmp_path))
    run.ledger.append([a_rollout(sample=n) for n in range(16)])
    assert "16 of 16" in _printed(run, Query(problem=a_problem().id))
    assert "3 of 16" in _printed(run, Query(problem=a_problem().id), limit=3)
    assert "10 of 16" in _printed(run, Query())


def test_rollouts_sampled_since_the_run_was_curated_are_counted(run: Run) -> None:
    manifest = run.curated / "manifest.json"
    run.ledger.append(ROLLOUTS)
    manifest.write(json.dumps(json.loads(manifest.read()) | {"committed": run.ledger.count()}).encode())
    assert _printed(run, Query()).endswith("4 of 4\n")
    run.ledger.append([a_rollout("<think>Epsilon.</think> 42", sample=n) for n in range(7, 9)])
    printed = _printed(run, Query())
    assert "Epsilon" not in printed
    assert printed.endswith("4 of 4, 2 sampled since it was curated are not among them (jobs/curate.py)\n")
    with pytest.raises(UserError, match="2 sampled since it was curated"):
        _printed(run, Query(text="Epsilon"))
    run.evaluation("base").append([a_rollout()])
    assert _printed(run, Query(arm="base")).endswith("1 of 1\n")


def test_samples_are_side_by_side_if_there_is_room_and_below_each_other_if_not(run: Run) -> None:
    def in_one_line(printed: str) -> bool:
        return any("Alpha" in line and "Beta" in line and "Gamma" in line for line in printed.splitlines())

    query = Query(problem=a_problem().id)
    assert in_one_line(_printed(run, query, width=160))
    assert not in_one_line(_printed(run, query, width=90))
    for width in (0, 30, 60, 90):
        printed = _printed(run, query, width=width)
        assert printed.index("Gamma") < printed.index("Alpha") < printed.index("Beta")  # by teacher, then sample


def test_only_on_a_terminal_is_evidence_coloured_and_the_answer_bold(run: Run) -> None:
    query = Query(text="alpha")
    assert "\x1b[30;42mLet me check\x1b[0m" in _printed(run, query, width=80)
    assert "\x1b[1;4m42\x1b[0m" in _printed(run, query, width=80)
    assert "\x1b" not in _printed(run, query)
    assert "Let me check: 42." in _printed(run, query)


def test_lines_of_the_text_are_not_wrapped_in_a_pipe(tmp_path: Path) -> None:
    run = begin_or_resume(a_scripted_config(tmp_path))
    run.ledger.append([a_rollout("long " * 100 + "\nnext")])
    assert "long " * 99 in _printed(run, Query())


def test_what_the_prompt_opened_is_shown_with_the_completion(tmp_path: Path) -> None:
    run = begin_or_resume(a_scripted_config(tmp_path))
    run.ledger.append([a_rollout("6 * 7 = 42\n</think>\n\n42", opening="<think>\n")])
    assert "<think>\n6 * 7 = 42\n</think>\n\n42\n" in _printed(run, Query())
    coloured = _printed(run, Query(), width=200)
    assert "\x1b[1;4m42\x1b[0m" in coloured.partition("</think>")[2], "the answer is where it was"


@pytest.mark.parametrize("width", [0, 30, 100, 200])
def test_hostile_text_is_neither_executed_nor_read_as_markup(tmp_path: Path, width: int) -> None:
    run = begin_or_resume(a_scripted_config(tmp_path))
    problem = a_problem(HOSTILE, HOSTILE, difficulty=HOSTILE)
    run.ledger.append([a_rollout(HOSTILE, sample=n, problem=problem, teacher=HOSTILE) for n in range(2)])
    for query in (Query(), Query(problem=problem.id)):
        printed = _printed(run, query, width=width)
        assert "\x1b]" not in printed
        assert "\x1b[2J" not in printed
        assert not set("\x07\u202e\x9b") & set(printed)
        if not width:
            assert "\x1b" not in printed
            assert "red [bold]not bold[/bold] [link=x]:smile:" in printed


@given(st.text())
def test_printed_text_has_the_length_of_the_original_and_no_control_characters(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text)
    assert not [sign for sign in shown if unicodedata.category(sign) in {"Cc", "Cs"} and sign not in "\n\t"]
    assert printable(shown) == shown


def test_rules_and_behaviours_need_a_curated_run(tmp_path: Path) -> None:
    run = begin_or_resume(a_scripted_config(tmp_path))
    run.ledger.append([a_rollout()])
    for query in (Query(rule="incorrect"), Query(behaviour="verification")):
        with pytest.raises(UserError, match="curated"):
            _printed(run, query)


def test_an_ambiguous_id_is_refused_and_an_empty_result_names_the_filters(run: Run) -> None:
    with pytest.raises(UserError, match="several ids"):
        _printed(run, Query(problem=""), limit=1)
    with pytest.raises(UserError, match="rollouts with rule nowhere, teacher nobody"):
        _printed(run, Query(rule="nowhere", teacher="nobody"))


def test_the_command_takes_the_same_filters(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    filters = ["--behaviour", "backtracking", "--rule", "incorrect", "--text", "beta", "--limit", "1", "--page"]
    assert main(["show", run.place.path, *filters]) == 0
    printed = capsys.readouterr().out
    assert "Beta." in printed
    assert "\x1b" not in printed
    assert main(["show", run.place.path, "--problem", "nowhere"]) == 2

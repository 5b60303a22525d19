"""Gold answers: every form in which sources hold them, read as they are written."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonray import problems
from reasonray.checkers import check, unverifiable
from reasonray.config import FilesSource, UserError
from reasonray.problems import golds
from reasonray.problems.golds import Gold
from reasonray.records import Outcome, Problem

BOXES = r"Either $\boxed{\frac{1}{2}}$ or $\boxed{3}$."


def loaded(tmp_path: Path, *rows: dict[str, Any], **changes: Any) -> list[Problem]:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"question": f"{n}?"} | row) for n, row in enumerate(rows)))
    return problems.load([FilesSource.model_validate({"kind": "files", "train": str(path)} | changes)]).problems


@pytest.mark.parametrize(
    ("form", "value", "gold"),
    [
        ("verbatim", "00714", Gold("00714")),
        ("verbatim", "12:30", Gold("12:30")),
        ("verbatim", 12345678901234567890, Gold("12345678901234567890")),
        ("verbatim", True, Gold("true")),
        ("verbatim", None, Gold(None)),
        ("verbatim", float("nan"), Gold(None)),
        ("verbatim", ["7"], Gold("7")),
        ("verbatim", [], Gold(None)),
        ("verbatim", BOXES, Gold(BOXES)),
        ("gsm8k", "1,000 + 8\n#### 1,008", Gold("1008")),
        ("gsm8k", "#### -1,234,567.5", Gold("-1234567.5")),
        ("gsm8k", "so\n#### 2, 3", Gold("2, 3")),
        ("gsm8k", "so\n#### 2,3", Gold("2,3")),
        ("gsm8k", "#### 1,000, 2,000", Gold("1,000, 2,000")),
        ("gsm8k", "#### 5\n", Gold("5")),
        ("boxed", r"$\boxed{2}$, that is \boxed{2}", Gold("2")),
        ("boxed", r"\fbox{\frac{1}{2}}", Gold(r"\frac{1}{2}")),
        ("any", BOXES, Gold(r"\frac{1}{2}", ("3",))),
        ("all", BOXES, Gold(r"\frac{1}{2}, 3")),
        ("any", ["USA", "United States", "USA"], Gold("USA", ("United States",))),
        ("all", ["(1,2)", "(3,4)"], Gold("(1,2), (3,4)")),
        ("all", [2, None, 3.5], Gold("2, 3.5")),
        ("any", "plain", Gold("plain")),
        ("all", [], Gold(None)),
    ],
)
def test_a_gold_answer_is_read_in_the_form_that_the_source_names(form: str, value: Any, gold: Gold) -> None:
    assert golds.read(value, form) == gold


@pytest.mark.parametrize(
    ("form", "value", "message"),
    [
        ("verbatim", ["2", "3"], r'2 gold answers \(2, 3\); set gold = "any" if one of them is enough, or "all"'),
        ("boxed", BOXES, "2 gold answers"),
        ("boxed", "just 5", r"no \\boxed\{\} in the answer"),
        ("gsm8k", "just 5", "no #### in the answer"),
        ("verbatim", {"value": "5", "unit": "m"}, 'a table of value, unit; name the key .* answer = "COLUMN.value"'),
        ("all", [["2"], ["3"]], "a list, where a text is expected"),
        ("verbatim", b"\xff", "not UTF-8"),
    ],
)
def test_a_value_without_one_gold_answer_is_refused_with_the_cure(form: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        golds.read(value, form)


def test_a_refused_gold_answer_names_its_row(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.jsonl, line 2: 2 gold answers \(4, 5\)"):
        loaded(tmp_path, {"answer": "1"}, {"answer": ["4", "5"]})


@given(st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_in_json_keeps_its_digits(number: float) -> None:
    from reasonray.problems.files import _parsed

    written = json.dumps(number)
    assert golds.read(_parsed(written, ""), "verbatim").answer == written


@pytest.mark.parametrize("digits", ["1.50", "1e3", "1E+03", "-0", "0.10", "9" * 5000, "1e999"])
def test_other_ways_to_write_a_number_are_kept_too(tmp_path: Path, digits: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"question": "?", "answer": {digits}, "weight": {digits}}}')
    source = FilesSource(kind="files", train=str(tmp_path / "a.jsonl"))
    (problem,) = problems.load([source]).problems
    assert problem.answer == digits
    json.loads(json.dumps(dict(problem.metadata), allow_nan=False))


def test_any_of_several_gold_answers_is_enough_and_all_of_a_list_are_asked_for(tmp_path: Path) -> None:
    (one,) = loaded(tmp_path, {"answer": [r"\frac{1}{2}", "7"]}, gold="any")
    assert check(one, "The answer is 0.5.").outcome is Outcome.CORRECT
    assert check(one, r"\boxed{7.0}").outcome is Outcome.CORRECT
    assert check(one, r"\boxed{\frac{14}{2}}").outcome is Outcome.CORRECT
    assert check(one, "The answer is 8.").outcome is Outcome.WRONG
    assert check(one, r"\boxed{1/2, 7}").outcome is Outcome.WRONG
    (each,) = loaded(tmp_path, {"answer": [r"\frac{1}{2}", "7"]}, gold="all")
    assert check(each, r"\boxed{7} and \boxed{\frac{1}{2}}").outcome is Outcome.CORRECT
    assert check(each, "The answer is 7.").outcome is Outcome.WRONG


def test_an_accepted_answer_that_cannot_be_read_is_reported() -> None:
    problem = Problem.of("?", "5", metadata={"accepted": [r"\frac{1}{"]})
    assert "braces" in str(unverifiable(problem))
    assert "list of texts" in str(unverifiable(Problem.of("?", "5", metadata={"accepted": True})))


MMLU = {"choices": ["1", "2", "0", "3"], "answer": 1}


def test_a_number_of_an_option_becomes_its_letter_and_not_the_option_of_that_text(tmp_path: Path) -> None:
    mapped = {"checker": "choice", "columns": {"metadata": {"options": "choices"}}}
    assert [problem.answer for problem in loaded(tmp_path, MMLU, **mapped)] == ["B"]
    assert loaded(tmp_path, MMLU, gold="index", **mapped)[0].answer == "B"
    assert loaded(tmp_path, MMLU, gold="number", **mapped)[0].answer == "A"
    assert loaded(tmp_path, MMLU | {"answer": "1"}, **mapped)[0].answer == "1", "a text is the option's text"
    assert loaded(tmp_path, MMLU | {"answer": "1"}, gold="index", **mapped)[0].answer == "B"
    options = {"A": "1", "B": "2", "C": "0"}
    assert loaded(tmp_path, MMLU | {"choices": options}, gold="index", **mapped)[0].answer == "B"
    numbers = MMLU | {"choices": [1, 2, 3]}
    assert loaded(tmp_path, numbers, **mapped)[0].answer == "1", "among numbers, a number may be the option itself"


def test_options_that_a_question_does_not_state_are_reported_or_shown(tmp_path: Path) -> None:
    mapped = {"checker": "choice", "columns": {"metadata": {"options": "choices"}}}
    path = tmp_path / "a.jsonl"
    path.write_text(
        json.dumps(MMLU | {"question": "Smallest?"}) + "\n" + json.dumps(MMLU | {"question": "0 or 1 or 2?"})
    )
    source = FilesSource.model_validate({"kind": "files", "train": str(path), **mapped})
    (note,) = problems.load([source]).notes
    assert note.startswith("      1 source files: questions that do not state their options; set show_options = true")
    result = problems.load([source.model_copy(update={"show_options": True})])
    assert result.problems[0].question == "Smallest?\n\nA. 1\nB. 2\nC. 0\nD. 3"
    assert not result.notes
    with pytest.raises(UserError, match="show_options needs the options"):
        loaded(tmp_path, {"answer": "A"}, checker="choice", show_options=True)


@pytest.mark.parametrize(("gold", "answer"), [("verbatim", 4), ("index", 4), ("number", 0), ("index", "x")])
def test_a_number_that_counts_no_option_is_refused(tmp_path: Path, gold: str, answer: Any) -> None:
    mapped = {"checker": "choice", "columns": {"metadata": {"options": "choices"}}, "gold": gold}
    with pytest.raises(UserError, match=r'not the place of one of its 4 options .* "number" if it is 1'):
        loaded(tmp_path, MMLU | {"answer": answer}, **mapped)
    with pytest.raises(UserError, match="needs the options"):
        loaded(tmp_path, {"answer": 0}, checker="choice", gold="index")


def test_options_with_labels_of_their_own_go_by_them(tmp_path: Path) -> None:
    arc = {"choices": {"text": ["ice", "rain"], "label": ["A", "B"]}, "answer": "B"}
    (problem,) = loaded(tmp_path, arc, checker="choice", columns={"metadata": {"options": "choices"}})
    assert check(problem, "The answer is rain.").outcome is Outcome.CORRECT
    assert check(problem, "The answer is A.").outcome is Outcome.WRONG


def test_a_part_of_a_column_goes_by_its_path(tmp_path: Path) -> None:
    row = {"reward_model": {"ground_truth": "5", "style": "rule"}, "chat": [{"role": "user", "content": "2 + 3?"}]}
    columns = {"question": "chat.0.content", "answer": "reward_model.ground_truth"}
    (problem,) = loaded(tmp_path, row, columns=columns)
    assert (problem.question, problem.answer) == ("2 + 3?", "5")
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    source = FilesSource.model_validate({"kind": "files", "train": str(tmp_path / "a.parquet"), "columns": columns})
    assert [again.id for again in problems.load([source]).problems] == [problem.id]
    with pytest.raises(UserError, match=r"no column 'reward_model\.gold' for the answer"):
        loaded(tmp_path, row, columns=columns | {"answer": "reward_model.gold"})

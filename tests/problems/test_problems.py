import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonray import problems
from reasonray.checkers import check
from reasonray.config import Columns, FilesSource, GeneratedSource, GymSource, HubSource, UserError
from reasonray.problems.generated import generate, space
from reasonray.records import Outcome, Problem, Split

DIFFICULTIES = ("easy", "medium", "hard")


def lines(path: Path, *rows: object) -> str:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def files(train: str | None, **changes: object) -> FilesSource:
    return FilesSource.model_validate({"kind": "files", "train": train} | changes)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_train_and_test_spaces_are_disjoint_and_without_repeats(difficulty: str) -> None:
    train, test = (space(difficulty, split) for split in (Split.TRAIN, Split.TEST))
    assert len({item.question for item in train}) == len(train)
    assert not {item.question for item in train} & {item.question for item in test}
    assert 0.15 < len(test) / (len(train) + len(test)) < 0.35


@given(st.integers(0, 1000), st.sampled_from(DIFFICULTIES), st.sampled_from(Split), st.integers(0, 50))
@settings(max_examples=60)
def test_item_i_is_a_function_of_seed_plus_i(seed: int, difficulty: str, split: Split, i: int) -> None:
    assert generate("s", difficulty, split, seed + i) == generate("s", difficulty, split, (seed + 7) + (i - 7))


def test_generated_gold_answers_are_arithmetically_right_and_pass_their_own_checker() -> None:
    loaded = problems.load([GeneratedSource(kind="generated", train=150, test=60, seed=3)]).problems
    for problem in loaded:
        numbers = [int(part) for part in problem.question.replace("%", " ").split() if part.isdigit()]
        if "boxes" in problem.question:
            expected = numbers[0] * numbers[1] - numbers[2]
        elif "% of" in problem.question:
            expected = numbers[0] * int(problem.question.rstrip("?").split()[-1]) // 100
        else:
            expected = eval(problem.question.removeprefix("What is ").rstrip("?"))
        assert problem.answer == str(expected)
        assert check(problem, f"The answer is {problem.answer}.").outcome is Outcome.CORRECT
    assert sum(problem.split is Split.TEST for problem in loaded) == 60
    assert {problem.difficulty for problem in loaded} == set(DIFFICULTIES)


def test_asking_for_more_problems_than_there_are_is_refused_with_their_number() -> None:
    with pytest.raises(UserError, match=r"easy test problems asked for, there are \d+"):
        problems.load([GeneratedSource(kind="generated", train=3, test=6000)])
    with pytest.raises(UserError, match="easy train problems asked for"):
        problems.load([GeneratedSource(kind="generated", train=10**20)])


def test_columns_are_mapped_and_the_rest_becomes_metadata(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"q": "1 + 1?", "a": 2, "level": "one", "origin": "book"})
    source = files(path, columns=Columns(question="q", answer="a", difficulty="level"))
    (problem,) = problems.load([source]).problems
    assert (problem.question, problem.answer, problem.difficulty) == ("1 + 1?", "2", "one")
    assert problem.metadata == {"origin": "book"}


def test_arguments_of_the_checker_reach_every_problem_and_a_column_of_the_same_name_comes_first(tmp_path: Path) -> None:
    rows = ({"question": "g?", "answer": "9.81"}, {"question": "pi?", "answer": "3.14", "absolute_tolerance": 0.5})
    source = files(lines(tmp_path / "a.jsonl", *rows), checker="numeric", checker_args={"absolute_tolerance": 0.1})
    first, second = problems.load([source]).problems
    assert check(first, "The answer is 9.9 m/s^2.").outcome is Outcome.CORRECT
    assert check(first, "The answer is 10 m/s^2.").outcome is Outcome.WRONG
    assert check(second, "The answer is 3.5.").outcome is Outcome.CORRECT


def test_gold_answers_that_cannot_be_judged_are_found_when_problems_are_loaded(tmp_path: Path) -> None:
    rows = [{"question": f"{gold}?", "answer": gold} for gold in ("42", r"\frac{1}{2}", r"\frac{1}{", "???", "even")]
    loaded = problems.load([files(lines(tmp_path / "a.jsonl", *rows))]).problems
    reasons = problems.unverifiable(loaded)
    assert {problem.answer for problem in loaded if problem.id in reasons} == {r"\frac{1}{", "???"}
    assert "braces" in " ".join(reasons.values())


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_every_format_yields_the_same_problems(tmp_path: Path, suffix: str) -> None:
    rows = [{"question": "1 + 1?", "answer": "2"}, {"question": "2 + 2?", "answer": "4"}]
    path = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        lines(path, *rows)
    elif suffix == "json":
        path.write_text(json.dumps(rows))
    elif suffix == "csv":
        path.write_text("question,answer\n1 + 1?,2\n2 + 2?,4\n")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    loaded = problems.load([files(str(path))]).problems
    assert [(problem.question, problem.answer) for problem in loaded] == [("1 + 1?", "2"), ("2 + 2?", "4")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (['{"question": "1?", "answer": "1"}', "{torn"], r"a\.jsonl, line 2: not JSON"),
        ([{"question": "1?", "answer": None}], r"line 1: the answer is empty"),
        ([{"question": " ", "answer": "1"}], r"line 1: the question is empty"),
        ([{"question": "1?"}], r"line 1: no column 'answer' for the answer; there are question"),
        (["[1]"], r"line 1: expected an object, found list"),
        ([{"question": "1?", "answer": "1"}] * 2, r"line 2 repeats .*a\.jsonl, line 1"),
    ],
)
def test_a_bad_line_is_refused_with_its_location(tmp_path: Path, rows: list[object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        problems.load([files(lines(tmp_path / "a.jsonl", *rows))])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", r"a\.csv: not a \.csv file: Empty CSV file"),
        ("a.csv", b"question,answer\n1,2,3\n", r"a\.csv: not a \.csv file: .*Expected 2 columns"),
        ("a.csv", "question,answer\ncafé?,1\n".encode("latin-1"), r"a\.csv: not UTF-8 at byte 20"),
        ("a.jsonl", '{"question": "café?", "answer": "1"}'.encode("latin-1"), r"a\.jsonl: not UTF-8 at byte 18"),
        ("a.jsonl.gz", b"no gzip", r"cannot use .*a\.jsonl\.gz"),
        ("a.parquet", b"", r"a\.parquet: not a \.parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        problems.load([files(str(tmp_path / name))])
    assert "\n" not in str(caught.value)


def test_a_directory_in_place_of_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").mkdir()
    with pytest.raises(UserError, match=r"cannot use .*d\.jsonl.*is a directory"):
        problems.load([files(str(tmp_path / "d.jsonl"))])


def test_a_missing_file_an_unknown_format_and_an_unknown_checker_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file at"):
        problems.load([files(str(tmp_path / "nowhere.jsonl"))])
    with pytest.raises(UserError, match=r"cannot read \.txt files"):
        problems.load([files(lines(tmp_path / "a.txt", {}))])
    path = lines(tmp_path / "a.jsonl", {"question": "1?", "answer": "1"})
    with pytest.raises(UserError, match="no checker is called 'vibes'; there are math_answer"):
        problems.load([files(path, checker="vibes")])


def test_a_problem_in_both_splits_is_refused_or_dropped_from_the_train_part(tmp_path: Path) -> None:
    both = lines(tmp_path / "a.jsonl", {"question": "1 + 1?", "answer": "2"}, {"question": "3 + 3?", "answer": "6"})
    held_out = lines(tmp_path / "b.jsonl", {"question": "1  + 1?", "answer": "2.0"})
    with pytest.raises(UserError, match=r"is to distil, .* is held out, and they ask the same"):
        problems.load([files(both, test=held_out)])
    loaded = problems.load([files(both, test=held_out, on_duplicate="drop")])
    assert loaded.dropped == 1
    assert {(problem.question, problem.split) for problem in loaded.problems} == {
        ("1  + 1?", Split.TEST),
        ("3 + 3?", Split.TRAIN),
    }


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("gsm8k", "He eats 1,000 + 8.\n#### 1,008", "1008"),
        ("boxed", r"so $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        ("verbatim", "17", "17"),
    ],
)
def test_gold_answers_of_hub_data_sets_are_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gold: str, answer: str, expected: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    data = tmp_path / "set" / "data"
    data.mkdir(parents=True)
    for part in ("train", "test"):
        rows = [{"question": f"{part} question", "answer": answer}]
        pq.write_table(pa.Table.from_pylist(rows), data / f"{part}-00000-of-00001.parquet")
    source = HubSource.model_validate({"kind": "hub", "path": str(tmp_path / "set"), "name": "set", "gold": gold})
    loaded = problems.load([source]).problems
    assert [(problem.split, problem.answer) for problem in loaded] == [(Split.TEST, expected), (Split.TRAIN, expected)]
    with pytest.raises(UserError, match="split nowhere"):
        problems.load([source.model_copy(update={"train": "nowhere"})])


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_data_set_of_one_split_is_used_by_leaving_the_other_empty(tmp_path: Path, split: str) -> None:
    rows = [{"question": f"{number} + 1?", "answer": number + 1} for number in range(5)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{split}-00000-of-00001.parquet")
    other = {"train": "test", "test": "train"}[split]
    source = HubSource.model_validate({"kind": "hub", "path": str(tmp_path), other: ""})
    assert {problem.split for problem in problems.load([source], to_distil=False).problems} == {Split(split)}
    source = FilesSource.model_validate({"kind": "files", split: str(tmp_path / "*.parquet"), other: ""})
    assert {problem.split for problem in problems.load([source], to_distil=False).problems} == {Split(split)}


def test_a_limit_of_0_takes_no_problem_of_a_part(tmp_path: Path) -> None:
    for part in ("train", "test"):
        rows = [{"question": f"{part} {number}?", "answer": number} for number in range(5)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{part}-00000-of-00001.parquet")
    source = HubSource(kind="hub", path=str(tmp_path), limit_train=2, limit_test=0)
    assert [problem.split for problem in problems.load([source]).problems] == [Split.TRAIN] * 2


def test_gym_items_pass_their_own_scorer_and_splits_are_disjoint() -> None:
    source = GymSource(kind="gym", task="basic_arithmetic", train=20, test=10)
    loaded = problems.load([source]).problems
    by_split = {split: {problem.question for problem in loaded if problem.split is split} for split in Split}
    assert [len(by_split[split]) for split in (Split.TRAIN, Split.TEST)] == [20, 10]
    assert not by_split[Split.TRAIN] & by_split[Split.TEST]
    for problem in loaded:
        assert check(problem, f"The answer is {problem.answer}.").outcome is Outcome.CORRECT
        assert check(problem, "The answer is 1e9.").outcome is Outcome.WRONG


def test_an_unknown_gym_task_is_refused_with_similar_names() -> None:
    with pytest.raises(UserError, match="did you mean basic_arithmetic"):
        problems.load([GymSource(kind="gym", task="basic_aritmetic")])


def test_the_id_is_a_hash_of_the_content_that_keeps_fields_apart() -> None:
    assert Problem.identify("s", "q", "1") != Problem.identify("s", "q1", "")

"""Files of every format: the same texts come out as went in, and what cannot be read is one line."""

import csv
import datetime
import gzip
import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonray import problems
from reasonray.config import FilesSource, HubSource, UserError
from reasonray.problems import Loaded
from reasonray.problems.notes import Notes
from reasonray.problems.values import json_value, without_surrogates
from reasonray.store.schema import problems_to_table, table_to_problems

Rows = Sequence[dict[str, str]]


def write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(path: Path, rows: Rows) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


FORMATS: dict[str, Callable[[Path, Rows], Any]] = {
    "a.jsonl": write_jsonl,
    "a.json": lambda path, rows: path.write_text(json.dumps(rows, indent=1), encoding="utf-8"),
    "a.csv": write_csv,
    "a.parquet": lambda path, rows: pq.write_table(pa.Table.from_pylist(rows), path),
}


def read(path: Path, **changes: Any) -> Loaded:
    return problems.load([FilesSource.model_validate({"kind": "files", "train": str(path)} | changes)])


TEXTS = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)
GOLDS = TEXTS | st.sampled_from(
    ["00714", "12345678901234567890", "12:30", "2024-01-02", "NaN", "null", "1e5", "true", "-0"]
)


@pytest.mark.parametrize("name", FORMATS)
@given(rows=st.lists(st.fixed_dictionaries({"question": TEXTS, "answer": GOLDS}), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_whatever_the_format(
    tmp_path_factory: pytest.TempPathFactory, name: str, rows: Rows
) -> None:
    path = tmp_path_factory.mktemp("formats") / name
    FORMATS[name](path, rows)
    source = FilesSource(kind="files", train=str(path), on_duplicate="drop")
    expected = dict.fromkeys((row["question"].strip(), row["answer"].strip()) for row in rows)
    assert [(problem.question, problem.answer) for problem in problems.load([source]).problems] == list(expected)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_compressed_files_with_a_byte_order_mark_are_read(tmp_path: Path, name: str) -> None:
    FORMATS[name](tmp_path / name, [{"question": "2 + 3?", "answer": "5"}])
    with gzip.open(tmp_path / f"{name}.gz", "wb") as file:
        file.write(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
    assert [problem.answer for problem in read(tmp_path / f"{name}.gz").problems] == ["5"]


def test_files_that_were_put_together_have_byte_order_marks_inside(tmp_path: Path) -> None:
    one, two = (f'\ufeff{{"question": "{n}?", "answer": "{n}"}}\r\n'.encode() for n in (1, 2))
    (tmp_path / "a.jsonl").write_bytes(one + two)
    assert [problem.answer for problem in read(tmp_path / "a.jsonl").problems] == ["1", "2"]


def test_json_lines_in_a_file_called_json_are_read(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.json", [{"question": f"{n}?", "answer": str(n)} for n in range(3)])
    assert [problem.answer for problem in read(tmp_path / "a.json").problems] == ["0", "1", "2"]


def test_a_csv_field_may_be_huge_and_hold_line_breaks(tmp_path: Path) -> None:
    question = 'line, one\n"quoted"\r\n' * 400_000 + "end"
    write_csv(tmp_path / "a.csv", [{"question": question, "answer": "1\n2"}, {"question": "b?", "answer": "3"}])
    first, second = read(tmp_path / "a.csv").problems
    assert (first.question, first.answer) == (question, "1\n2")
    assert second.answer == "3"


def test_a_row_of_a_csv_file_is_named_by_its_first_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('question,answer\n"one\ntwo\nthree",1\n\nfour?,\n')
    with pytest.raises(UserError, match=r"a\.csv, line 6: the answer is empty"):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", 'question,answer\n"open,1\n', r"a\.csv: not a \.csv file: line 2: unexpected end of data"),
        ("a.csv", "question,question\n1,2\n", "two columns are called 'question'; rename one"),
        ("a.jsonl", '{"question": ' + "[" * 100_000, "line 1: its JSON is nested too deeply"),
        ("a.json", '{\n"question": "?"\n}', r"a \.json file must hold a list of objects, or an object a line"),
        ("a.jsonl", '{"question": [1], "answer": "1"}', "column 'question' .* is a list, but not one of messages"),
        ("a.jsonl", '{"question": {"text": "?"}, "answer": "1"}', "column 'question' for the question holds a table"),
        ("a.jsonl", '{"question": "?", "answer": "1", "question": "\\udc00"}', None),
    ],
)
def test_a_hostile_file_is_one_line_or_read(tmp_path: Path, name: str, content: str, message: str | None) -> None:
    (tmp_path / name).write_text(content)
    if message is None:
        read(tmp_path / name)
        return
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(min_size=1), JSON, max_size=4), st.text().filter(str.strip))
@settings(max_examples=150, deadline=None)
def test_whatever_json_holds_can_be_stored(
    tmp_path_factory: pytest.TempPathFactory, extra: dict[str, Any], text: str
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.jsonl"
    path.write_text(json.dumps(extra | {"question": text, "answer": text, "checker": "text_answer"}))
    source = FilesSource(kind="files", train=str(path), checker="text_answer")
    loaded = problems.load([source]).problems
    assert table_to_problems(problems_to_table(loaded)) == loaded
    assert loaded[0].answer == without_surrogates(text.strip())


def test_half_a_character_is_replaced_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        r'{"question": "a \ud83d b?", "answer": "\ud83d\ude00", "x": {"\udc00": "\udc00"}}'
    )
    loaded = read(tmp_path / "a.jsonl")
    assert [(problem.question, problem.answer) for problem in loaded.problems] == [("a \ufffd b?", "😀")]
    assert loaded.problems[0].metadata == {"x": {"\ufffd": "\ufffd"}}
    (note,) = loaded.notes
    assert "1 source files: half a character (a lone surrogate), replaced by U+FFFD" in note
    assert "a.jsonl, line 1" in note


def test_a_nul_is_a_character_like_others(tmp_path: Path) -> None:
    for name in FORMATS:
        FORMATS[name](tmp_path / name, [{"question": "a\0b?", "answer": "\0001"}])
        assert [(problem.question, problem.answer) for problem in read(tmp_path / name).problems] == [
            ("a\0b?", "\0001")
        ]


ODD = {
    "picture": pa.array([{"bytes": b"\x89PNG", "path": "a.png"}] * 2),
    "when": pa.array([datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC)] * 2),
    "far": pa.array([9 * 10**18] * 2, pa.timestamp("ms")),
    "nested": pa.array([{"day": datetime.date(2024, 1, 2), "note": "x"}] * 2),
    "map": pa.array([[("a", 1)]] * 2, pa.map_(pa.string(), pa.int32())),
    "blob": pa.array([b"\xff"] * 2),
}
PLAIN = {
    "difficulty": pa.array([0.1, None], pa.float32()),
    "level": pa.array(["a", "b"]).dictionary_encode(),
    "price": pa.array([Decimal("1.50")] * 2),
    "tags": pa.array([["x"], []]),
    "worth": pa.array([float("nan"), float("inf")]),
}


@pytest.mark.parametrize("kind", ["files", "hub"])
def test_columns_that_metadata_cannot_hold_are_left_out_with_a_line_each(tmp_path: Path, kind: str) -> None:
    odd = {name: values for name, values in ODD.items() if (kind, name) != ("hub", "map")}  # which `datasets` refuses
    table = pa.table({"question": ["1?", "2?"], "answer": ["1", "2"], **odd, **PLAIN})
    path = tmp_path / "train-0.parquet"
    pq.write_table(table, path)
    loaded = read(path) if kind == "files" else problems.load([HubSource(kind="hub", path=str(tmp_path), test="")])
    assert [problem.metadata for problem in loaded.problems] == [
        {"difficulty": 0.1, "level": "a", "price": 1.5, "tags": ["x"]},
        {"level": "b", "price": 1.5, "tags": []},
    ]
    assert table_to_problems(problems_to_table(loaded.problems)) == loaded.problems
    assert len(loaded.notes) == len(odd)
    for note, name in zip(loaded.notes, odd, strict=True):
        assert f"      2 source {tmp_path if kind == 'hub' else 'files'}: column {name} is left out" in note


def test_a_time_or_a_part_of_a_picture_may_be_a_gold_answer(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": ["1?", "2?"], **ODD}), tmp_path / "a.parquet")
    for column, answer in (("when", "2024-01-02"), ("picture.path", "a.png"), ("nested.day", "2024-01-02")):
        loaded = read(tmp_path / "a.parquet", columns={"answer": column})
        assert str(loaded.problems[0].answer).startswith(answer)
    for column in ("picture.bytes", "map.a", "blob"):
        with pytest.raises(UserError) as caught:
            read(tmp_path / "a.parquet", columns={"answer": column})
        assert "\n" not in str(caught.value)


def test_a_csv_file_of_a_hub_data_set_is_read_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    golds = ["00714", "12345678901234567890", "12:30", "NaN", "1.50"]
    write_csv(tmp_path / "train.csv", [{"question": f"{gold}?", "answer": gold} for gold in golds])
    loaded = problems.load([HubSource(kind="hub", path=str(tmp_path), test="")])
    assert [problem.answer for problem in loaded.problems] == golds


def test_a_mapped_column_of_pictures_is_refused_by_its_type(tmp_path: Path) -> None:
    part = {"type": "text", "text": "1?", "image": {"bytes": b"x"}}
    rows = [{"question": [{"role": "user", "content": [part]}], "answer": "1"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"row 1: column 'question' holds list<.*, which is neither a text nor a chat"):
        read(tmp_path / "a.parquet")


CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 3?"}]


@pytest.mark.parametrize(
    ("chat", "question", "note"),
    [
        (CHAT[1:], "2 + 3?", ""),
        (CHAT, "2 + 3?", "1 system messages left out"),
        ([*CHAT[1:], {"role": "assistant", "content": "5"}], "2 + 3?", "1 chats whose turns after the question"),
        ([{"from": "human", "value": "2 + 3?"}], "2 + 3?", ""),
        (
            [{"role": "user", "content": [{"type": "text", "text": "2 +"}, {"type": "text", "text": " 3?"}]}],
            "2 + 3?",
            "",
        ),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_question_may_be_a_chat_with_one_turn_of_the_user(
    tmp_path: Path, name: str, chat: list[Any], question: str, note: str
) -> None:
    FORMATS[name](tmp_path / name, [{"question": chat, "answer": "5"}])  # type: ignore[dict-item]
    loaded = read(tmp_path / name)
    assert [problem.question for problem in loaded.problems] == [question]
    assert note in " ".join(loaded.notes)
    assert bool(note) == bool(loaded.notes)


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ([], "has 0 turns of the user"),
        ([*CHAT, *CHAT], "has 2 turns of the user"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}],
            "a part of type image_url, not a text",
        ),
        ([{"role": "user", "content": [3]}], "is not a text"),
        ([{"role": "user", "content": {"a": 1}}], "is not a text"),
        ([{"role": "user"}], "the question is empty"),
        (["2 + 3?"], "not one of messages"),
    ],
)
def test_a_chat_that_is_no_question_is_refused_with_its_row(tmp_path: Path, chat: list[Any], message: str) -> None:
    FORMATS["a.jsonl"](tmp_path / "a.jsonl", [{"question": chat, "answer": "5"}])  # type: ignore[dict-item]
    with pytest.raises(UserError, match=rf"a\.jsonl, line 1: .*{message}"):
        read(tmp_path / "a.jsonl")


def test_a_question_with_two_gold_answers_is_reported(tmp_path: Path) -> None:
    pairs = [("a?", "1"), ("A? ", "2"), ("b?", "1/2"), ("b?", "0.5"), ("a?", "3")]
    write_jsonl(tmp_path / "a.jsonl", [{"question": question, "answer": answer} for question, answer in pairs])
    (note,) = read(tmp_path / "a.jsonl").notes
    assert note.startswith("      2 questions with two gold answers")
    assert "line 1 and" in note
    assert "line 2; " in note


def test_a_note_counts_its_rows_and_names_the_first_three() -> None:
    notes = Notes()
    for number in range(1, 6):
        notes.add("odd", f"a.csv, line {number}")
    notes.add("left out", "b.parquet, row 1", 1024)
    assert notes.lines() == ["      5 odd (a.csv, line 1; line 2; line 3; …)", "  1,024 left out (b.parquet, row 1; …)"]


@given(st.floats())
def test_metadata_hold_no_number_that_json_lacks(number: float) -> None:
    json.dumps(json_value([number, {"a": number}]), allow_nan=False)

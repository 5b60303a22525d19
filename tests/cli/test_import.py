"""`reasonray import`: what recorded completions match, and blocks that load as they are printed."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from reasonray import engines, problems
from reasonray.cli.main import main
from reasonray.config import parse

OPEN_R1 = [
    {"problem": "What is 6 * 7?", "answer": "42", "uuid": "a", "generations": ["<think>x</think> 42", "41"]},
    {"problem": "What is 1 + 1?", "answer": "2", "uuid": "b", "generations": None},
]
GSM8K = [{"question": "Q?", "answer": "One and one.\n#### 2", "completion": "It is 2."}]
NUMINA = [
    {
        "problem": "Q?",
        "solution": "So \\boxed{2}.",
        "messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "\\boxed{2}"}],
    }
]
CHAT = [
    {"messages": [{"role": "user", "content": f"Q{n}?"}, {"role": "assistant", "content": "It is 2."}]}
    for n in range(2)
]


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("rows", "answer"), [(OPEN_R1, "42"), (GSM8K, "2"), (NUMINA, "2"), (CHAT, None), (OPEN_R1 * 2, "42")]
)
def test_the_printed_blocks_are_a_configuration_in_which_every_completion_has_its_problem(
    rows: list[dict[str, Any]], answer: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", written(tmp_path / "odd name;.jsonl", rows)]) == 0
    shown, _, pasted = capsys.readouterr().out.partition("# paste into the configuration:")
    config = parse({"name": "x", "student": {"model": "m"}} | tomllib.loads(pasted))
    loaded = problems.load(config.sources).problems
    assert loaded[0].answer == answer
    assert not {"generations", "messages", "completion"} & loaded[0].metadata.keys()
    teacher = config.teachers[0]
    supply = engines.supply(teacher.engine, teacher.asking, loaded)
    assert supply is not None
    assert supply.notes[0] in shown
    completions = sum(len(row["generations"] or []) if "generations" in row else 1 for row in rows)
    assert supply.samples.sum() == completions
    assert f"{len(rows):,} rows   {completions:,} completions" in shown


def test_a_look_with_a_configuration_shows_what_of_its_problems_is_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = [{"question": "Held out?", "answer": "1"}]
    train = [{"question": "what is 6 * 7?", "answer": "42"}, {"question": "What is 9?", "answer": "9"}]
    parts = {"train": written(tmp_path / "a.jsonl", train), "test": written(tmp_path / "b.jsonl", held_out)}
    sources = "\n".join(f"{part} = {json.dumps(path)}" for part, path in parts.items())
    config = tmp_path / "c.toml"
    config.write_text(f'name = "x"\nstudent = {{ model = "m" }}\n[[sources]]\nkind = "files"\n{sources}\n')
    rows = [*OPEN_R1, {"problem": "Held out?", "generations": ["1"]}, {"problem": "\x1b[2JElse?", "generations": ["1"]}]
    assert main(["import", written(tmp_path / "t.jsonl", rows), str(config)]) == 0
    shown = capsys.readouterr().out
    for line in (
        "problems            2 to distil   1 held out\n",
        "2 recorded completions in 1 rows, of 1 problems, by the question",
        "1 rows of held-out problems, left out",
        "1 rows that match no problem, left out",
        "1 problems have completions, 2 in the median; 1 have none",
        "columns      not used   answer, uuid",
    ):
        assert line in shown
    assert "[[sources]]" not in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.jsonl"], "no file at absent.jsonl"),
        (["t.jsonl", "--column", "answer=x"], "there is no such part; there are question, id, completion"),
        (["t.jsonl", "--column", "question"], "write PART=NAME"),
        (
            ["t.jsonl", "--column", "completion=x"],
            "2 rows or completions without a completion, left out",
        ),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "t.jsonl", OPEN_R1)
    assert main(["import", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line

"""Recorded completions: found in the layouts that data sets have, matched to problems, and nothing lost silently."""

import asyncio
import csv
import gzip
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonray import engines
from reasonray.config import Prompt, RecordedEngine, Sampling, UserError
from reasonray.config.models import Asking
from reasonray.engines.layouts import Recording
from reasonray.engines.protocol import Completion, SampleRequest, Supply
from reasonray.engines.recorded import Recorded
from reasonray.engines.recordings import id_key, question_key, read_recordings
from reasonray.prompts import KNOWN_TAGS
from reasonray.records import Finish, Problem
from reasonray.store.run import begin_or_resume
from tests.factories import a_minimal_config, a_problem, a_rollout, a_run_with

QUESTION = "What is 6 * 7?"
PROMPT = Prompt()
ASKED = Asking((PROMPT,))


def written(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recorded(path: Path, **columns: str) -> RecordedEngine:
    return RecordedEngine.model_validate({"kind": "recorded", "files": str(path), "columns": columns})


def counted(
    config: RecordedEngine, problems: Sequence[Problem], others: Sequence[Problem] = (), asking: Asking = ASKED
) -> Supply:
    supply = engines.supply(config, asking, problems, others)
    assert supply is not None
    return supply


def answers(config: RecordedEngine, problem: Problem, count: int, prompt: Prompt = PROMPT) -> list[Completion]:
    engine = Recorded(config)
    requests = [SampleRequest(problem, sample, 0, prompt, Sampling()) for sample in range(count)]
    return [asyncio.run(engine.complete(request)) for request in requests]


def chat(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


LAYOUTS = {
    "OpenR1-Math": {
        "problem": QUESTION,
        "solution": "by hand",
        "answer": "42",
        "uuid": "u",
        "is_reasoning_complete": [True, False],
        "generations": ["<think>a</think> 42", "<think>b"],
        "correctness_math_verify": [True, False],
        "finish_reasons": None,
        "messages": chat(("user", QUESTION), ("assistant", "<think>a</think> 42")),
    },
    "OpenThoughts": {
        "system": "Think.",
        "conversations": [{"from": "user", "value": QUESTION}, {"from": "assistant", "value": "<think>a</think> 42"}],
    },
    "OpenThoughts metadata": {"problem": QUESTION, "deepseek_reasoning": "a", "deepseek_solution": "42", "domain": "m"},
    "NuminaMath-CoT": {
        "source": "olympiads",
        "problem": QUESTION,
        "solution": "x",
        "messages": chat(("user", QUESTION), ("assistant", "<think>a</think> 42")),
    },
    "NuminaMath-1.5": {"problem": QUESTION, "solution": "<think>a</think> 42", "answer": "42"},
    "s1K": {"question": QUESTION, "solution": "x", "attempt": "42", "thinking_trajectories": ["a"]},
    "s1K-1.1": {
        "question": QUESTION,
        "deepseek_attempt": "42",
        "deepseek_thinking_trajectory": "a",
        "gemini_attempt": "no",
    },
    "OpenMathReasoning": {"problem": QUESTION, "generated_solution": "<think>a</think> 42", "expected_answer": "42"},
    "DeepMath": {"question": QUESTION, "final_answer": "42", "r1_solution_1": "<think>a</think> 42"},
    "distilabel": {"instruction": QUESTION, "generation": "<think>a</think> 42", "model_name": "m"},
    "chat log": {
        "messages": [
            *chat(("system", "Think."), ("user", QUESTION)),
            {"role": "assistant", "content": "42", "reasoning_content": "a"},
        ]
    },
    "TRL": {"prompt": chat(("user", QUESTION)), "completion": chat(("assistant", "<think>a</think> 42"))},
    "parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
            {"role": "assistant", "content": [{"type": "text", "text": "<think>a</think> 42"}]},
        ]
    },
}
FIRST = {"<think>a</think> 42", "<think>\na\n</think>\n\n42"}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
def test_the_layouts_of_published_data_sets_need_no_columns(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"traces.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist([LAYOUTS[name]]), path)
    else:
        line = json.dumps(LAYOUTS[name]).encode() + b"\n"
        path.write_bytes(gzip.compress(line) if kind.endswith("gz") else line)
    config, problem = recorded(path), a_problem(QUESTION)
    count = int(counted(config, [problem]).samples[0])
    completions = answers(config, problem, count)
    assert completions[0].text in FIRST
    assert [completion.finish for completion in completions] == [Finish.STOP, Finish.LENGTH][:count]
    assert count == (2 if name == "OpenR1-Math" else 1)
    assert all(completion.tokens_estimated and completion.completion_tokens > 0 for completion in completions)


@pytest.mark.parametrize("tags", KNOWN_TAGS)
def test_known_tags_of_reasoning_become_the_usual_ones(tmp_path: Path, tags: tuple[str, str]) -> None:
    opens, closes = tags
    rows = [
        {"problem": QUESTION, "solution": f"{opens}6 * 7{closes} 42"},
        {"problem": QUESTION, "solution": f"{opens} is a tag, 42"},
    ]
    config = recorded(written(tmp_path / "t.jsonl", rows), completion="solution")
    texts = [answer.text for answer in answers(config, a_problem(QUESTION), 2)]
    assert texts == ["<think>6 * 7</think> 42", f"{opens} is a tag, 42"]


def test_csv_files_hold_lists_as_json(tmp_path: Path) -> None:
    path = tmp_path / "traces.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["problem", "generations", "finish_reasons", "n"])
        writer.writerow([QUESTION, json.dumps(["[1] 42\nthen", "43"]), json.dumps(["length", "stop"]), "7"])
    completions = answers(recorded(path), a_problem(QUESTION), 2)
    assert [completion.text for completion in completions] == ["[1] 42\nthen", "43"]
    assert [completion.finish for completion in completions] == [Finish.LENGTH, Finish.STOP]


def test_named_columns_reach_into_servers_answers_and_count_tokens(tmp_path: Path) -> None:
    row = {
        "request": {"messages": chat(("user", QUESTION))},
        "response": {
            "choices": [{"message": {"role": "assistant", "content": "42"}, "finish_reason": "max_tokens"}],
            "usage": {"completion_tokens": 7},
        },
    }
    config = recorded(
        written(tmp_path / "log.jsonl", [row]),
        question="request.messages",
        completion="response.choices.0.message",
        finish="response.choices.0.finish_reason",
        tokens="response.usage.completion_tokens",
    )
    (completion,) = answers(config, a_problem(QUESTION), 1)
    assert completion == Completion("42", Finish.LENGTH, completion_tokens=7)


def test_rows_that_cannot_be_used_are_counted_with_their_first_places(tmp_path: Path) -> None:
    problems = [a_problem(QUESTION), a_problem("Twice?", "1"), a_problem("Twice?", "2")]
    rows: list[dict[str, Any]] = [
        {"problem": " what IS\n6 *  7?", "generations": ["42", "", None, " \n"]},
        *({"problem": f"Unknown {number}?", "generations": ["1"]} for number in range(5)),
        {"problem": "twice?", "generations": ["1"]},
        {"problem": "Held out?", "generations": ["1"]},
        {"problem": QUESTION, "generations": None},
        {"problem": QUESTION},
        {"problem": None, "generations": ["1"]},
        {"problem": {"nested": 1}, "generations": ["1"]},
        {"problem": QUESTION, "generations": [["not", "a", "text"]]},
        {},
    ]
    path = written(tmp_path / "traces.jsonl", rows)
    supply = counted(recorded(path), problems, [a_problem("Held out?")])
    assert supply.samples.tolist() == [1, 0, 0]
    assert [note.strip() for note in supply.notes] == [
        "1 recorded completions in 1 rows, of 1 problems, by the question",
        f"5 rows that match no problem, left out ({path}, line 2; line 3; line 4; …)",
        f"1 rows that match two problems, left out ({path}, line 7)",
        f"1 rows of held-out problems, left out ({path}, line 8)",
        f"6 rows or completions without a completion, left out ({path}, line 1; line 1; line 1; …)",
        f"3 rows without a readable question, left out ({path}, line 11; line 12; line 14)",
    ]
    (first, missing) = answers(recorded(path), problems[0], 2)
    assert first.text == "42"
    assert (missing.finish, missing.error) == (Finish.ERROR, "there are 1 recorded completions of this problem")


def test_a_recording_of_no_use_is_one_line_that_names_the_cure(tmp_path: Path) -> None:
    path = written(tmp_path / "odd.jsonl", [{"q": "x", "text": "y"}, {"q": 1}])
    with pytest.raises(UserError, match=r"odd\.jsonl holds no completion that can be used: 2 rows without a readable"
                       r" question.*; name the columns in engine.columns: .* \(there are q, text\)"):  # fmt: skip
        read_recordings(recorded(path))
    other = counted(recorded(path, question="q", completion="text"), [a_problem()])
    with pytest.raises(UserError, match=r"0 recorded .*; 1 rows that match no problem, left out .*`reasonray import"):
        other.refuse_empty()
    with pytest.raises(UserError, match="no file at"):
        read_recordings(recorded(tmp_path / "absent.jsonl"))


def test_a_question_may_be_recorded_as_the_prompt_puts_it(tmp_path: Path) -> None:
    prompt = Prompt(template="Answer in \\boxed{{}}.\n{question}")
    asked = prompt.template.replace("{question}", QUESTION)
    path = written(
        tmp_path / "traces.jsonl", [{"problem": QUESTION, "output": "bare"}, {"problem": asked, "output": "asked"}]
    )
    problem = a_problem(QUESTION)
    assert counted(recorded(path), [problem]).samples.tolist() == [1]
    assert counted(recorded(path), [problem], asking=Asking((prompt,))).samples.tolist() == [2]
    assert [completion.text for completion in answers(recorded(path), problem, 2, prompt)] == ["asked", "bare"]


def test_an_id_matches_that_of_the_problem_or_its_metadata(tmp_path: Path) -> None:
    problems = [a_problem("A?", metadata={"uuid": "a"}), a_problem("B?", metadata={"uuid": 7}), a_problem("C?")]
    rows = [
        {"uuid": "a", "output": "1"},
        {"uuid": 7, "output": "2"},
        {"uuid": problems[2].id, "output": "3"},
        {"output": "4"},
    ]
    config = recorded(written(tmp_path / "traces.jsonl", rows), id="uuid")
    supply = counted(config, problems)
    assert supply.samples.tolist() == [1, 1, 1]
    assert supply.notes[1].strip().startswith("1 rows without an id")
    assert answers(config, problems[1], 1)[0].text == "2"


KEYS = st.sampled_from(["a?", "b?", "ask a?", "ask ask a?"])


@settings(max_examples=60)
@given(st.lists(KEYS, min_size=1, max_size=8), st.lists(KEYS, min_size=1, max_size=3, unique=True))
def test_every_completion_belongs_to_one_problem_or_is_counted_as_left_out(
    rows: list[str], questions: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(
            Path(folder) / "t.jsonl", [{"problem": row, "output": f"{row} {n}"} for n, row in enumerate(rows)]
        )
        prompt = Prompt(template="ask {question}")
        problems = [a_problem(question) for question in questions]
        supply = counted(recorded(path), problems, asking=Asking((prompt,)))
        given_out = [
            completion.text
            for problem, count in zip(problems, supply.samples.tolist(), strict=True)
            for completion in answers(recorded(path), problem, count, prompt)
        ]
    assert len(set(given_out)) == len(given_out), "none is of two problems"
    left_out = sum(int(note.split()[0]) for note in supply.notes[1:])
    assert len(given_out) + left_out == len(rows)


def test_the_identity_is_that_of_the_completions_and_not_of_their_place(tmp_path: Path) -> None:
    rows = [{"problem": QUESTION, "generations": ["1", "2"]}]
    one = engines.identity(recorded(written(tmp_path / "a.jsonl", rows)), None)
    assert one == "2 recorded a05a1bddcd89d1eb05c4"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    assert engines.identity(recorded(tmp_path / "b.parquet"), None) == one
    for other in ([{"problem": QUESTION, "generations": ["1", "3"]}], [{"problem": QUESTION, "generations": ["12"]}]):
        assert engines.identity(recorded(written(tmp_path / "a.jsonl", other)), None) != one


def test_a_data_set_of_the_hub_is_read_like_files(tmp_path: Path) -> None:
    written(tmp_path / "train.jsonl", [LAYOUTS["OpenR1-Math"]])
    config = RecordedEngine.model_validate({"kind": "recorded", "hub": str(tmp_path)})
    assert counted(config, [a_problem(QUESTION)]).samples.tolist() == [2]
    assert [completion.text for completion in answers(config, a_problem(QUESTION), 2)] == [
        "<think>a</think> 42",
        "<think>b",
    ]


@settings(max_examples=150)
@given(
    st.dictionaries(
        st.sampled_from(["problem", "messages", "generations", "completion", "reasoning", "finish_reasons", "prompt"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["role", "from", "content", "value", "message", "text"]), inner, max_size=3
                )
            ),
            max_leaves=6,
        ),
        max_size=5,
    )
)
def test_no_row_whatever_its_values_raises_more_than_one_line(row: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        good = {"problem": QUESTION, "completion": "42"}
        path = written(Path(folder) / "t.jsonl", [row, good])
        assert read_recordings(recorded(path)).num_rows == 2
        assert answers(recorded(path), a_problem(QUESTION), 1)[0].text


def test_one_recording_has_one_origin_and_only_teachers_and_arms_have_one(tmp_path: Path) -> None:
    engine = {"kind": "recorded", "files": "x.jsonl"}
    for changes, message in (
        ({"teachers": [{"model": "m", "engine": engine | {"hub": "a/b"}}]}, "set either files or hub"),
        ({"student": {"model": "m", "engine": engine}}, "student.engine: recorded completions can only be"),
    ):
        with pytest.raises(UserError, match=message):
            a_minimal_config(tmp_path, **changes)
    other = engine | {"files": "y.jsonl"}
    two = [{"name": "a", "model": "m", "engine": engine}, {"name": "b", "model": "m", "engine": other}]
    assert len(a_minimal_config(tmp_path, teachers=two).teachers) == 2, "of one model, recorded twice"
    with pytest.raises(UserError, match="write the same rollouts"):
        a_minimal_config(tmp_path, teachers=[two[0], two[0] | {"name": "c"}])


def test_a_recordings_texts_come_back_whatever_they_hold(tmp_path: Path) -> None:
    texts = ["a\x00b", "\ud83d half", "ünï\u2028code", "x" * 100_000]
    path = written(tmp_path / "t.jsonl", [{"problem": QUESTION, "generations": texts}])
    found = read_recordings(recorded(path))
    numbers = found.numbers(question_key(QUESTION))
    assert found.numbers(id_key(QUESTION)) == []
    assert [found.recording(number) for number in numbers] == [
        Recording(text.replace("\ud83d", "\ufffd"), Finish.STOP, None) for text in texts
    ]


def of_run(path: Path, teacher: str = "teacher") -> RecordedEngine:
    return RecordedEngine.model_validate({"kind": "recorded", "run": str(path), "teacher": teacher})


def test_another_runs_rollouts_are_recorded_as_they_were_and_in_the_order_of_their_samples(tmp_path: Path) -> None:
    problem, other = a_problem(QUESTION), a_problem("What is 1 + 1?", "2")
    written = [
        a_rollout("6 * 7 = 42. </think> 42", sample=2, problem=problem, opening="<think>\n", completion_tokens=9),
        a_rollout("first", sample=0, problem=problem),
        a_rollout("", sample=1, problem=problem, finish=Finish.ERROR),
        a_rollout("another's", sample=0, problem=problem, teacher="peer", id="x" * 20),
        a_rollout("cut", sample=5, problem=other, finish=Finish.LENGTH, tokens_estimated=True),
    ]
    run = a_run_with(a_minimal_config(tmp_path), written[:3], written[3:])
    config = of_run(tmp_path / "a-run")
    assert counted(config, [other, problem], [a_problem("held out?")]).samples.tolist() == [1, 2]
    one, two, none = answers(config, problem, 3)
    assert (one.text, two.opening, two.text, two.completion_tokens) == ("first", "<think>\n", written[0].completion, 9)
    assert none.finish is Finish.ERROR
    (cut,) = answers(config, other, 1)
    assert (cut.finish, cut.tokens_estimated) == (Finish.LENGTH, True)
    before = read_recordings(config).identity
    assert before == read_recordings(of_run(run.place.path)).identity
    assert read_recordings(of_run(tmp_path / "a-run", "peer")).identity != before
    with pytest.raises(UserError, match=r"has no teacher nobody; it has teacher$"):
        read_recordings(of_run(tmp_path / "a-run", "nobody"))
    begin_or_resume(a_minimal_config(tmp_path, name="idle"))
    assert counted(of_run(tmp_path / "idle"), [problem]).samples.tolist() == [0], "its teacher had nothing to do"
    with pytest.raises(UserError, match="no run at"):
        read_recordings(of_run(tmp_path / "missing"))


@given(st.permutations(range(5)))
@settings(max_examples=10)
def test_another_runs_recordings_do_not_depend_on_the_order_of_its_commits(order: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rollouts = [a_rollout(f"text {sample}", sample=sample) for sample in range(5)]
        a_run_with(a_minimal_config(Path(folder)), *[[rollouts[index]] for index in order])
        config = of_run(Path(folder) / "a-run")
        assert read_recordings(config).identity == "516a746c60b6ee3081f3", "fingerprints hold it"
        assert [answer.text for answer in answers(config, rollouts[0].problem, 5)] == [r.completion for r in rollouts]

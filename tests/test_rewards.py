"""The checkers as reward functions: in the signatures of other trainers, and in TRL's own."""

import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonray import rewards
from reasonray.config import Checking
from reasonray.errors import UserError
from reasonray.rewards import Rewards, text_of_message
from tests.commands import ENVIRONMENT, ROOT
from tests.students import write_model

CHAT = [{"role": "user", "content": "6 * 7?"}]


def said(content: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": content, **more}]


@pytest.fixture(scope="module")
def here() -> Rewards:
    return Rewards(in_process=True)


@pytest.fixture(scope="module")
def pooled() -> Iterator[Rewards]:
    functions = Rewards(checking=Checking(timeout_seconds=2.0))
    yield functions
    functions.close()


def test_a_batch_earns_one_reward_each_plain_or_as_chats(here: Rewards) -> None:
    texts = [r"\boxed{42}", "The answer is 41.", "no idea", "<think> 42", r"<think>41</think> \boxed{\frac{84}{2}}"]
    expected = [1.0, 0.0, 0.0, 0.0, 1.0]
    golds = ["42"] * len(texts)
    assert here.correctness(texts, prompts=["6 * 7?"] * len(texts), answer=golds) == expected
    chats = [said(text) for text in texts]
    assert here.correctness(chats, prompts=[CHAT] * len(texts), answer=golds, trainer_state=object()) == expected


def test_what_cannot_be_judged_is_left_out_and_not_counted_as_wrong(here: Rewards) -> None:
    golds = [None, "???", ["1", "2"], float("nan"), {"a": 1}, "42"]
    assert here.correctness([r"\boxed{42}"] * 6, answer=golds) == [None] * 5 + [1.0]
    assert Rewards(in_process=True, unjudged=0.25).correctness([r"\boxed{42}"], answer=[None]) == [0.25]
    assert here.compute_score("d", r"\boxed{42}", None) == 0.0, "verl needs a number"


def test_rewards_can_be_other_numbers() -> None:
    functions = Rewards(in_process=True, correct=2.0, wrong=-1.0)
    assert functions.correctness([r"\boxed{42}", r"\boxed{41}", ""], answer=[42, 42, 42]) == [2.0, -1.0, -1.0]


def test_several_gold_answers_and_options_are_read_as_from_a_source() -> None:
    either = Rewards(gold="any", in_process=True)
    assert either.correctness([r"\boxed{7}", r"\boxed{8}"], answer=[["5", "7"], ["5", "7"]]) == [1.0, 0.0]
    assert either.compute_score("d", r"\boxed{7}", np.array(["5", "7"])) == 1.0
    columns = {"answer": "label", "metadata": {"options": "choices"}}
    choice = Rewards("choice", columns=columns, in_process=True)
    texts = ["The answer is B.", "The answer is A."]
    assert choice.correctness(texts, label=[1, 1], choices=[["0", "1"]] * 2) == [1.0, 0.0]
    assert choice.compute_score("d", "The answer is B.", np.int64(1), {"choices": np.array(["0", "1"])}) == 1.0
    info = {"choices": ["0", "1"]}
    assert asyncio.run(choice.correct(said("The answer is B."), answer=1, info=info)) == 1.0


def test_a_checker_for_each_row_and_tolerances_for_all() -> None:
    functions = Rewards(
        columns={"checker": "kind"}, checker_args={"relative_tolerance": 0.1}, gold="gsm8k", in_process=True
    )
    texts, golds = ["The answer is 105.", "The answer is red."], ["so\n#### 100", "#### red"]
    assert functions.correctness(texts, answer=golds, kind=["numeric", "text_answer"]) == [1.0, 1.0]


def test_an_answer_in_the_reasoning_that_the_prompt_opened_does_not_count(here: Rewards) -> None:
    texts, prompts = [r"\boxed{42}", r"maybe 41 </think> \boxed{42}"], ["6 * 7?\n<think>\n"] * 2
    assert here.correctness(texts, prompts=prompts, answer=["42", "42"]) == [0.0, 1.0]


def test_the_last_message_of_the_assistant_is_the_answer() -> None:
    tool = {"role": "tool", "content": "3"}
    assert text_of_message([*said("a"), tool, *said("b"), tool]) == "b"
    assert text_of_message([{"role": "user", "content": "q"}]) == "q"
    assert text_of_message(said([{"type": "text", "text": "a"}, {"type": "image"}, {"text": "b"}])) == "ab"
    assert text_of_message(said(None, tool_calls=[])) == ""
    for odd in (None, 3, [], {}, [[]], b"x", [None], {"content": [[1]]}):
        assert text_of_message(odd) == ""


ANY = st.recursive(
    st.none() | st.text(st.characters()) | st.integers() | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "text"]), inner),
    max_leaves=5,
)


@given(ANY, st.sampled_from(["42", r"\frac12", "(1, 2)", "yes"]))
@settings(max_examples=150, deadline=None)
def test_no_completion_raises(here: Rewards, completion: Any, gold: str) -> None:
    (reward,) = here.correctness([completion], answer=[gold])
    assert reward in (0.0, 1.0, None)
    assert here.compute_score("d", completion, gold) in (0.0, 1.0)


@pytest.mark.parametrize("text", ["\\boxed{" + "{" * 50_000, "\ud800\\boxed{x}", "\\boxed{" * 999])
def test_hostile_completions_earn_nothing(here: Rewards, text: str) -> None:
    assert here.correctness([text], answer=["x + 1"])[0] in (0.0, None)


def test_a_mistake_in_the_call_is_named(here: Rewards) -> None:
    with pytest.raises(UserError, match="no column 'answer' for the gold answer; there are solution: name it in"):
        here.correctness(["1"], solution=["1"])
    with pytest.raises(UserError, match="no checker is called 'vibes'"):
        Rewards("vibes")
    with pytest.raises(ValueError, match="gold"):
        Rewards(gold="last")


def test_verl_loads_the_function_from_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("custom_module", str(rewards.__file__))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "custom_module", module)
    spec.loader.exec_module(module)
    with ThreadPoolExecutor(4) as threads:
        scores = threads.map(lambda answer: module.compute_score("d", f"The answer is {answer}.", "7"), range(9))
        assert list(scores) == [0.0] * 7 + [1.0, 0.0]


@pytest.mark.slow
def test_checks_run_in_processes_that_can_be_killed(pooled: Rewards) -> None:
    texts = [r"\boxed{\frac{84}{2}x}", r"\boxed{9^{9^{9^{9^{9}}}}x}", r"\boxed{41x}"]
    first, hostile, last = pooled.correctness(texts, answer=["42x"] * 3)
    assert (first, last) == (1.0, 0.0)
    assert hostile in (0.0, None)

    async def both() -> list[float]:
        return list(await asyncio.gather(*(pooled.correct(said(text), "42x") for text in texts[::2])))

    assert asyncio.run(both()) == [1.0, 0.0]


@pytest.mark.slow
def test_a_script_without_a_main_guard_does_not_run_again_in_the_checker_processes(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "from reasonray import rewards\n"
        "print('runs')\n"
        r"print(rewards.correctness([r'\boxed{x+x}', r'\boxed{x^2}'], answer=['2x', '2x']))"
    )
    printed = subprocess.check_output([sys.executable, script], text=True, cwd=ROOT, env=ENVIRONMENT, timeout=120)
    assert printed.splitlines() == ["runs", "[1.0, 0.0]"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "conversational"])
def test_a_grpo_trainer_of_trl_takes_a_step_with_these_rewards(tmp_path: Path, kind: str) -> None:
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    rows = [{"prompt": "6 * 7?" if kind == "plain" else CHAT, "answer": gold} for gold in ("42", "7")]
    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=4, num_generations=4, report_to=[],
        use_cpu=True, bf16=False, save_strategy="no", max_completion_length=8, logging_steps=1,
    )  # fmt: skip
    seen: list[list[float | None]] = []

    def correctness(**batch: Any) -> list[float | None]:
        text = rf"\boxed{{{batch['answer'][0]}}}"
        batch["completions"] = [text if kind == "plain" else said(text), *batch["completions"][1:]]
        seen.append(rewards.correctness(**batch))
        return seen[-1]

    model = str(write_model(tmp_path / "model", vocab=512))
    trainer = trl.GRPOTrainer(
        model, reward_funcs=[rewards.correctness, correctness], args=arguments,
        train_dataset=datasets.Dataset.from_list(rows),
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == 1
    log = trainer.state.log_history[0]
    assert log["rewards/correctness/mean"] >= 0.0
    assert seen[0][0] == 1.0
    assert set(seen[0]) <= {0.0, 1.0}

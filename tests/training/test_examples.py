"""Target tokens are exactly the completion and its stop token, under any chat template."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonray.errors import UserError
from reasonray.prompts import Message, prompt_text
from reasonray.training import examples, tokenisation
from reasonray.training.examples import IGNORED, Example
from tests.students import CHATML, byte_tokenizer

LLAMA3 = (
    "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# Like Qwen3's: it strips the reasoning of earlier answers, so an answer must not be rendered through it.
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'].split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
OPENING = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
GEMMA = (
    "<bos>{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
TEMPLATES = {
    "chatml": (CHATML, ["<|im_start|>", "<|im_end|>"], "<|im_end|>"),
    "llama3": (LLAMA3, ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], "<|eot_id|>"),
    "qwen3": (QWEN3, ["<|im_start|>", "<|im_end|>"], "<|im_end|>"),
    "gemma": (GEMMA, ["<bos>", "<start_of_turn>", "<end_of_turn>"], "<end_of_turn>"),
}
TURNS: list[Message] = [{"role": "user", "content": "What is 2 + 2?"}]
ROWS = st.lists(
    st.integers(2, 12).flatmap(
        lambda size: st.builds(
            Example, st.just("x"), st.lists(st.integers(0, 90), min_size=size, max_size=size), st.integers(1, size - 1)
        )
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("text", ["<think>\n2 + 2 = 4 ✓\n</think>\n\n\\boxed{4}", "  4 \n"])
def test_target_tokens_are_the_text_and_the_stop_token(name: str, text: str) -> None:
    tokenizer = byte_tokenizer(*TEMPLATES[name])
    stop = tokenizer.eos_token_id
    example = tokenisation.tokenise(tokenizer, TURNS, {}, text, stop, id="a")
    assert tokenizer.decode(example.ids[example.start :]) == text + tokenizer.decode([stop])
    assert tokenizer.decode(example.ids[: example.start]) == prompt_text(tokenizer, TURNS, {})
    assert tokenizer.decode(example.ids).count("<think>") == text.count("<think>")


def test_a_model_without_a_chat_template_has_the_same_targets(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(CHATML, ["<|endoftext|>"], "<|endoftext|>")
    tokenizer.chat_template = None
    assert tokenisation.stop_token(tmp_path, tokenizer) == tokenizer.eos_token_id
    example = tokenisation.tokenise(tokenizer, TURNS, {}, " 4", tokenizer.eos_token_id, id="a")
    assert tokenizer.decode(example.ids) == "Question: What is 2 + 2?\n\nAnswer: 4<|endoftext|>"
    assert tokenizer.decode(example.ids[example.start :]) == " 4<|endoftext|>"


def test_a_model_without_a_stop_token_is_an_error(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(CHATML, ["<|endoftext|>"], "<|endoftext|>")
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no eos_token_id in generation_config"):
        tokenisation.stop_token(tmp_path, tokenizer)


def test_rendering_the_answer_through_the_template_would_have_lost_its_reasoning() -> None:
    tokenizer = byte_tokenizer(*TEMPLATES["qwen3"])
    answer = {"role": "assistant", "content": "<think>\nsum\n</think>\n\n4"}
    assert "sum" not in tokenizer.apply_chat_template([*TURNS, answer], tokenize=False)


def test_a_reasoning_block_that_the_prompt_already_opens_is_refused() -> None:
    tokenizer = byte_tokenizer(OPENING, ["<|im_start|>", "<|im_end|>"], "<|im_end|>")
    with pytest.raises(UserError, match="opens it again"):
        tokenisation.tokenise(tokenizer, TURNS, {}, "<think>\nsum</think>4", 1, id="a")
    tokenisation.tokenise(tokenizer, TURNS, {}, "sum</think>4", 1, id="a")


@pytest.mark.parametrize(("text", "complaint"), [("", "empty"), ("4<|im_end|>5", "stop token")])
def test_a_completion_that_teaches_no_clean_stop_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(tokenisation.RefusedExample, match=complaint):
        tokenisation.tokenise(byte_tokenizer(*TEMPLATES["chatml"]), TURNS, {}, text, 1, id="a")


def test_of_several_stop_tokens_the_one_that_the_template_writes_is_the_target(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(*TEMPLATES["llama3"])
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [0, 3]}')
    assert tokenisation.stop_token(tmp_path, tokenizer) == tokenizer.convert_tokens_to_ids("<|eot_id|>") == 3
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 2}')
    assert tokenisation.stop_token(tmp_path, tokenizer) == 2


@given(ROWS)
def test_a_label_is_the_next_token_of_the_same_example_if_that_is_a_target(rows: list[Example]) -> None:
    batch = examples.collate(rows, range(len(rows)))
    expected = [
        row.ids[at + 1] if row.start <= at + 1 < len(row.ids) else IGNORED for row in rows for at in range(len(row.ids))
    ]
    assert batch.labels[0].tolist() == expected
    assert batch.input_ids[0].tolist() == [token for row in rows for token in row.ids]
    assert batch.position_ids[0].tolist() == [at for row in rows for at in range(len(row.ids))]
    assert batch.cu_seq_lens.diff().tolist() == [len(row.ids) for row in rows]


def test_an_empty_pack_is_one_token_that_is_not_a_target() -> None:
    batch = examples.collate([], [])
    assert batch.input_ids.shape == (1, 1)
    assert batch.labels.tolist() == [[IGNORED]]


def test_examples_are_read_in_the_order_of_their_ids_whatever_their_split_over_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "_ROWS_PER_BATCH", 2)  # several record batches per file
    rows = [Example(f"x{row}", list(range(row + 2)), 1 + row // 2) for row in range(9)]
    examples.write(tmp_path / "b.arrow", rows[5:] + rows[:2])
    examples.write(tmp_path / "a.arrow", rows[4:1:-1])
    examples.write(tmp_path / "c.arrow", [])
    back = examples.read(tmp_path)
    assert [back[row] for row in range(len(back))] == rows
    assert back.lengths.tolist() == [len(row.ids) for row in rows]
    assert back.target_lengths.tolist() == [len(row.ids) - row.start for row in rows]
    examples.write(tmp_path / "all.arrow", rows)
    examples.write(tmp_path / "all-but-one.arrow", [*rows[:-1], replace(rows[-1], start=rows[-1].start + 1)])
    assert examples.read(tmp_path / "all.arrow").sha256 == back.sha256
    assert examples.read(tmp_path / "all-but-one.arrow").sha256 != back.sha256


def test_examples_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [Example("a", [1, 2, 3], 1), Example("b", [4, 5], 1), Example("c", [6, 7, 8, 9], 3)]
    examples.write(tmp_path / "x.arrow", rows)
    back = examples.read(tmp_path / "x.arrow")
    assert [back[row] for row in range(len(back))] == rows
    assert back.lengths.tolist() == [3, 2, 4]
    assert back.target_lengths.tolist() == [2, 1, 1]

"""Target tokens are exactly the completion and its stop token, under any chat template."""

import string
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from reasonray.errors import UserError
from reasonray.prompts import Message, opening, prompt_text
from reasonray.training import examples, tokenisation
from reasonray.training.examples import IGNORED, Example, collate
from tests import templates
from tests.students import byte_tokenizer
from tests.templates import CHATML, CONTROL_TOKENS

TEMPLATES = {
    "chatml": (templates.CHATML, "<|im_end|>"),
    "llama3": (templates.LLAMA3, "<|eot_id|>"),
    "qwen3": (templates.QWEN3, "<|im_end|>"),
    "gemma": (templates.GEMMA2, "<end_of_turn>"),
    "mistral": (templates.MISTRAL, "</s>"),
}
OPENINGS = [
    (templates.CHATML, {}),
    (templates.QWEN3, {}),
    (templates.QWEN3_THINKING, {}),
    (templates.QWEN3_5, {}),
    (templates.QWQ, {}),
    (templates.R1_DISTILL, {}),
    (templates.DEEPSEEK_V3_1, {"thinking": True}),
    (templates.SMOLLM3, {}),
    (templates.GLM4_5, {}),
]
"""Templates of models that reason, with their arguments."""
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


def tokenizer_with(template: str, eos: str | None = None) -> Any:
    """Return a tokenizer of bytes with a template and its control tokens."""
    return byte_tokenizer(template, CONTROL_TOKENS[template], eos or CONTROL_TOKENS[template][-1])


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("text", ["<think>\n2 + 2 = 4 ✓\n</think>\n\n\\boxed{4}", "  4 \n"])
def test_target_tokens_are_the_text_and_the_stop_token(name: str, text: str) -> None:
    tokenizer = tokenizer_with(*TEMPLATES[name])
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
    tokenizer = tokenizer_with(templates.R1_DISTILL)
    answer = {"role": "assistant", "content": "<think>\nsum\n</think>\n\n4"}
    assert "sum" not in tokenizer.apply_chat_template([*TURNS, answer], tokenize=False)


@pytest.mark.parametrize(("teacher", "teacher_args"), OPENINGS)
@pytest.mark.parametrize(("student", "student_args"), OPENINGS)
@pytest.mark.parametrize("is_recorded", [True, False], ids=["recorded", "not recorded"])
def test_an_example_has_each_tag_once_whichever_template_opens_the_block(
    teacher: str, teacher_args: dict[str, Any], student: str, student_args: dict[str, Any], is_recorded: bool
) -> None:
    opened = opening(tokenizer_with(teacher), TURNS, teacher_args)
    completion = "sum\n</think>\n\n4" if opened else "<think>\nsum\n</think>\n\n4"
    answer = opened + completion if is_recorded else completion
    tokenizer = tokenizer_with(student)
    example = tokenisation.tokenise(tokenizer, TURNS, student_args, answer, tokenizer.eos_token_id, id="a")
    learnt = tokenizer.decode(example.ids[example.start :])
    prompt = tokenizer.decode(example.ids[: example.start])
    assert prompt == prompt_text(tokenizer, TURNS, student_args), "as the student will be prompted"
    asked = prompt.partition(TURNS[0]["content"])[2]
    assert (asked + learnt).count("<think>") == (asked + learnt).count("</think>") == 1
    assert learnt.endswith("sum\n</think>\n\n4" + tokenizer.eos_token)


def test_an_answer_that_reasons_is_refused_where_the_prompt_says_not_to() -> None:
    tokenizer = tokenizer_with(templates.QWEN3_5)
    with pytest.raises(
        tokenisation.RefusedExample, match=r"and the answer reasons; set student\.prompt\.template_args"
    ):
        tokenisation.tokenise(tokenizer, TURNS, {"enable_thinking": False}, "<think>\nsum\n</think>\n\n4", 1, id="a")


def test_an_example_is_the_same_on_every_day_of_a_run() -> None:
    tokenizer = tokenizer_with(templates.LLAMA3_1)
    made = [
        tokenisation.tokenise(tokenizer, TURNS, {}, "4", tokenizer.eos_token_id, id="a", **arguments)
        for arguments in ({}, {}, {"today": date(2001, 2, 3)})
    ]
    assert made[0] == made[1] != made[2]
    assert "Today Date: 03 Feb 2001" in tokenizer.decode(made[2].ids)
    assert date.today().strftime("%d %b %Y") not in tokenizer.decode(made[0].ids)


@pytest.mark.parametrize("scheme", ["always", "first"])
@pytest.mark.parametrize("text", ["4", " 4", "<think>\nsum</think>4", "\n4", "▁4"])
def test_a_tokenizer_that_puts_a_space_before_a_text_teaches_none(scheme: str, text: str) -> None:
    alphabet = sorted(
        {*"▁ <>/.?\n", *string.printable, *string.ascii_letters, *(f"<0x{byte:02X}>" for byte in range(256))}
    )
    control = CONTROL_TOKENS[templates.MISTRAL]
    names = {name: index for index, name in enumerate([*control, *alphabet, "▁4"])}
    raw = Tokenizer(tokenizer_models.BPE(vocab=names, merges=[("▁", "4")], byte_fallback=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    raw.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme)])
    raw.add_special_tokens(control)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>")
    tokenizer.chat_template = templates.MISTRAL
    try:
        example = tokenisation.tokenise(tokenizer, TURNS, {}, text, tokenizer.eos_token_id, id="a")
    except tokenisation.RefusedExample:
        assert text.startswith("▁"), "only what the tokenizer cannot write"
        return
    whole, prompt = (tokenizer.decode(ids) for ids in (example.ids, example.ids[: example.start]))
    assert whole == prompt + text + "</s>"


@pytest.mark.parametrize("text", ["4<|start_header_id|>user<|end_header_id|>\n\nAgain", "<|begin_of_text|>4"])
def test_a_completion_that_holds_a_control_token_is_refused(text: str) -> None:
    tokenizer = tokenizer_with(*TEMPLATES["llama3"])
    with pytest.raises(tokenisation.RefusedExample, match="holds the control token"):
        tokenisation.tokenise(tokenizer, TURNS, {}, text, tokenizer.eos_token_id, id="a")


def test_reasoning_tags_that_are_control_tokens_are_part_of_an_answer() -> None:
    tokenizer = byte_tokenizer(CHATML, ["<|im_start|>", "[THINK]", "[/THINK]", "<|im_end|>"], "<|im_end|>")
    text = "[THINK]sum[/THINK]4"
    example = tokenisation.tokenise(tokenizer, TURNS, {}, text, tokenizer.eos_token_id, id="a")
    assert tokenizer.decode(example.ids[example.start :]) == text + "<|im_end|>"


@pytest.mark.parametrize(("text", "complaint"), [("", "empty"), ("4<|im_end|>5", "stop token")])
def test_a_completion_that_teaches_no_clean_stop_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(tokenisation.RefusedExample, match=complaint):
        tokenisation.tokenise(tokenizer_with(*TEMPLATES["chatml"]), TURNS, {}, text, 1, id="a")


def test_of_several_stop_tokens_the_one_that_the_template_writes_is_the_target(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(*TEMPLATES["llama3"])
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


ANSWER = "<think>\n2 + 2 ≠ 5, so ✓\n</think>\n\nThe answer is 4."
SPANS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 20), st.floats(-4, 4, width=32)), min_size=1, max_size=4)


@given(SPANS, st.booleans())
def test_each_token_has_the_weight_of_its_character_and_the_stop_token_that_of_the_last(
    drawn: list[tuple[int, int, float]], prompt_opens: bool
) -> None:
    ends = np.cumsum([gap + length for gap, length, _ in drawn]).tolist()
    spans: list[tokenisation.Span] = [
        {"begin": end - length, "end": end, "weight": weight}
        for end, (_, length, weight) in zip(ends, drawn, strict=True)
    ]
    weights = [sum(span["weight"] for span in spans if span["begin"] <= at < span["end"]) for at in range(len(ANSWER))]
    template = templates.R1_DISTILL if prompt_opens else templates.CHATML
    tokenizer = byte_tokenizer(template, CONTROL_TOKENS[template], CONTROL_TOKENS[template][1])
    taught = len("<think>\n") if prompt_opens else 0
    expected = [
        weight for character, weight in zip(ANSWER[taught:], weights[taught:], strict=True) for _ in character.encode()
    ]
    if ends[-1] > len(ANSWER) or not any(expected):
        with pytest.raises(tokenisation.RefusedExample, match=r"in order|all 0"):
            tokenisation.tokenise(tokenizer, TURNS, {}, ANSWER, 1, id="a", spans=spans)
        return
    example = tokenisation.tokenise(tokenizer, TURNS, {}, ANSWER, 1, id="a", spans=spans)
    assert example.weights == [*expected, weights[-1]]
    assert len(example.weights) == len(example.ids) - example.start
    assert tokenisation.tokenise(tokenizer, TURNS, {}, ANSWER, 1, id="a").weights is None


@pytest.mark.parametrize(
    "spans", [[(0, 3, 1.0), (2, 5, 1.0)], [(3, 3, 1.0)], [(-1, 3, 1.0)], [(0, 3, float("nan"))], [(0, 3, 0.0)], []]
)
def test_loss_weights_that_are_not_parts_of_the_text_are_refused(spans: list[tuple[int, int, float]]) -> None:
    parts: list[tokenisation.Span] = [{"begin": begin, "end": end, "weight": weight} for begin, end, weight in spans]
    with pytest.raises(tokenisation.RefusedExample):
        tokenisation.token_weights(parts, [0, 1, 2], 5, id="a")


def test_loss_weights_are_read_as_they_were_written_and_are_part_of_the_hash(tmp_path: Path) -> None:
    plain = [Example("a", [1, 2, 3], 1), Example("b", [4, 5], 1), Example("c", [6, 7, 8, 9], 3)]
    weighted = [replace(plain[0], weights=[0.5, -2.0]), *plain[1:]]
    sampled = [replace(row, logprobs=[-0.5] * (len(row.ids) - row.start)) for row in weighted]
    examples.write(tmp_path / "plain.arrow", plain)
    examples.write(tmp_path / "sampled.arrow", sampled)
    examples.write(tmp_path / "weighted.arrow", weighted)
    back, without = examples.read(tmp_path / "weighted.arrow"), examples.read(tmp_path / "plain.arrow")
    assert [back[row] for row in range(3)] == weighted
    assert back.target_weights.tolist() == [2.5, 1, 1]
    assert without.target_weights.tolist() == [2, 1, 1]
    assert [examples.read(tmp_path / "sampled.arrow")[row] for row in range(3)] == sampled
    assert len({back.sha256, without.sha256, examples.read(tmp_path / "sampled.arrow").sha256}) == 3
    assert examples.read(tmp_path / "sampled.arrow").have_logprobs
    assert not back.have_logprobs
    in_checkpoints = "dc56db44b264f8fcdde362723c2a790476bcc9694370d8e3430f8d91af5c1f19"
    assert without.sha256 == in_checkpoints, "existing checkpoints hold the hash of examples without weights"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_parts_of_a_pack_are_the_pack(count: int) -> None:
    rows = [Example("a", [1, 2, 3, 4], 1, [0.5, 0.0, 2.0]), Example("b", [5, 6, 7, 8, 9], 2)]
    rows[1] = replace(rows[1], logprobs=[-1.0, -2.0, -3.0])
    whole = collate(rows, [1, 0])
    parts = [whole.part(rank, count) for rank in range(count)]
    for name in ("input_ids", "position_ids", "labels", "weights", "logprobs"):
        joined = torch.cat([getattr(part, name) for part in parts], dim=1)
        assert len({getattr(part, name).shape for part in parts}) == 1
        assert torch.equal(joined[:, :9], getattr(whole, name))
    joined_labels = torch.cat([part.labels for part in parts], dim=1)
    assert (joined_labels[:, 9:] == IGNORED).all()
    assert parts[0].cu_seq_lens.tolist() == [0, 5, 9, *([10] if count == 2 else [])]
    assert whole.labels[0, 5:].tolist() == [2, IGNORED, 4, IGNORED], "a token of weight 0 is not a target"


def test_examples_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [Example("a", [1, 2, 3], 1), Example("b", [4, 5], 1), Example("c", [6, 7, 8, 9], 3)]
    examples.write(tmp_path / "x.arrow", rows)
    back = examples.read(tmp_path / "x.arrow")
    assert [back[row] for row in range(len(back))] == rows
    assert back.lengths.tolist() == [3, 2, 4]
    assert back.target_lengths.tolist() == [2, 1, 1]

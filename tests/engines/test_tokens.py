"""The text of a completion keeps the special tokens inside it and loses the one that ended it."""

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from reasonray.engines.tokens import completion_text

GPT_OSS = (
    "<|startoftext|>",
    "<|return|>",
    "<|endoftext|>",
    ["<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|call|>"],
)
MAGISTRAL = ("<s>", "</s>", "<pad>", ["[THINK]", "[/THINK]"])
QWEN = (None, "<|im_end|>", "<|endoftext|>", ["<|im_start|>"])


def tokenizer_of(bos: str | None, eos: str, pad: str, others: list[str]) -> Any:
    """Return a byte tokenizer with a model's special tokens."""
    bytes_ = Tokenizer(
        models.BPE(vocab={symbol: index for index, symbol in enumerate(pre_tokenizers.ByteLevel.alphabet())}, merges=[])
    )
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_, bos_token=bos, eos_token=eos, pad_token=pad)
    tokenizer.add_special_tokens({"additional_special_tokens": others})
    return tokenizer


def completed(tokenizer: Any, written: str, ended_by: str | None, stop_reason: int | str | None = None) -> str:
    """Return the text of a completion as the engine makes it of what vLLM hands over."""
    ids = tokenizer(written, add_special_tokens=False)["input_ids"]
    without_end = written.removesuffix(stop_reason) if isinstance(stop_reason, str) else written
    end = [] if ended_by is None else tokenizer.convert_tokens_to_ids([ended_by])
    finish = "length" if ended_by is None and not isinstance(stop_reason, str) else "stop"
    return completion_text(tokenizer, without_end, ids + end, finish, stop_reason)


@pytest.mark.parametrize(
    ("model", "written", "ended_by"),
    [
        (
            GPT_OSS,
            "<|channel|>analysis<|message|>6 x 7<|end|><|start|>assistant<|channel|>final<|message|>42.",
            "<|return|>",
        ),
        (MAGISTRAL, "[THINK]6 x 7[/THINK]42.", "</s>"),
        (MAGISTRAL, "[THINK]6 x 7", None),
        (QWEN, "<think>6 x 7</think>42.", "<|im_end|>"),
        (QWEN, "42, and `</s>` strikes text out.", "<|im_end|>"),
    ],
)
def test_special_tokens_inside_a_completion_survive_and_the_last_one_goes(
    model: Any, written: str, ended_by: str | None
) -> None:
    assert completed(tokenizer_of(*model), written, ended_by) == written


def test_a_further_stop_token_that_ended_a_completion_is_not_its_text() -> None:
    tokenizer = tokenizer_of(*GPT_OSS)
    call = tokenizer.convert_tokens_to_ids("<|call|>")
    assert completed(tokenizer, "<|channel|>tool", "<|call|>", call) == "<|channel|>tool"


def test_a_stop_string_belongs_to_the_completion() -> None:
    assert completed(tokenizer_of(*QWEN), "The answer is 42.\n\n", None, "\n\n") == "The answer is 42.\n\n"


@pytest.mark.parametrize("model", [GPT_OSS, MAGISTRAL, QWEN])
def test_tokens_that_delimit_whole_texts_are_left_out_wherever_they_are(model: Any) -> None:
    bos, eos, pad, (first, *_) = model
    tokenizer = tokenizer_of(*model)
    assert completed(tokenizer, f"a{eos}b{pad}{first}c{bos or ''}", eos) == f"ab{first}c"
    assert completed(tokenizer, f"a{pad} stop b. stop", None, "stop") == "a stop b. stop"

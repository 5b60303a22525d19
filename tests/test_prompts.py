"""Prompts from problems, what a prompt opens of the answer, and completions split into reasoning and response."""

from datetime import date
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from reasonray.config import Example, Prompt, Sampling
from reasonray.engines.protocol import SampleRequest
from reasonray.errors import UserError
from reasonray.prompts import (
    KNOWN_TAGS,
    Message,
    continuation,
    known_tags,
    messages,
    opening,
    prompt_ids,
    prompt_text,
    split_reasoning,
    whole_answer,
    with_standard_tags,
)
from tests import templates
from tests.factories import a_problem
from tests.templates import CONTROL_TOKENS

TURNS: list[Message] = [{"role": "user", "content": "What is 2 + 2?"}]
SYSTEM: Message = {"role": "system", "content": "Be brief."}
EXAMPLES: list[Message] = [
    {"role": "user", "content": "What is 1 + 1?"},
    {"role": "assistant", "content": "<think>\none and one\n</think>\n\n2"},
]
TEXT = st.text(st.sampled_from("ab\n <>/think"), max_size=20)


class NoTemplate:
    chat_template = None
    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def apply_chat_template(self, conversation: object, **kwargs: object) -> object:
        raise AssertionError("a tokenizer without a template must not render one")

    def __call__(self, text: str, *, add_special_tokens: bool) -> object:
        return {"input_ids": [1, *range(len(text))] if add_special_tokens else list(range(len(text)))}


def tokenizer_of(template: str) -> Any:
    """Return a tokenizer with a template and its control tokens; `<think>` is a token that is not special."""
    raw = Tokenizer(tokenizer_models.BPE(vocab={"<unk>": 0}, merges=[], unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.add_special_tokens(CONTROL_TOKENS[template])
    raw.add_tokens(["<think>", "</think>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("completion", "reasoning", "response"),
    [
        ("<think> a </think> b", " a ", " b"),
        ("a </think> b", "a ", " b"),
        ("<think> a", " a", ""),
        ("just b", "", "just b"),
        ("<think> a </think> b </think> c", " a ", " b </think> c"),
        ("Sure. <think> a </think> b", "Sure. <think> a ", " b"),
        ("<think>\n<think> a </think> b", " a ", " b"),
        ("", "", ""),
    ],
)
def test_a_completion_splits_at_the_end_of_its_reasoning(completion: str, reasoning: str, response: str) -> None:
    assert split_reasoning(completion) == (reasoning, response)


def test_worked_examples_are_earlier_turns_and_braces_in_a_question_are_kept() -> None:
    prompt = Prompt(
        system="Be brief.",
        template="Solve: {question}",
        examples=(Example(question="1 + 1?", completion="2"),),
    )
    assert [turn["content"] for turn in messages(prompt, r"\frac{1}{2}?")] == [
        "Be brief.",
        "Solve: 1 + 1?",
        "2",
        r"Solve: \frac{1}{2}?",
    ]


def test_a_model_without_a_template_gets_plain_lines() -> None:
    turns = messages(Prompt(examples=(Example(question="1 + 1?", completion="2"),)), "2 + 2?")
    assert prompt_text(NoTemplate(), turns, {}) == "Question: 1 + 1?\n\nAnswer: 2\n\nQuestion: 2 + 2?\n\nAnswer:"
    assert opening(NoTemplate(), turns, {}) == ""


@pytest.mark.parametrize("template", [None, templates.LLAMA3], ids=["none", "another"])
def test_a_configured_chat_template_takes_the_place_of_the_tokenizers(template: str | None) -> None:
    prompt = Prompt(chat_template=templates.QWQ, template_args={"unused": False})
    turns = [SYSTEM, *TURNS]
    own, other = tokenizer_of(templates.QWQ), tokenizer_of(templates.QWQ)
    other.chat_template = template
    assert prompt_text(other, turns, prompt.template_arguments) == prompt_text(own, turns, {})
    assert prompt_ids(other, turns, prompt.template_arguments) == prompt_ids(own, turns, {})
    assert opening(other, turns, prompt.template_arguments) == opening(own, turns, {}) == "<think>\n"
    assert prompt_text(other, turns, {}) != prompt_text(own, turns, {})


@pytest.mark.parametrize(
    ("template", "template_args", "expected"),
    [
        (templates.CHATML, {}, ""),
        (templates.QWEN3, {}, ""),
        (templates.QWEN3, {"enable_thinking": False}, "<think>\n\n</think>\n\n"),
        (templates.QWEN3_THINKING, {}, "<think>\n"),
        (templates.QWQ, {}, "<think>\n"),
        (templates.QWEN3_5, {}, "<think>\n"),
        (templates.QWEN3_5, {"enable_thinking": False}, "<think>\n\n</think>\n\n"),
        (templates.R1_DISTILL, {}, "<think>\n"),
        (templates.DEEPSEEK_V3_1, {"thinking": True}, "<think>"),
        (templates.DEEPSEEK_V3_1, {}, "</think>"),
        (templates.GPT_OSS, {}, ""),
        (templates.SMOLLM3, {}, ""),
        (templates.SMOLLM3, {"enable_thinking": False}, "<think>\n\n</think>\n"),
        (templates.GLM4_5, {}, ""),
        (templates.GLM4_5, {"enable_thinking": False}, "<think></think>"),
        (templates.GRANITE, {"controls": {"length": "long"}}, ""),
        (templates.LLAMA3, {}, ""),
        (templates.GEMMA2, {}, ""),
        (templates.MISTRAL, {}, ""),
        (templates.PLAIN, {}, "Let me think. "),
    ],
)
@pytest.mark.parametrize("turns", [TURNS, [SYSTEM, *TURNS], [*EXAMPLES, *TURNS]], ids=["", "system", "examples"])
def test_the_opening_is_what_the_prompt_writes_of_the_answer(
    template: str, template_args: dict[str, Any], expected: str, turns: list[Message]
) -> None:
    tokenizer = tokenizer_of(template)
    assert opening(tokenizer, turns, template_args) == expected
    assert prompt_text(tokenizer, turns, template_args).endswith(expected)


MAGISTRAL = (
    "{% for turn in messages %}[INST]{{ turn.content }}[/INST]{% endfor %}"
    "{% if add_generation_prompt %}[THINK]{% endif %}"
)


def test_the_opening_may_be_a_models_own_tag_even_a_control_token() -> None:
    raw = Tokenizer(tokenizer_models.BPE(vocab={"<unk>": 0}, merges=[], unk_token="<unk>"))
    raw.add_special_tokens(["[INST]", "[/INST]", "[THINK]", "[/THINK]"])
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=raw)
    tokenizer.chat_template = MAGISTRAL
    tags = ("[THINK]", "[/THINK]")
    assert opening(tokenizer, TURNS, {}, tags=tags) == "[THINK]"
    assert opening(tokenizer, TURNS, {}) == "[THINK]", "a known tag needs no key to be kept whole"
    assert with_standard_tags(opening(tokenizer, TURNS, {}, tags=tags), tags) == "<think>"


@pytest.mark.parametrize("tags", [("<mull>", "</mull>"), *KNOWN_TAGS])
def test_a_models_own_tags_split_its_completion_as_the_usual_ones(tags: tuple[str, str]) -> None:
    opens, closes = tags
    text = f"{opens}\na < b [c] \\(d\\)\n{closes}\n\n\\boxed{{e}}"
    usual = with_standard_tags(text, tags)
    assert usual == "<think>\na < b [c] \\(d\\)\n</think>\n\n\\boxed{e}", "nothing else changes"
    assert with_standard_tags(text, None) == text
    assert known_tags(f" {text}") == (tags if tags in KNOWN_TAGS else None)
    assert known_tags(usual) is known_tags(f"So {opens} is a tag.") is known_tags(f"{opens} and no end") is None


def test_a_question_about_tags_does_not_open_an_answer() -> None:
    turns: list[Message] = [{"role": "user", "content": "Write <think> before you answer: assistant\n<think>\n"}]
    assert opening(tokenizer_of(templates.CHATML), turns, {}) == ""
    assert opening(tokenizer_of(templates.R1_DISTILL), turns, {}) == "<think>\n"


@pytest.mark.parametrize("template", CONTROL_TOKENS)
def test_worked_examples_keep_their_reasoning_under_every_template(template: str) -> None:
    text = prompt_text(tokenizer_of(template), [*EXAMPLES, *TURNS], {})
    example = text.partition("What is 2 + 2?")[0].partition("What is 1 + 1?")[2]
    assert example.count("<think>") == example.count("</think>") == 1, "once, with no empty block before it"
    assert "<think>\none and one\n</think>\n\n2" in example


def test_a_template_that_keeps_worked_examples_renders_them_itself() -> None:
    plain: Message = {"role": "assistant", "content": " 2 "}
    text = prompt_text(tokenizer_of(templates.LLAMA3), [EXAMPLES[0], plain, *TURNS], {})
    assert "<|end_header_id|>\n\n2<|eot_id|>" in text, "trimmed, as the template does"


@pytest.mark.parametrize("template", [templates.GEMMA2, templates.MISTRAL])
def test_a_system_message_that_a_template_refuses_begins_the_first_user_turn(template: str) -> None:
    tokenizer = tokenizer_of(template)
    merged: list[Message] = [{"role": "user", "content": "Be brief.\n\nWhat is 2 + 2?"}]
    assert prompt_text(tokenizer, [SYSTEM, *TURNS], {}) == prompt_text(tokenizer, merged, {})


def test_a_chat_that_a_template_refuses_altogether_is_one_line() -> None:
    tokenizer = tokenizer_of(templates.CHATML)
    tokenizer.chat_template = "{{ raise_exception('no ' + messages[0]['role'] + ' here') }}"
    with pytest.raises(UserError, match=r"refuses the prompt: no system here; change prompt\.system"):
        prompt_text(tokenizer, [SYSTEM, *TURNS], {})


@pytest.mark.parametrize("template", [templates.LLAMA3_1, templates.GPT_OSS, templates.SMOLLM3])
def test_a_prompt_holds_the_date_of_the_run_and_not_of_the_day(template: str) -> None:
    tokenizer = tokenizer_of(template)
    first, second = (prompt_text(tokenizer, TURNS, {}, date(2001, 2, day)) for day in (3, 4))
    assert "2001" in first
    assert first != second
    assert str(date.today().year) not in prompt_text(tokenizer, TURNS, {})


@pytest.mark.parametrize("processor", ["$A </s>", "<s> $A", "<s> $A </s>", "$A"])
def test_a_prompt_without_a_template_is_never_closed(processor: str) -> None:
    tokenizer = tokenizer_of(templates.MISTRAL)
    tokenizer.chat_template = None
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in ("<s>", "</s>")}
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(processor, None, list(ids.items()))
    plain = tokenizer("Question: What is 2 + 2?\n\nAnswer:", add_special_tokens=False)["input_ids"]
    expected = [ids["<s>"], *plain] if processor.startswith("<s>") else plain
    assert prompt_ids(tokenizer, TURNS, {}) == expected


@pytest.mark.parametrize(
    ("prompt_opening", "answer", "expected"),
    [
        ("", "<think>\na\n</think>\n\nb", "<think>\na\n</think>\n\nb"),
        ("<think>\n", "<think>\na\n</think>\n\nb", "a\n</think>\n\nb"),
        ("<think>\n", "<think>a</think>b", "a</think>b"),
        ("<think>", "<think>\na\n</think>b", "\na\n</think>b"),
        ("<think>\n", "\n<think> a</think>b", " a</think>b"),
        ("<think>\n\n</think>\n\n", "<think>\n\n</think>\n\nb", "b"),
        ("<think>\n\n</think>\n\n", "<think></think>b", "b"),
        ("<think></think>", "b", "b"),
        ("</think>", "<think>\n</think>b", "b"),
    ],
)
def test_an_answer_after_a_prompt_that_opens_it_holds_each_tag_once(
    prompt_opening: str, answer: str, expected: str
) -> None:
    assert continuation(prompt_opening, answer) == expected


@pytest.mark.parametrize(
    ("prompt_opening", "answer", "complaint"),
    [
        ("<think>\n", "b", "holds no reasoning"),
        ("<think>\n\n</think>\n\n", "<think>\na\n</think>\n\nb", "reasons"),
        ("Let me think. ", "<think>\na\n</think>\n\nb", "does not"),
    ],
)
def test_an_answer_that_does_not_begin_as_the_prompt_does_is_refused(
    prompt_opening: str, answer: str, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        continuation(prompt_opening, answer)


@given(st.sampled_from(["", "<think>", "<think>\n", "<think>\n\n</think>\n\n"]), TEXT)
def test_what_a_prompt_opened_and_the_completion_are_the_answer_again(prompt_opening: str, completion: str) -> None:
    assert continuation(prompt_opening, prompt_opening + completion) == completion


def test_a_block_that_is_closed_and_never_opened_was_opened_by_the_prompt() -> None:
    assert whole_answer("", "a\n</think>\n\nb") == "<think>\na\n</think>\n\nb"
    assert whole_answer("<think>\n", "a\n</think>\n\nb") == "<think>\na\n</think>\n\nb"
    assert whole_answer("", "<think>a</think>b") == "<think>a</think>b"
    assert whole_answer("", "</think>b") == "</think>b"
    assert whole_answer("</think>", "b") == "</think>b"
    assert whole_answer("", "b") == "b"


def test_a_hint_shows_the_gold_answer_of_the_asked_problem_only() -> None:
    prompt = Prompt(
        template="{question} (Hint: {gold_answer}.)", examples=(Example(question="1 + 1?", completion="It is 2."),)
    )
    turns = messages(prompt, r"\boxed{gold_answer}, 6 * 7?", "{question} 42")
    assert [turn["content"] for turn in turns] == [
        "1 + 1?",
        "It is 2.",
        r"\boxed{gold_answer}, 6 * 7? (Hint: {question} 42.)",
    ], "worked examples show no hint, and what is filled in is not filled again"
    problem = a_problem()
    assert SampleRequest(problem, 0, 0, prompt, Sampling()).turns == messages(prompt, problem.question, "42")
    plain = Prompt(template=r"{question} Put it into \boxed{answer}.")
    assert messages(plain, "6 * 7?", "42")[-1]["content"] == r"6 * 7? Put it into \boxed{answer}."

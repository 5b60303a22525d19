"""Prompts from problems, and completions split into reasoning and response."""

import pytest

from reasonray.config import Example, Prompt
from reasonray.prompts import messages, prompt_text, split_reasoning


class NoTemplate:
    chat_template = None

    def apply_chat_template(self, conversation: object, **kwargs: object) -> object:
        raise AssertionError("a tokenizer without a template must not render one")

    def __call__(self, text: str, *, add_special_tokens: bool) -> object:
        return {"input_ids": [1, *range(len(text))] if add_special_tokens else list(range(len(text)))}


@pytest.mark.parametrize(
    ("completion", "reasoning", "response"),
    [
        ("<think> a </think> b", " a ", " b"),
        ("a </think> b", "a ", " b"),
        ("<think> a", " a", ""),
        ("just b", "", "just b"),
        ("<think> a </think> b </think> c", " a ", " b </think> c"),
        ("Sure. <think> a </think> b", "Sure. <think> a ", " b"),
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

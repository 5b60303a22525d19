"""Prompts: problem → messages → text → token ids; and a completion split into reasoning and response.

Engines and training use the same functions, so a student is trained on exactly the prompt that it is sampled with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypedDict

from reasonray.config import Prompt

REASONING_OPEN = "<think>"
REASONING_CLOSE = "</think>"


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is used here."""

    chat_template: Any

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any:
        """Render messages."""

    def __call__(self, text: str, *, add_special_tokens: bool) -> Any:
        """Encode text."""


def messages(prompt: Prompt, question: str) -> list[Message]:
    """Return the chat for a question: the system message, worked examples as earlier turns, then the question."""
    turns: list[Message] = [{"role": "system", "content": prompt.system}] if prompt.system else []
    for example in prompt.examples:
        turns.append({"role": "user", "content": _user_turn(prompt, example.question)})
        turns.append({"role": "assistant", "content": example.completion})
    turns.append({"role": "user", "content": _user_turn(prompt, question)})
    return turns


def _user_turn(prompt: Prompt, question: str) -> str:
    # str.format would fail on other braces, such as those of LaTeX.
    return prompt.template.replace("{question}", question)


def prompt_text(tokenizer: Tokenizer, turns: Sequence[Message], template_args: Mapping[str, Any]) -> str:
    """Return the text that the model continues. Without a chat template it is plain Question/Answer lines.

    Args:
        tokenizer: of the model.
        turns: the chat.
        template_args: further arguments of the chat template, such as `enable_thinking`.
    """
    if tokenizer.chat_template:
        rendered = tokenizer.apply_chat_template(
            list(turns), tokenize=False, add_generation_prompt=True, **dict(template_args)
        )
        return str(rendered)
    label = {"system": "", "user": "Question: ", "assistant": "Answer: "}
    return "\n\n".join(f"{label[turn['role']]}{turn['content']}" for turn in turns) + "\n\nAnswer:"


def prompt_ids(tokenizer: Tokenizer, turns: Sequence[Message], template_args: Mapping[str, Any]) -> list[int]:
    """Return the token ids of `prompt_text`. A chat template writes its own special tokens, so none are added."""
    text = prompt_text(tokenizer, turns, template_args)
    return list(tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"])


def split_reasoning(completion: str) -> tuple[str, str]:
    """Split a completion into (reasoning, response).

    The opening tag may be missing, because some templates put it into the prompt. Without a closing tag, all is
    reasoning; without any tag, all is response.
    """
    before, close, after = completion.partition(REASONING_CLOSE)
    prefix, opened, inside = before.partition(REASONING_OPEN)
    if not close and not opened:
        return "", completion
    reasoning = inside if opened and not prefix.strip() else before
    return reasoning, after

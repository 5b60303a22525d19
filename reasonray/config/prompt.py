"""The prompt of a model: chat messages, and the tags of its reasoning."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from reasonray.config.section import Section


class Example(Section):
    """A worked example: an earlier turn of the chat."""

    question: str
    """The user's turn."""
    completion: str
    """The assistant's turn."""


GOLD = "{gold_answer}"
"""In the template of a teacher's prompt: the gold answer."""


class Prompt(Section):
    """The chat messages of a problem."""

    system: str = ""
    """The system message; "" for none. Where the chat template allows none (Gemma 2, Mistral 7B), it begins the first
    user turn."""
    examples: tuple[Example, ...] = ()
    """Worked examples, shown as earlier turns, with their reasoning even where the chat template cuts it out. In TOML
    also the name of a JSON Lines file next to the configuration, with one example a line."""
    template: str = "{question}"
    """The user's turn; `{question}` is replaced by the problem's question. In a teacher's prompt `{gold_answer}` is
    replaced by the gold answer: then it is not measured, and the rule `leaked_answer` is needed."""
    template_args: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the tokenizer's chat template, such as `enable_thinking`."""

    reasoning_tags: tuple[str, str] | None = None
    """The tags around the model's reasoning where they are not `<think>` and `</think>`, such as `["[THINK]",
    "[/THINK]"]`. They are stored and trained on as `<think>` and `</think>`; all other text stays verbatim."""

    @field_validator("template")
    @classmethod
    def _holds_the_question(cls, template: str) -> str:
        if "{question}" not in template:
            raise ValueError('must contain "{question}"')
        return template

    @field_validator("reasoning_tags")
    @classmethod
    def _tags_differ(cls, tags: tuple[str, str] | None) -> tuple[str, str] | None:
        if tags and (not all(tag.strip() for tag in tags) or tags[0] in tags[1] or tags[1] in tags[0]):
            raise ValueError("needs an opening and a closing tag, two texts of which neither is within the other")
        return tags

    @model_serializer(mode="wrap")
    def _without_unset_tags(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave reasoning_tags out where it is not set: a prompt of an earlier version keeps its identity."""
        values: dict[str, Any] = handler(self)
        return values if self.reasoning_tags else {key: values[key] for key in values if key != "reasoning_tags"}

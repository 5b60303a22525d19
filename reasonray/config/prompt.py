"""The prompt of a model: chat messages, and the tags of its reasoning."""

from __future__ import annotations

import re
from typing import Any

from jinja2 import TemplateSyntaxError
from jinja2.sandbox import SandboxedEnvironment
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


_GENERATION = re.compile(r"{%-?\s*(?:end)?generation\s*-?%}")
"""Marks of the assistant's tokens, which only transformers knows."""


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
    chat_template: str = ""
    """A chat template (Jinja) in place of the tokenizer's own; "" for the tokenizer's. In TOML also the name of a
    `.jinja` file next to the configuration. A student is exported with it."""
    reasoning_tags: tuple[str, str] | None = None
    """The tags around the model's reasoning where they are not `<think>` and `</think>`, such as `["[THINK]",
    "[/THINK]"]`. They are stored and trained on as `<think>` and `</think>`; all other text stays verbatim."""

    @field_validator("template")
    @classmethod
    def _holds_the_question(cls, template: str) -> str:
        if "{question}" not in template:
            raise ValueError('must contain "{question}"')
        return template

    @field_validator("chat_template")
    @classmethod
    def _is_a_template(cls, template: str) -> str:
        if template and "messages" not in template:
            raise ValueError("is no chat template: it does not read `messages` (name a .jinja file, or write one)")
        try:
            SandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION.sub("", template))
        except TemplateSyntaxError as error:
            raise ValueError(f"is not Jinja: line {error.lineno}: {error.message}") from None
        return template

    @field_validator("reasoning_tags")
    @classmethod
    def _tags_differ(cls, tags: tuple[str, str] | None) -> tuple[str, str] | None:
        if tags and (not all(tag.strip() for tag in tags) or tags[0] in tags[1] or tags[1] in tags[0]):
            raise ValueError("needs an opening and a closing tag, two texts of which neither is within the other")
        return tags

    @property
    def template_arguments(self) -> dict[str, Any]:
        """Arguments of the rendering of the chat: template_args, and the template if it is not the tokenizer's."""
        return self.template_args | ({"chat_template": self.chat_template} if self.chat_template else {})

    @model_serializer(mode="wrap")
    def _without_later_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave keys out that are not set and that an earlier version lacked: its prompts keep their identity."""
        values: dict[str, Any] = handler(self)
        return {key: values[key] for key in values if values[key] or key not in ("reasoning_tags", "chat_template")}

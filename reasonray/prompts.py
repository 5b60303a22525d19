"""Prompts: problem → messages → text → token ids; and a completion split into reasoning and response.

Engines and training use the same functions, so a student is trained on exactly the prompt that it is sampled with.

Some chat templates write the beginning of the answer into the prompt, mostly `<think>`. This text is the prompt's
`opening`. The model continues it, so it belongs to the answer: the answer is opening + completion.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Protocol, TypedDict

from jinja2 import TemplateError

from reasonray.config import Prompt
from reasonray.config.prompt import GOLD
from reasonray.errors import UserError

REASONING_OPEN = "<think>"
REASONING_CLOSE = "</think>"


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is used here."""

    chat_template: Any
    added_tokens_decoder: Any
    """Token id → an added token, with its text as `content` and whether it is `special`."""

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any:
        """Render messages."""

    def __call__(self, text: str, *, add_special_tokens: bool) -> Any:
        """Encode text."""


FALLBACK_DATE = date(2024, 7, 26)
"""The date in the prompts of runs that recorded none: the one that Llama 3.1's template falls back to."""
KNOWN_TAGS = (
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
)
"""Tags that recorded completions may begin with: of Magistral, OpenThoughts, Seed-OSS, Kimi and others."""
_TAG = re.compile(f"{REASONING_OPEN}|{REASONING_CLOSE}")
_ANY_TAG = re.compile(
    "|".join(re.escape(tag) for tags in ((REASONING_OPEN, REASONING_CLOSE), *KNOWN_TAGS) for tag in tags)
)
_PLACEHOLDER = re.compile("{question}|" + re.escape(GOLD))
_EMPTY_BLOCK = rf"(?:{REASONING_OPEN}\s*)?{REASONING_CLOSE}\s*"


def with_standard_tags(text: str, tags: tuple[str, str] | None) -> str:
    """Return a text with `<think>` and `</think>` in place of a model's own tags; all else is verbatim.

    Args:
        text: of a completion, or of what the prompt opened of one.
        tags: of the model; None if they are those already.
    """
    return text.replace(tags[0], REASONING_OPEN).replace(tags[1], REASONING_CLOSE) if tags else text


def known_tags(text: str) -> tuple[str, str] | None:
    """Return the known tags around the reasoning that a text begins with; None where it has none, or `<think>`."""
    begins = text.lstrip()
    return next((tags for tags in KNOWN_TAGS if begins.startswith(tags[0]) and tags[1] in begins), None)


def messages(prompt: Prompt, question: str, gold: str = "") -> list[Message]:
    """Return the chat for a question: the system message, worked examples as earlier turns, then the question.

    Args:
        prompt: of the model.
        question: of the problem.
        gold: the gold answer, for a prompt that shows it. Worked examples are then shown by their question alone,
            because only their completion holds an answer.
    """
    turns: list[Message] = [{"role": "system", "content": prompt.system}] if prompt.system else []
    shown = "{question}" if GOLD in prompt.template else prompt.template
    for example in prompt.examples:
        turns.append({"role": "user", "content": _filled(shown, example.question)})
        turns.append({"role": "assistant", "content": example.completion})
    turns.append({"role": "user", "content": _filled(prompt.template, question, gold)})
    return turns


def _filled(template: str, question: str, gold: str = "") -> str:
    # str.format would fail on other braces, such as those of LaTeX; and what is filled in is not filled again.
    parts = {"{question}": question, GOLD: gold}
    return _PLACEHOLDER.sub(lambda found: parts[found[0]], template)


def prompt_text(
    tokenizer: Tokenizer, turns: Sequence[Message], template_args: Mapping[str, Any], today: date = FALLBACK_DATE
) -> str:
    """Return the text that the model continues. Without a chat template it is plain Question/Answer lines.

    Worked examples keep their reasoning, which many templates cut out of earlier turns. A system message that the
    template refuses (Gemma 2, Mistral 7B) becomes the beginning of the first user turn.

    Args:
        tokenizer: of the model.
        turns: the chat.
        template_args: further arguments of the chat template, such as `enable_thinking`; and as `chat_template` another
            template than the tokenizer's.
        today: the date for templates that write it. It is the run's, so that a prompt is the same on every day.

    Raises:
        UserError: the template refuses the chat.
    """
    if not _has_template(tokenizer, template_args):
        label = {"system": "", "user": "Question: ", "assistant": "Answer: "}
        return "\n\n".join(f"{label[turn['role']]}{turn['content']}" for turn in turns) + "\n\nAnswer:"
    text = _render(tokenizer, turns, template_args, today)
    examples = [turn["content"] for turn in turns if turn["role"] == "assistant"]
    if all(example.strip() in text for example in examples):
        return text
    marks = iter(range(len(examples)))
    marked: list[Message] = [
        {"role": "assistant", "content": _mark(next(marks))} if turn["role"] == "assistant" else turn for turn in turns
    ]
    text = _render(tokenizer, marked, template_args, today)
    for number, example in enumerate(examples):
        if example.lstrip().startswith(REASONING_OPEN):  # some templates write an empty block before earlier answers
            text = re.sub(_EMPTY_BLOCK + _mark(number), _mark(number), text)
        text = text.replace(_mark(number), example)
    return text


def _has_template(tokenizer: Tokenizer, template_args: Mapping[str, Any]) -> bool:
    return bool(template_args.get("chat_template") or tokenizer.chat_template)


def _mark(number: int) -> str:
    """Return a text that stands for a turn's content; no model and no template writes these private characters."""
    return f"\ue000{number}\ue001"


def _render(tokenizer: Tokenizer, turns: Sequence[Message], template_args: Mapping[str, Any], today: date) -> str:
    arguments = {"strftime_now": today.strftime} | dict(template_args)
    fault = ""
    for chat in (list(turns), _without_system(turns)):
        try:
            return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **arguments))
        except TemplateError as error:
            fault = fault or str(error)
    raise UserError(
        f"the model's chat template refuses the prompt: {fault}; change prompt.system, prompt.examples or "
        "prompt.template_args"
    )


def _without_system(turns: Sequence[Message]) -> list[Message]:
    """Return a chat whose system message is the beginning of the first user turn."""
    if turns[0]["role"] != "system":
        return list(turns)
    system, user, *others = turns
    return [{"role": "user", "content": f"{system['content']}\n\n{user['content']}"}, *others]


def opening(
    tokenizer: Tokenizer,
    turns: Sequence[Message],
    template_args: Mapping[str, Any],
    today: date = FALLBACK_DATE,
    tags: tuple[str, str] | None = None,
) -> str:
    """Return what the prompt writes of the answer itself, such as "<think>\\n"; mostly nothing.

    It is the text at the prompt's end that follows the header of the assistant's turn. The header is what the template
    writes between a question and an earlier answer. A reasoning tag never belongs to the header, because some templates
    write an empty block before each earlier answer; a control token always does.

    Args:
        tokenizer: of the model.
        turns: the chat.
        template_args: further arguments of the chat template.
        today: as in `prompt_text`.
        tags: of the model's reasoning; without them, any known ones.
    """
    if not _has_template(tokenizer, template_args):
        return ""
    tag = re.compile("|".join(map(re.escape, tags))) if tags else _ANY_TAG
    *earlier, last = turns
    asked: list[Message] = [*earlier, {"role": "user", "content": last["content"] + _mark(0)}]
    _, found, tail = _render(tokenizer, asked, template_args, today).rpartition(_mark(0))
    if not found:
        return ""
    header = _header(tokenizer, [turn for turn in turns[:1] if turn["role"] == "system"], template_args, today)
    first = tag.search(tail)
    start = min(len(_common_beginning(tail, header)) if header else len(tail), first.start() if first else len(tail))
    return _after_control_tokens(tokenizer, tail[start:], tag).lstrip()


def _header(tokenizer: Tokenizer, system: list[Message], template_args: Mapping[str, Any], today: date) -> str:
    """Return what a template writes between a question and an earlier answer; "" if it allows no earlier answers."""
    question, answer, following = map(_mark, range(3))
    chat: list[Message] = [
        *system,
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": following},
    ]
    try:
        text = _render(tokenizer, chat, template_args, today)
    except UserError:
        return ""
    after_question = text.partition(question)[2]
    return after_question.partition(answer)[0] if answer in after_question else ""


def _common_beginning(text: str, other: str) -> str:
    pairs = enumerate(zip(text, other, strict=False))
    return text[: next((index for index, (one, two) in pairs if one != two), min(len(text), len(other)))]


def _after_control_tokens(tokenizer: Tokenizer, text: str, tag: re.Pattern[str]) -> str:
    """Return the text after its last control token; a tag of reasoning is none."""
    tokens = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    ends = [text.rfind(token) + len(token) for token in tokens if token in text and not tag.search(token)]
    return text[max(ends, default=0) :]


def whole_answer(prompt_opening: str, completion: str) -> str:
    """Return an answer from its beginning: what the prompt opened, then the completion.

    A block of reasoning that is closed and never opened was opened by the prompt, even where that was not recorded: by
    versions that did not, or by a server that renders the prompt itself.
    """
    before, close, _ = completion.partition(REASONING_CLOSE)
    if not prompt_opening and close and before.strip() and REASONING_OPEN not in before:
        return f"{REASONING_OPEN}\n{completion}"
    return prompt_opening + completion


def continuation(prompt_opening: str, answer: str) -> str:
    """Return what an answer adds to a prompt that holds its opening already, so that both write each tag once.

    Args:
        prompt_opening: of the prompt that the answer is to follow.
        answer: from its beginning, as `whole_answer` returns it.

    Raises:
        ValueError: the answer does not begin as the prompt does; the message says how.
    """
    begins = prompt_opening.strip()
    if not begins:
        return answer
    if answer.startswith(prompt_opening):
        return answer[len(prompt_opening) :]
    if answer.lstrip().startswith(begins):  # only the white space differs
        rest = answer.lstrip().removeprefix(begins)
        return rest.removeprefix(_common_beginning(rest, prompt_opening[len(prompt_opening.rstrip()) :]))
    reasoning, response = split_reasoning(answer)
    if begins.endswith(REASONING_CLOSE) and not reasoning.strip():  # neither of them reasons
        return response.lstrip() if _TAG.search(answer) else answer
    how = "holds no reasoning" if not reasoning.strip() else "reasons" if REASONING_CLOSE in begins else "does not"
    raise ValueError(f"the prompt opens the answer with {prompt_opening!r}, and the answer {how}")


def prompt_ids(
    tokenizer: Tokenizer, turns: Sequence[Message], template_args: Mapping[str, Any], today: date = FALLBACK_DATE
) -> list[int]:
    """Return the token ids of `prompt_text`.

    A chat template writes its own special tokens, so none are added. Without one, those that the tokenizer puts before
    a text are added, and not those after it: they would end the prompt before the answer.
    """
    text = prompt_text(tokenizer, turns, template_args, today)
    plain = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if _has_template(tokenizer, template_args):
        return plain
    marked = list(tokenizer(text, add_special_tokens=True)["input_ids"])
    starts = range(len(marked) - len(plain) + 1)
    return next((marked[:start] + plain for start in starts if marked[start : start + len(plain)] == plain), plain)


def split_reasoning(completion: str) -> tuple[str, str]:
    """Split a completion into (reasoning, response).

    The opening tag may be missing, because some templates put it into the prompt. Without a closing tag, all is
    reasoning; without any tag, all is response.
    """
    before, close, after = completion.partition(REASONING_CLOSE)
    prefix, opened, inside = before.partition(REASONING_OPEN)
    if not close and not opened:
        return "", completion
    while inside.lstrip().startswith(REASONING_OPEN):  # the template opened it, and the model once more
        inside = inside.lstrip().removeprefix(REASONING_OPEN)
    reasoning = inside if opened and not prefix.strip() else before
    return reasoning, after

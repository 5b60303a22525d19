"""Answers of OpenAI-compatible servers, read from JSON of any shape. Pure.

Servers are hostile: a field may be missing, null, of another type, or absurd. Reading never raises anything but
NoCompletion, and a text that is there is never lost.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reasonray.prompts import REASONING_CLOSE, REASONING_OPEN
from reasonray.records import Finish

_STOPPED = {"stop", "eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "end", "complete", "completed"}
_CUT = {"length", "max_tokens", "max_output_tokens", "max_completion_tokens", "model_length", "repetition"}
_REASONING_FIELDS = ("reasoning_content", "reasoning", "reasoning_details", "thinking")
"""Fields in which servers put the reasoning that they split off, in the order in which they are preferred."""
_TEXT_FIELDS = ("text", "content", "thinking", "reasoning", "summary", "value", "refusal")
"""Fields of a part of a message that may hold its text."""
_DEEPEST = 8
"""Levels of parts within parts."""
_MOST_TOKENS = 10_000_000
"""Larger counts of one completion are not believed."""


_BYTES_PER_TOKEN = 3
"""Of a text whose tokens nobody counts."""


class NoCompletion(Exception):
    """The server answered with status 200 and no completion, as gateways do when the server behind them fails."""


class Rejected(Exception):
    """The server rejected a request in an answer that did not come by HTTP of its own."""

    def __init__(self, status_code: int, body: Any) -> None:
        super().__init__(f"Error code: {status_code} - {body}"[:300])
        self.status_code, self.body = status_code, body


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion as a server reported it."""

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None
    """None if the server does not say, or says what cannot be."""
    reason: Any
    """Why the completion ended, as the server wrote it."""
    logprobs: tuple[float, ...] | None = None
    """Of the completion's tokens; None if the server does not report them, or reports what cannot be."""

    def finish(self, completion_tokens: int, max_tokens: int) -> tuple[Finish, str]:
        """Return why the completion ended, and the error if it ended by one.

        Args:
            completion_tokens: as counted or estimated.
            max_tokens: of the request.
        """
        reason = self.reason.lower() if isinstance(self.reason, str) else ""
        if reason in _STOPPED:
            return Finish.STOP, ""
        if reason in _CUT:
            return Finish.LENGTH, ""
        if not reason:  # the server gives none
            return (Finish.LENGTH if completion_tokens >= max_tokens else Finish.STOP), ""
        return Finish.ERROR, f"the server ended the request with {self.reason[:80]!r}"


def read_json(content: bytes) -> Any:
    """Return the JSON value in the body of an answer.

    Raises:
        NoCompletion: it is no JSON; the message quotes its beginning.
    """
    text = content.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # ValueError also for an integer of thousands of digits
        raise NoCompletion(f"no JSON but {text.strip()[:80]!r}") from None


def read_answer(document: Any) -> Answer:
    """Return the completion in an answer of the chat or the completions API.

    Raises:
        NoCompletion: there is none; the message holds the server's error.
    """
    answer = _mapping(document)
    choices = answer.get("choices")
    choice = _mapping(choices[0]) if isinstance(choices, list) and choices else {}
    if not choice:
        raise NoCompletion(str(answer.get("error") or document)[:300])
    message = _mapping(choice.get("message"))
    text = message_text(message) if message else _plain(choice.get("text")) or _plain(choice.get("message"))
    usage = _mapping(answer.get("usage"))
    completion_tokens = _count(usage.get("completion_tokens"))
    if completion_tokens == 0 and text:
        completion_tokens = None
    reason = choice.get("finish_reason")
    logprobs = _logprobs(_mapping(choice.get("logprobs")))
    return Answer(text, _count(usage.get("prompt_tokens")) or None, completion_tokens, reason, logprobs)


def _logprobs(field: Mapping[str, Any]) -> tuple[float, ...] | None:
    """Return the log-probabilities of a completion's tokens, as the chat or the completions API reports them."""
    content = field.get("content")
    values = [_mapping(token).get("logprob") for token in content] if isinstance(content, list) else None
    values = values or field.get("token_logprobs")
    if not isinstance(values, list) or not values or not all(_is_logprob(value) for value in values):
        return None
    return tuple(float(value) for value in values)


def _is_logprob(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value <= 0


def estimated_tokens(text: str) -> int:
    """Return an estimate of a text's tokens: one for every three bytes of UTF-8.

    The solutions of GSM8K, with their calculations, have 2.3 bytes a token under SmolLM2's tokenizer (mean of 1,000);
    plain prose has more, so the estimate is between the two.
    """
    return -(-len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN)


def model_names(content: bytes) -> list[str]:
    """Return the names in a server's list of models; none if the body is no such list."""
    try:
        data = _mapping(read_json(content)).get("data")
    except NoCompletion:
        return []
    names = [_mapping(model).get("id") for model in data] if isinstance(data, list) else []
    return [name for name in names if isinstance(name, str)]


def is_cut(reason: str) -> bool:
    """Return whether a finish reason, as any server words it, means that the token limit was reached."""
    return reason.lower() in _CUT


def message_text(message: Mapping[str, Any]) -> str:
    """Return a chat message as one text. Reasoning that the server split off goes back in front of it, in tags.

    Both parts are verbatim. The tags and the blank line between the parts are added here, whatever the model wrote.
    """
    content = message.get("content") or message.get("refusal")
    parts = content if isinstance(content, list) else [content]
    answer = "".join(_plain(part) for part in parts if not _is_reasoning(part))
    reasoning = "".join(_plain(part) for part in parts if _is_reasoning(part))
    fields = (_plain(message.get(field)) for field in _REASONING_FIELDS)
    reasoning = _without_tags(reasoning if reasoning.strip() else next((text for text in fields if text.strip()), ""))
    if not reasoning.strip() or (answer.lstrip().startswith(REASONING_OPEN) and REASONING_CLOSE in answer):
        return answer  # nothing was split off, or the server sends the reasoning in both places
    if answer.lstrip().startswith(REASONING_CLOSE):
        answer = answer.lstrip().removeprefix(REASONING_CLOSE).lstrip()
    return f"{REASONING_OPEN}\n{reasoning}\n{REASONING_CLOSE}\n\n{answer}"


def _is_reasoning(part: Any) -> bool:
    kind = _mapping(part).get("type")
    return isinstance(kind, str) and ("think" in kind or "reason" in kind)


def _without_tags(reasoning: str) -> str:
    """Return reasoning without the tags around it, which some servers leave in place."""
    inside = reasoning.lstrip()
    if inside.startswith(REASONING_OPEN):
        reasoning = inside.removeprefix(REASONING_OPEN).removeprefix("\n")
    inside = reasoning.rstrip()
    return inside.removesuffix(REASONING_CLOSE).removesuffix("\n") if inside.endswith(REASONING_CLOSE) else reasoning


def _plain(value: Any, depth: int = 0) -> str:
    """Return the text of a field: a string, a part of a message, or a list of such parts."""
    if isinstance(value, str):
        return value
    if depth >= _DEEPEST:
        return ""
    if isinstance(value, list):
        return "".join(_plain(part, depth + 1) for part in value)
    texts = (_plain(value[field], depth + 1) for field in _TEXT_FIELDS if field in _mapping(value))
    return next((text for text in texts if text), "")


def _count(value: Any) -> int | None:
    """Return a number of tokens, None if the value is none that can be believed."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST_TOKENS:
        return None  # NaN is outside of every range
    return int(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}

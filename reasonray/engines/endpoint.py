"""Any OpenAI-compatible server as a teacher, by the `openai` client.

A server that is busy or away for a moment (429, 5xx, no connection, no answer in time) is asked again, later and later;
one that stays away is a dead engine, never a failed rollout. What it refuses for the request's own sake (400) is data;
what it would refuse of any request (the key, the model, an empty account) ends the run in one line.
The key is read from the environment when the engine starts and is kept nowhere else, nor repeated where a server does.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import openai

from reasonray import models
from reasonray.config import EndpointEngine, UserError
from reasonray.engines.pacing import Pace, pause_before, seconds_told
from reasonray.engines.protocol import Completion, EngineDied, Heartbeat, SampleRequest
from reasonray.prompts import REASONING_CLOSE, REASONING_OPEN, messages, prompt_text
from reasonray.records import Finish

T = TypeVar("T")

_FINISHES = {"stop": Finish.STOP, "length": Finish.LENGTH}
_REQUESTS_OWN_FAULT = (400, 413, 422)
_NEUTRAL = {"top_k": (-1, 0), "min_p": (0.0,), "repetition_penalty": (1.0,)}
"""Parameters beyond OpenAI's own; strict servers refuse them, so they are sent only where they say something."""
_LIST_SECONDS = 30.0
"""A list of models takes no computing: it comes soon or never."""
_START_RETRIES = 4
"""A wrong address is told within seconds; a server that is just coming up is waited for by whoever starts the job."""


class _NoAnswer(Exception):
    """The server said yes and sent something else than an answer, as gateways do whose model server failed."""


class Endpoint:
    """A served model. `start` before the first attempt."""

    def __init__(self, model: str, config: EndpointEngine) -> None:
        self._model, self._config = model, config
        self._key = os.environ.get(config.api_key_env, "")
        # Servers without authentication want some key all the same.
        self._client = openai.AsyncOpenAI(
            base_url=config.base_url, api_key=self._key or "none", timeout=config.timeout_seconds, max_retries=0
        )
        self._tokenizer = _tokenizer(config) if config.tokenizer else _Plain()
        self._pace = Pace(config.requests_per_minute, config.tokens_per_minute)
        self._pulse = Heartbeat(0, time.monotonic())
        self.capacity = config.max_num_seqs

    def __reduce__(self) -> tuple[type[Endpoint], tuple[str, EndpointEngine]]:
        """Leave the key behind: another process reads its own."""
        return Endpoint, (self._model, self._config)

    async def start(self) -> None:
        """Ask the server for its models, and for a token where the list does not tell.

        Raises:
            UserError: it refuses the key, does not know the model, or stays away.
        """
        try:
            offered = await self._insist(self._offered, retries=_START_RETRIES)
            if self._model not in offered:  # names may have other forms than the listed one: only asking tells
                await self._try_a_token(offered)
        except EngineDied as error:
            raise UserError(f"no model server answers: {error} (start it, or correct base_url)") from None

    async def complete(self, attempt: SampleRequest) -> Completion:
        """Draw one sample. Cancelling the call closes the request.

        Raises:
            EngineDied: the server stays away.
            UserError: it refuses every such request: the key, the model.
        """
        try:
            answer = await self._insist(partial(self._ask, attempt), tokens=attempt.sampling.max_tokens)
        except openai.APIStatusError as error:
            if error.status_code in _REQUESTS_OWN_FAULT:
                return Completion("", Finish.ERROR, error=self._told(error))
            raise UserError(self._refusal(error)) from None
        return self._finished(answer)

    async def swap(self, model: Path) -> bool:
        """A server's weights are not ours to change."""
        return False

    def heartbeat(self) -> Heartbeat:
        """Return the tokens of all answers so far; the client's own time limit watches over what is under way."""
        return Heartbeat(self._pulse.tokens, time.monotonic())

    def close(self) -> None:
        """Nothing is held but connections, which end with the process."""

    async def _insist(
        self, ask: Callable[[], Awaitable[T]], *, tokens: int | None = None, retries: int | None = None
    ) -> T:
        """Ask until there is an answer or a refusal; what may cost `tokens` waits for its turn.

        Raises:
            EngineDied: the server is still busy or away after so many retries, max_retries at most.
            UserError: it refuses the key.
            openai.APIStatusError: it refuses the request.
        """
        most = self._config.max_retries if retries is None else min(retries, self._config.max_retries)
        for failures in range(1, most + 2):
            while tokens is not None and (seconds := self._pace.wait(time.monotonic(), tokens)):
                await asyncio.sleep(seconds)
            try:
                # The client's own limit is for each read: a server that drips would never come to it.
                async with asyncio.timeout(self._config.timeout_seconds):
                    return await ask()
            except (openai.AuthenticationError, openai.PermissionDeniedError):
                raise UserError(self._refused_key()) from None
            except (openai.APIError, TimeoutError, json.JSONDecodeError, _NoAnswer) as error:
                if isinstance(error, openai.APIStatusError) and not _passes(error.status_code):
                    raise
                last, told = f"{type(error).__name__}: {self._told(error)}".rstrip(": "), _retry_after(error)
            if failures <= most:
                await asyncio.sleep(pause_before(failures, random.random(), told))
        raise EngineDied(f"{self._config.base_url} failed {failures} times in a row, the last: {last}")

    async def _offered(self) -> list[str]:
        try:
            page = await self._client.with_options(
                timeout=min(_LIST_SECONDS, self._config.timeout_seconds)
            ).models.list()
        except openai.APIStatusError as error:
            if _passes(error.status_code) or error.status_code in (401, 403):
                raise
            return []  # no list of models here
        return [it.id for it in getattr(page, "data", None) or []]

    async def _try_a_token(self, offered: list[str]) -> None:
        ask: Any = partial(self._client.completions.create, prompt="1")
        if self._config.api == "chat":
            ask = partial(self._client.chat.completions.create, messages=[{"role": "user", "content": "1"}])
        ask = partial(ask, model=self._model, max_tokens=1, extra_body=self._config.extra_body)
        try:
            await self._insist(lambda: _checked(ask()), tokens=1, retries=_START_RETRIES)
        except openai.APIStatusError as error:
            if offered:
                told = ", ".join(offered[:8]) + (f" and {len(offered) - 8} more" if len(offered) > 8 else "")
                raise UserError(f"{self._config.base_url} serves no model {self._model!r}; it serves {told}") from None
            if error.status_code not in _REQUESTS_OWN_FAULT:
                raise UserError(self._refusal(error)) from None

    async def _ask(self, attempt: SampleRequest) -> Any:
        sampling, turns = attempt.sampling, messages(attempt.prompt, attempt.problem.question)
        extra = {name: value for name, neutral in _NEUTRAL.items() if (value := getattr(sampling, name)) not in neutral}
        body = extra | self._config.extra_body
        ask = partial(
            self._client.chat.completions.create if self._config.api == "chat" else self._client.completions.create,
            model=self._model,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            stop=list(sampling.stop) or openai.omit,
            seed=attempt.seed if sampling.seeded and sampling.temperature > 0 else openai.omit,
        )
        if self._config.api == "chat":
            arguments = attempt.prompt.template_args
            body |= {"chat_template_kwargs": arguments} if arguments else {}
            return await _checked(ask(messages=turns, extra_body=body))
        prompt = prompt_text(self._tokenizer, turns, attempt.prompt.template_args)
        return await _checked(ask(prompt=prompt, extra_body=body))

    def _finished(self, answer: Any) -> Completion:
        choice, usage = answer.choices[0], answer.usage
        read, written = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        self._pulse = Heartbeat(self._pulse.tokens + written, time.monotonic())
        text = choice.text if self._config.api == "completions" else _text(choice.message)
        finish = _FINISHES.get(choice.finish_reason, Finish.ERROR)
        error = f"the server ended the request with {choice.finish_reason!r}" if finish is Finish.ERROR else ""
        return Completion(text, finish, read, written, error)

    def _refused_key(self) -> str:
        name = self._config.api_key_env
        said = "the key in" if self._key else "no key, and there is none in"
        return f"{self._config.base_url} refuses {said} ${name}; put a valid one there (on every node)"

    def _refusal(self, error: openai.APIStatusError) -> str:
        where = self._config.base_url
        unknown = f"{where} knows no {self._model!r}, or base_url lacks its /v1"
        return f"{unknown if error.status_code == 404 else f'{where} refuses requests'}: {self._told(error)}"

    def _told(self, error: Exception) -> str:
        """Return a server's words, one line of them; the key is taken out, as some servers repeat it."""
        line = str(error).strip().partition("\n")[0]
        return (line.replace(self._key, f"${self._config.api_key_env}") if self._key else line)[:300]


async def _checked(asking: Awaitable[Any]) -> Any:
    answer = await asking
    if not getattr(answer, "choices", None):
        raise _NoAnswer(str(getattr(answer, "error", None) or answer))
    return answer


def _passes(status: int) -> bool:
    """Say whether the same request may be answered later: time-outs, conflicts, rate limits, faults of the server."""
    return status in (408, 409, 429) or status >= 500


def _text(message: Any) -> str:
    """Return a chat message as one text; reasoning that a server has split off goes back before the rest, in tags.

    Both parts are verbatim; the tags and the blank line between them are ours, whatever the model wrote there.
    """
    reasoning = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    content = message.content or ""
    return f"{REASONING_OPEN}\n{reasoning}\n{REASONING_CLOSE}\n\n{content}" if reasoning else content


def _retry_after(error: Exception) -> float | None:
    response = getattr(error, "response", None)
    return seconds_told(response.headers.get("retry-after", ""), time.time()) if response is not None else None


class _Plain:
    """No tokenizer: prompts are plain Question/Answer lines."""

    chat_template = None

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any:
        """There is no template."""
        raise NotImplementedError

    def __call__(self, text: str, *, add_special_tokens: bool) -> Any:
        """There are no tokens: the server has them."""
        raise NotImplementedError


def _tokenizer(config: EndpointEngine) -> Any:
    from transformers import AutoTokenizer

    assert config.tokenizer is not None
    return AutoTokenizer.from_pretrained(models.resolve(config.tokenizer, None))

"""Any OpenAI-compatible server as a teacher, by the `openai` client.

A server that is busy or away for a moment (429, 5xx, no connection, no answer in time) is asked again, later and later;
one that stays away is a dead engine, never a failed rollout. What it refuses for the request's own sake (400) is data.
The key is read from the environment when the engine starts and is kept nowhere else.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from functools import partial
from pathlib import Path
from typing import Any

import openai

from reasonray import models
from reasonray.config import EndpointEngine, UserError
from reasonray.engines.base import Attempt, Completion, EngineDied, Pulse
from reasonray.engines.pacing import Pace, pause_before
from reasonray.prompts import REASONING_CLOSE, REASONING_OPEN, messages, prompt_text
from reasonray.records import Finish

_FINISHES = {"stop": Finish.STOP, "length": Finish.LENGTH}
_AGAIN = (openai.RateLimitError, openai.InternalServerError, openai.APIConnectionError, openai.APITimeoutError)
_NEUTRAL: dict[str, float] = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""Parameters beyond OpenAI's own; strict servers refuse them, so they are sent only where they say something."""


class Endpoint:
    """A served model. `start` before the first attempt."""

    def __init__(self, model: str, config: EndpointEngine) -> None:
        self._model, self._config = model, config
        # Servers without authentication want some key all the same.
        key = os.environ.get(config.api_key_env) or "none"
        self._client = openai.AsyncOpenAI(
            base_url=config.base_url, api_key=key, timeout=config.timeout_seconds, max_retries=0
        )
        self._tokenizer = _tokenizer(config) if config.tokenizer else _Plain()
        self._pace = Pace(config.requests_per_minute, config.tokens_per_minute)
        self._pulse = Pulse(0, time.monotonic())
        self.capacity = config.max_num_seqs

    async def start(self) -> None:
        """Ask the server for its models.

        Raises:
            UserError: it refuses the key, does not know the model, or does not answer.
        """
        try:
            offered = [it.id async for it in self._client.models.list()]
        except (openai.AuthenticationError, openai.PermissionDeniedError):
            raise UserError(self._refused_key()) from None
        except openai.NotFoundError:
            return  # no list of models here; the first attempt will tell
        except _AGAIN as error:
            where = self._config.base_url
            raise UserError(
                f"no model server answers at {where} ({type(error).__name__}); start it, or correct base_url"
            ) from None
        if offered and self._model not in offered:
            told = ", ".join(offered[:8])
            raise UserError(f"{self._config.base_url} serves no model {self._model!r}; it serves {told}")

    async def complete(self, attempt: Attempt) -> Completion:
        """Draw one sample. Cancelling the call closes the request."""
        for failures in range(1, self._config.max_retries + 2):
            await self._wait_for_turn(attempt)
            try:
                return self._finished(await self._ask(attempt))
            except _AGAIN as error:
                last = f"{type(error).__name__}: {_first_line(error)}"
                await asyncio.sleep(pause_before(failures, random.random(), _retry_after(error)))
            except (openai.AuthenticationError, openai.PermissionDeniedError):
                raise UserError(self._refused_key()) from None
            except openai.NotFoundError as error:
                raise UserError(f"{self._config.base_url} knows no {self._model!r}: {_first_line(error)}") from None
            except openai.APIStatusError as error:
                return Completion("", Finish.ERROR, error=f"{error.status_code}: {_first_line(error)}"[:300])
        raise EngineDied(f"{self._config.base_url} failed {failures} times in a row, the last: {last}"[:300])

    async def swap(self, model: Path) -> bool:
        """A server's weights are not ours to change."""
        return False

    def pulse(self) -> Pulse:
        """Return the tokens of all answers so far; the client's own time limit watches over what is under way."""
        return Pulse(self._pulse.tokens, time.monotonic())

    def close(self) -> None:
        """Nothing is held but connections, which end with the process."""

    async def _wait_for_turn(self, attempt: Attempt) -> None:
        while seconds := self._pace.wait(time.monotonic(), attempt.sampling.max_tokens):
            await asyncio.sleep(seconds)

    async def _ask(self, attempt: Attempt) -> Any:
        sampling, turns = attempt.sampling, messages(attempt.prompt, attempt.problem.question)
        extra = {name: value for name, neutral in _NEUTRAL.items() if (value := getattr(sampling, name)) != neutral}
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
            return await ask(
                messages=turns, extra_body=body | ({"chat_template_kwargs": arguments} if arguments else {})
            )
        return await ask(prompt=prompt_text(self._tokenizer, turns, attempt.prompt.template_args), extra_body=body)

    def _finished(self, answer: Any) -> Completion:
        choice, usage = answer.choices[0], answer.usage
        read, written = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        self._pulse = Pulse(self._pulse.tokens + written, time.monotonic())
        text = choice.text if self._config.api == "completions" else _text(choice.message)
        finish = _FINISHES.get(choice.finish_reason, Finish.ERROR)
        error = f"the server ended the request with {choice.finish_reason!r}" if finish is Finish.ERROR else ""
        return Completion(text, finish, read, written, error)

    def _refused_key(self) -> str:
        name = self._config.api_key_env
        said = "the key in" if os.environ.get(name) else "no key, and there is none in"
        return f"{self._config.base_url} refuses {said} ${name}; put a valid one there (on every node)"


def _text(message: Any) -> str:
    """Return a chat message as one text; reasoning that a server has split off goes back before the rest, in tags."""
    reasoning = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    content = message.content or ""
    return f"{REASONING_OPEN}\n{reasoning}\n{REASONING_CLOSE}\n\n{content}" if reasoning else content


def _retry_after(error: openai.APIError) -> float | None:
    response = getattr(error, "response", None)
    told = response.headers.get("retry-after", "") if response is not None else ""
    return float(told) if told.replace(".", "", 1).isdigit() else None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


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

"""An engine that sends requests to any OpenAI-compatible server, by the `openai` client.

A request that fails for a passing reason (429, 5xx, no connection, no answer in time) is retried with growing pauses.
If the retries run out, the engine counts as dead; the rollout does not count as failed. A request that the server
rejects for its content (400) is data. A rejection that would meet every request (the key, the model, an account
without credit) ends the run with one line. The key is read from the environment when the engine starts. It is stored
nowhere else, and it is masked where a server repeats it.
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
from openai.types.chat import ChatCompletionMessage

from reasonray import models
from reasonray.config import EndpointEngine, Sampling, UserError
from reasonray.engines.pacing import RateLimiter, backoff_seconds, retry_after_seconds
from reasonray.engines.protocol import Completion, EngineDied, Heartbeat, SampleRequest
from reasonray.prompts import REASONING_CLOSE, REASONING_OPEN, Tokenizer, messages, opening, prompt_text, whole_answer
from reasonray.records import Finish

T = TypeVar("T")

_FINISHES = {"stop": Finish.STOP, "length": Finish.LENGTH}
_REJECTED_FOR_CONTENT = (400, 413, 422)
_LIST_SECONDS = 30.0
"""Time limit for the list of models, which takes the server no computing."""
_START_RETRIES = 4
"""Few, so that a wrong address fails within seconds. Whoever starts a server waits for it before starting a job."""


class _NoCompletion(Exception):
    """The server answered with status 200 and no completion, as gateways do when the server behind them fails."""


class Endpoint:
    """A model on a server. Call `start` before the first `complete`."""

    def __init__(self, model: str, config: EndpointEngine) -> None:
        self._model, self._config = model, config
        self._key = os.environ.get(config.api_key_env, "")
        # The client insists on a key, even for servers without authentication.
        self._client = openai.AsyncOpenAI(
            base_url=config.base_url, api_key=self._key or "none", timeout=config.timeout_seconds, max_retries=0
        )
        self._tokenizer = _load_tokenizer(config.tokenizer) if config.tokenizer else _NoTokenizer()
        self._limiter = RateLimiter(config.requests_per_minute, config.tokens_per_minute)
        self._tokens = 0
        self.capacity = config.max_num_seqs

    def __reduce__(self) -> tuple[type[Endpoint], tuple[str, EndpointEngine]]:
        """Leave the key out of the pickle: another process reads its own."""
        return Endpoint, (self._model, self._config)

    async def start(self) -> None:
        """Check that the server offers the model: by its list of models, else by generating one token.

        Raises:
            UserError: the server rejects the key, does not know the model, or does not answer.
        """
        try:
            listed = await self._with_retries(self._listed_models, retries=_START_RETRIES)
            if self._model not in listed:  # servers accept aliases that they do not list
                await self._generate_one_token(listed)
        except EngineDied as error:
            raise UserError(f"no model server answers: {error} (start it, or correct base_url)") from None

    async def complete(self, request: SampleRequest) -> Completion:
        """Generate one sample. Cancelling the call closes the connection.

        Raises:
            EngineDied: the server still fails after all retries.
            UserError: the server rejects every such request, because of the key or the model.
        """
        try:
            answer = await self._with_retries(partial(self._send, request), tokens=request.sampling.max_tokens)
        except openai.APIStatusError as error:
            if error.status_code in _REJECTED_FOR_CONTENT:
                return Completion("", Finish.ERROR, error=self._reason(error))
            raise UserError(self._rejection(error)) from None
        return self._completion(answer, request)

    async def swap(self, model: Path) -> bool:
        """Return False: the weights belong to the server."""
        return False

    def heartbeat(self) -> Heartbeat:
        """Return the tokens of all answers so far, as of now: the client's time limit covers requests in flight."""
        return Heartbeat(self._tokens, time.monotonic())

    def close(self) -> None:
        """Do nothing: connections end with the process."""

    async def _with_retries(
        self, send: Callable[[], Awaitable[T]], *, tokens: int | None = None, retries: int | None = None
    ) -> T:
        """Send a request until it is answered or rejected.

        Args:
            send: sends the request once.
            tokens: the most that the request may cost, for the rate limit; None for a request that is not limited.
            retries: at most, and never more than max_retries.

        Raises:
            EngineDied: the server still fails after the last retry.
            UserError: the server rejects the key.
            openai.APIStatusError: the server rejects the request.
        """
        most = self._config.max_retries if retries is None else min(retries, self._config.max_retries)
        for failures in range(1, most + 2):
            while tokens is not None and (seconds := self._limiter.try_acquire(time.monotonic(), tokens)):
                await asyncio.sleep(seconds)
            try:
                # The client's own limit applies to each read, so a server that drips would never reach it.
                async with asyncio.timeout(self._config.timeout_seconds):
                    return await send()
            except (openai.AuthenticationError, openai.PermissionDeniedError):
                raise UserError(self._rejected_key()) from None
            except (openai.APIError, TimeoutError, json.JSONDecodeError, _NoCompletion) as error:
                if isinstance(error, openai.APIStatusError) and not _is_retryable(error.status_code):
                    raise
                last, retry_after = f"{type(error).__name__}: {self._reason(error)}".rstrip(": "), _retry_after(error)
            if failures <= most:
                await asyncio.sleep(backoff_seconds(failures, random.random(), retry_after))
        raise EngineDied(f"{self._config.base_url} failed {failures} times in a row, the last: {last}")

    async def _listed_models(self) -> list[str]:
        try:
            page = await self._client.with_options(
                timeout=min(_LIST_SECONDS, self._config.timeout_seconds)
            ).models.list()
        except openai.APIStatusError as error:
            if _is_retryable(error.status_code) or error.status_code in (401, 403):
                raise
            return []  # this server has no list of models
        # The client does not validate answers: another server's list may lack `data`, or be no object at all.
        return [model.id for model in getattr(page, "data", None) or []]

    async def _generate_one_token(self, listed: list[str]) -> None:
        send: Any = partial(self._client.completions.create, prompt="1")
        if self._config.api == "chat":
            send = partial(self._client.chat.completions.create, messages=[{"role": "user", "content": "1"}])
        send = partial(send, model=self._model, max_tokens=1, extra_body=self._config.extra_body)
        try:
            await self._with_retries(lambda: _with_choices(send()), tokens=1, retries=_START_RETRIES)
        except openai.APIStatusError as error:
            if listed:
                names = ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
                raise UserError(f"{self._config.base_url} serves no model {self._model!r}; it serves {names}") from None
            if error.status_code not in _REJECTED_FOR_CONTENT:
                raise UserError(self._rejection(error)) from None

    async def _send(self, request: SampleRequest) -> Any:
        sampling, turns = request.sampling, messages(request.prompt, request.problem.question)
        body = _further_parameters(sampling) | self._config.extra_body
        send = partial(
            self._client.chat.completions.create if self._config.api == "chat" else self._client.completions.create,
            model=self._model,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            stop=list(sampling.stop) or openai.omit,
            seed=request.seed if sampling.seeded and sampling.temperature > 0 else openai.omit,
        )
        if self._config.api == "chat":
            arguments = request.prompt.template_args
            body |= {"chat_template_kwargs": arguments} if arguments else {}
            return await _with_choices(send(messages=turns, extra_body=body))
        prompt = prompt_text(self._tokenizer, turns, request.prompt.template_args)
        return await _with_choices(send(prompt=prompt, extra_body=body))

    def _completion(self, answer: Any, request: SampleRequest) -> Completion:
        choice, usage = answer.choices[0], answer.usage
        prompt_tokens, completion_tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        self._tokens += completion_tokens
        text = choice.text if self._config.api == "completions" else _text(choice.message)
        finish = _FINISHES.get(choice.finish_reason, Finish.ERROR)
        error = f"the server ended the request with {choice.finish_reason!r}" if finish is Finish.ERROR else ""
        return Completion(text, finish, prompt_tokens, completion_tokens, error, self._opening(text, request))

    def _opening(self, text: str, request: SampleRequest) -> str:
        """Return what the prompt opened of an answer.

        A server that renders the prompt itself does not report this. With its `tokenizer` it is known; without, a block
        of reasoning that is closed and not opened shows it. An answer that begins with it lacks nothing: servers that
        split the reasoning off know what they opened.
        """
        if self._config.tokenizer:
            turns = messages(request.prompt, request.problem.question)
            opened = opening(self._tokenizer, turns, request.prompt.template_args)
            is_complete = self._config.api == "chat" and text.lstrip().startswith(opened.strip())
            return "" if is_complete else opened
        return whole_answer("", text).removesuffix(text) if self._config.api == "chat" else ""

    def _rejected_key(self) -> str:
        name = self._config.api_key_env
        key = "the key in" if self._key else "no key, and there is none in"
        return f"{self._config.base_url} refuses {key} ${name}; put a valid one there (on every node)"

    def _rejection(self, error: openai.APIStatusError) -> str:
        server = self._config.base_url
        unknown = f"{server} knows no {self._model!r}, or base_url lacks its /v1"
        return f"{unknown if error.status_code == 404 else f'{server} refuses requests'}: {self._reason(error)}"

    def _reason(self, error: Exception) -> str:
        """Return the first line of a server's error message, with the key masked, because some servers repeat it."""
        line = str(error).strip().partition("\n")[0]
        return (line.replace(self._key, f"${self._config.api_key_env}") if self._key else line)[:300]


def _further_parameters(sampling: Sampling) -> dict[str, float]:
    """Return the parameters that OpenAI's API lacks, unless they are neutral: strict servers reject them."""
    parameters = {
        "top_k": (sampling.top_k, (-1, 0)),
        "min_p": (sampling.min_p, (0.0,)),
        "repetition_penalty": (sampling.repetition_penalty, (1.0,)),
    }
    return {name: value for name, (value, neutral) in parameters.items() if value not in neutral}


async def _with_choices(sending: Awaitable[Any]) -> Any:
    answer = await sending
    # The client does not validate answers: a gateway's error may lack `choices`, and a body of text is a plain string.
    if not getattr(answer, "choices", None):
        raise _NoCompletion(str(getattr(answer, "error", None) or answer))
    return answer


def _is_retryable(status: int) -> bool:
    """Return whether the same request may succeed later: time-outs, conflicts, rate limits, faults of the server."""
    return status in (408, 409, 429) or status >= 500


def _text(message: ChatCompletionMessage) -> str:
    """Return a chat message as one text. Reasoning that the server split off goes back in front of it, in tags.

    Both parts are verbatim. The tags and the blank line between the parts are added here, whatever the model wrote.
    """
    further = message.model_extra or {}
    reasoning = further.get("reasoning_content") or further.get("reasoning")
    content = message.content or ""
    return f"{REASONING_OPEN}\n{reasoning}\n{REASONING_CLOSE}\n\n{content}" if reasoning else content


def _retry_after(error: Exception) -> float | None:
    if not isinstance(error, openai.APIStatusError | openai.APIResponseValidationError):
        return None
    return retry_after_seconds(error.response.headers.get("retry-after", ""), time.time())


class _NoTokenizer:
    """A tokenizer without a chat template: prompts become plain Question/Answer lines."""

    chat_template = None
    added_tokens_decoder: Any = None

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any:
        """Fail: there is no template."""
        raise NotImplementedError

    def __call__(self, text: str, *, add_special_tokens: bool) -> Any:
        """Fail: only the server has the tokens."""
        raise NotImplementedError


def _load_tokenizer(reference: str) -> Tokenizer:
    from transformers import AutoTokenizer

    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(models.resolve(reference, None))
    return tokenizer

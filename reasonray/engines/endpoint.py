"""An engine that sends requests to any OpenAI-compatible server, by the `openai` client: one by one, or in batches.

A request that fails for a passing reason (429, 5xx, no connection, no answer in time) is retried with growing pauses.
If the retries run out, the engine counts as dead; the rollout does not count as failed. A request that the server
rejects for its content (400) is data. A rejection that would meet every request (the key, the model, an account
without credit) ends the run with one line. The key is read from the environment when the engine starts. It is stored
nowhere else, and it is masked where a server repeats it.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import openai

from reasonray import models
from reasonray.config import BatchEngine, EndpointEngine, Sampling, UserError
from reasonray.engines.answers import (
    Answer,
    NoCompletion,
    Rejected,
    estimated_tokens,
    model_names,
    read_answer,
    read_json,
)
from reasonray.engines.batches import Batches
from reasonray.engines.dialect import Dialect
from reasonray.engines.pacing import RateLimiter, backoff_seconds, retry_after_seconds
from reasonray.engines.protocol import Completion, EngineDied, Heartbeat, SampleRequest, report_nothing
from reasonray.prompts import Tokenizer, opening, prompt_text, whole_answer, with_standard_tags
from reasonray.records import Finish, storable

T = TypeVar("T")

_REJECTIONS = (openai.APIStatusError, Rejected)
_REJECTED_FOR_CONTENT = (400, 413, 422)
_LIST_SECONDS = 30.0
"""Time limit for the list of models, which takes the server no computing."""
_START_RETRIES = 4
"""Few, so that a wrong address fails within seconds. Whoever starts a server waits for it before starting a job."""
_BATCH_RETRIES = 12
"""Of the calls that send, follow and read batches: a server may be away for some minutes of a day."""


class Endpoint:
    """A model on a server. Call `start` before the first `complete`."""

    def __init__(
        self,
        model: str,
        config: EndpointEngine | BatchEngine,
        trust_remote_code: bool = False,
        report: Callable[[str], None] = report_nothing,
    ) -> None:
        self._model, self._config, self._trust_remote_code = model, config, trust_remote_code
        self._key = os.environ.get(config.api_key_env, "")
        # The client insists on a key, even for servers without authentication.
        self._client = openai.AsyncOpenAI(
            base_url=config.base_url, api_key=self._key or "none", timeout=config.timeout_seconds, max_retries=0
        )
        self._tokenizer: Tokenizer = (
            models.load_tokenizer(models.resolve(config.tokenizer), trust_remote_code)
            if config.tokenizer
            else _NoTokenizer()
        )
        self._batches: Batches | None = None
        """Sends the requests; None if each is sent by itself."""
        limits: tuple[int | None, int | None] = (None, None)
        if isinstance(config, BatchEngine):
            self._batches = Batches(self._client, config, partial(self._with_retries, retries=_BATCH_RETRIES), report)
        else:
            limits = config.requests_per_minute, config.tokens_per_minute
        self._limiter = RateLimiter(*limits)
        self._dialect = Dialect()
        self._tokens, self._in_flight = 0, 0
        self.capacity = config.max_num_seqs

    def __reduce__(self) -> tuple[type[Endpoint], tuple[str, EndpointEngine | BatchEngine, bool]]:
        """Leave the key out of the pickle: another process reads its own."""
        return Endpoint, (self._model, self._config, self._trust_remote_code)

    async def start(self) -> None:
        """Check that the server offers the model: by its list of models, else by generating one token.

        Raises:
            UserError: the server rejects the key, does not know the model, or does not answer.
        """
        try:
            listed = await self._with_retries(self._listed_models, retries=self._start_retries)
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
        self._in_flight += 1
        try:
            answer = await self._answer(self._prompt(request), request.sampling, request.seed, request=request)
        except _REJECTIONS as error:
            if error.status_code in _REJECTED_FOR_CONTENT:
                return Completion("", Finish.ERROR, error=self._reason(error))
            raise UserError(self._rejection(error)) from None
        finally:
            self._in_flight -= 1
        return self._completion(request, answer)

    async def swap(self, model: Path) -> bool:
        """Return False: the weights belong to the server."""
        return False

    def heartbeat(self) -> Heartbeat:
        """Return the tokens of all answers so far, as of now: the client's time limit covers requests in flight."""
        return Heartbeat(self._tokens, time.monotonic(), self._in_flight)

    def close(self) -> None:
        """Do nothing: connections end with the process."""

    async def _with_retries(
        self, send: Callable[[], Awaitable[T]], *, tokens: int | None = None, retries: int | None = None
    ) -> T:
        """Send a request until it is answered or rejected.

        Args:
            send: sends the request once.
            tokens: the most that the request may cost, for the rate limit; None for a request that is not limited.
            retries: at most; None for max_retries.

        Raises:
            EngineDied: the server still fails after the last retry.
            UserError: the server rejects the key.
            openai.APIStatusError: the server rejects the request.
        """
        most = self._config.max_retries if retries is None else retries
        for failures in range(1, most + 2):
            while tokens is not None and (seconds := self._limiter.try_acquire(time.monotonic(), tokens)):
                await asyncio.sleep(seconds)
            try:
                # The client's own limit applies to each read, so a server that drips would never reach it.
                async with asyncio.timeout(self._config.timeout_seconds):
                    return await send()
            except (openai.AuthenticationError, openai.PermissionDeniedError):
                raise UserError(self._rejected_key()) from None
            except (openai.APIError, Rejected, TimeoutError, NoCompletion) as error:
                if isinstance(error, _REJECTIONS) and not _is_retryable(error.status_code):
                    raise
                last, retry_after = f"{type(error).__name__}: {self._reason(error)}".rstrip(": "), _retry_after(error)
            if failures <= most:
                await asyncio.sleep(backoff_seconds(failures, random.random(), retry_after))
        raise EngineDied(f"{self._config.base_url} failed {failures} times in a row, the last: {last}")

    @property
    def _start_retries(self) -> int:
        return min(_START_RETRIES, self._config.max_retries)

    async def _listed_models(self) -> list[str]:
        limit = min(_LIST_SECONDS, self._config.timeout_seconds)
        try:
            page = await self._client.with_options(timeout=limit).get("/models", cast_to=httpx.Response)
        except openai.APIStatusError as error:
            if _is_retryable(error.status_code) or error.status_code in (401, 403):
                raise
            return []  # this server has no list of models
        return model_names(page.content)

    async def _generate_one_token(self, listed: list[str]) -> None:
        chat = {"messages": [{"role": "user", "content": "1"}]}
        prompt: dict[str, Any] = chat if self._config.api == "chat" else {"prompt": "1"}
        try:
            await self._answer(prompt, Sampling(max_tokens=1), 0, retries=self._start_retries)
        except openai.APIStatusError as error:
            if listed:
                names = ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
                raise UserError(f"{self._config.base_url} serves no model {self._model!r}; it serves {names}") from None
            if error.status_code not in _REJECTED_FOR_CONTENT:
                raise UserError(self._rejection(error)) from None

    async def _answer(
        self,
        prompt: Mapping[str, Any],
        sampling: Sampling,
        seed: int,
        *,
        request: SampleRequest | None = None,
        retries: int | None = None,
    ) -> Answer:
        """Send a request, in the server's own spelling of the parameters once that is known.

        Args:
            prompt: the fields that hold it.
            sampling: its parameters.
            seed: of the sample.
            request: whose answer may come in a batch; None for one that is answered at once.
            retries: at most; None for max_retries.

        Raises:
            EngineDied, UserError, openai.APIStatusError: see `_with_retries`.
        """
        while True:
            dialect = self._dialect
            body = self._parameters(sampling, seed, dialect) | dict(prompt)
            try:
                send = partial(self._send, body, request)
                return await self._with_retries(send, tokens=sampling.max_tokens, retries=retries)
            except _REJECTIONS as error:
                rejected = error.status_code in _REJECTED_FOR_CONTENT
                better = dialect.after_rejection(f"{error} {error.body}", body) if rejected else None
                if better is None:
                    raise
                if self._dialect is dialect:  # else another request has found the better one
                    self._dialect = better

    def _prompt(self, request: SampleRequest) -> dict[str, Any]:
        """Return the fields of a request's body that hold the prompt."""
        turns, arguments = request.turns, request.prompt.template_arguments
        if self._config.api == "chat":
            return {"messages": turns} | ({"chat_template_kwargs": arguments} if arguments else {})
        return {"prompt": prompt_text(self._tokenizer, turns, arguments, request.today)}

    def _parameters(self, sampling: Sampling, seed: int, dialect: Dialect) -> dict[str, Any]:
        """Return the fields of a request's body that hold model and parameters."""
        body = {"model": self._model, "temperature": sampling.temperature, "top_p": sampling.top_p}
        body |= dialect.limit(sampling.max_tokens) | _further_parameters(sampling)
        if sampling.seeded and sampling.temperature > 0:
            body |= dialect.seed(seed)
        if sampling.logprobs:  # the number of further tokens to report in the one API, a switch in the other
            body["logprobs"] = True if self._config.api == "chat" else 1
        return body | sampling.extra | self._config.extra_body

    async def _send(self, body: Mapping[str, Any], request: SampleRequest | None) -> Answer:
        path = "/chat/completions" if self._config.api == "chat" else "/completions"
        if self._batches and request:
            return read_answer(await self._batches.post(path, body, request))
        # Raw: the client's own reading of an answer believes whatever a server sends.
        answer = await self._client.post(path, body=body, cast_to=httpx.Response)
        return read_answer(read_json(answer.content))

    def _completion(self, request: SampleRequest, answer: Answer) -> Completion:
        prompt_tokens, completion_tokens = answer.prompt_tokens, answer.completion_tokens
        is_estimated = completion_tokens is None or prompt_tokens is None
        if completion_tokens is None:
            completion_tokens = min(self._count(answer.text), request.sampling.max_tokens)
        if prompt_tokens is None:
            turns = request.turns
            prompt_tokens = sum(self._count(turn["content"]) for turn in turns)
        self._tokens += completion_tokens
        finish, error = answer.finish(completion_tokens, request.sampling.max_tokens)
        return Completion(
            answer.text,
            finish,
            prompt_tokens,
            completion_tokens,
            self._without_key(error),
            opening=self._opening(answer.text, request),
            tokens_estimated=is_estimated,
            logprobs=answer.logprobs if request.sampling.logprobs else None,
        )

    def _opening(self, text: str, request: SampleRequest) -> str:
        """Return what the prompt opened of an answer.

        A server that renders the prompt itself does not report this. With its `tokenizer` it is known; without, a block
        of reasoning that is closed and not opened shows it. An answer that begins with it lacks nothing: servers that
        split the reasoning off know what they opened.
        """
        if self._config.tokenizer:
            turns = request.turns
            opened = opening(
                self._tokenizer, turns, request.prompt.template_arguments, request.today, request.prompt.reasoning_tags
            )
            is_complete = self._config.api == "chat" and text.lstrip().startswith(opened.strip())
            return "" if is_complete else opened
        text = with_standard_tags(text, request.prompt.reasoning_tags)
        return whole_answer("", text).removesuffix(text) if self._config.api == "chat" else ""

    def _count(self, text: str) -> int:
        """Return the tokens of a text that the server did not count."""
        if isinstance(self._tokenizer, _NoTokenizer):
            return estimated_tokens(text)
        return len(self._tokenizer(storable(text), add_special_tokens=False)["input_ids"])

    def _rejected_key(self) -> str:
        name = self._config.api_key_env
        key = "the key in" if self._key else "no key, and there is none in"
        return f"{self._config.base_url} refuses {key} ${name}; put a valid one there (on every node)"

    def _rejection(self, error: openai.APIStatusError | Rejected) -> str:
        server = self._config.base_url
        unknown = f"{server} knows no {self._model!r}, or base_url lacks its /v1"
        return f"{unknown if error.status_code == 404 else f'{server} refuses requests'}: {self._reason(error)}"

    def _reason(self, error: Exception) -> str:
        """Return the first line of a server's error message, with the key masked, because some servers repeat it."""
        return self._without_key(str(error).strip().partition("\n")[0])[:300]

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, f"${self._config.api_key_env}") if self._key else text


def _further_parameters(sampling: Sampling) -> dict[str, Any]:
    """Return the parameters that are not neutral: strict servers reject those that OpenAI's API lacks."""
    repetition = sampling.repetition_detection
    parameters: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "stop": (list(sampling.stop), ([],)),
        "top_k": (sampling.top_k, (-1, 0)),
        "min_p": (sampling.min_p, (0.0,)),
        "repetition_penalty": (sampling.repetition_penalty, (1.0,)),
        "presence_penalty": (sampling.presence_penalty, (0.0,)),
        "frequency_penalty": (sampling.frequency_penalty, (0.0,)),
        "min_tokens": (sampling.min_tokens, (0,)),
        "stop_token_ids": (list(sampling.stop_token_ids), ([],)),
        "thinking_token_budget": (sampling.thinking_token_budget, (None,)),
        "repetition_detection": (repetition and repetition.model_dump(), (None,)),
    }
    return {name: value for name, (value, neutral) in parameters.items() if value not in neutral}


def _is_retryable(status: int) -> bool:
    """Return whether the same request may succeed later: time-outs, conflicts, rate limits, faults of the server."""
    return status in (408, 409, 429) or status >= 500


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

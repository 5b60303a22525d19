"""The endpoint engine against an HTTP server that misbehaves by script."""

import asyncio
import json
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from reasonray.config import ConfigError, EndpointEngine, Prompt, Sampling, UserError
from reasonray.engines.endpoint import Endpoint
from reasonray.engines.pacing import backoff_seconds, retry_after_seconds
from reasonray.engines.protocol import Completion, EngineDied, SampleRequest
from reasonray.records import Finish
from tests.factories import a_problem
from tests.students import byte_tokenizer
from tests.templates import CONTROL_TOKENS, R1_DISTILL

KEY = "sk-very-secret"


ScriptedAnswer = tuple[int, dict[str, str], Any]
"""(status, headers, body): the body as JSON, as it is if it is bytes, and no answer at all if it is None."""


class ScriptedServer(ThreadingHTTPServer):
    """A server that answers requests for completions from a list, one after the other, and records the requests."""

    def __init__(self, answers: list[ScriptedAnswer], models: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.models = answers, models
        self.listed: Any = {"object": "list", "data": [{"id": "served", "object": "model"}]}
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: ScriptedServer

    def do_GET(self) -> None:
        self.reply(self.server.models, {}, self.server.listed)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append(body | {"path": self.path, "authorization": self.headers.get("authorization")})
        self.server.times.append(time.monotonic())
        self.reply(*(self.server.answers.pop(0) if self.server.answers else (200, {}, chat_answer("more"))))

    def reply(self, status: int, headers: dict[str, str], body: Any) -> None:
        if body is None:  # close the connection without an answer
            self.connection.close()
            return
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (
            {"content-type": "application/json", "content-length": str(len(content))} | headers
        ).items():
            self.send_header(name, value)
        self.end_headers()
        for byte in content if "x-drip" in headers else ():
            with suppress(OSError):  # the client may have closed the connection
                self.wfile.write(bytes([byte]))
            time.sleep(0.1)
        with suppress(OSError):
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def chat_answer(text: str, finish: str = "stop", **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text} | message}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "served",
        "choices": [choice],
        "usage": usage,
    }


Serve = Callable[..., ScriptedServer]
"""Starts a server that gives the answers passed to it."""

REFUSED = {"error": {"message": "no", "type": "error"}}


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[ScriptedServer] = []

    def start(*answers: ScriptedAnswer, models: int = 200) -> ScriptedServer:
        servers.append(ScriptedServer(list(answers), models))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def small_tokenizer(tmp_path: Path) -> str:
    """Write a tokenizer that counts words, and return its directory."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    return str(tmp_path)


def a_request(sample: int = 0, **sampling: Any) -> SampleRequest:
    parameters = Sampling.model_validate({"max_tokens": 16} | sampling)
    return SampleRequest(a_problem(), sample, 11 + sample, Prompt(system="Solve."), parameters)


def answered(server: ScriptedServer, request: SampleRequest | None = None, **config: Any) -> Completion:
    async def ask() -> Completion:
        engine = Endpoint("served", EndpointEngine(kind="endpoint", base_url=server.url, **config))
        await engine.start()
        return await engine.complete(request or a_request())

    return asyncio.run(ask())


def test_an_answer_comes_with_its_tokens_and_finish(serve: Serve) -> None:
    server = serve((200, {}, chat_answer("The answer is 42.")), (200, {}, chat_answer("and so", "length")))
    assert answered(server) == Completion("The answer is 42.", Finish.STOP, 7, 3)
    assert answered(server).finish is Finish.LENGTH
    sent = server.requests[0]
    assert sent["messages"][0] == {"role": "system", "content": "Solve."}
    assert (sent["model"], sent["max_tokens"]) == ("served", 16)
    assert sent["authorization"] == f"Bearer {KEY}"
    assert sent.keys() - {"path", "authorization"} == {"model", "messages", "temperature", "top_p", "max_tokens"}, (
        "strict servers refuse what they lack"
    )


def test_parameters_that_are_set_are_sent_and_extra_ones_too(serve: Serve) -> None:
    server = serve()
    repetition = {"max_pattern_size": 20, "min_count": 4}
    settings = {"min_tokens": 3, "presence_penalty": 0.5, "stop": ["X"], "stop_token_ids": [7], "seeded": True}
    extra = {"logit_bias": {"50": -100}, "repetition_penalty_window": 9}
    answered(server, a_request(**settings, repetition_detection=repetition, thinking_token_budget=9, extra=extra))
    sent = server.requests[0]
    assert {name: sent[name] for name in settings if name != "seeded"} | {"seeded": True} == settings
    assert sent["seed"] == 11
    assert sent["repetition_detection"] == repetition | {"min_pattern_size": 1}
    assert sent["thinking_token_budget"] == 9
    assert {name: sent[name] for name in extra} == extra


@pytest.mark.parametrize(
    ("api", "sent", "reported", "logprobs"),
    [
        ("chat", True, {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": 0}]}, (-0.5, 0.0)),
        ("completions", 1, {"tokens": ["a", "b"], "token_logprobs": [-0.5, -2]}, (-0.5, -2.0)),
        ("chat", True, {"content": [{"logprob": -0.5}, {"logprob": None}]}, None),
        ("chat", True, {"content": [{"logprob": float("nan")}]}, None),
        ("chat", True, {"content": {"logprob": -1}}, None),
        ("completions", 1, None, None),
    ],
)
def test_log_probabilities_are_asked_for_and_read(
    serve: Serve, api: str, sent: Any, reported: Any, logprobs: tuple[float, ...] | None
) -> None:
    answer = chat_answer("4 2")
    answer["choices"][0] |= {"logprobs": reported, "text": "4 2"}
    server = serve(*[(200, {}, answer)] * 2)
    assert answered(server, a_request(logprobs=True), api=api).logprobs == logprobs
    assert server.requests[0]["logprobs"] is sent
    assert answered(server, api=api).logprobs is None
    assert "logprobs" not in server.requests[1]


def rejection(message: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    return 400, {}, {"error": {"message": message, "type": "invalid_request_error"}}


def test_a_server_is_asked_in_its_own_spelling(serve: Serve) -> None:
    """OpenAI's newer models refuse max_tokens; some servers hold seeds in 32 bits, others know none."""
    seed = 2**62 + 5
    request = replace(a_request(seeded=True), seed=seed)
    refuses_limit = rejection("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    refuses_seed = rejection("seed: Input should be less than 4294967296")
    server = serve(refuses_limit, refuses_seed, refuses_seed, (200, {}, chat_answer("42")))
    assert answered(server, request).text == "42"
    limits = [{name: sent[name] for name in sent if name.startswith("max_")} for sent in server.requests]
    assert limits == [{"max_tokens": 16}, *[{"max_completion_tokens": 16}] * 3]
    assert [sent.get("seed") for sent in server.requests] == [seed, seed, seed % 2**31, None]


def test_a_rejection_that_no_spelling_cures_is_data(serve: Serve) -> None:
    server = serve(rejection("seed-oss takes at most 8 tokens of context, and max_completion_tokens must be lower"))
    server.answers *= 2
    assert answered(server).finish is Finish.ERROR
    assert len(server.requests) == 2


def test_the_block_of_reasoning_that_a_servers_prompt_opened_is_the_opening(serve: Serve) -> None:
    server = serve((200, {}, chat_answer("6 times 7\n</think>\n\n42.")))
    completion = answered(server)
    assert (completion.opening, completion.text) == ("<think>\n", "6 times 7\n</think>\n\n42.")


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_the_opening_is_that_of_the_tokenizers_template(serve: Serve, tmp_path: Path, api: str) -> None:
    byte_tokenizer(R1_DISTILL, CONTROL_TOKENS[R1_DISTILL], "<｜end▁of▁sentence｜>").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    cut = {"index": 0, "finish_reason": "length"} | {"text": "6 times"}
    server = serve((200, {}, chat_answer("6 times", "length") if api == "chat" else {"id": "1", "choices": [cut]}))
    assert answered(server, api=api, tokenizer=str(tmp_path)).opening == "<think>\n", "even if the block is cut"
    if api == "chat":
        split = serve((200, {}, chat_answer("42.", reasoning_content="6 times 7")))
        assert answered(split, tokenizer=str(tmp_path)).opening == "", "the server gave it already"


@pytest.mark.slow
def test_a_busy_server_gets_a_retry_after_the_time_it_names(serve: Serve) -> None:
    server = serve(
        (429, {"retry-after": "1.5"}, REFUSED), (503, {}, REFUSED), (200, {}, None), (200, {}, chat_answer("42"))
    )
    assert answered(server).text == "42"
    assert len(server.requests) == 4
    assert server.times[1] - server.times[0] >= 1.5


@pytest.mark.slow
def test_a_server_that_keeps_failing_is_a_dead_engine_not_a_failed_rollout(serve: Serve) -> None:
    server = serve(*[(500, {}, REFUSED)] * 3)
    with pytest.raises(EngineDied, match="failed 3 times in a row, the last: InternalServerError"):
        answered(server, max_retries=2)


def test_a_request_rejected_for_its_content_is_data(serve: Serve) -> None:
    too_long = {"error": {"message": "maximum context length is 8 tokens", "type": "invalid_request_error"}}
    finished = answered(serve((400, {}, too_long)))
    assert finished.finish is Finish.ERROR
    assert "maximum context length is 8 tokens" in finished.error


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_one_line_without_the_key(serve: Serve, status: int) -> None:
    with pytest.raises(UserError, match=r"refuses the key in \$OPENAI_API_KEY") as raised:
        answered(serve(models=status))
    assert KEY not in str(raised.value)


@pytest.mark.parametrize(("models", "message"), [(200, "serves no model 'other'; it serves served"), (404, "knows no")])
def test_a_model_that_is_not_served_is_reported_before_any_rollout(serve: Serve, models: int, message: str) -> None:
    server = serve((404, {}, REFUSED), models=models)
    engine = Endpoint("other", EndpointEngine(kind="endpoint", base_url=server.url))
    with pytest.raises(UserError, match=message):
        asyncio.run(engine.start())
    assert server.requests[0]["max_tokens"] == 1


def test_a_model_that_answers_need_not_be_listed(serve: Serve) -> None:
    engine = Endpoint("alias", EndpointEngine(kind="endpoint", base_url=serve((200, {}, chat_answer("1"))).url))
    asyncio.run(engine.start())


@pytest.mark.parametrize("status", [402, 404, 405])
def test_a_rejection_that_meets_every_request_is_a_users_mistake(serve: Serve, status: int) -> None:
    with pytest.raises(UserError, match=r"refuses requests|knows no"):
        answered(serve((status, {}, REFUSED)))


@pytest.mark.parametrize("status", [408, 409, 429, 500, 529])
def test_a_passing_fault_is_retried(serve: Serve, status: int) -> None:
    assert answered(serve((status, {}, REFUSED), (200, {}, chat_answer("42")))).text == "42"


def test_a_success_without_a_completion_is_retried(serve: Serve) -> None:
    """Gateways send the error of the server behind them with status 200."""
    server = serve((200, {}, {"error": {"message": "upstream"}}), (200, {}, chat_answer("42")))
    assert answered(server).text == "42"
    with pytest.raises(EngineDied, match="upstream"):
        answered(serve((200, {}, {"error": {"message": "upstream"}})), max_retries=0)


@pytest.mark.parametrize(
    "body", [b"<html><body>Bad gateway</body></html>", b"", b"\xff\xfe{", b"[" * 20000, b"[]", b"7"]
)
def test_a_success_that_holds_no_json_object_is_retried(serve: Serve, body: bytes) -> None:
    assert answered(serve((200, {}, body), (200, {}, chat_answer("42")))).text == "42"
    with pytest.raises(EngineDied, match="NoCompletion"):
        answered(serve((200, {}, body)), max_retries=0)


def test_a_list_of_models_of_any_shape_is_read(serve: Serve) -> None:
    for listed in ({"data": None}, {"data": "x"}, {"data": [7, {"id": None}]}, [], "text", b"<html>"):
        server = serve((200, {}, chat_answer("1")), (200, {}, chat_answer("42")))
        server.listed = listed
        assert answered(server).text == "42", listed


def test_tokens_that_a_server_does_not_count_are_estimated(serve: Serve) -> None:
    """Budgets count tokens, and the rule too_short drops rollouts by them."""
    text = "The apples are 3 + 4 = 7. " * 40
    without = chat_answer(text)
    del without["usage"]
    nothing = [without, chat_answer(text) | {"usage": None}, chat_answer(text) | {"usage": "many"}]
    absurd = [-1, 10**30, float("nan"), float("inf"), "3", [3], True, 0, None]
    for body in nothing + [chat_answer(text) | {"usage": {"completion_tokens": count}} for count in absurd]:
        completion = answered(serve((200, {}, body)), a_request(max_tokens=4096))
        assert completion.tokens_estimated
        assert 200 < completion.completion_tokens < 600, body.get("usage")
        assert completion.prompt_tokens > 0
    assert not answered(serve((200, {}, chat_answer(text)))).tokens_estimated


def test_the_configured_tokenizer_counts_better_than_an_estimate(serve: Serve, small_tokenizer: str) -> None:
    text = "one two three four five six seven eight nine ten"
    body = chat_answer(text) | {"usage": None}
    counted = answered(serve((200, {}, body)), tokenizer=small_tokenizer)
    assert counted.completion_tokens == 10
    assert counted.tokens_estimated


def test_text_that_cannot_be_encoded_is_mended(serve: Serve) -> None:
    completion = answered(serve((200, {}, chat_answer("a \ud83d\ude00 b \ud83d c"))))
    assert completion.text == "a \U0001f600 b \ufffd c"


def test_a_server_that_asks_for_a_pause_of_years_is_tried_again_in_minutes() -> None:
    assert backoff_seconds(1, 0.0, retry_after_seconds("9" * 30, 0.0)) <= 600
    assert retry_after_seconds("Fri, 31 Dec 9999999 23:59:59 GMT", 0.0) is None


def test_a_server_that_is_busy_at_the_start_is_retried(serve: Serve) -> None:
    server = serve(models=503)
    threading.Timer(0.2, lambda: setattr(server, "models", 200)).start()
    assert answered(server).text == "more"


def test_a_key_that_a_server_repeats_is_not_stored(serve: Serve) -> None:
    echo = {"error": {"message": f"bad request with Bearer {KEY}", "type": "invalid_request_error"}}
    finished = answered(serve((400, {}, echo)))
    assert KEY not in finished.error
    assert "$OPENAI_API_KEY" in finished.error
    for status, error in ((500, EngineDied), (402, UserError)):
        with pytest.raises(error) as raised:
            answered(serve((status, {}, echo)), max_retries=0)
        assert KEY not in str(raised.value)


def test_the_last_failure_is_reported_without_another_wait(serve: Serve) -> None:
    started = time.monotonic()
    with pytest.raises(EngineDied):
        answered(serve((429, {"retry-after": "30"}, REFUSED)), max_retries=0)
    assert time.monotonic() - started < 15


def test_an_answer_that_drips_ends_at_the_time_limit(serve: Serve) -> None:
    server = serve((200, {"x-drip": "1"}, chat_answer("4")))
    with pytest.raises(EngineDied, match="the last: TimeoutError"):
        answered(server, max_retries=0, timeout_seconds=1)


def test_a_pickled_engine_leaves_the_key_behind(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Endpoint("served", EndpointEngine(kind="endpoint", base_url=serve().url))
    pickled = pickle.dumps(engine)
    assert KEY.encode() not in pickled
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-other-machine")
    assert pickle.loads(pickled)._client.api_key == "sk-of-the-other-machine"


def test_a_missing_server_is_reported_in_one_line() -> None:
    engine = Endpoint("m", EndpointEngine(kind="endpoint", base_url="http://127.0.0.1:9/v1", max_retries=1))
    with pytest.raises(UserError, match=r"no model server answers: http://127\.0\.0\.1:9/v1 failed 2 times"):
        asyncio.run(engine.start())


def test_the_key_is_never_stored_nor_sent_to_other_machines() -> None:
    config = EndpointEngine(kind="endpoint", base_url="http://127.0.0.1:9/v1")
    assert KEY.encode() not in pickle.dumps(config)
    assert KEY not in config.model_dump_json()
    with pytest.raises(ValueError, match="must hold no key"):
        EndpointEngine(kind="endpoint", base_url=f"http://user:{KEY}@127.0.0.1/v1")
    with pytest.raises(ValueError, match="is not the name of an environment variable") as raised:
        EndpointEngine(kind="endpoint", base_url="http://127.0.0.1:9/v1", api_key_env=KEY)
    assert KEY not in str(raised.value).partition("[")[0]
    assert issubclass(ConfigError, UserError)

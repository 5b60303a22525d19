"""The endpoint engine against HTTP servers: one that misbehaves by script, and a real vLLM server."""

import asyncio
import json
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from factories import a_problem

from reasonray.config import ConfigError, EndpointEngine, Prompt, Sampling, UserError
from reasonray.engines.base import Attempt, Completion, EngineDied
from reasonray.engines.endpoint import Endpoint
from reasonray.records import Finish

KEY = "sk-very-secret"


class Script(ThreadingHTTPServer):
    """The other side: answers requests for completions one after the other from a list, and keeps what it was asked."""

    def __init__(self, answers: list[tuple[int, dict[str, str], dict[str, Any] | None]], models: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.answers, self.models = answers, models
        self.asked: list[dict[str, Any]] = []
        self.times: list[float] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Answering(BaseHTTPRequestHandler):
    server: Script

    def do_GET(self) -> None:
        self.reply(self.server.models, {}, {"object": "list", "data": [{"id": "served", "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(body | {"path": self.path, "authorization": self.headers.get("authorization")})
        self.server.times.append(time.monotonic())
        self.reply(*(self.server.answers.pop(0) if self.server.answers else (200, {}, said("more"))))

    def reply(self, status: int, headers: dict[str, str], body: dict[str, Any] | None) -> None:
        if body is None:  # hang up without a word
            self.connection.close()
            return
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (
            {"content-type": "application/json", "content-length": str(len(content))} | headers
        ).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def said(text: str, finish: str = "stop", **message: Any) -> dict[str, Any]:
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


REFUSED = {"error": {"message": "no", "type": "error"}}


@pytest.fixture
def serve() -> Iterator[Callable[..., Script]]:
    servers: list[Script] = []

    def started(*answers: tuple[int, dict[str, str], dict[str, Any] | None], models: int = 200) -> Script:
        servers.append(Script(list(answers), models))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield started
    for server in servers:
        server.shutdown()


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def an_attempt(sample: int = 0, **sampling: Any) -> Attempt:
    return Attempt(a_problem(), sample, 11 + sample, Prompt(system="Solve."), Sampling(max_tokens=16, **sampling))


def answered(server: Script, attempt: Attempt | None = None, **config: Any) -> Completion:
    async def ask() -> Completion:
        engine = Endpoint("served", EndpointEngine(kind="endpoint", base_url=server.url, **config))
        await engine.start()
        return await engine.complete(attempt or an_attempt())

    return asyncio.run(ask())


def test_an_answer_comes_with_its_tokens_and_finish(serve: Callable[..., Script]) -> None:
    server = serve((200, {}, said("The answer is 42.")), (200, {}, said("and so", "length")))
    assert answered(server) == Completion("The answer is 42.", Finish.STOP, 7, 3)
    assert answered(server).finish is Finish.LENGTH
    asked = server.asked[0]
    assert asked["messages"][0] == {"role": "system", "content": "Solve."}
    assert (asked["model"], asked["seed"], asked["max_tokens"]) == ("served", 11, 16)
    assert asked["authorization"] == f"Bearer {KEY}"
    assert not {"top_k", "min_p", "repetition_penalty", "stop"} & asked.keys(), "strict servers refuse what they lack"


def test_reasoning_that_a_server_split_off_stands_before_the_answer(serve: Callable[..., Script]) -> None:
    server = serve((200, {}, said("42.", reasoning_content="6 times 7")))
    assert answered(server).text == "<think>\n6 times 7\n</think>\n\n42."


def test_a_busy_server_is_asked_again_when_it_says(serve: Callable[..., Script]) -> None:
    server = serve((429, {"retry-after": "1.5"}, REFUSED), (503, {}, REFUSED), (200, {}, None), (200, {}, said("42")))
    assert answered(server).text == "42"
    assert len(server.asked) == 4
    assert server.times[1] - server.times[0] >= 1.5


def test_a_server_that_stays_away_is_a_dead_engine_not_a_failed_rollout(serve: Callable[..., Script]) -> None:
    server = serve(*[(500, {}, REFUSED)] * 3)
    with pytest.raises(EngineDied, match="failed 3 times in a row, the last: InternalServerError"):
        answered(server, max_retries=2)


def test_what_a_server_refuses_for_the_requests_sake_is_data(serve: Callable[..., Script]) -> None:
    too_long = {"error": {"message": "maximum context length is 8 tokens", "type": "invalid_request_error"}}
    finished = answered(serve((400, {}, too_long)))
    assert finished.finish is Finish.ERROR
    assert "maximum context length is 8 tokens" in finished.error


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_one_line_without_the_key(serve: Callable[..., Script], status: int) -> None:
    with pytest.raises(UserError, match=r"refuses the key in \$OPENAI_API_KEY") as told:
        answered(serve(models=status))
    assert KEY not in str(told.value)


def test_a_model_that_is_not_served_is_told_before_any_rollout(serve: Callable[..., Script]) -> None:
    engine = Endpoint("other", EndpointEngine(kind="endpoint", base_url=serve().url))
    with pytest.raises(UserError, match="serves no model 'other'; it serves served"):
        asyncio.run(engine.start())


def test_no_server_is_one_line() -> None:
    engine = Endpoint("m", EndpointEngine(kind="endpoint", base_url="http://127.0.0.1:9/v1", timeout_seconds=5))
    with pytest.raises(UserError, match="no model server answers at"):
        asyncio.run(engine.start())


def test_the_key_is_in_nothing_that_is_stored_or_sent_to_other_machines() -> None:
    config = EndpointEngine(kind="endpoint", base_url="http://127.0.0.1:9/v1")
    assert KEY.encode() not in pickle.dumps(config)
    assert KEY not in config.model_dump_json()
    with pytest.raises(ValueError, match="must hold no key"):
        EndpointEngine(kind="endpoint", base_url=f"http://user:{KEY}@127.0.0.1/v1")
    assert issubclass(ConfigError, UserError)

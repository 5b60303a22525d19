"""Two models of one engine shape at one address: each rollout carries the name of the model that wrote it."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from reasonray.config import parse
from reasonray.sampling.pool import ReplicaPool
from reasonray.stages.sample import sample
from reasonray.store.run import begin_or_resume
from tests.factories import a_scripted_config

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]


class NameServer(BaseHTTPRequestHandler):
    """An OpenAI-compatible server of two models, each of which says its name."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        self.answer({"object": "list", "data": [{"id": name, "object": "model"} for name in ("model-a", "model-b")]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = {"role": "assistant", "content": f"I am {asked['model']}. The answer is 1."}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}
        self.answer({"object": "chat.completion", "model": asked["model"], "choices": [choice], "usage": usage})

    def answer(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), NameServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def test_each_rollout_carries_the_name_of_the_model_that_wrote_it(
    ray_cluster: None, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    raw = a_scripted_config(tmp_path, train=40, samples=3).model_dump(mode="json")
    engine = {"kind": "endpoint", "base_url": address, "max_num_seqs": 8}
    teacher = raw["teachers"][0] | {"engine": engine, "share": 0.5, "replicas": [1, 2]}
    raw["teachers"] = [teacher | {"name": name, "model": name} for name in ("model-a", "model-b")]
    run = begin_or_resume(parse(raw))
    with ReplicaPool(run) as pool:
        sample(run, pool)
    rollouts = run.ledger.read(["teacher", "model", "completion"]).to_pylist()
    assert len(rollouts) == 120
    assert {rollout["teacher"] for rollout in rollouts} == {"model-a", "model-b"}
    for rollout in rollouts:
        assert rollout["completion"].startswith(f"I am {rollout['teacher']}.")
        assert rollout["model"] == rollout["teacher"]

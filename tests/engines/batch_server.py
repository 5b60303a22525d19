"""A server of OpenAI's batch API on loopback, whose batches end when a test says so."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Lines = list[dict[str, Any]]


def chat_body(text: str) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return {"object": "chat.completion", "choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}


def answer_all(line: dict[str, Any]) -> tuple[int, Any]:
    """Answer a request with the sample that it asks for, as its seed says."""
    return 200, chat_body(f"answer to {line['custom_id']}")


class BatchServer(ThreadingHTTPServer):
    """Batches end with `status` at the first look once `is_open` is False; `answer` says what each request gets."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.answer: Callable[[dict[str, Any]], tuple[int, Any] | None] = answer_all
        """The status and the body of a request's answer; None for none."""
        self.is_open = False
        self.status = "completed"
        self.errors: Lines = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def requests(self, batch_id: str) -> Lines:
        return [json.loads(line) for line in self.files[self.batches[batch_id]["input_file_id"]].splitlines()]

    def create(self, wanted: dict[str, Any]) -> dict[str, Any]:
        number = len(self.batches) + 1
        batch = {"id": f"batch_{number}", "object": "batch", "status": "validating", "created_at": int(time.time())}
        self.batches[batch["id"]] = batch | wanted
        return self.batches[batch["id"]]

    def look(self, batch_id: str) -> dict[str, Any]:
        batch = self.batches[batch_id]
        lines = self.requests(batch_id)
        if self.is_open or batch["status"] in ("completed", "expired", "failed"):
            return batch | {"request_counts": {"total": len(lines), "completed": 0, "failed": 0}}
        batch["status"] = self.status
        if self.status == "failed":
            return batch | {"errors": {"data": self.errors}}
        good, bad = [], []
        for line in lines:
            answer = self.answer(line)
            custom_id = {"custom_id": line["custom_id"]}
            if answer is None:
                bad.append(custom_id | {"response": None, "error": {"code": "batch_expired", "message": "too late"}})
            else:
                response = {"status_code": answer[0], "request_id": "r", "body": answer[1]}
                (good if answer[0] == 200 else bad).append(custom_id | {"response": response, "error": None})
        for name, found in (("output_file_id", good), ("error_file_id", bad)):
            if found:
                batch[name] = f"{batch_id}-{name}"
                self.files[batch[name]] = "\n".join(map(json.dumps, found)).encode()
        return batch


class Handler(BaseHTTPRequestHandler):
    server: BatchServer

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/v1/")
        with self.server.lock:
            if path == "models":
                self.reply(200, {"object": "list", "data": [{"id": "served", "object": "model"}]})
            elif path == "batches":
                newest_first = list(self.server.batches.values())[::-1]
                self.reply(200, {"object": "list", "data": newest_first, "has_more": False})
            elif path.removeprefix("batches/") in self.server.batches:
                self.reply(200, self.server.look(path.removeprefix("batches/")))
            elif (file := path.removeprefix("files/").removesuffix("/content")) in self.server.files:
                self.reply(200, self.server.files[file])
            else:
                self.reply(404, {"error": {"message": f"there is no {path}"}})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        with self.server.lock:
            if self.path == "/v1/files":
                head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
                message = BytesParser(policy=HTTP).parsebytes(head + content)
                parts = {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}
                assert parts["purpose"].get_content().strip() == "batch"
                file_id = f"file_{len(self.server.files) + 1}"
                self.server.files[file_id] = parts["file"].get_payload(decode=True)
                self.reply(200, {"id": file_id, "object": "file"})
            elif self.path == "/v1/batches":
                self.reply(200, self.server.create(json.loads(content)))
            else:
                self.reply(404, {"error": {"message": "no such path"}})

    def reply(self, status: int, body: Any) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@contextmanager
def running() -> Iterator[BatchServer]:
    """Serve while the block runs."""
    server = BatchServer()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()

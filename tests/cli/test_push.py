"""A data set and a student are uploaded to the hub unchanged, and a refusal is one line.

The hub is a stand-in with the part of its protocol that the library needs: files within the commit, not by xet.
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from reasonray.store.run import Run, begin_or_resume
from tests.factories import a_scripted_config
from tests.store.test_s3 import s3_server

pytestmark = pytest.mark.slow


class Hub(BaseHTTPRequestHandler):
    token = "hf_right"
    made: dict[str, Any]
    files: dict[str, bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["authorization"] != f"Bearer {self.token}":
            return self.answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            type(self).made = json.loads(body)
            return self.answer(200, {"url": f"http://{self.headers['Host']}/{self.kind}me/traces"})
        if "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        if self.path == "/api/validate-yaml":  # the card's header
            return self.answer(200, {"errors": [], "warnings": []})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                type(self).files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self.answer(200, {"commitUrl": f"http://{self.headers['Host']}/me/traces/commit/1", "commitOid": "1"})

    def do_GET(self) -> None:
        self.answer(200, {"id": "me/traces", "sha": "0", "siblings": []})

    @property
    def kind(self) -> str:
        return "datasets/" if self.made["type"] == "dataset" else ""

    def answer(self, status: int, document: Any) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.made, Hub.files = {}, {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def a_run(root: Path, store: str | None = None) -> Run:
    config = a_scripted_config(root, name="a-run")
    run = begin_or_resume(config.model_copy(update={"root": store}) if store else config)
    document = {"data": ["train-1.parquet"], "validation": []}
    (run.curated / "manifest.json").write(json.dumps(document).encode())
    for name in ("README.md", "data/train-1.parquet", "data/train-0-of-before.parquet", "rollouts/all.parquet"):
        (run.curated / name).write(f"content of {name}".encode())
    for name in ("config.json", "model.safetensors", "manifest.json"):
        (run.student / "final" / name).write(f"content of {name}".encode())
    return run


def push(run: Run, endpoint: str, *arguments: str, token: str = Hub.token) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_TOKEN": token}
    command = [sys.executable, "-m", "reasonray.cli.main", "push", str(run.place), *arguments]
    with tempfile.TemporaryDirectory() as home:
        environment["HF_HOME"] = home
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_the_data_set_is_uploaded_with_its_card_and_nothing_else(tmp_path: Path, hub: str) -> None:
    done = push(a_run(tmp_path), hub, "me/traces")
    assert (done.returncode, done.stdout.strip()) == (0, f"{hub}/datasets/me/traces"), done.stderr
    assert Hub.made["visibility"] == "private"
    assert Hub.files == {name: f"content of {name}".encode() for name in ("README.md", "data/train-1.parquet")}


def test_from_an_object_store_only_uploaded_files_are_fetched(
    tmp_path: Path, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server() as url:
        for name, value in {"ENDPOINT_URL": url, "ACCESS_KEY_ID": "testing", "SECRET_ACCESS_KEY": "testing"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

        urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT")).close()
        run = a_run(tmp_path, "s3://bucket")
        archived = {"x-amz-storage-class": "GLACIER", "Content-Type": "application/octet-stream"}
        dropped = f"{url}/bucket/a-run/curated/rollouts/all.parquet"
        urllib.request.urlopen(urllib.request.Request(dropped, b"any", archived, method="PUT")).close()
        with pytest.raises(OSError, match="GetObject"):
            (run.curated / "rollouts" / "all.parquet").read()
        done = push(run, hub, "me/traces")
    assert done.returncode == 0, done.stderr
    assert Hub.files == {name: f"content of {name}".encode() for name in ("README.md", "data/train-1.parquet")}


def test_the_student_is_uploaded_without_the_runs_own_files(tmp_path: Path, hub: str) -> None:
    done = push(a_run(tmp_path), hub, "me/traces", "--student", "--public")
    assert (done.returncode, done.stdout.strip()) == (0, f"{hub}/me/traces"), done.stderr
    assert Hub.made["visibility"] == "public"
    assert set(Hub.files) == {"config.json", "model.safetensors"}


@pytest.mark.parametrize(
    ("arguments", "token", "message"),
    [
        (("me/traces",), "hf_wrong", "a token that may write there"),
        (("not a name",), Hub.token, "check the name (owner/name)"),
    ],
)
def test_a_refusal_is_one_line(tmp_path: Path, hub: str, arguments: tuple[str, ...], token: str, message: str) -> None:
    done = push(a_run(tmp_path), hub, *arguments, token=token)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {arguments[0]} cannot be pushed to: ")
    assert message in done.stderr


def test_an_unreachable_hub_is_one_line(tmp_path: Path) -> None:
    done = push(a_run(tmp_path), "http://127.0.0.1:9", "me/traces")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "the network" in done.stderr


def test_there_must_be_something_to_push(tmp_path: Path, hub: str) -> None:
    run = begin_or_resume(a_scripted_config(tmp_path, name="empty"))
    assert "has no data set yet; run jobs/curate.py first" in push(run, hub, "me/traces").stderr
    (run.curated / "manifest.json").write(json.dumps({"data": [], "validation": []}).encode())
    assert "has no data set yet" in push(run, hub, "me/traces").stderr, "curation selected nothing"
    assert "has no student yet; run jobs/train.py first" in push(run, hub, "me/traces", "--student").stderr

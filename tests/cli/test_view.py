"""`reasonray view`: the page to its owner alone, newer as soon as the run has grown, whatever state the run is in."""

import base64
import gzip
import json
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reasonray.cli.view import Server, Shown, renewed, signature, view
from reasonray.errors import UserError
from reasonray.records import Split
from reasonray.store.run import begin_or_resume
from tests.factories import a_problem, a_rollout, a_run_with, a_scripted_config


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(0, Shown("<p>page</p>", "1", "sample", time.time() - 7)) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def answer(server: Server, path: str, method: str = "GET") -> tuple[int, str, str]:
    """Return the status, the content and the headers for a path that is sent as it is written."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
        connection.sendall(f"{method} {path} HTTP/1.0\r\n\r\n".encode("latin-1"))
        headers, _, content = connection.makefile("rb").read().decode().partition("\r\n\r\n")
    return int(headers.split()[1]), content, headers


def test_the_address_shows_the_page_and_its_state(server: Server) -> None:
    path = server.address.removeprefix(f"http://127.0.0.1:{server.server_port}")
    status, page, headers = answer(server, path)
    assert (status, page) == (200, "<p>page</p>")
    assert {"Cache-Control: no-store", "Referrer-Policy: no-referrer"} <= set(headers.splitlines())
    state = json.loads(answer(server, f"{path}state")[1])
    assert 7 <= state.pop("age") < 60
    assert state == {"version": "1", "stage": "sample", "note": ""}
    assert server.socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("path", ["/", "/state", "/x/", "/x/state", "//", "/../", "/%00/", "/%C3%A9\xff/", "*"])
def test_nobody_reads_without_the_token(server: Server, path: str) -> None:
    status, text, _ = answer(server, path)
    assert (status, "page" in text) == (403, False)
    assert answer(server, f"/{server.token[:-1]}/")[0] == answer(server, f"/{server.token}x/")[0] == 403


FOREIGN = ["..", "../../etc/passwd", "%2e%2e/", "/etc/passwd", "state/", "metrics.json", "?x", "#"]


@pytest.mark.parametrize("rest", FOREIGN)
def test_no_request_names_a_file(server: Server, rest: str) -> None:
    assert answer(server, f"/{server.token}/{rest}")[0] == 404
    assert answer(server, f"/{server.token}/", "POST")[0] == 501


def rollouts_on(page: str) -> list[dict[str, Any]]:
    packed = re.search('id="rollouts">"([^"]*)"', page)
    return json.loads(gzip.decompress(base64.b64decode(packed.group(1))))["rollouts"] if packed else []


def test_the_first_rollouts_can_be_read_and_later_ones_make_a_new_version(tmp_path: Path) -> None:
    run = begin_or_resume(a_scripted_config(tmp_path))
    first = renewed(str(run.place), Shown("", ""))
    assert "No problem has been loaded yet" in first.page
    assert rollouts_on(first.page) == []
    run.store_problems([a_problem(), a_problem("held out?", split=Split.TEST)])
    empty = renewed(str(run.place), first)
    seen = signature(run)
    run.ledger.append([a_rollout("I think it is 42.")])
    run.events.emit("sample", session=1, rollouts=1)
    assert signature(run) != seen
    one = renewed(str(run.place), empty)
    assert [row["text"] for row in rollouts_on(one.page)] == ["I think it is 42."]
    assert (one.stage, one.note) == ("sample", "")
    run.evaluation("base").append(
        [a_rollout("Half of what was asked.", problem=a_problem("held out?", split=Split.TEST))]
    )
    two = renewed(str(run.place), one)
    assert {row["text"] for row in rollouts_on(two.page)} == {"I think it is 42.", "Half of what was asked."}
    assert len({first.version, empty.version, one.version, two.version}) == 4
    assert renewed(str(run.place), two).version == two.version, "nothing new, nothing to load"
    assert f'data-version="{two.version}"' in two.page


def test_what_cannot_be_read_now_leaves_the_former_page(tmp_path: Path) -> None:
    run = a_run_with(a_scripted_config(tmp_path), [a_rollout()])
    shown = renewed(str(run.place), Shown("", ""))
    run.ledger.segments()[0].delete()
    again = renewed(str(run.place), shown)
    assert (again.page, again.version) == (shown.page, shown.version)
    assert ".parquet" in again.note
    (run.place / "config.json").write(b"{")
    assert "is broken" in renewed(str(run.place), shown).note


def test_it_serves_what_comes_and_ends_quietly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = a_run_with(a_scripted_config(tmp_path), [a_rollout("first")])
    address: list[str] = []
    served: list[set[str]] = []

    def wait(seconds: float) -> None:
        address.extend(capsys.readouterr().out.split()[:1])
        page = urllib.request.urlopen(address[0], timeout=10).read().decode()
        texts = {row["text"] for row in rollouts_on(page)}
        if texts not in served:
            served.append(texts)
            if len(served) == 2:
                raise KeyboardInterrupt
            run.ledger.append([a_rollout("later", sample=1)])
        time.sleep(0.05)  # the page is not made again at once

    view(str(run.place), wait=wait)
    assert served == [{"first"}, {"first", "later"}]
    assert capsys.readouterr() == ("", "")


def test_a_run_that_is_not_there_and_a_port_in_use_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run at"):
        view(str(tmp_path / "nowhere"))
    run = begin_or_resume(a_scripted_config(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"^port {port} cannot be used \(Address already in use\); .*--port.*$"):
            view(str(run.place), port)
    with pytest.raises(UserError, match="port 70000 cannot be used"):
        view(str(run.place), 70000)

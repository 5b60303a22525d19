"""A run's report in a browser of this machine, made again while the run goes on.

The server listens on the loopback interface only and knows three answers: the page, its state, and a refusal. Both
need the random token that the printed address holds, because other users of the machine can reach the port, too. No
part of a request names a file.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from reasonray.errors import UserError
from reasonray.reporting.page import render, render_waiting
from reasonray.stages.report import page_inputs
from reasonray.store.run import Run, find_run

_HOST = "127.0.0.1"
_LOOK_SECONDS = 3.0
"""Between two looks at the run."""
_REST = 4.0
"""Seconds without work on the page for each second that it took: the run needs the processors more."""
_IDLE_CONNECTION_SECONDS = 30.0
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Shown:
    """The page as it is served now, and what its script asks for."""

    page: str
    version: str
    """Another version is worth loading."""
    stage: str = ""
    """Of the run's last event."""
    changed_at: float = 0.0
    """When the run last grew, in seconds since 1970."""
    note: str = ""
    """Why the page could not be made again."""

    def state(self) -> dict[str, Any]:
        """Return what the page's script reads."""
        age = max(0.0, time.time() - self.changed_at)
        return {"version": self.version, "stage": self.stage, "age": age, "note": self.note}


class Server(ThreadingHTTPServer):
    """Serves one page below a secret path."""

    daemon_threads = True

    def __init__(self, port: int, shown: Shown) -> None:
        """Listen on a port of the loopback interface.

        Args:
            port: 0 for any that is free.
            shown: the first page.

        Raises:
            UserError: the port is in use, or not one that this user may have.
        """
        self.token, self.shown = secrets.token_urlsafe(16), shown
        try:
            super().__init__((_HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or "ports are 0 to 65535"
            cure = "choose another with --port, or leave it out for any that is free"
            raise UserError(f"port {port} cannot be used ({reason}); {cure}") from None

    @property
    def address(self) -> str:
        """Where a browser finds the page."""
        return f"http://{_HOST}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing of a browser that left in the middle of an answer."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = _IDLE_CONNECTION_SECONDS

    def do_GET(self) -> None:
        """Answer with the page or its state."""
        token, _, rest = self.path.removeprefix("/").partition("/")
        shown = self.server.shown
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", "open the address that `reasonray view` printed\n")
        elif rest == "":
            self._answer(HTTPStatus.OK, "text/html", shown.page)
        elif rest == "state":
            self._answer(HTTPStatus.OK, "application/json", json.dumps(shown.state()))
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", "there is only the report here\n")

    def _answer(self, status: HTTPStatus, kind: str, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print no line for a request."""


def view(path: str, port: int = 0, wait: Callable[[float], None] = time.sleep) -> None:
    """Serve the report of a run until Ctrl-C.

    Args:
        path: directory or URI of the run.
        port: of this machine; 0 for any that is free.
        wait: waits for some seconds.

    Raises:
        UserError: there is no such run, or the port cannot be used.
    """
    run = find_run(path)
    with suppress(KeyboardInterrupt), Server(port, first_page(run)) as server:
        print(f"{server.address}   the report of {run.name}; Ctrl-C ends this", flush=True)
        threading.Thread(target=server.serve_forever, name="view", daemon=True).start()
        _keep_current(server, run, wait)


def _keep_current(server: Server, run: Run, wait: Callable[[float], None]) -> None:
    """Make the page again whenever the run has grown, until an exception ends it."""
    on_page = latest = None
    rested_at = 0.0
    while True:
        if (found := signature(run)) != latest and latest is not None:
            server.shown = replace(server.shown, changed_at=time.time())
        latest = found
        if latest != on_page and (begun := time.monotonic()) >= rested_at:
            server.shown, on_page = renewed(str(run.place), server.shown), latest
            rested_at = time.monotonic() + _REST * (time.monotonic() - begun)
        wait(_LOOK_SECONDS)


def first_page(run: Run) -> Shown:
    """Return a page that is there at once."""
    reason = "The run is being read …"
    return Shown(render_waiting(run.name, reason), version=reason)


def signature(run: Run) -> object:
    """Return what differs as soon as a run has grown, without reading it."""
    with suppress(OSError):  # a store that is away for a moment
        places = (run.place / "events", run.ledger.place / "manifest")
        return run.place.sizes(), [place.names() for place in places]
    return None


def renewed(path: str, shown: Shown) -> Shown:
    """Return the page of a run as it is now, or the former page and why it could not be made again.

    A file that a stage replaces while it is read is no reason to end: the next look finds the new one.
    """
    try:
        run = find_run(path)
        last: dict[str, Any] = next(reversed(run.events.read()), {})
        changed_at = max(shown.changed_at, last.get("time", 0.0))
        now = replace(shown, note="", stage=last.get("stage", ""), changed_at=changed_at)
        if not run.has_problems:
            reason = "No problem has been loaded yet. This page fills by itself."
            return replace(now, page=render_waiting(run.name, reason), version=reason)
        _, inputs = page_inputs(run)
        inputs = replace(inputs, is_live=True)
        return replace(now, page=render(inputs), version=inputs.version or "")
    except (UserError, OSError, ValueError) as error:
        return replace(shown, note=" ".join(str(error).split()))

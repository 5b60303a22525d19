"""The files of a server's batch API: one request or one answer a line. Pure.

The format is OpenAI's (https://platform.openai.com/docs/api-reference/batch); other providers have taken it over.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reasonray.records import content_hash

_ENDED = frozenset({"completed", "expired", "cancelled", "failed"})
"""States of a batch that will not change. Any other one, known or not, may."""
_QUEUE_IS_FULL = frozenset({"token_limit_exceeded", "request_limit_exceeded"})
"""Codes of failures that pass: the account may have only so much in the server's queue."""


@dataclass(frozen=True, slots=True)
class BatchLine:
    """A request as a line of a batch's file."""

    custom_id: str
    """Names the request in the answers. It is the same whenever the same sample is asked for in the same way, so that
    an answer that is paid for is found again."""
    content: bytes
    """With its line end."""
    url: str = ""
    """Of the request; all lines of a batch have the same."""

    @staticmethod
    def of(seed: int, path: str, body: Mapping[str, Any]) -> BatchLine:
        """Return the line of a request.

        Args:
            seed: of the sample; no two samples of a run share one.
            path: of the API, such as /chat/completions.
            body: of the request.
        """
        custom_id = f"{seed:016x}-{content_hash(path, json.dumps(body, sort_keys=True, default=str))[:16]}"
        url = f"/v1{path}"
        line = {"custom_id": custom_id, "method": "POST", "url": url, "body": dict(body)}
        return BatchLine(custom_id, json.dumps(line).encode() + b"\n", url)


def parts(lines: Sequence[BatchLine], most_lines: int, most_bytes: float) -> Iterator[list[BatchLine]]:
    """Split lines into files within two limits, in order; a line beyond the limit of bytes gets a file of its own."""
    part: list[BatchLine] = []
    size = 0
    for line in lines:
        if part and (len(part) >= most_lines or size + len(line.content) > most_bytes):
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line.content)
    if part:
        yield part


@dataclass(frozen=True, slots=True)
class BatchState:
    """What a server says about a batch."""

    status: str
    answered: int
    """Requests with an answer, failed ones included."""
    files: tuple[str, ...]
    """Ids of the files that hold answers and errors."""
    fault: str
    """Why it failed, "" if it did not."""
    is_queue_full: bool
    """It failed because the server's queue was full."""

    @property
    def has_ended(self) -> bool:
        """Whether it will not change any more."""
        return self.status in _ENDED


def read_state(document: Any) -> BatchState:
    """Return the state of a batch, from JSON of any shape."""
    batch = _mapping(document)
    counts = _mapping(batch.get("request_counts"))
    answered = sum(count for name in ("completed", "failed") if isinstance(count := counts.get(name), int))
    files = tuple(file for name in ("output_file_id", "error_file_id") if isinstance(file := batch.get(name), str))
    found = _mapping(batch.get("errors")).get("data")
    errors = [_mapping(error) for error in found] if isinstance(found, list) else []
    fault = "; ".join(dict.fromkeys(str(error.get("message")) for error in errors))[:300]
    status = str(batch.get("status"))
    if status == "failed":
        fault = fault or "the server does not say why"
    is_full = bool(errors) and all(error.get("code") in _QUEUE_IS_FULL for error in errors)
    return BatchState(status, answered, tuple(file for file in files if file), fault, is_full)


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """What a batch gave for one request."""

    status: int
    """Of HTTP; 0 if the server has not tried the request."""
    body: Any
    """Of the answer, or the error."""


def read_answers(content: bytes) -> dict[str, BatchAnswer]:
    """Return the answers in a file of answers or errors, by custom id; lines that are none are left out."""
    answers = {}
    for text in content.decode("utf-8", "replace").split("\n"):
        try:
            line = _mapping(json.loads(text)) if text.strip() else {}
        except (ValueError, RecursionError):  # a file that was cut off: what it lacks is asked for again
            continue
        if isinstance(custom_id := line.get("custom_id"), str):
            response = _mapping(line.get("response"))
            status = response.get("status_code")
            if isinstance(status, int) and not isinstance(status, bool):
                answers[custom_id] = BatchAnswer(status, response.get("body"))
            else:
                answers[custom_id] = BatchAnswer(0, line.get("error"))
    return answers


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}

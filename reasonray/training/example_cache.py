"""Tokenised examples that are stored already, recognised by all that they were made from.

A training that was interrupted while it trained does not tokenise again. The manifest is written last, so examples
whose writing was interrupted have none.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from hashlib import sha256

from reasonray import models
from reasonray.records import content_hash
from reasonray.store.run import Run
from reasonray.store.storage import Place

_TOKENIZER_FILES = {".json", ".jinja", ".model", ".tiktoken", ".txt"}
"""Suffixes of the model's files that may be its tokenizer's; weights do not decide examples."""
_VERSION = 1
"""Raised when the same rows would give other examples."""


@dataclass(frozen=True)
class Tokenised:
    """What became of the rows of a data set."""

    lengths: list[int]
    """Tokens of each example."""
    refused: list[str]
    """Why other rows are no examples."""


def inputs(run: Run, data: str) -> str:
    """Return a hash of what decides the examples of a run.

    Args:
        run: gives the student, its prompt and the day for templates that write a date.
        data: identity of the data set.
    """
    student = run.config.student
    model = models.resolve(student.model, student.revision)
    files = [file for file in sorted(model.iterdir()) if file.suffix in _TOKENIZER_FILES]
    tokenizer = (content_hash(file.name, sha256(file.read_bytes()).hexdigest()) for file in files)
    return content_hash(_VERSION, data, student.prompt.model_dump_json(), str(run.begun_on), *tokenizer)


def find(examples: Place, made_from: str) -> Tokenised | None:
    """Return what a directory of examples was made of, None unless it is complete and was made from these inputs."""
    manifest = (examples / "manifest.json").read_json_or_none()
    if not manifest or manifest["inputs"] != made_from:
        return None
    return Tokenised(manifest["lengths"], manifest["refused"])


def complete(examples: Place, made_from: str, tokenised: Tokenised) -> None:
    """Mark a directory of examples as complete."""
    (examples / "manifest.json").write(json.dumps({"inputs": made_from} | asdict(tokenised)).encode())

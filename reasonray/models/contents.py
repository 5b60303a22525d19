"""What a model's files hold: its identity, and what an engine keeps when it loads other weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

from reasonray.models.documents import read_document

WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")
MODEL_FILES = (*WEIGHTS, ".json", ".jinja", ".model", ".txt", ".tiktoken", ".py")
"""Suffixes of the files that make a model."""
_SAMPLED_BLOCKS, _BLOCK_BYTES = 1024, 1 << 16
"""Of a file of weights, this many blocks of this size are hashed."""
_PROVENANCE = ("_name_or_path", "_model_name_or_path", "name_or_path", "_commit_hash", "transformers_version")
"""Keys of config.json that say where a model comes from; they do not affect what it writes."""


def identity(directory: Path) -> str:
    """Return a hash of a model: its files' names and sizes, their first MiB and their last MiB.

    Fingerprints of older runs hold it; `content_identity` covers more.
    """
    hasher = blake2b(digest_size=10)
    for file in sorted(directory.iterdir()):
        if file.suffix not in {".json", ".safetensors", ".bin", ".jinja"}:
            continue
        size = file.stat().st_size
        hasher.update(f"{file.name}:{size}:".encode())
        with file.open("rb") as content:
            hasher.update(content.read(1 << 20))
            content.seek(max(0, size - (1 << 20)))
            hasher.update(content.read())
    return hasher.hexdigest()


def content_identity(directory: Path) -> str:
    """Return a hash of what a model's files hold, wherever they lie and wherever they came from.

    Files of weights are sampled in blocks of 64 KiB: all of a file up to 64 MiB, 1,024 evenly spaced blocks of a larger
    one, and its end. A hole in a download, other weights and another rounding of them show up; a single changed number
    may not.
    """
    hasher = blake2b(digest_size=10)
    for file in sorted(directory.iterdir()):
        if file.suffix not in MODEL_FILES or not file.is_file() or file.name == "manifest.json":
            continue
        hasher.update(f"{file.name}:".encode())
        if file.suffix in WEIGHTS:
            _hash_blocks(file, hasher.update)
        elif file.name == "config.json":
            hasher.update(json.dumps(_without_provenance(file), sort_keys=True).encode())
        else:
            hasher.update(file.read_bytes())
    return hasher.hexdigest()


def _hash_blocks(file: Path, update: Callable[[bytes], None]) -> None:
    size = file.stat().st_size
    blocks = -(-size // _BLOCK_BYTES)
    step = max(1, blocks / _SAMPLED_BLOCKS)
    chosen = [int(number * step) for number in range(min(blocks, _SAMPLED_BLOCKS))]
    update(f"{size}:".encode())
    with file.open("rb", buffering=0) as content:
        for block in [*chosen, *([blocks - 1] if blocks else [])]:
            content.seek(block * _BLOCK_BYTES)
            update(content.read(_BLOCK_BYTES))


def _without_provenance(file: Path) -> dict[str, Any]:
    return {key: value for key, value in read_document(file).items() if key not in _PROVENANCE}


def serving_difference(one: Path, other: Path) -> str:
    """Return the first thing besides weights and chat template in which two models differ, "" if there is none.

    An engine that runs one of them can load the other's weights if there is none: it keeps the architecture, positions,
    quantisation, end-of-text tokens and tokenizer that it was started with.
    """
    for name in ("config.json", "generation_config.json", "hf_quant_config.json"):
        before, after = (_json_or_none(directory / name) for directory in (one, other))
        if before != after:
            keys = sorted(key for key in {**(before or {}), **(after or {})} if _differs(before, after, key))
            return f"{name}: {', '.join(keys)}"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if _vocabulary(one / name) != _vocabulary(other / name):
            return name
    names = {file.name for directory in (one, other) for file in directory.iterdir() if file.suffix in _OTHER_FILES}
    return next((name for name in sorted(names) if _bytes(one / name) != _bytes(other / name)), "")


_OTHER_FILES = (".model", ".tiktoken", ".py")
"""Suffixes of tokenizers in other formats than JSON, and of code."""
_NOT_VOCABULARY = (
    *_PROVENANCE,
    *("chat_template", "truncation", "padding", "padding_side", "truncation_side", "model_max_length", "is_local"),
    *("max_length", "stride", "truncation_strategy", "pad_to_multiple_of", "tokenizer_file", "local_files_only"),
)
"""Keys of a tokenizer's files that affect neither the tokens of a prompt that is rendered here nor their text."""


def _json_or_none(file: Path) -> dict[str, Any] | None:
    return _without_provenance(file) if file.exists() else None


def _differs(before: dict[str, Any] | None, after: dict[str, Any] | None, key: str) -> bool:
    return (before or {}).get(key) != (after or {}).get(key)


def _vocabulary(file: Path) -> dict[str, Any] | None:
    raw = _json_or_none(file)
    return None if raw is None else {key: value for key, value in raw.items() if key not in _NOT_VOCABULARY}


def _bytes(file: Path) -> bytes | None:
    return file.read_bytes() if file.exists() else None

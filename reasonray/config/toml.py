"""Reading of a TOML file and `key.sub=value` overrides into one plain dictionary, without knowing any key."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reasonray.errors import ConfigError


def read(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a file, apply overrides in order, and replace names of files of examples and templates by their content.

    Raises:
        ConfigError: a file is missing or cannot be read, or an override does not fit.
    """
    try:
        raw = tomllib.loads(_text(path, f"no configuration at {path}; examples are in jobs/configs/"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    for override in overrides:
        _apply(raw, override)
    _read_files(raw, path.parent)
    return raw


def _read_files(node: Any, folder: Path) -> None:
    """Replace each `examples = "file.jsonl"` and `chat_template = "file.jinja"` by the file's content.

    So other nodes need no such file.
    """
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        _read_files(child, folder)
    if not isinstance(node, dict):
        return
    if isinstance(node.get("examples"), str):
        file = folder / node["examples"]
        lines = _text(file, f"examples: there is no file {file}").splitlines()
        node["examples"] = [_json_line(file, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if isinstance(name := node.get("chat_template"), str) and name.endswith((".jinja", ".jinja2")):
        node["chat_template"] = _text(folder / name, f"chat_template: there is no file {folder / name}")


def _text(file: Path, missing: str) -> str:
    """Return a file's text; `missing` is the message if there is no file."""
    try:
        return file.read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except FileNotFoundError:
        raise ConfigError(missing) from None
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8: byte {error.start + 1}; save it as UTF-8") from None


def _json_line(file: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}, line {number}: not JSON: {error.msg}") from None


def _apply(raw: dict[str, Any], override: str) -> None:
    """Set the value of one override."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override {override!r} is not of the form key.sub=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.strip().split(".")
    node: Any = raw
    for depth, part in enumerate(parents):
        node = _child(node, part, ".".join(parents[: depth + 1]))
    if isinstance(node, list):
        node[_index(node, last, key)] = value
    else:
        node[last] = value


def _child(node: Any, part: str, path: str) -> Any:
    """Return an entry of a list, or a section, which is added if there is none."""
    if isinstance(node, list):
        return node[_index(node, part, path)]
    child = node.setdefault(part, {})
    if not isinstance(child, dict | list):
        raise ConfigError(f"override of {path}: it is a value, not a section")
    return child


def _index(node: list[Any], part: str, path: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(f"override of {path}: {part!r} is not an index below {len(node)}")
    return int(part)


def written_value(value: Any) -> str:
    """Return a value as TOML on one line."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {written_value(inner)}' for key, inner in value.items())} }}"
    return json.dumps(value, ensure_ascii=False)

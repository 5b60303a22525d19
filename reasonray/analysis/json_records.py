"""Frozen dataclasses to JSON, back from JSON, and their JSON schema: all three from the same fields.

A record is a JSON object with one key for each field. Field metadata states the exceptions: `named` (the key differs
from the field's name), `keyed` (each entry of a mapping is a key of its own), OMITTED_IF_NONE. JSON has no NaN and no
infinity: such a number is written as null, and null in a `float` field is read as NaN.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from enum import Enum
from functools import cache
from itertools import pairwise
from math import isfinite, nan
from types import MappingProxyType, NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")

OMITTED_IF_NONE: Mapping[str, Any] = MappingProxyType({"omitted_if_none": True})
"""Metadata of a field whose key is missing where its value is None. Without it, None is null."""
_SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean"}


def named(key: str) -> Mapping[str, Any]:
    """Return the metadata of a field that has another key in JSON than in Python."""
    return {"key": key}


def keyed(prefix: str) -> Mapping[str, Any]:
    """Return the metadata of a mapping from whole numbers whose entries are keys of their own: "pass@1", "pass@4"."""
    return {"prefix": prefix}


def to_json(value: Any) -> Any:
    """Return a record, or a container of records, as values that JSON can hold."""
    if is_dataclass(value):
        return _object(value)
    if isinstance(value, Mapping):
        return {str(key): to_json(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(child) for child in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value


def _object(record: Any) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if prefix := field.metadata.get("prefix"):
            keys |= {f"{prefix}{number}": to_json(child) for number, child in value.items()}
        elif value is not None or not field.metadata.get("omitted_if_none"):
            keys[_key(field)] = to_json(value)
    return keys


def from_json(kind: type[T], document: Any) -> T:
    """Return the record of a type that a JSON document holds.

    Raises:
        ValueError: a key is missing or unknown, or a value has another type; the message holds its JSON pointer.
    """
    return cast(T, _read(kind, document, ""))


def _read(kind: Any, value: Any, pointer: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return None if value is None else _read(_not_none(arguments), value, pointer)
    if is_dataclass(kind):
        return _read_record(cast(type, kind), _checked(value, dict, pointer), pointer)
    if origin is Mapping:
        entries = _checked(value, dict, pointer).items()
        return {arguments[0](key): _read(arguments[1], child, f"{pointer}/{key}") for key, child in entries}
    if origin is tuple:
        children = enumerate(_checked(value, list, pointer))
        return tuple(_read(arguments[0], child, f"{pointer}/{index}") for index, child in children)
    if kind is float:
        return nan if value is None else _checked(value, (int, float), pointer)
    return kind(value) if issubclass(kind, Enum) else _checked(value, kind, pointer)


def _read_record(kind: type, document: Mapping[str, Any], pointer: str) -> Any:
    values: dict[str, Any] = {}
    remaining = dict(document)
    for field, hint in _hinted_fields(kind):
        if prefix := field.metadata.get("prefix"):
            keys = [key for key in remaining if re.fullmatch(rf"{re.escape(prefix)}\d+", key)]
            _, child = get_args(hint)
            values[field.name] = {
                int(key.removeprefix(prefix)): _read(child, remaining.pop(key), f"{pointer}/{key}") for key in keys
            }
        elif _key(field) in remaining:
            values[field.name] = _read(hint, remaining.pop(_key(field)), f"{pointer}/{_key(field)}")
        elif not field.metadata.get("omitted_if_none"):
            raise ValueError(f"{pointer or '/'}: the key {_key(field)!r} is missing")
    if remaining:
        raise ValueError(f"{pointer or '/'}: the key {next(iter(remaining))!r} is unknown")
    return kind(**values)


def _checked(value: Any, kinds: Any, pointer: str) -> Any:
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        raise ValueError(f"{pointer or '/'}: a value of type {type(value).__name__} is not expected here")
    return value


def json_schema(kind: type) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a record; its descriptions are the docstrings of types and fields."""
    definitions: dict[str, Any] = {}
    root = _schema_of(kind, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def _schema_of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        inner = _schema_of(_not_none(arguments), definitions)
        return {"anyOf": [inner, {"type": "null"}]} if inner != {"type": ["number", "null"]} else inner
    if is_dataclass(kind):
        name = cast(type, kind).__name__
        if name not in definitions:
            definitions[name] = {}  # reserved before the fields are visited, so that a type may refer to itself
            definitions[name] = _schema_of_record(cast(type, kind), definitions)
        return {"$ref": f"#/$defs/{name}"}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _schema_of(arguments[1], definitions)}
    if origin is tuple:
        return {"type": "array", "items": _schema_of(arguments[0], definitions)}
    if kind is float:
        return {"type": ["number", "null"]}
    if issubclass(kind, Enum):
        return {"enum": [member.value for member in kind]}
    return {"type": _SCALARS[kind]}


def _schema_of_record(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    properties, patterns, required = {}, {}, []
    described = _field_docstrings(kind)
    for field, hint in _hinted_fields(kind):
        text = described.get(field.name)
        if prefix := field.metadata.get("prefix"):
            schema = _schema_of(get_args(hint)[1], definitions)
            patterns[rf"^{re.escape(prefix)}\d+$"] = schema | ({"description": text} if text else {})
            continue
        if field.metadata.get("omitted_if_none"):
            hint = _not_none(get_args(hint))
        else:
            required.append(_key(field))
        properties[_key(field)] = _schema_of(hint, definitions) | ({"description": text} if text else {})
    return {
        "type": "object",
        "description": " ".join((kind.__doc__ or "").split()),
        "properties": properties,
        **({"patternProperties": patterns} if patterns else {}),
        "required": required,
        "additionalProperties": False,
    }


def _key(field: Field[Any]) -> str:
    return str(field.metadata.get("key", field.name))


def _not_none(arguments: tuple[Any, ...]) -> Any:
    (kind,) = (argument for argument in arguments if argument is not NoneType)
    return kind


@cache
def _hinted_fields(kind: type) -> tuple[tuple[Field[Any], Any], ...]:
    hints = get_type_hints(kind)
    return tuple((field, hints[field.name]) for field in fields(kind))


def _field_docstrings(kind: type) -> dict[str, str]:
    """Return the string below each field, of a record and of those that it extends."""
    docstrings: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if not is_dataclass(owner):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        statements = cast(ast.ClassDef, definition).body
        for statement, following in pairwise(statements):
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
                name, text = cast(ast.Name, statement.target).id, ast.literal_eval(following.value)
                docstrings[name] = " ".join(text.split())
    return docstrings

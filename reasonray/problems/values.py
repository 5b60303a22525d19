"""The values of a table's cells, as texts and as what JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from math import isfinite
from typing import Any

_MAX_DEPTH = 64


class WrittenFloat(float):
    """A number that keeps the characters it was written with: 1.50 is not 1.5 where it is a gold answer."""

    text: str

    @classmethod
    def of(cls, text: str) -> WrittenFloat:
        """Return the number of a JSON literal."""
        number = cls(text)
        number.text = text
        return number


def text_of(value: Any) -> str:
    """Return a cell's value as it is written, without surrounding space; "" for a missing one (null, NaN).

    Raises:
        ValueError: the value is not a text, a number, a truth value or a time.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, WrittenFloat):
        return value.text
    if isinstance(value, bytes):
        try:
            return value.decode().strip()
        except UnicodeDecodeError:
            raise ValueError(f"{len(value):,} bytes that are not UTF-8, where a text is expected") from None
    if isinstance(value, list | tuple | Mapping):
        raise ValueError(f"a {'table' if isinstance(value, Mapping) else 'list'}, where a text is expected")
    return str(value).strip()


def has_lone_surrogate(text: str) -> bool:
    """Return whether a text holds half a character, which UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def without_surrogates(text: str) -> str:
    """Return a text that UTF-8 can hold: each half of a character becomes U+FFFD."""
    if not has_lone_surrogate(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def json_value(value: Any, depth: int = 0) -> Any:
    """Return a cell's value as JSON can hold it: NaN and infinity become null, half characters U+FFFD.

    Raises:
        TypeError: JSON has no such value (bytes, times, pictures), or it is nested too deeply.
    """
    if isinstance(value, str):
        return without_surrogates(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float | Decimal):
        return float(value) if isfinite(value) else None
    if depth < _MAX_DEPTH and isinstance(value, list | tuple):
        return [json_value(item, depth + 1) for item in value]
    if depth < _MAX_DEPTH and isinstance(value, Mapping):
        return {without_surrogates(str(key)): json_value(item, depth + 1) for key, item in value.items()}
    raise TypeError("nested too deeply" if isinstance(value, list | tuple | Mapping) else type(value).__name__)

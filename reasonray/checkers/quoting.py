"""Texts of models and data sets within a prompt, between lines of dashes that they cannot write themselves."""

from __future__ import annotations

import re

from reasonray.records import storable

_DASHES = re.compile("[-\u2010-\u2015\u2212]{3,}")
"""Wherever they are: what begins a line to a model is more than what does so to `re`."""


def as_data(text: str) -> str:
    """Return a text as it may stand between lines of dashes."""
    return _DASHES.sub("- - -", storable(text))


def cut_middle(text: str, most_characters: int) -> str:
    """Return a text, or the beginning and the end of a longer one."""
    if len(text) <= most_characters:
        return text
    return f"{text[: most_characters // 2]}\n[…]\n{text[-most_characters // 2 :]}"

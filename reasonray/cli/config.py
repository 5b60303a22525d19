"""`reasonray config`: every knob with its default, type, whether it may change on a live run, and what it does."""

from __future__ import annotations

from reasonray.config.reference import config_reference


def describe_config() -> str:
    """Return the reference of all knobs, as Markdown."""
    return config_reference()

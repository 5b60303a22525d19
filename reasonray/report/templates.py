"""The pages' templates, and what every page carries inside it: style, script and the policy that names the script."""

from __future__ import annotations

import base64
import re
from hashlib import sha256
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup, escape


def template(name: str) -> jinja2.Template:
    """Return a template of this folder: it escapes what it is given, and fails on what it was not."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_asset),
    )
    environment.filters["cell"] = cell
    return environment.get_template(name)


def inlined() -> dict[str, Any]:
    """Return the style and the script of a page, with the script's digest for its Content-Security-Policy."""
    script = _asset("rollouts.js")
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    return {"style": Markup(_asset("page.css")), "script": Markup(script), "script_digest": digest}


def cell(text: object) -> Markup:
    """Return text that can end neither its Markdown cell nor its line, nor be read as markup."""
    line = str(escape(" ".join(str(text).split())))
    return Markup(re.sub(r"([|`*\[\]\\])", r"\\\1", line))


def _asset(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")

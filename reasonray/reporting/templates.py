"""The Jinja templates of the pages, and the style and script that every page holds inline."""

from __future__ import annotations

import base64
import re
from hashlib import sha256
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup, escape

from reasonray.records import BEHAVIOURS


def template(name: str) -> jinja2.Template:
    """Return a template of this package. It escapes its arguments and raises on an undefined one."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_asset),
    )
    environment.filters["cell"] = cell
    environment.globals["BEHAVIOURS"] = BEHAVIOURS
    return environment.get_template(name)


def inlined() -> dict[str, Any]:
    """Return a page's style and scripts, and the scripts' digests for the Content-Security-Policy."""
    scripts = {"script": _asset("rollouts.js"), "live": _asset("live.js")}
    digests = {name: base64.b64encode(sha256(text.encode()).digest()).decode() for name, text in scripts.items()}
    return {
        "style": Markup(_asset("page.css")),
        "script": Markup(scripts["script"]),
        "script_digest": digests["script"],
        "live_script": Markup(scripts["live"]),
        "live_digest": digests["live"],
    }


def cell(text: object) -> Markup:
    """Return text for a cell of a Markdown table: on one line, with everything escaped that could end the cell."""
    line = str(escape(" ".join(str(text).split())))
    return Markup(re.sub(r"([|`*\[\]\\])", r"\\\1", line))


def _asset(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")

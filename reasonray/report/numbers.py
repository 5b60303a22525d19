"""How a number of metrics.json is printed, and where it is from.

Every number on the page is a <data> element: `value` is the number as metrics.json has it, `data-from` its JSON pointer
(RFC 6901), the text its rounded form. So a reader's script, and a test, can hold the page against the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

NARROW = "\u202f"
"""Narrow no-break space: between a number and its unit."""
MINUS = "\u2212"
MISSING = Markup('<span class="missing" title="not measured">–</span>')


def _percent(value: float) -> str:
    return f"{value * 100:.1f}{NARROW}%"


def _bare(value: float) -> str:
    return f"{value * 100:.1f}"


def _points(value: float) -> str:
    text = f"{value * 100:+.1f}".replace("-", MINUS)
    return "0.0" if text[1:] == "0.0" else text


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _measure(value: float) -> str:
    """About three significant figures: as many decimals as help."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def _change(value: float) -> str:
    text = _measure(abs(value))
    return text if text == "0.00" else (MINUS if value < 0 else "+") + text


def _loss(value: float) -> str:
    return f"{value:.3f}"


def _p(value: float) -> str:
    return "≤ 0.001" if value < 0.001 else f"{value:.3f}"


def _duration(value: float) -> str:
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (seconds, "s")]
    shown = [f"{number}{NARROW}{unit}" for number, unit in parts if number][:2]
    return " ".join(shown) or f"0{NARROW}s"


FORMS: Mapping[str, Callable[[float], str]] = {
    "percent": _percent,
    "bare": _bare,
    "points": _points,
    "count": _count,
    "plain": str,
    "measure": _measure,
    "change": _change,
    "loss": _loss,
    "p": _p,
    "duration": _duration,
}


def accuracies(metrics: Mapping[str, Any]) -> list[str]:
    """Return the names of the accuracies measured, such as pass@1, pass@4 and maj@4."""
    first: Mapping[str, Any] = next(iter(metrics["evaluation"].values()), {"all": {}})
    return [name for name in first["all"] if name.startswith(("pass@", "maj@"))]


class Numbers:
    """The numbers of one metrics.json, by path."""

    def __init__(self, metrics: Mapping[str, Any]) -> None:
        self.metrics = metrics

    def find(self, *path: str | int) -> Any:
        """Return what stands at a path of keys and indices, None where nothing does."""
        node: Any = self.metrics
        for part in path:
            if isinstance(node, Mapping):
                node = node.get(part)
            elif isinstance(node, list) and isinstance(part, int) and part < len(node):
                node = node[part]
            else:
                return None
        return node

    def one(self, *path: str | int, form: str) -> Markup:
        """Print the number at a path in one of FORMS; a dash where it was not measured."""
        value = self.find(*path)
        if value is None:
            return MISSING
        pointer = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
        return Markup('<data value="{}" data-from="{}">{}</data>').format(repr(value), pointer, FORMS[form](value))

    def counted(self, *path: str | int, noun: str) -> Markup:
        """Print the count at a path with its noun, in the singular for 1."""
        plural = "" if self.find(*path) == 1 else "s"
        return Markup("{} {}{}").format(self.one(*path, form="count"), noun, plural)

    def bounds(self, *path: str | int, form: str) -> Markup:
        """Print the 95 % interval at a path as [low, high]; the unit stands with the mean only."""
        within = "bare" if form == "percent" else form
        low, high = (self.one(*path, end, form=within) for end in ("low", "high"))
        if low == high == MISSING:
            return Markup("")
        return Markup('<span class="bounds">[{}, {}]</span>').format(low, high)

    def interval(self, *path: str | int, form: str) -> Markup:
        """Print the mean at a path with its 95 % interval."""
        mean = self.one(*path, "mean", form=form)
        return mean if mean == MISSING else Markup("{} {}").format(mean, self.bounds(*path, form=form))

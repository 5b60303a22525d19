"""The printed form of the numbers of metrics.json, each with a pointer to its source.

Every number on the page is a <data> element: `value` holds the number as metrics.json stores it, `data-from` its JSON
pointer (RFC 6901), and the text its rounded form. A reader's script, or a test, can compare the page with the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from markupsafe import Markup

from reasonray.records import Interval

NARROW = "\u202f"
"""Narrow no-break space: between a number and its unit."""
MINUS = "\u2212"
MISSING = Markup('<span class="missing" title="not measured">–</span>')

Form = Literal["percent", "bare", "points", "count", "plain", "measure", "money", "change", "loss", "p", "duration"]
"""How a number is printed; "bare" is a percentage without its sign, "points" a signed difference of percentages."""


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
    """Return about three significant figures: fewer decimals for larger numbers."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def _money(value: float) -> str:
    """Return an amount to the cent, a small one with two significant figures."""
    return f"{value:,.2f}" if value >= 0.1 or value == 0 else f"{float(f'{value:.1e}'):.10f}".rstrip("0")


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


FORMS: Mapping[Form, Callable[[float], str]] = {
    "percent": _percent,
    "bare": _bare,
    "points": _points,
    "count": _count,
    "plain": str,
    "measure": _measure,
    "money": _money,
    "change": _change,
    "loss": _loss,
    "p": _p,
    "duration": _duration,
}
assert set(FORMS) == set(get_args(Form))


def accuracies(metrics: Mapping[str, Any]) -> list[str]:
    """Return the names of the measured accuracies, such as pass@1, pass@4 and maj@4."""
    first: Mapping[str, Any] = next(iter(metrics["evaluation"].values()), {"all": {}})
    return [name for name in first["all"] if name.startswith(("pass@", "maj@"))]


def plotted(value: Mapping[str, float | None] | float | None) -> Interval | None:
    """Return a measured value as an interval; a bare number, or a mean without known bounds, becomes a point.

    Args:
        value: {mean, low, high}, a number, or None where nothing was measured.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return Interval(value, value, value)
    mean, low, high = value["mean"], value["low"], value["high"]
    assert mean is not None
    return Interval(mean, mean if low is None else low, mean if high is None else high)


class Numbers:
    """The numbers of one metrics.json (or comparison.json), found by path."""

    def __init__(self, metrics: Mapping[str, Any]) -> None:
        self.metrics = metrics

    def get(self, *path: str | int) -> Any:
        """Return the value at a path of keys and indices, None if there is none."""
        node: Any = self.metrics
        for part in path:
            if isinstance(node, Mapping):
                node = node.get(part)
            elif isinstance(node, list) and isinstance(part, int) and part < len(node):
                node = node[part]
            else:
                return None
        return node

    def get_interval(self, *path: str | int) -> Interval | None:
        """Return the interval at a path, None if it was not measured or its bounds are unknown."""
        mean, low, high = (self.get(*path, name) for name in ("mean", "low", "high"))
        return None if mean is None or low is None or high is None else Interval(mean, low, high)

    def number(self, *path: str | int, form: Form) -> Markup:
        """Print the number at a path in one of FORMS; a dash if it was not measured."""
        value = self.get(*path)
        if value is None:
            return MISSING
        pointer = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
        return Markup('<data value="{}" data-from="{}">{}</data>').format(repr(value), pointer, FORMS[form](value))

    def counted(self, *path: str | int, noun: str) -> Markup:
        """Print the count at a path with its noun, in the singular for 1."""
        plural = "" if self.get(*path) == 1 else "s"
        return Markup("{} {}{}").format(self.number(*path, form="count"), noun, plural)

    def bounds(self, *path: str | int, form: Form) -> Markup:
        """Print the 95 % interval at a path as [low, high], without the unit, which is printed with the mean."""
        bound_form: Form = "bare" if form == "percent" else form
        low, high = (self.number(*path, end, form=bound_form) for end in ("low", "high"))
        if low == high == MISSING:
            return Markup("")
        return Markup('<span class="bounds">[{}, {}]</span>').format(low, high)

    def interval(self, *path: str | int, form: Form) -> Markup:
        """Print the mean at a path with its 95 % interval."""
        mean = self.number(*path, "mean", form=form)
        return mean if mean == MISSING else Markup("{} {}").format(mean, self.bounds(*path, form=form))

"""The figures of the report: small, colour-blind safe plots, made by matplotlib as inline SVG.

Colours are those of Okabe and Ito, darkened for thin lines. In the SVG each becomes a CSS variable of the page, so that
a figure follows the light or dark scheme. Models differ in marker as well as in colour. Text stays text. The same
numbers give the same bytes. A figure has neither title nor y label: the page's caption names the quantity and its unit.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reasonray.records import Interval

INK, MUTED, GRID, PAPER = "#252a33", "#6b7280", "#dcdad4", "#fdfcf9"
BLUE, ORANGE, GREEN, PURPLE, RED, GREY, YELLOW = (
    "#0072b2",
    "#c56a00",
    "#008060",
    "#9b5c9b",
    "#c4441c",
    "#858b95",
    "#b8960b",
)
PALETTE = {
    "ink": INK,
    "muted": MUTED,
    "grid": GRID,
    "paper": PAPER,
    "blue": BLUE,
    "orange": ORANGE,
    "green": GREEN,
    "purple": PURPLE,
    "red": RED,
    "grey": GREY,
    "yellow": YELLOW,
}
"""CSS variable → its value in the light scheme; page.css holds the dark ones."""
OUTCOME_COLOURS = {
    "correct": "green",
    "wrong": "red",
    "no_answer": "yellow",
    "truncated": "purple",
    "unverifiable": "grey",
    "timeout": "orange",
    "failed": "ink",
}
OUTCOME_SIGNS = {
    "correct": "✓",
    "wrong": "✗",
    "no_answer": "∅",
    "truncated": "…",
    "unverifiable": "?",
    "timeout": "◷",
    "failed": "!",
}
"""Signs that distinguish outcomes without colour; rollouts.js holds the same."""
_WIDE = 4.2
"""Width in inches of a figure in a row of two; its text is legible on a phone, too."""
_TEACHERS = (("orange", "s"), ("green", "^"), ("purple", "v"), ("yellow", "P"), ("red", "X"))
_LINES = (("blue", "D"), *_TEACHERS)
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.parse_math": False,  # a "$" in a name is a "$"
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.linewidth": 0.8,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.color": GRID,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.5,
}

AxisFormat = Callable[[float], str]
"""How a value is printed at an axis."""
Plot = Callable[[Any], None]
"""Plots on matplotlib axes."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The look of a line: a colour of PALETTE and a matplotlib marker."""

    colour: str
    marker: str


def marks(arms: Sequence[str]) -> dict[str, Mark]:
    """Return the mark of each model: base grey, student blue, the others in their order."""
    fixed = {"base": Mark("grey", "o"), "student": Mark("blue", "D")}
    others = [arm for arm in arms if arm not in fixed]
    return fixed | {arm: _mark(_TEACHERS, i) for i, arm in enumerate(others)}


def series(names: Sequence[str]) -> dict[str, Mark]:
    """Return the mark of each line that is not a model: correct green, not correct red, difficulties in their order."""
    fixed = {"correct": Mark("green", "o"), "not correct": Mark("red", "X")}
    others = [name for name in names if name not in fixed]
    return {name: mark for name, mark in fixed.items() if name in names} | {
        name: _mark(_LINES, i) for i, name in enumerate(others)
    }


def _mark(cycle: Sequence[tuple[str, str]], i: int) -> Mark:
    """Return the mark of the i-th name. After one cycle the colours repeat with other markers."""
    return Mark(cycle[i % len(cycle)][0], cycle[(i + i // len(cycle)) % len(cycle)][1])


def percent(value: float) -> str:
    """Format a share for an axis."""
    return f"{value * 100:.3g} %"


def plain(value: float) -> str:
    """Format a count or a measure for an axis."""
    if 0 < abs(value) < 0.01:
        return re.sub("e-0*", "e\u2212", f"{value:.2g}")
    return f"{value:,.4g}" if abs(value) < 10_000 else f"{value / 1000:,.4g}k"


def dots_and_whiskers(rows: Mapping[str, Mapping[str, Interval]], arms: Sequence[str], label: str) -> Markup:
    """Plot the interval of a share for each row and model, first row on top.

    Args:
        rows: name of the row (a difficulty) → model → interval of a share.
        arms: order of the models within a row, from the top.
        label: description of the figure for screen readers.
    """
    styles = marks(arms)
    apart = min(0.22, 0.8 / len(arms))

    def plot(axes: Any) -> None:
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        for i, row in enumerate(rows.values()):
            for j, arm in enumerate(arms):
                if (interval := row.get(arm)) is not None:
                    _whisker(axes, interval, i + (j - (len(arms) - 1) / 2) * apart, styles[arm])
            if i:
                axes.axhline(i - 0.5, color=GRID, linewidth=0.6)
        axes.set_yticks(range(len(rows)), [_short(name, 18) for name in rows], color=INK)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value)))

    return _svg(plot, label, width=_WIDE, height=0.55 + max(0.62, 0.16 * len(arms)) * len(rows))


def _whisker(axes: Any, interval: Interval, y: float, mark: Mark) -> None:
    colour = PALETTE[mark.colour]
    axes.plot([interval.low, interval.high], [y, y], color=colour, linewidth=1.6, solid_capstyle="round")
    axes.plot(interval.mean, y, color=colour, marker=mark.marker, markersize=6, clip_on=False)


def gains_and_losses(rows: Mapping[str, tuple[int, int]], label: str) -> Markup:
    """Plot problems lost to the left and gained to the right, each row a difficulty: (lost, gained)."""

    def plot(axes: Any) -> None:
        axes.grid(visible=False)
        reach = max(max(lost, gained) for lost, gained in rows.values()) or 1
        for i, (lost, gained) in enumerate(rows.values()):
            axes.barh(i, -lost, height=0.5, color=RED)
            axes.barh(i, gained, height=0.5, color=BLUE)
            axes.text(-lost - reach * 0.03, i, str(lost), ha="right", va="center")
            axes.text(gained + reach * 0.03, i, str(gained), ha="left", va="center")
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.set_yticks(range(len(rows)), [_short(name, 18) for name in rows], color=INK)
        axes.set_ylim(len(rows) - 0.4, -0.9)
        most_lost = max(lost for lost, _ in rows.values())
        axes.set_xlim(-max(most_lost, reach * 0.08) - reach * 0.12, reach * 1.12)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.text(-reach * 0.03, -0.62, "lost", ha="right", color=MUTED)
        axes.text(reach * 0.03, -0.62, "gained", ha="left", color=MUTED)

    return _svg(plot, label, width=_WIDE, height=0.5 + 0.42 * len(rows))


def against_k(ks: Sequence[int], intervals: Sequence[Interval | None], label: str, axis_format: AxisFormat) -> Markup:
    """Plot a quantity against K on a logarithmic axis, its intervals as a band."""

    def plot(axes: Any) -> None:
        _line_with_band(axes, ks, intervals, Mark("blue", "o"))
        axes.set_xscale("log", base=2)
        ticks = ks[:: -(-len(ks) // 6)]
        axes.set_xticks(ticks, [str(k) for k in ticks])
        axes.minorticks_off()
        axes.set_xlabel("K, samples per problem")
        _value_axis(axes, axis_format)

    return _svg(plot, label)


def against_difficulty(
    names: Sequence[str], by_arm: Mapping[str, Sequence[Interval | None]], label: str, axis_format: AxisFormat
) -> Markup:
    """Plot a quantity against difficulty, one line per model, with whiskers."""
    styles = marks(list(by_arm))
    apart = min(0.09, 0.7 / max(1, len(by_arm)))

    def plot(axes: Any) -> None:
        for j, (arm, intervals) in enumerate(by_arm.items()):
            shift = (j - (len(by_arm) - 1) / 2) * apart
            shown = [(x + shift, interval) for x, interval in enumerate(intervals) if interval is not None]
            colour = PALETTE[styles[arm].colour]
            means = [interval.mean for _, interval in shown]
            axes.plot([x for x, _ in shown], means, color=colour, marker=styles[arm].marker, clip_on=False)
            for x, interval in shown:
                axes.plot([x, x], [interval.low, interval.high], color=colour, linewidth=1.2)
        crowded = sum(map(len, names)) > 26
        slant = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
        axes.set_xticks(range(len(names)), [_short(name, 14) for name in names], color=INK, **slant)
        axes.set_xlim(-0.4, len(names) - 0.6)
        _value_axis(axes, axis_format)

    return _svg(plot, label)


def over_steps(
    steps: Sequence[int],
    lines: Mapping[str, Sequence[Interval | None]],
    label: str,
    axis_format: AxisFormat,
    axis: str = "training step",
) -> Markup:
    """Plot quantities of checkpoints against the training step: one line and band each, marked by `series`.

    Args:
        steps: of training, or other whole numbers.
        lines: by name.
        label: for screen readers.
        axis_format: of the values.
        axis: what the steps are.
    """
    styles = series(list(lines))

    def plot(axes: Any) -> None:
        for name, intervals in lines.items():
            _line_with_band(axes, steps, intervals, styles[name])
        axes.set_xticks(steps[:: -(-len(steps) // 5)])
        axes.set_xlabel(axis)
        _value_axis(axes, axis_format)

    return _svg(plot, label)


def training_curve(
    steps: Sequence[float], values: Sequence[float | None], label: str, axis_format: AxisFormat = plain
) -> Markup:
    """Plot a quantity of training against the step; None, a value that was not finite, becomes a cross on the axis."""

    def plot(axes: Any) -> None:
        finite = [(step, value) for step, value in zip(steps, values, strict=True) if value is not None]
        marker = "o" if len(finite) <= 3 else ""
        axes.plot([s for s, _ in finite], [v for _, v in finite], color=BLUE, linewidth=1.4, marker=marker)
        broken = [step for step, value in zip(steps, values, strict=True) if value is None]
        axes.plot(broken, [0] * len(broken), "x", color=RED, transform=axes.get_xaxis_transform(), clip_on=False)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel("training step")
        _value_axis(axes, axis_format)

    return _svg(plot, label)


def stacked_shares(rows: Mapping[str, Mapping[str, float]], label: str) -> Markup:
    """Plot each row as one bar of outcome shares that sum to 1, with a sign where there is room."""

    def plot(axes: Any) -> None:
        axes.grid(visible=False)
        for i, shares in enumerate(rows.values()):
            left = 0.0
            for outcome, colour in OUTCOME_COLOURS.items():
                width = shares.get(outcome, 0.0)
                axes.barh(i, max(0.0, width - 0.002), left=left, height=0.56, color=PALETTE[colour])
                if width > 0.04:
                    middle = left + width / 2
                    axes.text(middle, i, OUTCOME_SIGNS[outcome], ha="center", va="center_baseline", color=PAPER)
                left += width
        axes.set_yticks(range(len(rows)), [_short(name, 18) for name in rows], color=INK)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value)))

    return _svg(plot, label, width=_WIDE, height=0.5 + 0.4 * len(rows))


def _short(name: str, longest: int) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _line_with_band(axes: Any, xs: Sequence[float], intervals: Sequence[Interval | None], mark: Mark) -> None:
    shown = [(x, interval) for x, interval in zip(xs, intervals, strict=True) if interval is not None]
    places, colour = [x for x, _ in shown], PALETTE[mark.colour]
    low, high = [interval.low for _, interval in shown], [interval.high for _, interval in shown]
    axes.fill_between(places, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.plot(places, [interval.mean for _, interval in shown], color=colour, marker=mark.marker, clip_on=False)


def _value_axis(axes: Any, axis_format: AxisFormat) -> None:
    """Start the axis at 0, because no plotted quantity is negative."""
    highest = axes.dataLim.y1
    axes.set_ylim(0, highest * 1.06 if isfinite(highest) and highest > 0 else 1)
    axes.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=3))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: axis_format(value)))


def _svg(plot: Plot, label: str, width: float = 2.95, height: float = 2.1) -> Markup:
    """Plot on new axes of this size in inches, and return an inline <svg> that refers to no address."""
    with mpl.rc_context(_STYLE | {"svg.hashsalt": label}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        plot(figure.add_subplot())
        document = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(document, format="svg", transparent=True, metadata=no_metadata)
    return _inline(document.getvalue(), label)


def _inline(document: str, label: str) -> Markup:
    body = document[document.index(">", document.index("<svg")) + 1 :]
    box = re.search(r'viewBox="[^"]+"', document)
    assert box is not None
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)  # would apply to the whole page
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # ids must be unique in a page; those of defs carry the salt
    body = re.sub(r" font-family:[^;\"]*(?:'[^']*'[^;\"]*)*;", "", body)
    body = body.replace('<rect xmlns="http://www.w3.org/2000/svg"', "<rect")
    for name, colour in PALETTE.items():
        body = body.replace(colour, f"var(--{name})")
    body = re.sub(r"\s*\n\s*", " ", body)
    return Markup('<svg {} role="img" aria-label="{}">{}').format(Markup(box.group()), escape(label), Markup(body))

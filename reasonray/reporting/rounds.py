"""The page and the Markdown of a series of rounds, made from rounds.json: did it help, until when, at what price."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from reasonray.records import BEHAVIOURS
from reasonray.reporting import figures
from reasonray.reporting.figures import percent, plain
from reasonray.reporting.markdown import finished
from reasonray.reporting.numbers import Form, Numbers, plotted
from reasonray.reporting.panels import Panel, Quantity
from reasonray.reporting.templates import inlined, template

_LENGTHS = {"num_steps": "Reasoning steps", "completion_tokens": "Tokens"}
_DISTINCT = {"distinct_equations": "Different equations", "distinct_words": "Different words"}


def render(metrics: Mapping[str, Any]) -> str:
    """Return the page as HTML. The same inputs give the same bytes."""
    return template("rounds.html.j2").render(**_context(Numbers(metrics)), panels=_panels(metrics), **inlined())


def render_markdown(metrics: Mapping[str, Any]) -> str:
    """Return the same numbers as Markdown."""
    return finished(traced(metrics))


def traced(metrics: Mapping[str, Any]) -> str:
    """Return the Markdown with each number still in the <data> element that names its source in rounds.json."""
    return template("rounds.md.j2").render(**_context(Numbers(metrics)))


def headline(metrics: Mapping[str, Any]) -> Markup:
    """Return the sentence that the page opens with: whether the rounds together changed the model, and how much."""
    numbers = Numbers(metrics)
    if not (measured := _measured(numbers)):
        return Markup("No round’s student has been measured yet.")
    last = measured[-1]
    rounds = _rounds(numbers, last)
    if (change := numbers.get_interval("rounds", last, "to_base", "pass@1")) is None:
        reached = numbers.interval("rounds", last, "measures", "pass@1", form="percent")
        return Markup("After {} the student reaches pass@1 of {}; without a base there is nothing to compare.").format(
            rounds, reached
        )
    points = numbers.interval("rounds", last, "to_base", "pass@1", form="points")
    if change.low <= 0 <= change.high:
        return Markup("{} made no measurable difference: {} points of pass@1, which includes 0.").format(rounds, points)
    before = numbers.number("base", "pass@1", "mean", form="percent")
    after = numbers.number("rounds", last, "measures", "pass@1", "mean", form="percent")
    return Markup("{} <em>{}</em> pass@1 from {} to {}: {} points.").format(
        rounds, "lifted" if change.low > 0 else "lowered", before, after, points
    )


def remarks(numbers: Numbers) -> list[Markup]:
    """Return until when iterating helped, at what price, why it ended, and what is a sign of a collapse."""
    return [*_until(numbers), *_price(numbers), *_ended(numbers), *_warnings(numbers)]


def _until(numbers: Numbers) -> Iterator[Markup]:
    """Yield until which round iterating helped, and which rounds did harm."""
    measured = _measured(numbers)
    changes = [numbers.get_interval("rounds", index, "to_previous", "pass@1") for index in measured]
    gained = [index for index, change in zip(measured, changes, strict=True) if change and change.low > 0]
    lost = [index for index, change in zip(measured, changes, strict=True) if change and change.high < 0]
    if len(measured) == 1:
        yield Markup("This is one round; whether another one helps is not known yet.")
    elif measured and any(changes):
        yield _help(numbers, gained, measured[-1])
    for index in lost:
        points = numbers.interval("rounds", index, "to_previous", "pass@1", form="points")
        yield Markup("<strong>{} did harm</strong>: {} points on the model before it.").format(
            _round(numbers, index).capitalize(), points
        )


def _help(numbers: Numbers, gained: Sequence[int], last: int) -> Markup:
    """Return until when several rounds helped.

    Args:
        numbers: of the series.
        gained: indices of the rounds that gained measurably on the model before them.
        last: index of the last measured round.
    """
    if not gained:
        return Markup("No single round gained measurably on the model before it.")
    newest = _round(numbers, gained[-1])
    points = numbers.interval("rounds", gained[-1], "to_previous", "pass@1", form="points")
    if gained[-1] == last:
        return Markup("Iterating helped to the end: {} still gained {} points on the one before it.").format(
            newest, points
        )
    if gained[-1] == 0:
        change = numbers.interval("rounds", last, "to_first", "pass@1", form="points")
        return Markup(
            "Iterating did not help: the first round gained {} points, those after it changed {} together."
        ).format(points, change)
    return Markup(
        "Iterating helped until {}, which gained {} points on the one before it; not measurably after."
    ).format(newest, points)


def _price(numbers: Numbers) -> Iterator[Markup]:
    yield Markup("Price: {} tokens sampled of train problems, {} to measure, {} of work.").format(
        numbers.number("total", "sampled_tokens", form="count"),
        numbers.number("total", "evaluated_tokens", form="count"),
        numbers.number("total", "seconds", form="duration"),
    )


def _ended(numbers: Numbers) -> Iterator[Markup]:
    made, planned = len(numbers.metrics["rounds"]), numbers.metrics["planned"]
    if reason := numbers.get("stopped"):
        yield Markup("No further round was made: <code>{}</code>.").format(reason)
    elif made < planned:
        yield Markup("{} of {} rounds have begun; the same command goes on.").format(
            numbers.number("rounds", made - 1, "round", form="plain"), numbers.number("planned", form="plain")
        )


def _warnings(numbers: Numbers) -> Iterator[Markup]:
    for index, one in enumerate(numbers.metrics["rounds"]):
        if fallen := one["warnings"]:
            names = ", ".join(_DISTINCT.get(name, name) for name in fallen)
            yield Markup(
                "<strong>Warning:</strong> in {} pass@1 rose while variety fell ({}): the student gains by writing the "
                "same solutions again and again. Raise the temperature, keep more of each problem, or stop before it."
            ).format(_round(numbers, index), names)


def _measured(numbers: Numbers) -> list[int]:
    """Return the indices of the rounds whose student is measured."""
    return [index for index, one in enumerate(numbers.metrics["rounds"]) if one["measures"] is not None]


def _round(numbers: Numbers, index: int) -> Markup:
    return Markup("round {}").format(numbers.number("rounds", index, "round", form="plain"))


def _rounds(numbers: Numbers, last: int) -> Markup:
    count = numbers.number("rounds", last, "round", form="plain")
    return Markup("{} round{}").format(count, "s" if last else "")


def _rows(k: int) -> dict[str, list[tuple[str, str, Form, Form]]]:
    """Return group → its measures: name on the page, key, form of the value and of its difference."""
    shares: list[tuple[str, str, Form, Form]] = [
        (name.replace("_", " ").capitalize(), name, "percent", "points") for name in BEHAVIOURS
    ]
    accuracy: list[tuple[str, str, Form, Form]] = [("pass@1", "pass@1", "percent", "points")]
    if k > 1:
        accuracy.append((f"pass@{k}", f"pass@{k}", "percent", "points"))
    return {
        "Accuracy": accuracy,
        "Variety": [(name, key, "percent", "points") for key, name in _DISTINCT.items()],
        "Length": [(name, key, "measure", "change") for key, name in _LENGTHS.items()],
        "Behaviours": shares,
    }


def _context(numbers: Numbers) -> dict[str, Any]:
    return {
        "metrics": numbers.metrics,
        "run": numbers.metrics["series"],
        "number": numbers.number,
        "interval": numbers.interval,
        "counted": numbers.counted,
        "get": numbers.get,
        "headline": headline(numbers.metrics),
        "remarks": remarks(numbers),
        "groups": _rows(numbers.metrics["k"]),
        "cost_rows": [*(("rounds", index, "cost") for index in range(len(numbers.metrics["rounds"]))), ("total",)],
    }


def _panels(metrics: Mapping[str, Any]) -> dict[str, list[Panel]]:
    rounds, best = metrics["rounds"], f"pass@{metrics['k']}"
    students = [metrics["base"], *(one["measures"] for one in rounds)]
    accuracy = [Quantity("pass@1", "Accuracy", "pass@1", percent)]
    if metrics["k"] > 1:
        accuracy.append(Quantity(best, "Within reach", f"{best}: at least one correct sample", percent))
    variety = [
        Quantity("distinct_equations", "Different equations", "share of pairs of samples", percent),
        Quantity("distinct_words", "Different words", "1 − overlap of pairs of samples", percent),
    ]
    length = [Quantity("completion_tokens", "Length", "tokens per response", plain)]
    return {
        "accuracy": [panel for quantity in accuracy for panel in _panel(quantity, students)],
        "variety": [panel for quantity in (*variety, *length) for panel in _panel(quantity, students)],
    }


def _panel(quantity: Quantity, students: Sequence[Mapping[str, Any] | None]) -> Iterator[Panel]:
    """Yield the figure of a measure by round, the base being round 0."""
    shown = [(number, plotted((student or {}).get(quantity.key))) for number, student in enumerate(students)]
    if any(interval is not None for _, interval in shown):
        numbers = [number for number, _ in shown]
        lines = {"student": [interval for _, interval in shown]}
        label = f"{quantity.title} by round; round 0 is the base"
        figure = figures.over_steps(numbers, lines, label, quantity.axis_format, "round, 0 is the base")
        yield Panel(quantity.title, quantity.unit, figure)

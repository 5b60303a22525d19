"""Figures are inline and inert, take their colours from the page, and are equal for equal numbers."""

import re
from importlib import resources
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from reasonray.records import Interval
from reasonray.reporting import figures

INTERVAL = Interval(mean=0.2, low=0.1, high=0.35)
POINT = Interval(4.0, 4.0, 4.0)
HOSTILE = '<img src="http://x" onerror=alert(1)> $x_$'


def all_figures(name="label"):
    return {
        "dots": figures.dots_and_whiskers({name: {name: INTERVAL, "base": INTERVAL}}, ["base", name], name),
        "gains": figures.gains_and_losses({name: (1, 9), "none": (0, 0)}, name),
        "k": figures.against_k([1, 2, 4], [INTERVAL, POINT, None], name, figures.percent),
        "difficulty": figures.against_difficulty([name, "hard"], {name: [INTERVAL, None]}, name, figures.plain),
        "steps": figures.over_steps(
            [0, 9], {name: [INTERVAL, POINT], "correct": [None, INTERVAL]}, name, figures.percent
        ),
        "training": figures.training_curve([1, 2, 3], [2.0, None, 1.0], name),
        "shares": figures.stacked_shares({name: {"correct": 0.25, "wrong": 0.75}}, name),
    }


@pytest.mark.parametrize("figure", all_figures(HOSTILE).values(), ids=all_figures())
def test_a_figure_is_well_formed_and_names_are_text(figure):
    root = ElementTree.fromstring(str(figure).replace("<svg ", '<svg xmlns:xlink="x" ', 1))
    tags = {element.tag for element in root.iter()}
    assert tags <= {"svg", "g", "defs", "path", "use", "text", "tspan", "clipPath", "rect"}
    assert root.attrib["aria-label"] == HOSTILE


@pytest.mark.parametrize("figure", all_figures().values(), ids=all_figures())
def test_a_figure_loads_nothing_and_takes_its_colours_from_the_page(figure):
    assert not re.search(r"https?:|url\((?!#)|<style|<image|font-family", figure)
    assert not re.search(r"#[0-9a-fA-F]{6}\b", re.sub(r"#m[0-9a-f]{10}|#p[0-9a-f]{10}", "", figure))


def test_the_same_numbers_give_the_same_bytes():
    assert all_figures() == all_figures()


def test_two_figures_have_no_id_in_common():
    first, second = (set(re.findall(r'id="([^"]+)"', all_figures(name)["k"])) for name in ("one", "two"))
    assert first
    assert not first & second


def test_a_loss_that_is_never_finite_is_plotted_as_marks_alone():
    assert "<svg" in figures.training_curve([1, 2], [None, None], "loss")


def test_every_model_has_a_mark_of_its_own():
    marks = figures.marks(["base", "first", "second", "student"])
    assert len({(mark.colour, mark.marker) for mark in marks.values()}) == 4
    assert len({mark.marker for mark in marks.values()}) == 4


def test_twenty_models_or_lines_have_different_marks():
    for marks in (figures.marks([f"model {i}" for i in range(20)]), figures.series([f"{i}" for i in range(20)])):
        assert len({(mark.colour, mark.marker) for mark in marks.values()}) == len(marks)


def test_the_rows_of_eight_models_do_not_overlap():
    arms = ["base", *(f"model {i}" for i in range(6)), "student"]
    rows = {name: dict.fromkeys(arms, INTERVAL) for name in ("all", "easy", "hard")}
    figure = figures.dots_and_whiskers(rows, arms, "label")
    *_, height = map(float, re.search('viewBox="([^"]+)"', figure).group(1).split())
    whiskers = re.findall(r'<path d="M [\d.]+ ([\d.]+) L [\d.]+ ([\d.]+) "[^>]*linecap: round', figure)
    places = [float(start) for start, end in whiskers if start == end]
    assert len(places) == 24
    gaps = [after - before for before, after in pairwise(places)]
    assert min(gaps) > 7, "a marker is 6 points high"
    assert 4 < places[0] < places[-1] < height - 20, "none is cut off or overlaps the axis"


def test_outcomes_are_distinguishable_without_colour():
    figure = figures.stacked_shares({"train": {"correct": 0.5, "wrong": 0.3, "timeout": 0.18, "failed": 0.02}}, "label")
    assert re.findall("[✓✗∅…?◷!]", figure) == ["✓", "✗", "◷"]
    assert figures.OUTCOME_SIGNS.keys() == figures.OUTCOME_COLOURS.keys()
    script = (resources.files("reasonray.reporting") / "rollouts.js").read_text()
    (signs,) = re.findall("const MARKS = {(.*?)}", script)
    assert dict(re.findall(r'(\w+): "(.)"', signs)) == figures.OUTCOME_SIGNS


def test_every_colour_has_a_dark_counterpart_in_the_style():
    style = (resources.files("reasonray.reporting") / "page.css").read_text()
    light, dark = style.split("prefers-color-scheme: dark", 1)
    for name, colour in figures.PALETTE.items():
        assert re.search(rf"--{name}: #", dark.split("* {")[0])
        if name not in ("muted",):  # the page's muted text is slightly darker than an axis
            assert f"--{name}: {colour}" in light


def test_many_and_long_names_and_ticks_fit(recwarn):
    names = [f"a rather long name of a level, {i}" for i in range(8)]
    figures.against_difficulty(names, {"base": [INTERVAL] * 8}, "levels", figures.percent)
    figures.dots_and_whiskers({name: {"base": INTERVAL} for name in names}, ["base"], "levels")
    ks = [2**i for i in range(12)]
    figure = figures.against_k(ks, [INTERVAL] * 12, "K", figures.percent)
    assert len(re.findall(r">\d+</text>", figure)) == 6
    assert not recwarn.list

"""The printed form of numbers."""

import pytest

from reasonray.records import Interval
from reasonray.reporting.numbers import FORMS, MISSING, Numbers, plotted

NNBSP = "\u202f"


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        ("percent", 0.2791, f"27.9{NNBSP}%"),
        ("bare", 0.2791, "27.9"),
        ("points", 0.275, "+27.5"),
        ("points", -0.012, "−1.2"),
        ("points", -0.0001, "0.0"),
        ("count", 1234567, "1,234,567"),
        ("measure", 3.14159, "3.14"),
        ("measure", 1234.5, "1,234"),
        ("change", -0.7742, "−0.77"),
        ("change", 3.681, "+3.68"),
        ("change", -0.0001, "0.00"),
        ("loss", 1.23456, "1.235"),
        ("duration", 161.5, f"2{NNBSP}min 42{NNBSP}s"),
        ("duration", 0.2, f"0{NNBSP}s"),
        ("duration", 7300, f"2{NNBSP}h 1{NNBSP}min"),
    ],
)
def test_a_number_is_printed_in_its_form(form, value, text):
    assert FORMS[form](value) == text


def test_a_printed_number_names_its_value_and_its_source():
    numbers = Numbers({"evaluation": {"a/b~c": [{"mean": 0.5}]}})
    printed = numbers.number("evaluation", "a/b~c", 0, "mean", form="percent")
    assert printed == f'<data value="0.5" data-from="/evaluation/a~1b~0c/0/mean">50.0{NNBSP}%</data>'


def test_a_hostile_key_is_escaped():
    assert "<b>" not in Numbers({"<b>": 1}).number("<b>", form="count")


def test_a_number_that_was_not_measured_is_a_dash():
    numbers = Numbers({"training": {"last_loss": None}, "k_curve": []})
    assert numbers.number("training", "last_loss", form="loss") == MISSING
    assert numbers.number("k_curve", 3, "k", form="count") == MISSING
    assert numbers.interval("behaviours", "base", "num_steps", form="measure") == MISSING


def test_an_interval_without_bounds_is_printed_as_its_mean():
    numbers = Numbers({"num_steps": {"mean": 4.0, "low": None, "high": None}})
    assert "[" not in numbers.interval("num_steps", form="measure")


def test_the_noun_of_one_is_singular():
    numbers = Numbers({"one": 1, "two": 2})
    assert numbers.counted("one", noun="problem").endswith("1</data> problem")
    assert numbers.counted("two", noun="problem").endswith("2</data> problems")


def test_an_interval_is_known_by_its_bounds_and_plotted_as_a_point_without_them():
    numbers = Numbers(
        {"known": {"mean": 4.0, "low": 3.0, "high": 6.0}, "unknown": {"mean": 4.0, "low": None, "high": None}}
    )
    assert numbers.get_interval("known") == plotted(numbers.get("known")) == Interval(4.0, 3.0, 6.0)
    assert numbers.get_interval("unknown") is numbers.get_interval("nothing") is plotted(None) is None
    assert plotted(numbers.get("unknown")) == plotted(4.0) == Interval(4.0, 4.0, 4.0)

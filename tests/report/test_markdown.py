"""report.md, report.html and metrics.json say the same: number by number, in the same form."""

import re

import pytest

from reasonray.report.markdown import render_markdown, traced
from reasonray.report.page import render
from tests.report.test_page import DEGENERATE, Page, begun, hostile_run, inputs_of, resolve, shown_value
from tests.synthetic_run import synthetic_run

NUMBER = re.compile(r'<data value="([^"]*)" data-from="([^"]*)">([^<]*)</data>')
LOOSE = re.compile(r"\d")
CONSTANTS = re.compile(
    r"95 %|95\u202f%|80\u202f%|that includes 0|pass@\d+|maj@\d+|step 0|^Configuration.*", flags=re.MULTILINE
)


@pytest.fixture(scope="module")
def run():
    return synthetic_run(train=30, test=24, steps=9)


def test_every_number_is_that_of_metrics_json(run):
    found = NUMBER.findall(traced(run.metrics, "a-run"))
    assert len(found) > 200
    for value, pointer, text in found:
        stored = resolve(run.metrics, pointer)
        assert float(value) == stored
        if "≤" not in text:
            shown, error = shown_value(text)
            assert abs(shown - stored) <= error or abs(shown - 100 * stored) <= error


def test_no_number_is_from_elsewhere(run):
    bare = CONSTANTS.sub("", NUMBER.sub("", traced(run.metrics, "a-run")))
    assert not LOOSE.findall(bare)
    loose = CONSTANTS.sub("", NUMBER.sub("", traced(run.metrics, "7 runs")))
    assert LOOSE.findall(loose) == ["7"], "one from elsewhere would be found"


def test_page_and_markdown_print_the_same_numbers_alike(run):
    on_page = {}
    for pointer, _, text in Page(render(inputs_of(run))).numbers:
        on_page.setdefault(pointer, set()).add(text)
    found = NUMBER.findall(traced(run.metrics, "a-run"))
    assert {pointer for _, pointer, _ in found} <= on_page.keys()
    assert all(text in on_page[pointer] for _, pointer, text in found)


def test_the_tables_are_aligned_and_no_markup_is_left(run):
    text = render_markdown(run.metrics, "a-run")
    assert not re.search(r"</?\w+[ >]", text)
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) >= 6
    for table in tables:
        assert len({len(line) for line in table.splitlines()}) == 1


def test_names_cannot_break_out_of_a_cell():
    text = render_markdown(hostile_run().metrics, "a | b\n# c")
    assert text.startswith("# a \\| b # c\n")
    assert "<img" not in text
    assert "<script" not in text


@pytest.mark.parametrize("changes", [changes for changes, _ in DEGENERATE.values()], ids=DEGENERATE)
def test_a_degenerate_run_has_a_report(changes):
    text = render_markdown(begun(**changes).metrics, "a-run")
    assert text.startswith("# a-run\n")
    assert "None" not in text
    assert "nan" not in text.lower().split()

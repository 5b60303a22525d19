"""report.md, report.html and metrics.json agree: number by number, in the same form."""

import copy
import re

import pytest

from reasonray.reporting.markdown import render_markdown, traced
from reasonray.reporting.page import render
from tests.reporting.test_page import DEGENERATE, Page, hostile_run, inputs_of, partial_run, resolve, shown_value
from tests.synthetic_run import synthetic_run

pytestmark = pytest.mark.slow

NUMBER = re.compile(r'<data value="([^"]*)" data-from="([^"]*)">([^<]*)</data>')
LOOSE = re.compile(r"\d")
CONSTANTS = re.compile(
    r"95 %|95\u202f%|80\u202f%|that includes 0|pass@\d+|maj@\d+|step 0|\d+ correct|^Configuration.*", flags=re.MULTILINE
)


@pytest.fixture(scope="module")
def run():
    return synthetic_run(train=30, test=24, steps=9)


def test_every_number_equals_that_of_metrics_json(run):
    found = NUMBER.findall(traced(run.metrics, "a-run"))
    assert len(found) > 200
    for value, pointer, text in found:
        stored = resolve(run.metrics, pointer)
        assert float(value) == stored
        if "≤" not in text and not text.endswith(("min", "s")):
            shown, error = shown_value(text)
            assert abs(shown - stored) <= error or abs(shown - 100 * stored) <= error


def test_no_number_comes_from_elsewhere(run):
    bare = CONSTANTS.sub("", NUMBER.sub("", traced(run.metrics, "a-run")))
    assert not LOOSE.findall(bare)
    loose = CONSTANTS.sub("", NUMBER.sub("", traced(run.metrics, "7 runs")))
    assert LOOSE.findall(loose) == ["7"], "a number from elsewhere would be found"


def with_everything(metrics):
    """Return the metrics of a run that was judged, labelled and audited, with two teachers and two test sets."""
    share = {"mean": 0.9, "low": 0.8, "high": 0.95, "of": 40}
    suspect = {"problem_id": "x", "question": "Why?", "answer": "So", "majority": "No", "votes": 5, "of": 7}
    found = copy.deepcopy(metrics)
    found["labels"] = {
        "model": "judge",
        "asked": 60,
        "labelled": 58,
        "kappa": {"verification": {"mean": 0.7, "low": 0.5, "high": 0.9, "lexical": 21, "model": 24}},
    }
    found["paraphrases"] = {
        "model": "judge",
        "items": 24,
        "sampled": 30,
        "asked": 29,
        "read": 28,
        "paraphrases": 3,
        "share": share | {"mean": 0.11},
        "controls": {"accepts_same": share, "refuses_others": share | {"mean": 0.87}, "trusted": False},
    }
    found["verdicts"] |= {
        "judge": "judge",
        "controls": {"accepts_gold": share, "refuses_others": share | {"mean": 0.85}, "trusted": False},
        "agreement": {
            "rules": [{"first": "correct", "second": None, "rollouts": 31}],
            "judge": [{"first": "wrong", "second": "correct", "rollouts": 3}],
            "missed": share | {"mean": 0.87},
            "let_through": share | {"mean": 0.86},
        },
        "gold_audit": {"looked_at": 9, "suspected": 2, "suspects": [suspect, suspect | {"votes": 6}]},
    }
    (teacher,) = found["sampling"]["by_teacher"].values()
    found["sampling"]["by_teacher"]["other"] = teacher
    scores = {arm: slices["all"] for arm, slices in found["evaluation"].items()}
    found["sets"] = {name: {"evaluation": scores, "difference": {}} for name in ("algebra", "words")}
    found["unfinished"] = {"peer": {"samples": 3, "of": 4}}
    spent = {"model": "other", "prompt_tokens": 7012, "completion_tokens": 91500, "amount": 12.375, "currency": "EUR"}
    found["spent"] = [
        {"stage": "sample", "per_correct": 0.00123} | spent,
        {"stage": "evaluate", "per_correct": None} | spent | {"amount": 0.0417},
    ]
    return found


def test_what_models_cost_is_printed_with_its_currency(run):
    text = re.sub(" +", " ", render_markdown(with_everything(run.metrics), "a-run"))
    assert "| other | 7,012 | 91,500 | 12.38 EUR | 0.0012 |" in text
    assert "| other, evaluated | 7,012 | 91,500 | 0.042 EUR | – |" in text
    assert "Paid for" not in render_markdown(run.metrics, "a-run")


def by_pointer(numbers):
    found = {}
    for pointer, text in numbers:
        found.setdefault(pointer, set()).add(text)
    return found


@pytest.mark.parametrize("more", [lambda metrics: metrics, with_everything], ids=["run", "everything"])
def test_page_and_markdown_print_the_same_numbers_in_the_same_form(run, more):
    metrics = more(run.metrics)
    page = Page(render(inputs_of(run, metrics=metrics))).numbers
    on_page = by_pointer((pointer, text) for pointer, _, text in page)
    in_markdown = by_pointer((pointer, text) for _, pointer, text in NUMBER.findall(traced(metrics, "a-run")))
    assert on_page == in_markdown


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
    text = render_markdown(partial_run(**changes).metrics, "a-run")
    assert text.startswith("# a-run\n")
    assert "None" not in text
    assert "nan" not in text.lower().split()

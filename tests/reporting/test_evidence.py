"""Quotations come from rollouts, the most frequent phrases first, and each links to its rollout."""

import base64
import gzip
import json
import re

import pytest

from reasonray.records import Annotation, Span
from reasonray.reporting.evidence import quotes
from reasonray.reporting.page import render
from reasonray.reporting.rollouts import BUDGET
from reasonray.store.schema import rollouts_to_table
from tests.factories import a_rollout
from tests.reporting.test_page import hostile_run, inputs_of
from tests.synthetic_run import synthetic_run

pytestmark = pytest.mark.slow


def saying(text, phrase, sample):
    start = text.index(phrase)
    span = Span("verification", start, start + len(phrase))
    return a_rollout(text, sample=sample, annotation=Annotation(verification=1, spans=(span,)), id=f"r{sample}")


def test_the_most_frequent_phrases_come_first_with_their_context():
    context = "We add seven and then eight and carry the one over to the next column of digits. "
    table = rollouts_to_table(
        [
            saying("It is 9. Let me check. Yes.", "Let me check", 2),
            saying(f"{context}I verify it. {context}", "I verify it", 0),
            saying("It is 9. let me check. No.", "let me check", 1),
        ]
    )
    first, second = quotes({"student": table})
    assert (first.id, first.phrase, first.before, first.after) == ("r1", "let me check", "It is 9. ", ". No.")
    assert (second.id, second.phrase) == ("r0", "I verify it")
    assert second.before.startswith("… ")
    assert second.before.endswith("column of digits. ")
    assert second.after.startswith(". We add")
    assert second.after.endswith(" …")
    assert len(quotes({"student": table}, each=1)) == 1


def test_models_without_annotations_have_no_quotations():
    assert quotes({"base": rollouts_to_table([a_rollout()])}) == []
    assert quotes({}) == []


@pytest.mark.parametrize("budget", [40_000, BUDGET])
def test_a_quotation_on_the_page_links_to_a_rollout_that_the_page_carries(budget):
    run = synthetic_run(train=12, test=12, steps=6)
    html = render(inputs_of(run, budget=budget))
    packed = re.search('id="rollouts">"([^"]+)"', html).group(1)
    carried = {row["id"] for row in json.loads(gzip.decompress(base64.b64decode(packed)))["rollouts"]}
    found = re.findall('<dt><mark class="([^"]+)">.*?href="#rollout=([^"]+)"', html, flags=re.DOTALL)
    assert {behaviour for behaviour, _ in found} >= {"verification", "backtracking"}
    assert {rollout for _, rollout in found} <= carried
    assert (len(carried) < 192 + 144) == (budget < BUDGET)


def test_a_hostile_quotation_is_text():
    html = render(hostile_run())
    assert "In the models’ own words" in html
    assert "<img" not in html.split("In the models’ own words")[1].split("</dl>")[0]

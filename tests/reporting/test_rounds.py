"""The page of a series: did iterating help, until when, at what price; every number is that of rounds.json."""

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest

from reasonray.analysis.json_records import from_json, to_json
from reasonray.analysis.rounds import NO_COST, RoundCost, RoundData, RoundMetrics, SeriesMetrics, SolvedProblem
from reasonray.records import Interval
from reasonray.reporting.numbers import Numbers
from reasonray.reporting.rounds import headline, remarks, render, traced
from tests.reporting.test_page import HOSTILE, Page, resolve, shown_value

UP, SAME, DOWN = Interval(0.25, 0.125, 0.375), Interval(0.0, -0.125, 0.125), Interval(-0.25, -0.375, -0.125)
COST = RoundCost(sampled_tokens=1200, evaluated_tokens=300, rollouts=36, seconds=61.0, accelerator_hours=0.5)


def a_series(changes: Sequence[Interval | None], **other: Any) -> dict[str, Any]:
    """Return the content of rounds.json where each round changed pass@1 like this; None for one without a student."""
    level, rounds = 0.25, []
    for number, change in enumerate(changes, 1):
        level += 0 if change is None else change.mean
        total = Interval(level - 0.25, level - 0.4, level - 0.1)
        rounds.append(
            RoundMetrics(
                round=number,
                run=f"demo-r{number}",
                measures=None if change is None else measured(level),
                to_base=None if change is None else {"pass@1": total},
                to_first=None if change is None or number == 1 else {"pass@1": SAME},
                to_previous=None if change is None else {"pass@1": change, "pass@4": DOWN},
                problems=12,
                solved=4 * number,
                coverage=Interval(4 * number / 12, 0.1, 1.0),
                newly_solved=4,
                first_solutions=(SolvedProblem(problem="p", question=HOSTILE, rollout="0" * 20, earlier=7),),
                data=RoundData(examples=10 * number, own=9, hinted=2, trained_tokens=1012),
                cost=COST,
                warnings=("pass@4",) if change is UP and number > 1 else (),
            )
        )
    series = SeriesMetrics(
        series="demo",
        k=4,
        test_problems=24,
        samples=4,
        base=measured(0.25),
        rounds=tuple(rounds),
        total=sum((one.cost for one in rounds), NO_COST),
        planned=len(changes),
    )
    document: dict[str, Any] = json.loads(json.dumps(to_json(series) | other))
    return document


def measured(level: float) -> dict[str, Interval]:
    names = ("pass@1", "pass@4", "distinct_words", "completion_tokens", "verification")
    return {name: Interval(level, level - 0.125, level + 0.125) for name in names}


def test_every_number_on_page_and_in_markdown_is_that_of_the_file() -> None:
    document = a_series([UP, SAME, DOWN])
    page, text = Page(render(document)), Page(traced(document))
    assert len(page.numbers) > 100
    for pointer, value, shown in (*page.numbers, *text.numbers):
        stored = resolve(document, pointer)
        assert float(value) == stored
        if "min" not in shown and not shown.endswith("s"):
            number, error = shown_value(shown)
            assert abs(number - stored) <= error or abs(number - 100 * stored) <= error
    assert {pointer for pointer, _, _ in text.numbers} <= {pointer for pointer, _, _ in page.numbers}
    loose = [part for part in page.loose if re.search(r"\d", re.sub(r"pass@\d+|which includes 0", "", part))]
    assert loose == []


def test_the_page_fetches_and_runs_nothing_and_links_to_the_rollouts() -> None:
    page = Page(render(a_series([UP, UP])))
    assert "script" not in page.tags
    assert f"../demo-r2/report.html#rollout={'0' * 20}" in page.loads
    assert all(load.startswith(("#", "../demo-r", "data:")) for load in page.loads)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ([UP, UP], "Iterating helped to the end: round 2 still gained +25.0"),
        ([UP, UP, SAME], "Iterating helped until round 2, which gained +25.0"),
        ([UP, SAME], "Iterating did not help: the first round gained +25.0"),
        ([SAME, SAME], "No single round gained measurably"),
        ([UP, DOWN], "round 2 did harm: −25.0"),
        ([UP], "whether another one helps is not known yet"),
        ([UP, None], "whether another one helps is not known yet"),
        ([None], "Price: 1,200 tokens"),
    ],
)
def test_the_remarks_answer_until_when_and_at_what_price(changes: list[Interval | None], sentence: str) -> None:
    numbers = Numbers(a_series(changes))
    said = " ".join(remark.striptags() for remark in remarks(numbers))
    assert sentence.lower() in said.lower()
    assert f"{1200 * len(changes):,} tokens sampled of train problems" in said


def test_the_headline_claims_no_more_than_its_interval() -> None:
    assert headline(a_series([None])).striptags() == "No round’s student has been measured yet."
    assert headline(a_series([SAME])).striptags().startswith("1 round made no measurable difference: 0.0 [")
    assert "2 rounds lifted pass@1 from 25.0 % to 75.0 %: +50.0" in headline(a_series([UP, UP])).striptags()
    assert "1 round lowered pass@1" in headline(a_series([Interval(-0.25, -0.3, -0.2)])).striptags()


def test_a_narrowing_student_and_the_reason_to_stop_are_on_the_page() -> None:
    document = a_series([UP, UP], stopped="every train problem is solved", planned=5)
    said = [remark.striptags() for remark in remarks(Numbers(document))]
    assert any(remark.startswith("Warning: in round 2 pass@1 rose while variety fell (pass@4)") for remark in said)
    assert any("No further round was made: every train problem is solved" in remark for remark in said)
    assert any("2 of 5 rounds have begun" in r.striptags() for r in remarks(Numbers(a_series([UP, UP], planned=5))))


def test_the_file_is_read_again_as_it_was_written() -> None:
    document = a_series([UP, None])
    document["base"] = None
    assert to_json(from_json(SeriesMetrics, document)) == document

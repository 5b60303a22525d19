"""What is printed when problems are loaded: gold answers that cannot be judged, and what was left out."""

import json
from pathlib import Path

import pytest

from reasonray.cli.plan import forecast
from reasonray.config import Config
from reasonray.stages.sample import load_problems
from reasonray.store.run import begin_or_resume
from tests.factories import a_scripted_config


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A run on five problems of which four cannot be judged, and two are one question."""
    golds = ["42", r"\frac{1}{", "???", r"\sqrt{", r"\left(\frac{1}{2"]
    rows = [{"question": f"{number}?", "answer": gold} for number, gold in enumerate(golds)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, [*rows, {"question": "0?", "answer": "43"}])))
    return a_scripted_config(tmp_path, sources=[{"kind": "files", "train": str(path)}])


def test_gold_answers_that_cannot_be_judged_are_counted_and_three_are_shown(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin_or_resume(config)
    load_problems(run)
    printed = capsys.readouterr().out
    assert "4 cannot be judged, such as:" in printed
    assert printed.count("the answer '") == 3
    assert r"the answer '\\frac{1}{' to '1?': " in printed
    assert "1 questions with two gold answers" in printed
    (event,) = run.events.read("problems")
    assert event["unverifiable"] == 4
    assert len(event["notes"]) == 1


def test_a_plan_prints_what_was_left_out(config: Config) -> None:
    assert "1 questions with two gold answers" in forecast(config)

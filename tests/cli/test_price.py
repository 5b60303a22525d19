"""Prices: a currency is needed; plan forecasts what sampling costs at most, and status adds up what it has cost."""

from pathlib import Path
from typing import Any

import pytest

from reasonray.cli.plan import forecast
from reasonray.cli.status import describe
from reasonray.config import Config, ConfigError, parse
from reasonray.store.run import begin_or_resume
from reasonray.store.spending import record_spending
from tests.factories import a_rollout, a_scripted_config


def priced(root: Path, price: dict[str, Any]) -> Config:
    raw = a_scripted_config(root, train=6, samples=2).model_dump(mode="json")
    raw["teachers"][0] |= {"price": price, "sampling": raw["teachers"][0]["sampling"] | {"max_tokens": 1000}}
    return parse(raw)


@pytest.mark.parametrize("currency", [{}, {"currency": ""}, {"currency": "$"}, {"currency": "dollar"}])
def test_a_price_without_a_currency_is_refused(tmp_path: Path, currency: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"teachers\.0\.price\.currency"):
        priced(tmp_path, {"input": 1.0, "output": 2.0} | currency)


def test_a_price_below_zero_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"teachers\.0\.price\.output"):
        priced(tmp_path, {"output": -1.0, "currency": "USD"})


def test_plan_prints_what_completions_cost_at_most(tmp_path: Path) -> None:
    text = forecast(priced(tmp_path, {"output": 500.0, "currency": "EUR"}))
    assert "12,000 tokens at most   6.00 EUR at most for completions" in text, "6 problems × 2 × 1000 tokens"
    assert "EUR" not in forecast(a_scripted_config(tmp_path))


def test_status_adds_up_what_committed_rollouts_have_cost(tmp_path: Path) -> None:
    run = begin_or_resume(priced(tmp_path, {"input": 1e5, "output": 2e5, "currency": "USD"}))
    rollouts = [a_rollout(sample=number, prompt_tokens=10, completion_tokens=20) for number in range(3)]
    assert "0.00 USD on 0 prompt and 0 completion tokens of teacher" in describe(run)
    run.ledger.append(rollouts)
    assert "15.00 USD on 30 prompt and 60 completion tokens of teacher" in describe(run)


def test_plan_estimates_what_prompts_cost(tmp_path: Path) -> None:
    text = forecast(priced(tmp_path, {"input": 1e6, "output": 500.0, "currency": "EUR"}))
    line = next(line for line in text.splitlines() if line.startswith("sample"))
    cost = float(line.partition("completions, about ")[2].partition(" for prompts")[0].replace(",", ""))
    assert 12 * 3 < cost < 12 * 60, "12 prompts of some tokens, at one EUR a token"
    assert "for prompts" not in forecast(priced(tmp_path, {"output": 500.0, "currency": "EUR"}))


def test_what_was_spent_is_in_the_events_and_counts_models_under_evaluation(tmp_path: Path) -> None:
    run = begin_or_resume(priced(tmp_path, {"input": 1e5, "output": 2e5, "currency": "USD"}))
    run.ledger.append([a_rollout(prompt_tokens=10, completion_tokens=20)])
    run.evaluation("teacher").append([a_rollout(prompt_tokens=1, completion_tokens=2)])
    assert [str(spent) for spent in record_spending(run, "evaluate")] == [
        "0.50 USD on 1 prompt and 2 completion tokens of teacher, evaluated"
    ]
    record_spending(run, "sample")
    assert [(event["of"], event["spent"]) for event in run.events.read("spent")] == [
        ("evaluate", [{"model": "teacher", "amount": 0.5, "currency": "USD"}]),
        ("sample", [{"model": "teacher", "amount": 5.0, "currency": "USD"}]),
    ]
    assert "spent      5.00 USD on 10 prompt" in describe(run)


def test_a_run_without_prices_records_no_money(tmp_path: Path) -> None:
    run = begin_or_resume(a_scripted_config(tmp_path))
    assert record_spending(run, "sample") == run.events.read("spent") == []

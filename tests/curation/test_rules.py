"""Every rule drops its examples and no good rollout; the first rule that fires is the reason."""

import random
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonray.config import Curation, UserError
from reasonray.curation.comparing_rules import Comparison
from reasonray.curation.features import rollout_features
from reasonray.curation.measures import NGRAM, measure_table
from reasonray.curation.rules import GOOD, RULES, ComparingRule, RolloutRule, check_names, first_fired
from reasonray.records import Finish, Outcome, Verdict
from reasonray.store.schema import rollouts_to_table
from tests.factories import a_rollout

ROLLOUT_RULES = {name: rule for name, rule in RULES.items() if isinstance(rule, RolloutRule)}
COMPARING_RULES = {name: rule for name, rule in RULES.items() if isinstance(rule, ComparingRule)}


def a_table(*changes: Any, ngram: int = NGRAM) -> pa.Table:
    return measure_table(pa.Table.from_pylist([{**GOOD, **change} for change in changes]), ngram)


def first_rules(table: pa.Table, curation: Curation) -> list[str]:
    """Return the name of the first rule that fires on each row, "" where none does."""
    return [(*curation.rules, "")[position] for position in first_fired(table, curation).to_pylist()]


@pytest.mark.parametrize("name", ROLLOUT_RULES)
def test_a_rule_drops_its_examples_and_keeps_the_others(name: str) -> None:
    rule = ROLLOUT_RULES[name]
    curation = Curation(**rule.settings or {})
    assert rule.drops(a_table(*rule.dropped), curation).to_pylist() == [True] * len(rule.dropped)
    assert rule.drops(a_table(*rule.kept), curation).to_pylist() == [False] * len(rule.kept)


@pytest.mark.parametrize("name", COMPARING_RULES)
def test_a_comparing_rule_drops_its_examples_after_a_good_rollout_and_keeps_the_others(name: str) -> None:
    rule = COMPARING_RULES[name]
    curation = Curation(**rule.settings or {})
    for example, wanted in [*product(rule.dropped, [True]), *product(rule.kept, [False])]:
        comparison = a_comparison(curation, {}, example)
        assert rule.drops(comparison, np.arange(2)).tolist()[1] == wanted, example


def a_comparison(curation: Curation, *changes: Any) -> Comparison:
    """Return two rollouts that are compared; the problem named "contaminated" overlaps with a held-out one."""
    table = a_table(*changes)
    for column, values in (("id", ["0", "1"]), ("problem_source", ["s", "s"]), ("resample", [0, 0])):
        table = table.append_column(column, pa.array(values))
    features = rollout_features(table, curation)
    one = features["problem_id"][0] == features["problem_id"][1]
    correct, judged = (
        np.array([outcome in outcomes for outcome in features["verdict_outcome"].to_pylist()])
        for outcomes in (["correct"], ["correct", "wrong"])
    )
    groups = [slice(0, 2)] if one else [slice(0, 1), slice(1, 2)]
    rates = [correct[group].sum() / judged[group].sum() if judged[group].any() else np.nan for group in groups]
    return Comparison(features, np.array([0, 0 if one else 1]), np.array(rates), curation, ["contaminated"])


def test_the_default_rules_exist_and_the_doubtful_ones_must_be_named() -> None:
    assert set(Curation().rules) <= RULES.keys()
    assert RULES.keys() - set(Curation().rules) == {
        "false_arithmetic",  # a false equation may be meant otherwise
        "code_blocks",
        "leaked_answer",
        "other_teacher",
        "pass_rate",
        "same_reasoning",
        "near_duplicate",
    }


def test_the_readme_lists_every_rule_with_its_summary() -> None:
    readme = (Path(__file__).parents[2] / "reasonray" / "curation" / "README.md").read_text()
    lines = [
        f"| `{name}` | {'rollout' if isinstance(rule, RolloutRule) else 'comparing'} "
        f"| {'yes' if name in Curation().rules else ''} | {rule.summary} |"
        for name, rule in RULES.items()
    ]
    assert [line for line in readme.splitlines() if line.startswith("| `") and line.count("|") == 5] == lines


def test_a_rule_of_the_user_is_one_function(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "my_rules.py").write_text(
        "import pyarrow.compute as pc\n"
        "def polite(table, curation):\n    return pc.invert(pc.match_substring(table['completion'], 'please'))\n"
        "def short(table, curation):\n    return [True]\n"
        "def worded(table, curation):\n    return ['no'] * table.num_rows\n"
        "def unsure(table, curation):\n    return pc.if_else(polite(table, curation), None, True)\n"
        "least = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    table = a_table({}, {"completion": "<think> please </think> 42"})
    assert first_rules(table, Curation(rules=("my_rules:polite",))) == ["my_rules:polite", ""]
    with pytest.raises(UserError, match=r"my_rules:rude cannot be imported .*has no attribute 'rude'"):
        first_fired(table, Curation(rules=("my_rules:rude",)))
    with pytest.raises(UserError, match="my_rules:short returned 1 booleans for 2 rollouts"):
        first_fired(table, Curation(rules=("my_rules:short",)))
    for name, value in (("worded", "'no'"), ("unsure", "None")):
        message = f"my_rules:{name} returned values other than true and false, such as {value}"
        with pytest.raises(UserError, match=message):
            first_fired(table, Curation(rules=(f"my_rules:{name}",)))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("torn:rule", "SyntaxError: .*torn.py, line 1"),
        ("unnamed:rule", "NameError: name 'spam' is not defined"),
        (".torn:rule", "TypeError: .*relative import"),
        (":rule", "ValueError: Empty module name"),
        ("lost:rule", "No module named 'lost'"),
        ("os:sep", "is not a function"),
    ],
)
def test_a_function_that_cannot_be_used_is_reported_in_one_line(
    name: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torn.py").write_text("def rule(:\n")
    (tmp_path / "unnamed.py").write_text("spam\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for curation in (Curation(rules=(name,)), Curation(prefer="score", score=name)):
        message = f"^curation.(rules|score): {name} .*{reason}.*; name it as module:function"
        with pytest.raises(UserError, match=message):
            check_names(curation)


def test_the_first_rule_of_the_configuration_is_the_reason() -> None:
    table = a_table({"verdict_outcome": "truncated", "finish": "length"}, {})
    assert first_rules(table, Curation(rules=("truncated", "incorrect"))) == ["truncated", ""]
    assert first_rules(table, Curation(rules=("incorrect", "truncated"))) == ["incorrect", ""]


def test_no_rules_drop_nothing() -> None:
    assert first_rules(a_table({"verdict_outcome": "wrong"}), Curation(rules=())) == [""]


def test_an_empty_table_has_no_rows_to_drop() -> None:
    assert first_rules(a_table({}).slice(0, 0), Curation()) == []


def test_an_unknown_rule_is_refused_with_those_that_exist() -> None:
    with pytest.raises(UserError, match=r"no rule 'to_long'; choose from failed, .*too_long, repetitive, .*duplicate"):
        first_fired(a_table({}), Curation(rules=("to_long",)))


def test_repetition_is_measured_by_the_configured_ngram() -> None:
    loop = {"completion": "<think> one two three, one two three, one two three, </think> 3"}
    three, eight = a_table(loop, ngram=3), a_table(loop, ngram=8)
    assert first_rules(three, Curation(repetition_times=3)) == ["repetitive"]
    assert first_rules(three, Curation(repetition_times=4)) == [""]
    assert first_rules(eight, Curation(repetition_times=2)) == [""]


def test_rollouts_of_the_ledger_can_be_judged() -> None:
    wrong = Verdict(outcome=Outcome.WRONG)
    rollouts = [a_rollout(), a_rollout(sample=1, verdict=wrong), a_rollout(sample=2, finish=Finish.ERROR)]
    assert first_rules(measure_table(rollouts_to_table(rollouts)), Curation()) == ["", "incorrect", "failed"]


_WORDS = st.lists(st.sampled_from("ab"), max_size=40)


@given(_WORDS, st.integers(1, 4), st.integers(1, 6))
def test_repetition_agrees_with_a_count_of_every_ngram(words: list[str], size: int, times: int) -> None:
    windows = [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
    wanted = any(windows.count(window) >= times for window in windows)
    table = a_table({"completion": " ".join(words)}, ngram=size)
    assert ROLLOUT_RULES["repetitive"].drops(table, Curation(repetition_times=times)).to_pylist() == [wanted]


_EXAMPLES = [dict(example) for rule in ROLLOUT_RULES.values() for example in (*rule.dropped, *rule.kept)]


@given(st.lists(st.sampled_from(_EXAMPLES), min_size=1), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_rows_are_judged_one_by_one_whatever_the_order_of_the_rules(
    rows: list[dict[str, Any]], dice: random.Random
) -> None:
    curation = Curation(rules=tuple(dice.sample([*RULES], len(RULES))))
    alone = [first_rules(a_table(row), curation)[0] for row in rows]
    assert first_rules(a_table(*rows), curation) == alone

"""Every rule drops its examples and no good rollout; the first that fires gives the reason."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonray.config import Curation, UserError
from reasonray.curation.measures import NGRAM, measure_table
from reasonray.curation.rules import COMPARING, RULES, check_names, first_drop
from reasonray.records import Finish, Outcome, Verdict
from reasonray.store.schema import rollouts_to_table
from tests.factories import a_rollout

GOOD = {
    "finish": "stop",
    "verdict_outcome": "correct",
    "completion": "<think> 6 * 7 = 42. </think> The answer is 42.",
    "completion_tokens": 12,
    "problem_question": "What is 6 * 7?",
}


def a_table(*changes: Any, ngram: int = NGRAM) -> pa.Table:
    return measure_table(pa.Table.from_pylist([GOOD | dict(change) for change in changes]), ngram)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_drops_its_examples_and_leaves_the_others(name: str) -> None:
    rule = RULES[name]
    assert rule.drops(a_table(*rule.dropped), Curation()).to_pylist() == [True] * len(rule.dropped)
    assert rule.drops(a_table(*rule.kept), Curation()).to_pylist() == [False] * len(rule.kept)


def test_the_default_rules_are_there_and_the_doubtful_ones_must_be_asked_for() -> None:
    assert set(Curation().rules) <= {*RULES, *COMPARING}
    assert {*RULES, *COMPARING} - set(Curation().rules) == {
        "false_arithmetic",  # a false equation may be meant otherwise
        "code_blocks",
        "leaked_answer",
        "pass_rate",
        "same_reasoning",
        "near_duplicate",
    }


def test_a_rule_of_the_users_is_one_function(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
    assert first_drop(table, Curation(rules=("my_rules:polite",))).to_pylist() == ["my_rules:polite", ""]
    with pytest.raises(UserError, match=r"my_rules:rude cannot be imported .*has no attribute 'rude'"):
        first_drop(table, Curation(rules=("my_rules:rude",)))
    with pytest.raises(UserError, match="my_rules:short gave 1 booleans for 2 rollouts"):
        first_drop(table, Curation(rules=("my_rules:short",)))
    for name, value in (("worded", "'no'"), ("unsure", "None")):
        with pytest.raises(UserError, match=f"my_rules:{name} gave other values than true and false, such as {value}"):
            first_drop(table, Curation(rules=(f"my_rules:{name}",)))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("torn:rule", "SyntaxError: .*torn.py, line 1"),
        ("unnamed:rule", "NameError: name 'spam' is not defined"),
        (".torn:rule", "TypeError: .*relative import"),
        (":rule", "ValueError: Empty module name"),
        ("lost:rule", "No module named 'lost'"),
        ("os:sep", "is no function"),
    ],
)
def test_a_function_that_cannot_be_used_is_told_in_one_line(
    name: str, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torn.py").write_text("def rule(:\n")
    (tmp_path / "unnamed.py").write_text("spam\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for curation in (Curation(rules=(name,)), Curation(prefer="score", score=name)):
        with pytest.raises(UserError, match=f"^curation.(rules|score): {name} .*{why}.*; name it as module:function"):
            check_names(curation)


def test_the_first_rule_of_the_configuration_gives_the_reason() -> None:
    table = a_table({"verdict_outcome": "truncated", "finish": "length"}, {})
    assert first_drop(table, Curation(rules=("truncated", "incorrect"))).to_pylist() == ["truncated", ""]
    assert first_drop(table, Curation(rules=("incorrect", "truncated"))).to_pylist() == ["incorrect", ""]


def test_no_rules_drop_nothing() -> None:
    assert first_drop(a_table({"verdict_outcome": "wrong"}), Curation(rules=())).to_pylist() == [""]


def test_duplicates_are_left_to_selection() -> None:
    assert first_drop(a_table({}, {}), Curation()).to_pylist() == ["", ""]


def test_an_empty_table_has_no_fates() -> None:
    assert first_drop(a_table({}).slice(0, 0), Curation()).to_pylist() == []


def test_an_unknown_rule_is_refused_with_those_that_exist() -> None:
    with pytest.raises(UserError, match=r"no rule 'to_long'; choose from failed, .*too_long, repetitive, .*duplicate"):
        first_drop(a_table({}), Curation(rules=("to_long",)))


def test_repetition_is_measured_by_the_configured_ngram() -> None:
    loop = {"completion": "<think> one two three, one two three, one two three, </think> 3"}
    three, eight = a_table(loop, ngram=3), a_table(loop, ngram=8)
    assert first_drop(three, Curation(repetition_times=3)).to_pylist() == ["repetitive"]
    assert first_drop(three, Curation(repetition_times=4)).to_pylist() == [""]
    assert first_drop(eight, Curation(repetition_times=2)).to_pylist() == [""]


def test_rollouts_of_the_ledger_can_be_judged() -> None:
    wrong = Verdict(outcome=Outcome.WRONG)
    rollouts = [a_rollout(), a_rollout(sample=1, verdict=wrong), a_rollout(sample=2, finish=Finish.ERROR)]
    assert first_drop(measure_table(rollouts_to_table(rollouts)), Curation()).to_pylist() == ["", "incorrect", "failed"]


_WORDS = st.lists(st.sampled_from("ab"), max_size=40)


@given(_WORDS, st.integers(1, 4), st.integers(1, 6))
def test_repetition_is_what_counting_every_ngram_finds(words: list[str], size: int, times: int) -> None:
    windows = [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
    wanted = any(windows.count(window) >= times for window in windows)
    table = a_table({"completion": " ".join(words)}, ngram=size)
    assert RULES["repetitive"].drops(table, Curation(repetition_times=times)).to_pylist() == [wanted]


@given(
    st.lists(st.sampled_from([dict(it) for rule in RULES.values() for it in (*rule.dropped, *rule.kept)]), min_size=1)
)
@settings(deadline=None)
def test_rows_are_judged_one_by_one(rows: list[dict[str, Any]]) -> None:
    alone = [first_drop(a_table(row), Curation()).to_pylist()[0] for row in rows]
    assert first_drop(a_table(*rows), Curation()).to_pylist() == alone

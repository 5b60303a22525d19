"""How far checkers agree, and when a judge is trusted."""

import pyarrow as pa
import pytest

from reasonray.analysis.checker_agreement import agreement, control_results


def test_a_judge_is_trusted_only_if_it_does_better_on_its_controls_than_chance() -> None:
    right, wrong = ["correct"] * 50, ["wrong"] * 50
    assert control_results(right, wrong)["trusted"]
    assert not control_results(right, right)["trusted"], "it accepts everything"
    assert not control_results(wrong, wrong)["trusted"], "it refuses everything"
    assert not control_results(right[:30] + wrong[:20], right[:20] + wrong[:30])["trusted"], "six of ten may be luck"
    assert control_results(right[:25] + [None] * 25, [*wrong[:49], None])["trusted"], "it decides seldom, and correctly"
    assert control_results([], [])["trusted"], "there is no control question"


def test_agreement_counts_pairs_and_estimates_the_mistakes_of_the_rules_from_the_audit_alone() -> None:
    columns = ["rules_outcome", "fast_outcome", "symbolic_outcome", "judge_outcome", "audited"]
    rows = [
        ("correct", "correct", "correct", "correct", True),
        ("correct", "correct", "wrong", "wrong", True),
        ("wrong", "wrong", "wrong", "correct", True),
        ("wrong", None, None, "no_answer", True),
        ("no_answer", None, None, "correct", False),
        ("wrong", None, None, None, False),
    ]
    schema = pa.schema([*((name, pa.string()) for name in columns[:-1]), ("audited", pa.bool_())])
    verified = pa.table([pa.array(values) for values in zip(*rows, strict=True)], schema=schema)
    agreed = agreement(verified)
    assert {(pair["first"], pair["second"]): pair["rollouts"] for pair in agreed["rules"]} == {
        ("correct", "correct"): 1,
        ("correct", "wrong"): 1,
        ("wrong", "wrong"): 1,
    }
    assert sum(pair["rollouts"] for pair in agreed["judge"]) == 5
    assert (agreed["missed"]["of"], agreed["missed"]["mean"]) == (1, pytest.approx(1.0))
    assert (agreed["let_through"]["of"], agreed["let_through"]["mean"]) == (2, pytest.approx(0.5))

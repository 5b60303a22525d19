"""Any two arms, problem sets, variants of a template, votes by meaning, and checkpoints of which several are tested."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from reasonray.analysis.answer_groups import group_equal_answers
from reasonray.analysis.comparisons import clusters_of, compare_arms, compare_checkpoints, compare_runs
from reasonray.analysis.estimators import share_interval
from reasonray.analysis.json_records import to_json
from reasonray.analysis.reasoning_stats import behaviours
from reasonray.analysis.scores import score
from reasonray.errors import UserError
from reasonray.records import Annotation, Outcome, Split, Verdict
from reasonray.reporting.compared import render_markdown
from reasonray.store.schema import rollouts_to_table
from tests.factories import a_problem, a_rollout
from tests.synthetic_run import arm_table, problems

RIGHT, WRONG = Outcome.CORRECT, Outcome.WRONG


def voted(*answers):
    """Rollouts of one problem with the gold answer 42, and the problem by its id."""
    verdicts = [Verdict(outcome=RIGHT if answer == "42" else WRONG, extracted=answer) for answer in answers]
    problem = a_problem()
    rows = [a_rollout(problem=problem, sample=i, verdict=verdict) for i, verdict in enumerate(verdicts)]
    return rollouts_to_table(rows), {problem.id: problem}


def test_wrong_answers_that_the_checker_finds_equal_are_one_vote():
    table, known = voted("42", "42", "1/2", "0.5", "\\frac{1}{2}", "43")
    assert group_equal_answers(table, known)["verdict_extracted"].to_pylist() == ["42", "42", "1/2", "1/2", "1/2", "43"]
    (by_text, *_) = score(table, "base", (6,))
    (by_meaning, *_) = score(group_equal_answers(table, known), "base", (6,))
    assert by_text.majority_at[6].mean == 1, "as texts, no wrong answer has more than one vote"
    assert by_meaning.majority_at[6].mean == 0


def test_other_problems_and_missing_answers_are_left_alone():
    table, _ = voted("1/2", "0.5", None)
    assert group_equal_answers(table, {})["verdict_extracted"].to_pylist() == ["1/2", "0.5", None]
    other = rollouts_to_table([a_rollout(problem=a_problem("2?"), verdict=Verdict(outcome=WRONG, extracted="0.5"))])
    first, known = voted("1/2")
    both = group_equal_answers(pa.concat_tables([first, other]), known)
    assert both["verdict_extracted"].to_pylist() == ["1/2", "0.5"]


def variants(count, copies, split=Split.TEST):
    """Problems of some templates, each in several wordings."""
    return [
        a_problem(f"{i} in words {j}", str(i), split=split, difficulty="", metadata={"template": i})
        for i in range(count)
        for j in range(copies)
    ]


def an_arm(problems, is_right):
    """Two samples of each problem; `is_right(problem, sample)` decides which are correct."""
    return rollouts_to_table(
        a_rollout(
            problem=problem,
            sample=sample,
            outcome=RIGHT if is_right(problem, sample) else WRONG,
            id=f"{problem.id}{sample}",
            teacher="base",
        )
        for problem in problems
        for sample in range(2)
    )


def is_even(problem, _):
    return int(problem.answer) % 2 == 0


def width(interval):
    return interval.high - interval.low


def test_variants_of_a_template_widen_the_intervals():
    test = variants(8, 5)
    arm = an_arm(test, is_even)
    alone = compare_arms({"base": arm}, [1], test).evaluation["base"]["all"].pass_at[1]
    clustered = compare_arms({"base": arm}, [1], test, clusters_of(test, "template")).evaluation["base"]["all"]
    assert clustered.pass_at[1].mean == alone.mean == 0.5
    assert width(clustered.pass_at[1]) > 2 * width(alone)
    assert clustered.completion_tokens.mean > 0


def test_a_comparison_of_runs_gives_the_figures_that_the_report_of_one_run_would_give():
    test = variants(8, 5)
    clusters = clusters_of(test, "template")
    before = an_arm(test, is_even)
    after = an_arm(test, lambda problem, sample: is_even(problem, sample) or int(problem.answer) < 4)
    comparison = compare_arms({"base": before, "student": after}, [1], test, clusters)
    reported = comparison.difference["student-base"]["all"]
    compared = compare_runs({"one": before, "two": after}, clusters)["two-one"].slices["all"]
    assert compared == replace(reported, p_holm=reported.p)
    alone = compare_runs({"one": before, "two": after})["two-one"].slices["all"]
    assert alone.p < 0.05 < compared.p


def test_behaviours_are_as_certain_as_the_templates_make_them():
    test = variants(8, 5)
    arm = rollouts_to_table(
        a_rollout(problem=problem, sample=sample, id=f"{problem.id}{sample}", teacher="base",
                  annotation=Annotation(verification=int(problem.answer) % 2, num_steps=1 + int(problem.answer)))
        for problem in test for sample in range(2)
    )  # fmt: skip
    clusters = clusters_of(test, "template")
    alone, clustered = behaviours(arm), behaviours(arm, clusters)
    (checkpoint,) = compare_checkpoints({0: arm}, clusters)
    for name in ("verification", "num_steps"):
        one, other = getattr(alone, name), getattr(clustered, name)
        assert other.mean == one.mean
        assert width(other) > 2 * width(one)
        assert getattr(checkpoint, name) == other
    share = share_interval(np.repeat([0.0, 1.0] * 4, 10), clusters=np.repeat(np.arange(8), 10))
    assert to_json(clustered.verification) == pytest.approx(to_json(share))
    assert clustered.correct.verification == clustered.verification


def test_a_cluster_that_no_problem_has_is_refused():
    assert clusters_of(variants(2, 1), None) is None
    with pytest.raises(UserError, match=r"no test problem's metadata has it; correct it \(there is template\)"):
        clusters_of(variants(2, 1), "seed")


def test_any_two_arms_are_compared_and_the_student_comes_first():
    test = problems(24, Split.TEST)
    arms = {name: arm_table(name, test, 4) for name in ("base", "teacher", "student")}
    difference = compare_arms(arms, [1, 4], test).difference
    assert list(difference) == ["student-base", "student-teacher", "teacher-base"]
    assert difference["teacher-base"]["all"].mean == pytest.approx(
        difference["student-base"]["all"].mean - difference["student-teacher"]["all"].mean
    )
    power = difference["student-base"]["all"].power
    assert 0 < power.within_share < 1
    assert power.detectable_twice_problems <= power.detectable_twice_samples < power.detectable


@pytest.mark.parametrize(
    ("before", "after", "advice"),
    [
        (lambda problem, sample: False, lambda problem, sample: int(problem.answer) < 30, "enough"),
        (lambda problem, sample: sample == 0, is_even, "samples"),  # before, every problem is solved half of the time
        (is_even, lambda problem, sample: int(problem.answer) % 4 < 2, "problems"),
    ],
    ids=["enough", "samples", "problems"],
)
def test_the_advice_follows_the_source_of_the_variance(before, after, advice):
    test = variants(40, 1)
    comparison = compare_arms({"base": an_arm(test, before), "student": an_arm(test, after)}, [1], test)
    assert comparison.difference["student-base"]["all"].advice == advice


def test_problem_sets_are_scored_separately():
    test = [a_problem(f"{name} {i}?", source=name, split=Split.TEST) for i in range(6) for name in ("algebra", "words")]
    arms = {
        name: an_arm(test, lambda problem, _, name=name: problem.source == "words" and name == "student")
        for name in ("base", "student")
    }
    comparison = compare_arms(arms, [1], test)
    assert list(comparison.sets) == ["algebra", "words"]
    assert comparison.sets["words"].evaluation["student"].pass_at[1].mean == 1
    assert comparison.sets["algebra"].difference["student-base"].mean == 0
    assert comparison.evaluation["student"]["all"].problems == 12
    one = [problem for problem in test if problem.source == "words"]
    parts = {arm: table.filter(pc.equal(table["problem_source"], "words")) for arm, table in arms.items()}
    assert compare_arms(parts, [1], one).sets == {}


def test_checkpoints_are_tested_against_step_0_and_adjusted_for_their_number():
    test = problems(30, Split.TEST)
    base = arm_table("base", test, 2)
    later = {step: arm_table(f"step-{step:06d}", test, 2, gain=gain) for step, gain in ((3, 0.3), (6, 1.0), (9, 2.0))}
    rows = compare_checkpoints({0: base} | later)
    assert [row.step for row in rows] == [0, 3, 6, 9]
    assert rows[0].difference is None
    assert "difference" not in to_json(rows[0])
    ps = [row.difference.p for row in rows[1:]]
    adjusted = [row.difference.p_holm for row in rows[1:]]
    assert max(adjusted) <= 1
    assert all(p <= q <= 3 * p + 1e-12 or q == 1 for p, q in zip(ps, adjusted, strict=True))
    assert min(adjusted) == pytest.approx(min(1, 3 * min(ps)))
    assert to_json(rows[1].by_difficulty["hard"]).keys() >= {"pass@1", "verification", "correct", "not_correct"}
    json.dumps(to_json(rows), allow_nan=False)
    assert all(row.difference is None for row in compare_checkpoints(later))


def test_of_several_pairs_of_runs_only_those_that_remain_after_adjusting_are_called_a_lift():
    test = problems(60, Split.TEST)
    gains = (0.6, 0.7, 0.75, 0.85, 0.95)
    compared = compare_runs({f"r{i}": arm_table(f"run{i}", test, 4, gain=gain) for i, gain in enumerate(gains)})
    differences = [pair.slices["all"] for pair in compared.values()]
    assert any(difference.low > 0 and difference.p_holm >= 0.05 for difference in differences), (
        "otherwise the test shows nothing"
    )
    adjusted = [difference.p_holm for difference in differences]
    text = render_markdown({"pairs": to_json(compared), "runs": {}, "unfinished": {}, "config": {}})
    assert text.count("a lift") + text.count("a loss") == sum(p < 0.05 for p in adjusted)
    assert text.count("no measurable difference") == sum(p >= 0.05 for p in adjusted)

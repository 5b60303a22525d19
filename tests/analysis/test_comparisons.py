"""Any two arms, problem sets, variants of a template, votes by meaning, and checkpoints tested several times over."""

import json
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from reasonray.analysis.answer_groups import alike
from reasonray.analysis.comparisons import across_runs, clusters_of, evaluation, over_training
from reasonray.analysis.estimators import share_interval
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
    """One problem, 42 being right, and its attempts."""
    verdicts = [Verdict(outcome=RIGHT if it == "42" else WRONG, extracted=it) for it in answers]
    problem = a_problem()
    rows = [a_rollout(problem=problem, sample=i, verdict=it) for i, it in enumerate(verdicts)]
    return rollouts_to_table(rows), {problem.id: problem}


def test_wrong_answers_that_the_checker_finds_equal_are_one_vote():
    table, known = voted("42", "42", "1/2", "0.5", "\\frac{1}{2}", "43")
    assert alike(table, known)["verdict_extracted"].to_pylist() == ["42", "42", "1/2", "1/2", "1/2", "43"]
    (by_text, *_) = score(table, "base", (6,))
    (by_meaning, *_) = score(alike(table, known), "base", (6,))
    assert by_text.majority_at[6].mean == 1, "as texts, no wrong answer has more than one vote"
    assert by_meaning.majority_at[6].mean == 0


def test_other_problems_and_missing_answers_are_left_alone():
    table, _ = voted("1/2", "0.5", None)
    assert alike(table, {})["verdict_extracted"].to_pylist() == ["1/2", "0.5", None]
    other = rollouts_to_table([a_rollout(problem=a_problem("2?"), verdict=Verdict(outcome=WRONG, extracted="0.5"))])
    first, known = voted("1/2")
    both = alike(pa.concat_tables([first, other]), known)
    assert both["verdict_extracted"].to_pylist() == ["1/2", "0.5"]


def variants(count, copies, split=Split.TEST):
    made = [(i, a_problem(f"{i} in words {j}", str(i), split=split, difficulty="", metadata={"template": i}))
            for i in range(count) for j in range(copies)]  # fmt: skip
    return [problem for _, problem in made]


def an_arm(asked, right):
    return rollouts_to_table(
        a_rollout(problem=it, sample=s, outcome=RIGHT if right(it, s) else WRONG, id=f"{it.id}{s}", teacher="base")
        for it in asked
        for s in range(2)
    )


def test_variants_of_a_template_widen_the_intervals():
    asked = variants(8, 5)
    arm = an_arm(asked, lambda it, _: int(it.answer) % 2 == 0)
    alone = evaluation({"base": arm}, [1], asked)["evaluation"]["base"]["all"]["pass@1"]
    together = evaluation({"base": arm}, [1], asked, clusters_of(asked, "template"))["evaluation"]["base"]["all"]
    assert together["pass@1"]["mean"] == alone["mean"] == 0.5
    assert together["pass@1"]["high"] - together["pass@1"]["low"] > 2 * (alone["high"] - alone["low"])
    assert together["completion_tokens"]["mean"] > 0


def test_runs_compared_say_what_the_report_of_one_run_would_say():
    asked = variants(8, 5)
    clusters = clusters_of(asked, "template")
    before = an_arm(asked, lambda it, _: int(it.answer) % 2 == 0)
    after = an_arm(asked, lambda it, _: int(it.answer) % 2 == 0 or int(it.answer) < 4)
    reported = evaluation({"base": before, "student": after}, [1], asked, clusters)["difference"]["student-base"]["all"]
    compared = across_runs({"one": before, "two": after}, clusters)["two-one"]["slices"]["all"]
    assert compared == reported | {"p_holm": reported["p"]}
    alone = across_runs({"one": before, "two": after})["two-one"]["slices"]["all"]
    assert alone["p"] < 0.05 < compared["p"]


def test_behaviours_are_as_certain_as_the_templates_make_them():
    asked = variants(8, 5)
    arm = rollouts_to_table(
        a_rollout(problem=it, sample=s, id=f"{it.id}{s}", teacher="base",
                  annotation=Annotation(verification=int(it.answer) % 2, num_steps=1 + int(it.answer)))
        for it in asked for s in range(2)
    )  # fmt: skip
    clusters = clusters_of(asked, "template")
    alone, together = behaviours(arm), behaviours(arm, clusters)
    (step,) = over_training({0: arm}, clusters)
    for name in ("verification", "num_steps"):
        assert together[name]["mean"] == alone[name]["mean"]
        assert together[name]["high"] - together[name]["low"] > 2 * (alone[name]["high"] - alone[name]["low"])
        assert step[name] == together[name]
    share = share_interval(np.repeat([0.0, 1.0] * 4, 10), clusters=np.repeat(np.arange(8), 10))
    assert together["verification"] == pytest.approx(asdict(share))
    assert together["correct"]["verification"] == together["verification"]


def test_a_cluster_that_no_problem_has_is_refused():
    assert clusters_of(variants(2, 1), None) is None
    with pytest.raises(UserError, match=r"no test problem's metadata has it; correct it \(there is template\)"):
        clusters_of(variants(2, 1), "seed")


def test_any_two_arms_are_compared_and_the_student_comes_first():
    asked = problems(24, Split.TEST)
    arms = {name: arm_table(name, asked, 4) for name in ("base", "teacher", "student")}
    found = evaluation(arms, [1, 4], asked)["difference"]
    assert list(found) == ["student-base", "student-teacher", "teacher-base"]
    assert found["teacher-base"]["all"]["mean"] == pytest.approx(
        found["student-base"]["all"]["mean"] - found["student-teacher"]["all"]["mean"]
    )
    split = found["student-base"]["all"]["power"]
    assert 0 < split["within_share"] < 1
    assert split["detectable_twice_problems"] <= split["detectable_twice_samples"] < split["detectable"]


@pytest.mark.parametrize(
    ("before", "after", "advice"),
    [
        (lambda it, s: False, lambda it, s: int(it.answer) < 30, "enough"),
        (
            lambda it, s: s == 0,
            lambda it, s: int(it.answer) % 2 == 0,
            "samples",
        ),  # before, any sample is a coin's throw
        (lambda it, s: int(it.answer) % 2 == 0, lambda it, s: int(it.answer) % 4 < 2, "problems"),
    ],
    ids=["enough", "samples", "problems"],
)
def test_the_advice_follows_where_the_variance_is_from(before, after, advice):
    asked = variants(40, 1)
    found = evaluation({"base": an_arm(asked, before), "student": an_arm(asked, after)}, [1], asked)["difference"]
    assert found["student-base"]["all"]["advice"] == advice


def test_problem_sets_are_scored_apart():
    asked = [
        a_problem(f"{name} {i}?", source=name, split=Split.TEST) for i in range(6) for name in ("algebra", "words")
    ]
    arms = {
        name: an_arm(asked, lambda it, s, name=name: it.source == "words" and name == "student")
        for name in ("base", "student")
    }
    found = evaluation(arms, [1], asked)
    assert list(found["sets"]) == ["algebra", "words"]
    assert found["sets"]["words"]["evaluation"]["student"]["pass@1"]["mean"] == 1
    assert found["sets"]["algebra"]["difference"]["student-base"]["mean"] == 0
    assert found["evaluation"]["student"]["all"]["problems"] == 12
    one = [it for it in asked if it.source == "words"]
    parts = {arm: table.filter(pc.equal(table["problem_source"], "words")) for arm, table in arms.items()}
    assert evaluation(parts, [1], one)["sets"] == {}


def test_checkpoints_are_tested_against_step_0_and_adjusted_for_being_several():
    asked = problems(30, Split.TEST)
    base = arm_table("base", asked, 2)
    later = {step: arm_table(f"step-{step:06d}", asked, 2, gain=gain) for step, gain in ((3, 0.3), (6, 1.0), (9, 2.0))}
    rows = over_training({0: base} | later)
    assert [row["step"] for row in rows] == [0, 3, 6, 9]
    assert "difference" not in rows[0]
    ps = [row["difference"]["p"] for row in rows[1:]]
    adjusted = [row["difference"]["p_holm"] for row in rows[1:]]
    assert max(adjusted) <= 1
    assert all(p <= q <= 3 * p + 1e-12 or q == 1 for p, q in zip(ps, adjusted, strict=True))
    assert min(adjusted) == pytest.approx(min(1, 3 * min(ps)))
    assert rows[1]["by_difficulty"]["hard"].keys() >= {"pass@1", "verification", "correct", "not_correct"}
    json.dumps(rows, allow_nan=True)
    assert all("difference" not in row for row in over_training(later))


def test_of_several_pairs_of_runs_only_what_is_left_after_adjusting_is_called_a_lift():
    asked = problems(60, Split.TEST)
    gains = (0.6, 0.7, 0.75, 0.85, 0.95)
    found = across_runs({f"r{i}": arm_table(f"run{i}", asked, 4, gain=gain) for i, gain in enumerate(gains)})
    measured = [pair["slices"]["all"] for pair in found.values()]
    assert any(it["low"] > 0 and it["p_holm"] >= 0.05 for it in measured), "or there is nothing to see"
    metrics = {"pairs": found, "runs": {}, "unfinished": {}, "config": {}}
    text = render_markdown(metrics)
    assert text.count("a lift") + text.count("a loss") == sum(it["p_holm"] < 0.05 for it in measured)
    assert text.count("no measurable difference") == sum(it["p_holm"] >= 0.05 for it in measured)

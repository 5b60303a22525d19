"""The headline claims no more than its interval does, and the remarks are right."""

import re

import pytest

from reasonray.analysis.comparisons import compare_arms
from reasonray.analysis.json_records import to_json
from reasonray.records import Split
from reasonray.reporting.advice import next_steps
from reasonray.reporting.headline import headline, remarks
from reasonray.reporting.numbers import Numbers
from tests.synthetic_run import arm_table, problems


def metrics(low, high, **changes):
    mean = (low + high) / 2
    arm = {"all": {"pass@1": {"mean": 0.2, "low": 0.1, "high": 0.3}, "problems": 120, "unjudged": 0.0}}
    pair = {"mean": mean, "low": low, "high": high, "problems": 120, "gained": 30, "lost": 2}
    return {"evaluation": {"base": arm, "student": arm}, "difference": {"student-base": {"all": pair}}} | changes


def text(markup):
    return re.sub("<[^>]+>", "", str(markup)).replace("\u202f", " ")


@pytest.mark.parametrize(
    ("low", "high", "begins"),
    [
        (0.1, 0.2, "Distillation lifts pass@1"),
        (-0.2, -0.1, "Distillation lowers pass@1"),
        (-0.1, 0.2, "No measurable difference"),
        (0.0, 0.2, "No measurable difference"),
        (0.0, 0.0, "No difference at all"),
    ],
)
def test_the_verb_of_the_headline_follows_the_interval(low, high, begins):
    assert text(headline(Numbers(metrics(low, high)))).startswith(begins)


def test_the_headline_holds_both_accuracies_the_problems_and_the_interval():
    assert text(headline(Numbers(metrics(0.1, 0.3)))) == (
        "Distillation lifts pass@1 from 20.0 % to 20.0 % on 120 held-out problems: "
        "+20.0 points [+10.0, +30.0], 95 % interval."
    )


def test_without_a_base_the_headline_compares_nothing():
    alone = metrics(0.1, 0.2)
    del alone["evaluation"]["base"]
    alone["difference"] = {}
    assert "nothing to compare" in text(headline(Numbers(alone)))


def test_before_evaluation_the_headline_reports_how_far_the_run_is():
    begun = {"funnel": {"rollouts": 0, "problems": 9}, "evaluation": {}}
    assert text(headline(Numbers(begun))) == "Nothing has been sampled yet; the run has 9 train problems."
    sampled = {"funnel": {"rollouts": 80, "problems": 9}, "sampling": {"acceptance_rate": 0.25}, "evaluation": {}}
    assert "80 rollouts of 9 train problems were sampled; 25.0 % are correct" in text(headline(Numbers(sampled)))


def remarks_of(values):
    return " ".join(text(remark) for remark in remarks(Numbers(values)))


def test_a_loss_that_is_not_finite_precedes_any_result_and_the_advice_is_to_train_again():
    broken = metrics(0.1, 0.2, training={"non_finite_step": 7})
    broken["difference"]["student-base"]["all"]["advice"] = "enough"
    assert text(headline(Numbers(broken))).startswith(
        "The loss was not finite at step 7: do not trust this student. Distillation lifts"
    )
    (step,) = next_steps(Numbers(broken))
    assert step.startswith("Train again, for example with a lower")


def test_faults_and_a_small_test_set_are_remarked_on():
    worrying = metrics(0.1, 0.2)
    worrying["evaluation"]["student"] = {"all": {"unjudged": 0.25, "problems": 12}}
    assert "at most 25.0 %, for model student" in remarks_of(worrying)
    assert "A test set of 12 problems is small" in remarks_of(worrying)


def test_without_cause_there_is_no_further_remark():
    assert remarks_of(metrics(0.1, 0.2)) == "Of the 120 problems, the student does better on 30 and worse on 2."


def test_no_change_at_all_is_reported_as_such():
    still = metrics(0.0, 0.0)
    still["difference"]["student-base"]["all"] |= {"gained": 0, "lost": 0}
    assert "No problem changed" in remarks_of(still)


@pytest.mark.parametrize(
    ("low", "high", "ends"),
    [(-1.8, -0.2, "7.00 before, 6.00 after, −1.00 [−1.80, −0.20]."),
     (-2.2, 0.2, "7.00 before, 6.00 after, −1.00 [−2.20, +0.20], no measurable change."),
     (None, None, "7.00 before, 6.00 after, −1.00, no measurable change.")],
)  # fmt: skip
def test_a_change_of_reasoning_is_reported_with_its_uncertainty(low, high, ends):
    values = metrics(0.1, 0.2)
    values["behaviours"] = {
        arm: {"verification": {"mean": share}, "num_steps": {"mean": steps}}
        for arm, share, steps in (("base", 0.05, 7.0), ("student", 0.6, 6.0))
    }
    values["behaviour_difference"] = {
        "student-base": {
            "verification": {"mean": 0.55, "low": 0.5, "high": 0.6},
            "num_steps": {"mean": -1.0, "low": low, "high": high},
        }
    }
    verification = "5.0 % before, 60.0 % after, +55.0 points [+50.0, +60.0]. Reasoning steps per response: "
    assert verification in remarks_of(values)
    assert remarks_of(values).endswith(ends)


def test_a_change_of_length_is_reported_with_its_uncertainty():
    values = metrics(0.1, 0.2)
    for arm, tokens in (("base", 292.4), ("student", 107.0)):
        of_all = values["evaluation"][arm]["all"] | {"completion_tokens": {"mean": tokens}}
        values["evaluation"][arm] = {"all": of_all}
    assert "Tokens per response: 292 before, 107 after." in remarks_of(values)
    values["behaviour_difference"] = {"student-base": {"completion_tokens": {"mean": -185, "low": -195, "high": -175}}}
    assert "Tokens per response: 292 before, 107 after, −185 [−195, −175]." in remarks_of(values)


def test_the_rules_that_dropped_the_most_rollouts_are_remarked_on():
    values = metrics(0.1, 0.2)
    values["funnel"] = {"rollouts": 80, "selected": 9, "dropped": {"incorrect": 50, "too_long": 12, "truncated": 2}}
    whole = "Of 80 train rollouts, 9 were selected for training. Curation dropped 50 as “incorrect”, 12 as “too long”, "
    assert whole + "2 as “truncated”." in remarks_of(values)
    values["funnel"]["dropped"]["duplicate"] = 1
    assert "2 as “truncated”, and fewer by each other rule." in remarks_of(values)


def test_another_model_is_compared_by_its_interval():
    values = metrics(0.1, 0.2)
    values["evaluation"] = {"<b>": values["evaluation"]["base"]} | values["evaluation"]
    values["difference"]["student-<b>"] = {"all": {"mean": -0.1, "low": -0.2, "high": -0.05}}
    (_, sentence) = remarks(Numbers(values))
    assert "below it" in sentence
    assert "<b>" not in sentence


def test_no_pair_without_the_student_is_remarked_on():
    held_out = problems(24, Split.TEST)
    names = ("base", "peer", "student-base-cold", "student")
    values = to_json(compare_arms({name: arm_table(name, held_out, 4) for name in names}, [1], held_out))
    against = re.findall(r"Against ([^,]*),", remarks_of(values))
    assert against == ["peer", "student-base-cold"]
    assert "student-base-cold-base" in values["difference"]

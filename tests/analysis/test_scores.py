"""Scores, paired differences, behaviours and the k-curve of tables."""

import random
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonray.analysis.estimators import mean_interval
from reasonray.analysis.json_records import to_json
from reasonray.analysis.reasoning_stats import behaviour_difference, behaviours, by_pass_rate
from reasonray.analysis.scores import acceptance, difficulties, k_curve, paired_difference, rates, score
from reasonray.records import BEHAVIOURS, Annotation, Outcome, Verdict
from reasonray.store.schema import ROLLOUT_SCHEMA, rollouts_to_table
from tests.factories import a_problem, a_rollout

RIGHT, WRONG, NONE = Outcome.CORRECT, Outcome.WRONG, Outcome.NO_ANSWER


def table(*problems, difficulty="easy", seed=None):
    """A table from the outcomes of each problem's samples; a pair (outcome, answer) gives the extracted answer too."""
    rollouts = []
    for number, attempts in enumerate(problems):
        problem = a_problem(f"{difficulty} question {number}", "42", difficulty=difficulty)
        for sample, attempt in enumerate(attempts):
            outcome, answer = attempt if isinstance(attempt, tuple) else (attempt, None)
            verdict = Verdict(outcome=outcome, extracted="42" if outcome is RIGHT else answer)
            rollouts.append(a_rollout(problem=problem, sample=sample, verdict=verdict))
    if seed is not None:
        random.Random(seed).shuffle(rollouts)
    return rollouts_to_table(rollouts)


def with_annotations(rollouts, annotations):
    for name in (*BEHAVIOURS, "num_steps", "dropped_by", "selected"):
        column = f"annotation_{name}"
        values = pa.array([getattr(a, name) for a in annotations], ROLLOUT_SCHEMA.field(column).type)
        rollouts = rollouts.set_column(rollouts.column_names.index(column), column, values)
    return rollouts


def test_a_score_is_the_mean_over_problems_of_pass_at_k():
    (everything, easy) = score(table([RIGHT, RIGHT], [RIGHT, WRONG], [WRONG, WRONG]), "base", (1, 2))
    assert everything.pass_at[1].mean == pytest.approx(0.5)
    assert everything.pass_at[2].mean == pytest.approx(2 / 3)
    assert (everything.difficulty, everything.problems, everything.samples) == ("all", 3, 2)
    assert easy.pass_at == everything.pass_at


def test_each_difficulty_is_scored_separately_from_easy_to_hard():
    parts = [
        table([outcome], difficulty=name) for name, outcome in (("hard", WRONG), ("olympiad", WRONG), ("easy", RIGHT))
    ]
    scores = score(pa.concat_tables(parts), "student")
    assert [s.difficulty for s in scores] == ["all", "easy", "hard", "olympiad"]
    assert [s.pass_at[1].mean for s in scores] == pytest.approx([1 / 3, 1, 0, 0])


def test_unnamed_difficulties_are_only_in_all():
    assert difficulties(table([RIGHT], difficulty="")) == []


def test_a_vote_counts_equal_wrong_answers_together_and_no_answer_not_at_all():
    (overall, _) = score(table([RIGHT, (WRONG, "7"), (WRONG, " 7"), NONE]), "base", (4,))
    assert overall.majority_at[4].mean == 0  # "7" has two votes
    (overall, _) = score(table([RIGHT, (WRONG, "7"), NONE, NONE]), "base", (4,))
    assert overall.majority_at[4].mean == 0.5  # a tie of two
    (overall, _) = score(table([RIGHT, NONE, NONE, NONE]), "base", (4,))
    assert overall.majority_at[4].mean == 1


def test_faults_have_rates_of_their_own_and_stay_in_the_denominator():
    attempts = [RIGHT, WRONG, NONE, Outcome.TRUNCATED, Outcome.UNVERIFIABLE, Outcome.TIMEOUT, Outcome.FAILED, RIGHT]
    (overall, _) = score(table(attempts), "base")
    assert overall.samples == 8
    assert overall.outcomes[RIGHT] == 0.25
    assert all(overall.outcomes[o] == 0.125 for o in Outcome if o is not RIGHT)
    assert sum(overall.outcomes.values()) == pytest.approx(1)


def test_problems_with_unlike_sample_counts_are_refused():
    with pytest.raises(ValueError, match="has 1 samples and another 2"):
        score(table([RIGHT, WRONG], [RIGHT]), "base")


def test_k_above_the_samples_is_refused():
    with pytest.raises(ValueError, match="k = 3"):
        score(table([RIGHT, WRONG]), "base", (3,))


def test_an_arm_without_rollouts_is_refused():
    with pytest.raises(ValueError, match="no rollouts"):
        score(ROLLOUT_SCHEMA.empty_table(), "base")


def test_an_arm_that_is_always_wrong_is_not_certainly_so():
    (overall, _) = score(table(*[[WRONG, WRONG]] * 30), "base", (1, 2))
    assert overall.pass_at[1].low == 0
    assert 0.05 < overall.pass_at[1].high < 0.2


outcomes = st.sampled_from([RIGHT, WRONG, NONE])
arms = st.lists(st.lists(outcomes, min_size=3, max_size=3), min_size=2, max_size=8)


@settings(max_examples=40, deadline=None)
@given(arms, st.integers(0, 100))
def test_the_order_of_rows_changes_nothing(arm, seed):
    straight, shuffled = table(*arm), table(*arm, seed=seed)
    assert score(straight, "base", (1, 3)) == score(shuffled, "base", (1, 3))
    after = table(*arm[1:], arm[0])
    assert paired_difference(straight, after) == paired_difference(shuffled, after)
    assert k_curve(straight, 2) == k_curve(shuffled, 2)


@settings(max_examples=30, deadline=None)
@given(arms)
def test_an_arm_differs_from_itself_by_exactly_0(arm):
    difference = paired_difference(table(*arm), table(*arm))["all"]
    assert (difference.mean, difference.low, difference.high) == (0, 0, 0)
    assert (difference.gained, difference.lost) == (0, 0)


@settings(max_examples=30, deadline=None)
@given(arms, st.data())
def test_a_difference_is_that_of_the_scores_and_changes_its_sign_when_arms_are_swapped(arm, data):
    other = data.draw(st.lists(st.lists(outcomes, min_size=3, max_size=3), min_size=len(arm), max_size=len(arm)))
    before, after = table(*arm), table(*other)
    there, back = paired_difference(before, after)["all"], paired_difference(after, before)["all"]
    means = [score(t, "x")[0].pass_at[1].mean for t in (before, after)]
    assert there.mean == pytest.approx(means[1] - means[0])
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert (there.gained, there.lost) == (back.lost, back.gained)
    assert np.array_equal(there.transitions, np.transpose(back.transitions))
    assert sum(map(sum, there.transitions)) == there.problems


def test_pairing_narrows_the_interval_of_arms_that_move_together():
    before = table(*[[RIGHT] * 4] * 10, *[[WRONG] * 4] * 10)
    after = table(*[[RIGHT] * 4] * 10, *[[WRONG] * 3 + [RIGHT]] * 8, *[[WRONG] * 4] * 2)
    paired = paired_difference(before, after)["all"]
    assert paired.low > 0
    assert (paired.gained, paired.lost) == (8, 0)
    assert (
        score(before, "x")[0].pass_at[1].high > score(after, "x")[0].pass_at[1].low
    )  # unpaired, the intervals overlap


def test_a_constant_gain_is_not_certainty():
    difference = paired_difference(table(*[[WRONG]] * 5), table(*[[RIGHT]] * 5))["all"]
    assert difference.mean == 1
    assert difference.low < 0


def test_arms_with_other_problems_or_sample_counts_are_not_compared():
    with pytest.raises(ValueError, match="same problems"):
        paired_difference(table([RIGHT], [RIGHT]), table([RIGHT]))
    with pytest.raises(ValueError, match="as many samples: 1 before, 2 after"):
        paired_difference(table([RIGHT]), table([RIGHT, RIGHT]))


def test_behaviours_are_shares_of_responses_by_correctness():
    annotations = [Annotation(verification=v, num_steps=d) for v, d in ((2, 4), (0, 2), (1, 3), (0, 1))]
    metrics = behaviours(with_annotations(table([RIGHT, WRONG], [RIGHT, WRONG]), annotations))
    assert metrics.verification.mean == 0.5
    assert metrics.num_steps.mean == 2.5
    assert metrics.correct.verification.mean == 1
    assert metrics.not_correct.num_steps.mean == 1.5
    assert metrics.by_difficulty["easy"].responses == 4


def test_behaviours_are_counted_per_thousand_tokens():
    rollouts = table([RIGHT, WRONG], [RIGHT, WRONG])
    annotations = [Annotation(verification=v) for v in (2, 0, 1, 0)]
    rates_by_behaviour = behaviours(with_annotations(rollouts, annotations)).per_1000_tokens
    assert rates_by_behaviour["verification"].mean == pytest.approx(
        3000 / sum(rollouts["completion_tokens"].to_pylist())
    )
    assert rates_by_behaviour["backtracking"].mean == 0 < rates_by_behaviour["backtracking"].high


def test_reasoning_is_compared_problem_by_problem():
    generator = np.random.default_rng(0)
    hardness = np.repeat(generator.integers(0, 9, 20), 2)
    arms = [
        with_annotations(
            table(*[[RIGHT, WRONG]] * 20),
            [
                Annotation(verification=int(generator.random() < care), num_steps=int(depth + extra))
                for extra in hardness
            ],
        )
        for care, depth in ((0.2, 3), (0.6, 4))
    ]
    difference = behaviour_difference(arms[0], arms[1].take(pa.array(generator.permutation(40))))
    old, new = (np.array(arm["annotation_verification"]).reshape(20, 2).mean(axis=1) for arm in arms)
    low, high = scipy.stats.ttest_rel(new, old).confidence_interval()
    assert asdict(difference["verification"]) == pytest.approx({"mean": (new - old).mean(), "low": low, "high": high})
    assert asdict(difference["num_steps"]) == pytest.approx({"mean": 1, "low": 1, "high": 1}), (
        "however the problems differ"
    )
    assert difference["backtracking"].low == -difference["backtracking"].high < 0, (
        "a behaviour never seen can still change"
    )
    template = {problem: str(i // 4) for i, problem in enumerate(arms[0]["problem_id"].to_pylist()[::2])}
    clustered = mean_interval(new - old, clusters=np.arange(20) // 4)
    assert asdict(behaviour_difference(*arms, template)["verification"]) == pytest.approx(asdict(clustered))


def test_reasoning_is_compared_on_the_same_problems_only():
    one, two = (with_annotations(table(*rows), [Annotation()] * len(rows)) for rows in ([[RIGHT]], [[RIGHT], [WRONG]]))
    with pytest.raises(ValueError, match="same problems only"):
        behaviour_difference(one, two)
    assert behaviour_difference(one, table([RIGHT])) == {}


def test_rollouts_without_annotations_have_no_behaviours():
    assert to_json(behaviours(table([RIGHT]))) == {}


def test_a_half_annotated_table_is_refused():
    half = with_annotations(table([RIGHT, WRONG]), [Annotation(), Annotation()])
    half = half.set_column(half.column_names.index("annotation_dropped_by"), "annotation_dropped_by", [["", None]])
    with pytest.raises(ValueError, match="1 of 2 rollouts are not annotated"):
        behaviours(half)


def test_the_k_curve_ends_at_the_measured_figures():
    rollouts = table([RIGHT] * 3 + [WRONG] * 3, [WRONG] * 6, [RIGHT] + [WRONG] * 5)
    curve = k_curve(rollouts, keep_per_problem=2)
    assert [point.k for point in curve] == [1, 2, 4, 6]
    assert all(point.acceptance.mean == pytest.approx(4 / 18) for point in curve)
    assert curve[-1].coverage.mean == pytest.approx(2 / 3)
    assert curve[-1].kept.mean == pytest.approx(3)
    assert curve[0].kept.mean == pytest.approx(4 / 6)
    assert acceptance(rollouts).mean == pytest.approx(4 / 18)


def test_the_k_curve_of_curated_rollouts_counts_the_kept_ones():
    rollouts = table([RIGHT, RIGHT, WRONG, WRONG])
    annotations = [Annotation(dropped_by=rule) for rule in ("", "duplicate", "incorrect", "incorrect")]
    assert k_curve(with_annotations(rollouts, annotations), 4)[-1].kept.mean == 1


def test_an_unfinished_run_has_a_curve_up_to_its_least_samples():
    assert [point.k for point in k_curve(table([RIGHT, WRONG, RIGHT], [WRONG, WRONG]), 1)] == [1, 2]
    assert k_curve(ROLLOUT_SCHEMA.empty_table(), 1) == ()


def test_pass_rate_bands_hold_every_judged_problem_once():
    rollouts = table(
        [RIGHT] * 4, [RIGHT] * 3 + [WRONG], [RIGHT, WRONG, WRONG, NONE], [WRONG] * 4, [Outcome.TIMEOUT] * 4
    )
    notes = [Annotation(num_steps=depth) for depth in (5, 4, 3, 2, 1) for _ in range(4)]
    bands = by_pass_rate(with_annotations(rollouts, notes))
    assert [(band.above, band.up_to, band.problems, band.num_steps.mean) for band in bands] == [
        (0, 0, 1, 2),
        (0, 0.25, 1, 3),
        (0.5, 0.75, 1, 4),
        (1, 1, 1, 5),
    ]
    assert by_pass_rate(rollouts) == ()


def test_each_outcome_has_a_rate_with_an_interval_over_problems():
    rollouts = table([RIGHT, Outcome.TIMEOUT], [WRONG, Outcome.TIMEOUT], [RIGHT, RIGHT], [NONE, NONE])
    by_outcome = rates(rollouts)
    assert {name: rate.mean for name, rate in by_outcome.items() if rate.mean} == {
        "correct": 3 / 8,
        "wrong": 1 / 8,
        "no_answer": 2 / 8,
        "timeout": 2 / 8,
    }
    assert by_outcome["correct"] == score(rollouts, "base")[0].pass_at[1]
    assert 0 < by_outcome["failed"].high < 0.6, "0 of four problems does not mean never"

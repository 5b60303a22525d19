"""The estimators against brute force, scipy and simulation."""

import random
from itertools import combinations
from math import inf, isnan, sqrt

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonray.analysis.estimators import (
    expected_kept,
    holm,
    kappa,
    majority_at_k,
    mean_interval,
    p_value,
    pass_at_k,
    power,
    ratio_interval,
    sample_variance,
    share_interval,
    wilson,
)
from reasonray.analysis.student_t import t_quantile


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def vote(subset):
    """The credit of one majority vote: None abstains, 0 is the correct answer, other numbers are wrong answers."""
    votes = [answer for answer in subset if answer is not None]
    if not votes:
        return 0.0
    most = max(votes.count(answer) for answer in set(votes))
    winners = [answer for answer in set(votes) if votes.count(answer) == most]
    return (0 in winners) / len(winners)


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_is_the_mean_over_all_k_subsets(n):
    for k in range(1, n + 1):
        brute = [mean(any(subset) for subset in combinations([1] * c + [0] * (n - c), k)) for c in range(n + 1)]
        assert pass_at_k(np.arange(n + 1), n, k) == pytest.approx(brute, abs=1e-12)


@pytest.mark.parametrize("k", [0, 5])
def test_k_outside_the_samples_is_refused(k):
    with pytest.raises(ValueError, match="not within 1…4"):
        pass_at_k(np.array([1]), 4, k)
    with pytest.raises(ValueError, match="not within 1…4"):
        majority_at_k(1, (3,), 0, k)
    with pytest.raises(ValueError, match="not within 1…4"):
        expected_kept(np.array([1]), 4, k, 2)


def test_more_correct_than_samples_is_refused():
    with pytest.raises(ValueError, match="within 0…4"):
        pass_at_k(np.array([5]), 4, 1)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 3),
    st.lists(st.integers(1, 3), max_size=3),
    st.integers(0, 2),
    st.data(),
)
def test_majority_at_k_is_the_mean_over_all_k_subsets(correct, wrong, abstained, data):
    answers = [0] * correct + [i + 1 for i, size in enumerate(wrong) for _ in range(size)] + [None] * abstained
    if not answers:
        return
    k = data.draw(st.integers(1, len(answers)))
    brute = mean(vote(subset) for subset in combinations(answers, k))
    assert majority_at_k(correct, tuple(wrong), abstained, k) == pytest.approx(brute, abs=1e-12)


@given(st.integers(0, 20), st.lists(st.integers(1, 9), max_size=4), st.integers(1, 9))
def test_a_majority_vote_of_one_sample_is_pass_at_1(correct, wrong, abstained):
    samples = correct + sum(wrong) + abstained
    expected = pass_at_k(np.array([correct]), samples, 1)[0]
    assert majority_at_k(correct, tuple(wrong), abstained, 1) == pytest.approx(expected, abs=1e-12)


def test_majority_over_many_samples_agrees_with_simulation():
    answers = [0] * 9 + [1] * 8 + [2] * 6 + [3] * 3 + [4] * 2 + list(range(5, 12)) + [None] * 5
    exact = majority_at_k(9, (8, 6, 3, 2, 1, 1, 1, 1, 1, 1, 1), 5, 16)
    generator = random.Random(0)
    credits = np.array([vote(generator.sample(answers, 16)) for _ in range(4000)])
    assert abs(credits.mean() - exact) < 4 * credits.std() / sqrt(credits.size)


@pytest.mark.parametrize("n", range(1, 8))
def test_expected_kept_is_the_mean_over_all_k_subsets(n):
    for k in range(1, n + 1):
        for limit in (1, 2, n):
            brute = [
                mean(min(sum(subset), limit) for subset in combinations([1] * c + [0] * (n - c), k))
                for c in range(n + 1)
            ]
            assert expected_kept(np.arange(n + 1), n, k, limit) == pytest.approx(brute, abs=1e-12)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 30, 119, 400, 401, 5000, 10**7])
@pytest.mark.parametrize("probability", [0.6, 0.9, 0.975, 0.999])
def test_the_t_quantile_agrees_with_scipy(probability, freedom):
    assert t_quantile(probability, freedom) == pytest.approx(scipy.stats.t.ppf(probability, freedom), rel=1e-10)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=40).filter(lambda values: np.ptp(values) > 1e-3))
def test_the_mean_interval_agrees_with_scipy(values):
    array = np.array(values)
    low, high = scipy.stats.t.interval(0.95, array.size - 1, loc=array.mean(), scale=scipy.stats.sem(array))
    interval = mean_interval(array)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((array.mean(), low, high), rel=1e-8, abs=1e-8)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=40).filter(lambda values: np.ptp(values) > 1e-3))
def test_clusters_of_one_value_change_nothing(values):
    array = np.array(values)
    alone, clustered = mean_interval(array), mean_interval(array, clusters=np.arange(array.size))
    assert (clustered.low, clustered.high) == pytest.approx((alone.low, alone.high), rel=1e-9, abs=1e-9)


def test_equal_clusters_give_the_interval_of_their_means():
    values = np.random.default_rng(0).normal(size=(12, 5)) + np.arange(12)[:, None] / 4
    clustered = mean_interval(values.ravel(), clusters=np.repeat(np.arange(12), 5))
    of_means = mean_interval(values.mean(axis=1))
    assert (clustered.low, clustered.high) == pytest.approx((of_means.low, of_means.high), rel=1e-12)
    naive = mean_interval(values.ravel())
    assert naive.high - naive.low < 0.7 * (
        clustered.high - clustered.low
    )  # the width under a false assumption of independence


def test_the_paired_variance_is_the_sum_of_both_minus_twice_their_covariance():
    generator = np.random.default_rng(1)
    before = generator.random(50)
    after = 0.5 * before + generator.random(50)
    interval = mean_interval(after - before)
    covariance = np.cov(before, after)
    error = sqrt((covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]) / 50)
    assert interval.high - interval.mean == pytest.approx(t_quantile(0.975, 49) * error, rel=1e-12)


@pytest.mark.parametrize(("problems", "samples"), [(20, 4), (120, 4), (60, 1)])
def test_intervals_cover_the_truth_in_95_of_100_runs(problems, samples):
    generator = np.random.default_rng(2)
    rates = generator.beta(2, 3, size=(2000, problems))
    correct = generator.binomial(samples, rates)
    intervals = [share_interval(row / samples) for row in correct]
    covered = mean(interval.low <= 0.4 <= interval.high for interval in intervals)
    assert 0.93 <= covered <= 0.97
    assert (
        0.93 <= mean(interval.low <= 0.4 <= interval.high for interval in map(mean_interval, correct / samples)) <= 0.97
    )


def equal(generator, rate, size):
    return np.full(size, rate)


def skewed(generator, rate, size):
    return generator.beta(0.5, 0.5 * (1 - rate) / rate, size)


def all_or_nothing(generator, rate, size):
    return (generator.random(size) < rate).astype(float)


def half_from_few(generator, rate, size):
    return np.where(generator.random(size) < rate / 2, 1, rate / 2 / (1 - rate / 2))


@pytest.mark.parametrize(("problems", "samples", "rate"), [(120, 4, 0.01), (40, 4, 0.02), (20, 8, 0.02), (20, 4, 0.1)])
@pytest.mark.parametrize("spread", [equal, skewed, all_or_nothing, half_from_few])
def test_intervals_of_rare_and_of_near_certain_shares_cover_the_truth_as_well(problems, samples, rate, spread):
    generator = np.random.default_rng(6)
    shares = generator.binomial(samples, spread(generator, rate, (2000, problems))) / samples
    rare = [share_interval(row) for row in shares]
    assert mean(interval.low <= rate <= interval.high for interval in rare) >= 0.93
    certain = [share_interval(1 - row) for row in shares[:20]]
    assert [interval.low for interval in certain] == pytest.approx([1 - interval.high for interval in rare[:20]])
    if spread is not all_or_nothing:
        assert mean(interval.low <= rate <= interval.high for interval in map(mean_interval, shares)) < 0.93, (
            "t alone does not"
        )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from((0.0, 0.25, 0.5, 0.75, 1.0)), min_size=2, max_size=40).filter(
        lambda values: np.ptp(values) > 0
    )
)
def test_the_interval_of_a_share_contains_exactly_the_shares_that_the_score_test_does_not_reject(values):
    array = np.array(values)
    interval = share_interval(array)
    share, error, quantile = array.mean(), scipy.stats.sem(array), scipy.stats.t.ppf(0.975, array.size - 1)
    trials, unseen = share * (1 - share) / error**2, wilson(0, array.size).high
    truths = np.linspace(0, 1, 100_001)
    accepted = truths[np.abs(share - truths) <= quantile * np.sqrt(truths * (1 - truths) / trials)]
    assert interval.mean == share
    assert interval.low == pytest.approx(min(accepted[0], 1 - unseen), abs=2e-5)
    assert interval.high == pytest.approx(max(accepted[-1], unseen), abs=2e-5)


def test_another_correct_sample_never_lowers_the_interval_of_a_rare_share():
    intervals = [share_interval(np.repeat([0.25, 0.0], [right, 120 - right])) for right in range(13)]
    assert [interval.low for interval in intervals] == sorted(interval.low for interval in intervals)
    assert [interval.high for interval in intervals] == sorted(interval.high for interval in intervals)
    assert intervals[3].low > 0


def test_a_ratio_of_sums_covers_the_truth_in_95_of_100_runs():
    generator = np.random.default_rng(4)
    covered = []
    for _ in range(2000):
        rates = generator.gamma(4, 0.25, 120)  # one for each problem, 1 on average; problems with high rates are longer
        sizes = generator.gamma(4, 0.25 + 0.25 * rates[:, None], (120, 3))
        events = generator.poisson(sizes * rates[:, None])
        interval = ratio_interval(events.ravel().astype(float), sizes.ravel(), clusters=np.repeat(np.arange(120), 3))
        covered.append(interval.low <= 1.125 <= interval.high)  # E[rate · size] / E[size] = (1 + E[rate²]) / 2
    assert 0.93 <= mean(covered) <= 0.97


def test_an_event_that_was_never_seen_has_a_rate_of_0_to_a_few_events():
    interval = ratio_interval(np.zeros(200), np.full(200, 0.5))
    assert (interval.mean, interval.low) == (0, 0)
    assert interval.high * 100 == pytest.approx(3.77, abs=0.01)  # Poisson's exact bound is 3.69 events
    with pytest.raises(ValueError, match="ratio to nothing"):
        ratio_interval(np.zeros(3), np.zeros(3))


def test_a_ratio_to_equal_sizes_is_the_mean():
    values = np.random.default_rng(5).poisson(2, 40).astype(float)
    ratio, wanted = ratio_interval(values, np.full(40, 2.0)), mean_interval(values / 2)
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx((wanted.mean, wanted.low, wanted.high))


@pytest.mark.parametrize("problems", [20, 100])
def test_paired_and_clustered_intervals_cover_the_truth_in_95_of_100_runs(problems):
    generator = np.random.default_rng(3)
    rates = generator.beta(2, 3, size=(2000, problems))
    gains = np.clip(rates + 0.1, 0, 1) - rates
    change = (generator.binomial(4, rates + gains) - generator.binomial(4, rates)) / 4
    truth = gains.mean()
    paired = [mean_interval(row, bounds=(-1, 1)) for row in change]
    assert 0.93 <= mean(interval.low <= truth <= interval.high for interval in paired) <= 0.97
    variants = np.repeat(np.arange(problems), 6)
    trials = generator.binomial(1, np.repeat(rates, 6, axis=1)).astype(float)
    clustered = [share_interval(row, clusters=variants) for row in trials]
    assert 0.93 <= mean(interval.low <= 0.4 <= interval.high for interval in clustered) <= 0.97
    naive = [share_interval(row) for row in trials]
    assert (
        mean(interval.low <= 0.4 <= interval.high for interval in naive) < 0.92
    )  # the width under a false assumption of independence


@pytest.mark.parametrize("samples", [2, 8])
def test_the_variance_splits_into_that_between_and_that_within_problems(samples):
    generator = np.random.default_rng(4)
    rates = generator.beta(2, 3, size=400_000)
    correct = generator.binomial(samples, rates)
    split = power(correct / samples, sample_variance(correct, samples), samples)
    assert split.between == pytest.approx(rates.var(), rel=0.05)
    assert split.within == pytest.approx((rates * (1 - rates)).mean(), rel=0.05)
    assert split.within_share == pytest.approx(split.within / samples / (correct / samples).var(), rel=1e-3)
    assert split.detectable_twice_problems < split.detectable_twice_samples < split.detectable


def test_the_detectable_difference_is_found_in_80_of_100_runs():
    generator = np.random.default_rng(5)
    size, spread = 60, 0.3
    detectable = power(generator.normal(0, spread, 10**6)[:size], None, 1).detectable
    noise = generator.normal(0, spread, (4000, size))
    exact = (t_quantile(0.975, size - 1) + t_quantile(0.8, size - 1)) * spread / sqrt(size)
    assert detectable == pytest.approx(exact, rel=0.25)  # its own spread is estimated
    rejected = mean(p_value(row + exact) < 0.05 for row in noise)
    assert 0.77 <= rejected <= 0.83
    assert 0.035 <= mean(p_value(row) < 0.05 for row in noise) <= 0.065


def test_one_sample_or_one_problem_leaves_the_split_unknown():
    alone = power(np.array([0.5]), None, 1)
    assert (alone.detectable, alone.within_share) == (None, None)
    assert sample_variance(np.array([1, 0]), 1) is None
    single = power(np.array([0.0, 1.0, 1.0]), None, 1)
    assert (single.within, single.detectable_twice_samples) == (None, None)
    assert single.detectable > single.detectable_twice_problems


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=40).filter(lambda values: np.ptp(values) > 1e-3))
def test_the_p_value_agrees_with_scipy_and_with_the_interval(values):
    array = np.array(values)
    assert p_value(array) == pytest.approx(scipy.stats.ttest_1samp(array, 0).pvalue, abs=1e-9)
    interval = mean_interval(array)
    if abs(interval.low) > 1e-6 and abs(interval.high) > 1e-6:
        assert (p_value(array) < 0.05) == (not interval.low <= 0 <= interval.high)


def test_where_nothing_varies_the_p_value_is_the_sign_tests():
    assert p_value(np.zeros(9)) == 1
    assert p_value(np.ones(1)) == 1
    assert p_value(np.full(5, 1.0)) == scipy.stats.binomtest(0, 5).pvalue == 2 / 2**5
    assert p_value(np.full(6, -1.0)) == scipy.stats.binomtest(0, 6).pvalue


@pytest.mark.parametrize("constant", [0.25, 0.5, 1.0])
def test_the_p_value_of_a_constant_difference_is_that_under_the_worst_distribution_with_mean_0(constant):
    support = np.linspace(-1, 1, 81)
    weights = {"A_eq": [support, np.ones(81)], "b_eq": [0, 1], "bounds": (0, 1)}  # any distribution with mean 0
    most = -scipy.optimize.linprog(-np.isclose(support, constant).astype(float), **weights).fun
    for units in range(1, 40):
        assert p_value(np.full(units, constant)) == pytest.approx(min(1, 2 * most**units))


@pytest.mark.parametrize("constant", [-1.0, 0.25, 0.5, 1.0])
def test_the_interval_of_a_constant_difference_excludes_0_exactly_where_its_p_value_is_below_5_percent(constant):
    for units in range(1, 40):
        values = np.full(units, constant)
        interval = mean_interval(values, bounds=(-1, 1))
        assert (interval.low > 0 or interval.high < 0) == (p_value(values) < 0.05)
    assert mean_interval(np.ones(5), bounds=(-1, 1)).low < 0 < mean_interval(np.ones(6), bounds=(-1, 1)).low


def test_where_nothing_varies_no_detectable_difference_is_claimed():
    for changes in (np.zeros(30), np.ones(3)):
        split = power(changes, np.zeros(changes.size), 4)
        assert (split.detectable, split.detectable_twice_problems, split.detectable_twice_samples) == (None,) * 3


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_the_hypotheses_that_its_step_down_procedure_rejects(ps):
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for rank, index in enumerate(sorted(range(len(ps)), key=lambda index: ps[index])):
            if ps[index] * (len(ps) - rank) > level:
                break
            rejected.add(index)
        assert {index for index, p in enumerate(holm(ps)) if p <= level} == rejected
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_all_wrong_or_all_right_is_not_certainty():
    nothing, everything = share_interval(np.zeros(40)), share_interval(np.ones(40))
    bound = wilson(0, 40).high
    assert (nothing.low, nothing.high) == pytest.approx((0, bound))
    assert (everything.low, everything.high) == pytest.approx((1 - bound, 1))


def test_the_interval_of_one_problem_is_wide_and_without_bounds_unknown():
    assert share_interval(np.array([1.0])).low < 0.25
    alone = mean_interval(np.array([7.0]), bounds=(0, inf))
    assert isnan(alone.low)
    assert isnan(alone.high)


def test_an_interval_stays_within_the_possible_values():
    rare = np.zeros(30)
    rare[0] = 0.25
    assert mean_interval(rare, bounds=(0, inf)).low == 0
    assert mean_interval(rare).low < 0


def test_no_values_have_no_mean():
    with pytest.raises(ValueError, match="no values"):
        mean_interval(np.array([]))
    with pytest.raises(ValueError, match="no shares"):
        share_interval(np.array([]))


@given(st.integers(1, 300), st.data())
def test_wilson_agrees_with_scipy(trials, data):
    successes = data.draw(st.integers(0, trials))
    oracle = scipy.stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    interval = wilson(successes, trials)
    assert (interval.low, interval.high) == pytest.approx((oracle.low, oracle.high), abs=1e-9)


def test_a_proportion_of_nothing_is_refused():
    with pytest.raises(ValueError, match="not a proportion"):
        wilson(0, 0)


def test_kappa_agrees_with_the_textbook() -> None:
    pairs = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10 + [(False, False)] * 15
    interval = kappa(pairs)
    assert interval is not None
    assert interval.mean == pytest.approx(0.4)
    assert interval.low < 0.4 < interval.high
    assert kappa([]) is None
    assert kappa([(True, True)] * 9) is None, "chance alone gives that agreement"
    perfect = kappa([(True, True), (False, False)])
    assert perfect is not None
    assert perfect.mean == 1

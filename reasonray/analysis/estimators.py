"""Unbiased estimates and their intervals, from arrays of numbers: pass@k, maj@k, means over problems, proportions.

The unit is the problem: samples of one problem are never counted as independent. Rollouts and tables are read in
scores.py and reasoning_stats.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import atan, comb, inf, isfinite, nan, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from reasonray.analysis.student_t import central_probability, t_quantile
from reasonray.records import Interval

CONFIDENCE = 0.95
"""Of every interval."""
POWER = 0.8
"""Of the test whose least detectable difference is reported."""


def pass_at_k(correct: NDArray[np.int64], samples: int, k: int) -> NDArray[np.float64]:
    """Return for each problem the probability that k of its samples, drawn without replacement, hold a correct one.

    1 - C(n - c, k) / C(n, k), the unbiased estimator of Chen et al. 2021 (arXiv 2107.03374).

    Args:
        correct: c, shape (problems,): correct samples of each problem.
        samples: n, samples of every problem.
        k: size of the subset.

    Raises:
        ValueError: k is not within 1…n, or a count not within 0…n.
    """
    _check_k(samples, k)
    if correct.size and (correct.min() < 0 or correct.max() > samples):
        raise ValueError(f"correct counts must lie within 0…{samples}")
    by_count = [1 - comb(samples - c, k) / comb(samples, k) for c in range(samples + 1)]
    return np.asarray(by_count)[correct]


@lru_cache(maxsize=65536)
def majority_at_k(correct: int, wrong: tuple[int, ...], abstained: int, k: int) -> float:
    """Return the expected credit of a majority vote over k samples of one problem: exactly, over all k-subsets.

    In a tie between answers, one of them correct, the credit is 1 / (number of tied answers). Samples without an answer
    do not vote, so they never win against an answer; a subset of nothing else earns 0. Hence k = 1 is pass@1.

    Args:
        correct: samples with the correct answer.
        wrong: samples of each distinct wrong answer.
        abstained: samples without an answer.
        k: how many vote.

    Raises:
        ValueError: k is not within 1…n.
    """
    samples = correct + sum(wrong) + abstained
    _check_k(samples, k)
    credit = 0.0
    for votes in range(1, min(correct, k) + 1):  # votes for the correct answer
        contenders = tuple(size for size in wrong if size >= votes)
        others = abstained + sum(size for size in wrong if size < votes)  # cannot reach `votes`, so any number may vote
        by_ties = _subsets_by_ties(contenders, votes, others, k - votes)
        credit += comb(correct, votes) * sum(subsets / (1 + ties) for ties, subsets in enumerate(by_ties))
    return credit / comb(samples, k)


def _subsets_by_ties(contenders: Sequence[int], votes: int, others: int, size: int) -> list[int]:
    """Return the number of subsets in which no contender has more than `votes` votes, by the number that have exactly
    so.

    Args:
        contenders: samples of each answer that can reach `votes`.
        votes: votes of the correct answer.
        others: samples that cannot change the result.
        size: of the subsets, taken from contenders and others.
    """
    # subsets[taken][ties]; each contender has i ≤ votes of its samples taken, and ties if it has exactly `votes`.
    most_ties = size // votes
    subsets = [[0] * (most_ties + 1) for _ in range(size + 1)]
    for taken in range(min(others, size) + 1):
        subsets[taken][0] = comb(others, taken)
    for available in contenders:
        extended = [[0] * (most_ties + 1) for _ in range(size + 1)]
        for taken in range(size + 1):
            for added in range(min(available, votes, taken) + 1):
                tie = int(added == votes)
                choices = comb(available, added)
                for ties in range(tie, most_ties + 1):
                    extended[taken][ties] += choices * subsets[taken - added][ties - tie]
        subsets = extended
    return subsets[size]


def expected_kept(usable: NDArray[np.int64], samples: int, k: int, limit: int) -> NDArray[np.float64]:
    """Return for each problem E[min(X, limit)], X being the usable ones among k samples drawn without replacement.

    X is hypergeometric. The sum over problems is the expected size of a data set that keeps at most `limit` rollouts of
    a problem, had only k been sampled.

    Args:
        usable: shape (problems,): usable samples of each problem.
        samples: n, samples of every problem.
        k: size of the subset.
        limit: most rollouts that are kept of a problem.

    Raises:
        ValueError: k is not within 1…n.
    """
    _check_k(samples, k)
    by_count = [
        sum(min(x, limit) * comb(u, x) * comb(samples - u, k - x) for x in range(min(u, k) + 1)) / comb(samples, k)
        for u in range(samples + 1)
    ]
    return np.asarray(by_count)[usable]


def mean_interval(
    values: NDArray[np.float64],
    *,
    clusters: NDArray[np.int64] | None = None,
    bounds: tuple[float, float] = (-inf, inf),
) -> Interval:
    """Return the mean of the values with its Student-t 95 % interval, cut to the possible values.

    Without clusters the values are independent (one for each problem): SE = sd / √N, N - 1 degrees of freedom. With
    clusters (several values of one problem, variants of one template) SE = √(C/(C-1) · Σ_c (Σ_{i∈c} (s_i - s̄))²) / N,
    C - 1 degrees of freedom (Miller 2024, arXiv 2411.00640); the mean is still that over values.

    When nothing varies, t would claim certainty. With finite bounds the interval then assumes: of N units that all
    agree, the share of units that would differ is at most the exact 1 - 0.025^(1/N) (Clopper & Pearson 1934, Biometrika
    26, for 0 of N), and those could lie anywhere within the bounds. Without finite bounds the interval is the point;
    for a single unit it is NaN, because nothing is known.

    Args:
        values: shape (values,).
        clusters: shape (values,): the index of each value's cluster, from 0; None if values are independent.
        bounds: least and greatest possible value.

    Raises:
        ValueError: there are no values.
    """
    if not values.size:
        raise ValueError("the mean of no values is not defined")
    mean = float(values.mean())
    units, error = _error(values, clusters)
    lowest, highest = bounds
    if not error:
        return _interval_of_constant(mean, units, lowest, highest)
    half_width = t_quantile((1 + CONFIDENCE) / 2, units - 1) * error
    return Interval(mean, max(lowest, mean - half_width), min(highest, mean + half_width))


def share_interval(values: NDArray[np.float64], *, clusters: NDArray[np.int64] | None = None) -> Interval:
    """Return the mean of shares with its 95 % interval, which is honest near 0 and 1 as well, where t is not.

    Wilson's score interval for the effective number of independent trials, n* = m (1 - m) / SE², with t's quantile in
    place of the normal one. Mean, SE and degrees of freedom are those of mean_interval (Korn & Graubard 1998, Survey
    Methodology 24, for the trials; Franco, Little, Louis & Slud 2019, J. Survey Statistics and Methodology 7, for
    Wilson's interval with them).

    Of N units that all agree, the share of units that would differ is at most Wilson's upper bound for 0 of N, and
    those could be anything within 0…1. All 0 gives [0, z²/(N + z²)], which is Wilson's interval for problems. A rare
    event is bounded no closer than one that was never seen.

    Args:
        values: shape (values,), within 0…1.
        clusters: as for mean_interval.

    Raises:
        ValueError: there are no values.
    """
    if not values.size:
        raise ValueError("the mean of no shares is not defined")
    mean = float(values.mean())
    units, error = _error(values, clusters)
    other = wilson(0, units).high
    if not error:
        return Interval(mean, mean - other * mean, mean + other * (1 - mean))
    low, high = _wilson(mean, mean * (1 - mean) / error**2, t_quantile((1 + CONFIDENCE) / 2, units - 1))
    return Interval(mean, min(low, 1 - other), max(high, other))


def ratio_interval(
    counts: NDArray[np.float64], sizes: NDArray[np.float64], *, clusters: NDArray[np.int64] | None = None
) -> Interval:
    """Return events per unit of size, Σ counts / Σ sizes, with its Student-t 95 % interval.

    The error of a ratio of sums is that of the mean of (count - ratio · size) / mean size (linearisation; Cochran,
    Sampling Techniques, 1977, 6.3), over the units of mean_interval. Where no event was counted, the upper bound is
    Wilson's for 0 of N units, with one event in each of those units.

    Args:
        counts: shape (values,): events, 0 or more.
        sizes: shape (values,): sizes, 0 or more.
        clusters: as for mean_interval.

    Raises:
        ValueError: the sizes sum to 0.
    """
    total = float(sizes.sum())
    if not total > 0:
        raise ValueError("a ratio to nothing is not defined")
    ratio = float(counts.sum()) / total
    if not counts.any():
        units = counts.size if clusters is None else np.unique(clusters).size
        return Interval(0.0, 0.0, wilson(0, units).high * units / total)
    spread = mean_interval((counts - ratio * sizes) / (total / counts.size), clusters=clusters)
    return Interval(ratio, max(0.0, ratio + spread.low), ratio + spread.high)


def _error(values: NDArray[np.float64], clusters: NDArray[np.int64] | None) -> tuple[int, float]:
    """Return the number of independent units and the standard error of the mean, 0 where they do not vary."""
    totals = values - values.mean()
    if clusters is not None:
        totals = np.bincount(clusters, totals)[np.bincount(clusters) > 0]
    if np.abs(totals).max() <= 1e-12 * max(1.0, float(np.abs(values).sum())):  # zero, but for rounding
        return totals.size, 0.0
    return totals.size, sqrt(totals.size / (totals.size - 1) * float(totals @ totals)) / values.size


def _interval_of_constant(mean: float, units: int, lowest: float, highest: float) -> Interval:
    if isfinite(lowest) and isfinite(highest):
        other = 1 - float(((1 - CONFIDENCE) / 2) ** (1 / units))
        return Interval(mean, mean - other * (mean - lowest), mean + other * (highest - mean))
    return Interval(mean, mean, mean) if units > 1 else Interval(mean, nan, nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """The sources of the uncertainty of a mean over problems, and the least difference that this much data can show."""

    between: float
    """Variance between problems, which more samples of each problem do not lower."""
    within: float | None
    """Variance of one sample (of the pair, for a difference) about its problem's mean; None for one sample each."""
    within_share: float | None
    """Share of the variance of the mean that is within problems: the most that infinitely many samples could remove."""
    detectable: float | None
    """The least true value that a two-sided 5 % test finds in 80 of 100 runs of this size.

    None where units do not vary, or there is one: then nothing is known of the noise."""
    detectable_twice_problems: float | None
    """The same with twice the problems."""
    detectable_twice_samples: float | None
    """The same with twice the samples of each problem; None for one sample each."""


def power(
    values: NDArray[np.float64],
    within: NDArray[np.float64] | None,
    samples: int,
    *,
    clusters: NDArray[np.int64] | None = None,
) -> Power:
    """Split the variance of a mean over problems: Var = (between + within / n) / N (Miller 2024, arXiv 2411.00640).

    Args:
        values: shape (problems,): each the mean of n samples, or the difference of two such means.
        within: shape (problems,): an unbiased estimate of the variance of one sample; None where n = 1 hides it.
        samples: n.
        clusters: as for mean_interval; a mean over clusters is as certain as C of them allow.
    """
    size = values.size
    units, error = _error(values, clusters)
    mean_within = None if within is None else float(within.mean())
    if not error:
        return Power(
            between=0.0,
            within=mean_within,
            within_share=None,
            detectable=None,
            detectable_twice_problems=None,
            detectable_twice_samples=None,
        )
    variance = error**2 * size
    noise = 0.0 if mean_within is None else min(variance, mean_within / samples)
    quantiles = [t_quantile(probability, units - 1) for probability in ((1 + CONFIDENCE) / 2, POWER)]
    factor = sum(quantiles)
    return Power(
        between=variance - noise,
        within=mean_within,
        within_share=None if mean_within is None else noise / variance,
        detectable=factor * sqrt(variance / size),
        detectable_twice_problems=factor * sqrt(variance / (2 * size)),
        detectable_twice_samples=None if mean_within is None else factor * sqrt((variance - noise / 2) / size),
    )


def sample_variance(correct: NDArray[np.int64], samples: int) -> NDArray[np.float64] | None:
    """Return for each problem the unbiased estimate of p (1 - p), the variance of one sample; None for one sample."""
    if samples < 2:
        return None
    return np.asarray(correct * (samples - correct) / (samples * (samples - 1)))


def p_value(values: NDArray[np.float64], *, clusters: NDArray[np.int64] | None = None) -> float:
    """Return the two-sided p-value of the mean being 0, by the test that belongs to mean_interval with bounds -1, 1.

    That is the t test, except where nothing varies. Then all 0 gives 1. If the mean is 0, any other constant d can be
    the value of at most 1 / (1 + |d|) of the units, with the others at the far bound; so the p-value is 2 / (1 +
    |d|)^units, which for d = 1 is the sign test's.

    Args:
        values: shape (values,): differences within -1…1.
        clusters: as for mean_interval.
    """
    units, error = _error(values, clusters)
    if not values.any():
        return 1.0
    if not error:
        return float(min(1.0, 2 / (1 + abs(float(values.mean()))) ** units))
    return max(0.0, 1 - central_probability(atan(abs(float(values.mean())) / error / sqrt(units - 1)), units - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number (Holm 1979): the probability of any false positive stays below the
    level."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def wilson(successes: int, trials: int) -> Interval:
    """Return a proportion with its Wilson 95 % score interval, which is honest near 0 and 1 and for few trials.

    Raises:
        ValueError: there are no trials, or more successes than trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes of {trials} trials is not a proportion")
    low, high = _wilson(successes / trials, trials, NormalDist().inv_cdf((1 + CONFIDENCE) / 2))
    return Interval(successes / trials, low if successes else 0.0, high if successes < trials else 1.0)


def _wilson(share: float, trials: float, quantile: float) -> tuple[float, float]:
    square = quantile * quantile
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    half_width = quantile / (1 + square / trials) * sqrt(share * (1 - share) / trials + square / (4 * trials * trials))
    return centre - half_width, centre + half_width


def _check_k(samples: int, k: int) -> None:
    if not 1 <= k <= samples:
        raise ValueError(f"k = {k} is not within 1…{samples}, the samples of a problem")


def kappa(pairs: Sequence[tuple[bool, bool]]) -> Interval | None:
    """Return Cohen's kappa of two labellers of the same items; None where chance alone would have them agree on all.

    The interval is from the large-sample standard error sqrt(p (1 - p) / n) / (1 - e), p being the share of agreement
    and e that of chance (Cohen, "A coefficient of agreement for nominal scales", 1960).

    Args:
        pairs: for each item whether the first labeller found it, and whether the second did.
    """
    size = len(pairs)
    if not size:
        return None
    first_share, second_share = (sum(column) / size for column in zip(*pairs, strict=True))
    agreed = sum(first == second for first, second in pairs) / size
    chance = first_share * second_share + (1 - first_share) * (1 - second_share)
    if chance > 1 - 1e-12:
        return None
    mean = (agreed - chance) / (1 - chance)
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * sqrt(agreed * (1 - agreed) / size) / (1 - chance)
    return Interval(mean, max(-1.0, mean - half), min(1.0, mean + half))

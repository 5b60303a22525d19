"""Unbiased estimates and their intervals, from numbers alone: pass@k, maj@k, means over problems, proportions.

The unit is the problem: samples of one problem are never counted as independent. Nothing here knows of rollouts or
tables (that is metrics.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import atan, comb, cos, inf, isfinite, nan, pi, sin, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from reasonray.records import Interval

CONFIDENCE = 0.95
POWER = 0.8


def pass_at_k(correct: NDArray[np.int64], samples: int, k: int) -> NDArray[np.float64]:
    """Return for each problem the chance that k of its samples, drawn without replacement, hold a correct one.

    1 - C(n - c, k) / C(n, k), the unbiased estimator of Chen et al. 2021 (arXiv 2107.03374).

    Args:
        correct: c, correct samples of each problem.
        samples: n, samples of every problem.
        k: how many are drawn.

    Raises:
        ValueError: k is not within 1…n, or a count not within 0…n.
    """
    _check_draw(samples, k)
    if correct.size and (correct.min() < 0 or correct.max() > samples):
        raise ValueError(f"correct counts must lie within 0…{samples}")
    by_count = [1 - comb(samples - c, k) / comb(samples, k) for c in range(samples + 1)]
    return np.asarray(by_count)[correct]


@lru_cache(maxsize=65536)
def majority_at_k(correct: int, wrong: tuple[int, ...], abstained: int, k: int) -> float:
    """Return the expected credit of a majority vote over k samples of one problem, over all k-subsets, exactly.

    A tie earns the share that the correct answer has of the tied ones. Samples without an answer do not vote, so they
    never win against an answer; a subset of nothing else earns 0. Hence k = 1 is pass@1.

    Args:
        correct: samples with the correct answer.
        wrong: samples of each distinct wrong answer.
        abstained: samples without an answer.
        k: how many vote.

    Raises:
        ValueError: k is not within 1…n.
    """
    samples = correct + sum(wrong) + abstained
    _check_draw(samples, k)
    credit = 0.0
    for votes in range(1, min(correct, k) + 1):
        rivals = tuple(size for size in wrong if size >= votes)
        pool = abstained + sum(size for size in wrong if size < votes)  # cannot reach `votes`: drawn freely
        by_ties = _ways(rivals, votes, pool, k - votes)
        credit += comb(correct, votes) * sum(ways / (1 + ties) for ties, ways in enumerate(by_ties))
    return credit / comb(samples, k)


def _ways(rivals: Sequence[int], votes: int, pool: int, draws: int) -> list[int]:
    """Return, by number of ties, the ways to draw from rivals and pool with no rival above `votes`."""
    # ways[drawn][ties]; each rival gives i ≤ votes of its samples, and ties when it gives exactly `votes`.
    most_ties = draws // votes
    ways = [[0] * (most_ties + 1) for _ in range(draws + 1)]
    for drawn in range(min(pool, draws) + 1):
        ways[drawn][0] = comb(pool, drawn)
    for size in rivals:
        grown = [[0] * (most_ties + 1) for _ in range(draws + 1)]
        for drawn in range(draws + 1):
            for given in range(min(size, votes, drawn) + 1):
                tie = int(given == votes)
                choices = comb(size, given)
                for ties in range(tie, most_ties + 1):
                    grown[drawn][ties] += choices * ways[drawn - given][ties - tie]
        ways = grown
    return ways[draws]


def expected_kept(usable: NDArray[np.int64], samples: int, k: int, limit: int) -> NDArray[np.float64]:
    """Return for each problem E[min(X, limit)], X the usable ones among k samples drawn without replacement.

    X is hypergeometric. This is the size of a data set that keeps at most `limit` rollouts a problem, had only k been
    sampled.

    Raises:
        ValueError: k is not within 1…n.
    """
    _check_draw(samples, k)
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
    """Return the mean of the values with its Student-t 95 % interval, cut to what is possible.

    Without clusters the values are independent (one a problem): SE = sd / √N, N - 1 degrees of freedom. With clusters
    (several values of one problem, variants of one template) SE = √(C/(C-1) · Σ_c (Σ_{i∈c} (s_i - s̄))²) / N, C - 1
    degrees of freedom (Miller 2024, arXiv 2411.00640); the mean stays that over values.

    When nothing varies t would claim certainty. With finite bounds the interval then says: of N units that all agreed,
    the share that would not is at most the exact 1 - 0.025^(1/N) (Clopper & Pearson 1934, Biometrika 26, for 0 of N),
    and those could lie anywhere within the bounds. Without finite bounds the interval is the point, and for a single
    unit NaN: nothing can be said.

    Args:
        values: one value a unit.
        clusters: for each value the number of its cluster, from 0.
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
    reach = t_quantile((1 + CONFIDENCE) / 2, units - 1) * error
    return Interval(mean, max(lowest, mean - reach), min(highest, mean + reach))


def share_interval(values: NDArray[np.float64], *, clusters: NDArray[np.int64] | None = None) -> Interval:
    """Return the mean of shares with its 95 % interval, which is honest near 0 and 1 as well, where t is not.

    Wilson's score interval for as many independent tries as would be as uncertain, n* = m (1 - m) / SE², with t's
    quantile in place of the normal one; mean, SE and degrees of freedom are those of mean_interval (Korn & Graubard
    1998, Survey Methodology 24, for the tries; Franco, Little, Louis & Slud 2019, J. Survey Statistics and Methodology
    7, for Wilson's interval with them).

    Of N units that all agreed, the share that would not is at most Wilson's upper bound for 0 of N, and those could be
    anything within 0…1. All 0 gives [0, z²/(N + z²)], which is Wilson's interval for problems; and what was seen
    seldom is bounded no closer than what was never seen.

    Args:
        values: one value a unit, within 0…1.
        clusters: for each value the number of its cluster, from 0.

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
    Sampling Techniques, 1977, 6.3), over units as mean_interval has them. Where nothing was counted, no more units than
    Wilson's upper bound for 0 of N would show it, once each.

    Args:
        counts: events of each value, 0 or more.
        sizes: size of each value, 0 or more.
        clusters: for each value the number of its cluster, from 0.

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
    """Return how many units are independent and the standard error of the mean, 0 where they do not vary."""
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
    """Where the uncertainty of a mean over problems is from, and what could be seen with this much data."""

    between: float
    """Variance between problems: what more samples of each do not lower."""
    within: float | None
    """Variance of one sample (of the pair, for a difference) about its problem's mean; None for one sample each."""
    within_share: float | None
    """Share of the variance of the mean that is within problems: the most that samples without end could save."""
    detectable: float | None
    """The least true value that a two-sided 5 % test finds in 80 of 100 runs of this size.

    None where units do not vary, or there is one: then nothing is known of the noise."""
    detectable_twice_problems: float | None
    detectable_twice_samples: float | None


def power(
    values: NDArray[np.float64],
    within: NDArray[np.float64] | None,
    samples: int,
    *,
    clusters: NDArray[np.int64] | None = None,
) -> Power:
    """Split the variance of a mean over problems: Var = (between + within / n) / N (Miller 2024, arXiv 2411.00640).

    Args:
        values: a value a problem, each the mean of n samples, or the difference of two such means.
        within: for each problem an unbiased estimate of the variance of one sample; None where n = 1 hides it.
        samples: n.
        clusters: as for mean_interval; a mean over clusters is as certain as C of them allow.
    """
    size = values.size
    units, error = _error(values, clusters)
    one = None if within is None else float(within.mean())
    if not error:
        return Power(
            between=0.0,
            within=one,
            within_share=None,
            detectable=None,
            detectable_twice_problems=None,
            detectable_twice_samples=None,
        )
    variance = error**2 * size
    noise = 0.0 if one is None else min(variance, one / samples)
    steps = [t_quantile(probability, units - 1) for probability in ((1 + CONFIDENCE) / 2, POWER)]
    reach = sum(steps)
    return Power(
        between=variance - noise,
        within=one,
        within_share=None if one is None else noise / variance,
        detectable=reach * sqrt(variance / size),
        detectable_twice_problems=reach * sqrt(variance / (2 * size)),
        detectable_twice_samples=None if one is None else reach * sqrt((variance - noise / 2) / size),
    )


def sample_variance(correct: NDArray[np.int64], samples: int) -> NDArray[np.float64] | None:
    """Return for each problem the unbiased estimate of p (1 - p), the variance of one sample; None for one sample."""
    if samples < 2:
        return None
    return np.asarray(correct * (samples - correct) / (samples * (samples - 1)))


def p_value(values: NDArray[np.float64], *, clusters: NDArray[np.int64] | None = None) -> float:
    """Return the two-sided p-value of the mean being 0, by the test that belongs to mean_interval with bounds -1, 1.

    That is t's. Where nothing varies t has nothing to say: all 0 gives 1. Any other constant d could, the mean being 0,
    be the value of at most 1 / (1 + |d|) of the units, the others at the far bound; so 2 / (1 + |d|)^units, which for
    d = 1 is the sign test's.

    Args:
        values: differences within -1…1, one a unit.
        clusters: as for mean_interval.
    """
    units, error = _error(values, clusters)
    if not values.any():
        return 1.0
    if not error:
        return float(min(1.0, 2 / (1 + abs(float(values.mean()))) ** units))
    return max(0.0, 1 - _t_central(atan(abs(float(values.mean())) / error / sqrt(units - 1)), units - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for being several (Holm 1979): the chance of any false find stays below the level."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def wilson(successes: int, trials: int) -> Interval:
    """Return a raw proportion with its Wilson 95 % score interval, honest near 0 and 1 and for few trials.

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
    reach = quantile / (1 + square / trials) * sqrt(share * (1 - share) / trials + square / (4 * trials * trials))
    return centre - reach, centre + reach


@lru_cache(maxsize=4096)
def t_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t distribution with a whole number of degrees of freedom.

    Bisection on the closed form of the distribution (Abramowitz & Stegun 26.7.3, 26.7.4); above 400 degrees the
    expansion around the normal quantile (26.7.5), whose error is there below 1e-11.

    Raises:
        ValueError: the probability is not within (0.5, 1), or there is no degree of freedom.
    """
    if not 0.5 < probability < 1 or freedom < 1:
        raise ValueError(f"no quantile of t at {probability} with {freedom} degrees of freedom")
    if freedom > 400:
        return _t_quantile_expanded(probability, freedom)
    low, high = 0.0, pi / 2  # bisect the angle θ = atan(t/√ν): t itself has no upper end
    for _ in range(60):
        middle = (low + high) / 2
        below = (1 + _t_central(middle, freedom)) / 2 < probability
        low, high = (middle, high) if below else (low, middle)
    return sqrt(freedom) * sin(low) / cos(low)


def _t_central(angle: float, freedom: int) -> float:
    """Return P(|T| < t) for t = √ν · tan(angle)."""
    odd = freedom % 2
    term = cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for i in range(2 + odd, freedom, 2):
        term *= cos(angle) ** 2 * (i - 1) / i
        total += term
    return 2 / pi * (angle + sin(angle) * total) if odd else sin(angle) * total


def _t_quantile_expanded(probability: float, freedom: int) -> float:
    z = NormalDist().inv_cdf(probability)
    corrections = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(correction / float(freedom) ** power for power, correction in enumerate(corrections, 1))


def _check_draw(samples: int, k: int) -> None:
    if not 1 <= k <= samples:
        raise ValueError(f"k = {k} is not within 1…{samples}, the samples of a problem")


def kappa(pairs: Sequence[tuple[bool, bool]]) -> Interval | None:
    """Return Cohen's kappa of two labellers of the same things; None where chance alone would have them agree on all.

    The interval is from the large-sample standard error sqrt(p (1 - p) / n) / (1 - e), p being the share of agreement
    and e that of chance (Cohen, "A coefficient of agreement for nominal scales", 1960).
    """
    size = len(pairs)
    if not size:
        return None
    one, other = (sum(column) / size for column in zip(*pairs, strict=True))
    agreed = sum(first == second for first, second in pairs) / size
    chance = one * other + (1 - one) * (1 - other)
    if chance > 1 - 1e-12:
        return None
    mean = (agreed - chance) / (1 - chance)
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * sqrt(agreed * (1 - agreed) / size) / (1 - chance)
    return Interval(mean, max(-1.0, mean - half), min(1.0, mean + half))

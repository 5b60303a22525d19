"""Student's t distribution with a whole number of degrees of freedom, to the precision of scipy's, without scipy."""

from __future__ import annotations

from functools import lru_cache
from math import cos, pi, sin, sqrt
from statistics import NormalDist


@lru_cache(maxsize=4096)
def t_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t distribution.

    Up to 400 degrees of freedom by bisection on the closed form of the distribution (Abramowitz & Stegun 26.7.3,
    26.7.4), above by the expansion around the normal quantile (26.7.5), whose error is below 1e-11 there.

    Args:
        probability: within (0.5, 1).
        freedom: ν, degrees of freedom.

    Raises:
        ValueError: the probability is not within (0.5, 1), or there is no degree of freedom.
    """
    if not 0.5 < probability < 1 or freedom < 1:
        raise ValueError(f"no quantile of t at {probability} with {freedom} degrees of freedom")
    if freedom > 400:
        return _expanded_quantile(probability, freedom)
    low, high = 0.0, pi / 2  # bisect the angle θ = atan(t/√ν), because t itself has no upper end
    for _ in range(60):
        middle = (low + high) / 2
        is_below = (1 + central_probability(middle, freedom)) / 2 < probability
        low, high = (middle, high) if is_below else (low, middle)
    return sqrt(freedom) * sin(low) / cos(low)


def central_probability(angle: float, freedom: int) -> float:
    """Return P(|T| < t) for t = √ν · tan(angle), with ν = `freedom` degrees of freedom."""
    odd = freedom % 2
    term = cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for i in range(2 + odd, freedom, 2):
        term *= cos(angle) ** 2 * (i - 1) / i
        total += term
    return 2 / pi * (angle + sin(angle) * total) if odd else sin(angle) * total


def _expanded_quantile(probability: float, freedom: int) -> float:
    z = NormalDist().inv_cdf(probability)
    corrections = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(correction / float(freedom) ** power for power, correction in enumerate(corrections, 1))

"""Give the 95% interval of one figure.

`bootstrap_ratio` (Efron 1979, percentile method): draw D documents with replacement, form sum(numerator) /
sum(denominator) again, repeat; the middle 95% of the results is the interval. The resampled unit is the document,
because tokens of one document are alike and are no independent evidence. `wilson` (1927) is the interval of a share of
right answers; it stays inside 0..1 and is honest for few items.

    >>> low, high = wilson(8, 10)
    >>> round(low, 3), round(high, 3)
    (0.49, 0.943)
"""

from __future__ import annotations

import math

import numpy as np

RESAMPLES = 1000
Z_95 = 1.959963984540054


def bootstrap_ratio(
    numerator: np.ndarray, denominator: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """95% interval of sum(numerator) / sum(denominator) over resampled units.

    Args:
        numerator: (D,) per unit, e.g. nats.
        denominator: (D,) per unit, e.g. tokens.
        resamples: Number of draws.
        seed: Seed of the bootstrap draws.

    Returns:
        Lower and upper bound; both the value itself where there is one unit.

    Example:
        >>> bootstrap_ratio(np.array([2.0, 2.0]), np.array([1.0, 1.0]))
        (2.0, 2.0)
    """
    low, high = np.percentile(bootstrap_draws(numerator, denominator, resamples=resamples, seed=seed), [2.5, 97.5])
    return float(low), float(high)


def bootstrap_draws(
    numerator: np.ndarray, denominator: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """(R,) values of sum(numerator) / sum(denominator), each over as many units drawn with replacement."""
    numerator, denominator = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    size = len(numerator)
    generator = np.random.Generator(np.random.PCG64(seed))
    ratios = np.empty(resamples)
    for row in range(resamples):
        # How often each unit is drawn, so that a resample is a dot product and not a copy.
        counts = np.bincount(generator.integers(0, size, size), minlength=size)
        below = counts @ denominator
        ratios[row] = (counts @ numerator) / below if below else np.nan
    # A draw of nothing but units without a token has no ratio: it is left out, as a share of nothing would be.
    return ratios[np.isfinite(ratios)] if not np.isfinite(ratios).all() else ratios


def wilson(right: float, total: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's 95% score interval of a proportion.

    Args:
        right: Number of successes.
        total: Number of trials; 0 gives (0, 1).
        z: Normal quantile.
    """
    if total == 0:
        return 0.0, 1.0
    share = right / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)

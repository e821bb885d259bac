"""Do two recipes differ? Several seeds of each answer it; two checkpoints cannot.

The same recipe with another seed gives another score. With one seed each, a difference between two checkpoints may be
the recipes' or the seeds', and nothing in the data tells which. With several seeds the spread inside a group says what
the seeds alone do, and the difference of the groups' means is compared with it:

    difference = mean of A's seeds - mean of B's seeds
    variance   = s_A^2 / n_A + s_B^2 / n_B + v_items
    t          = difference / sqrt(variance)

s^2 is the variance between seeds (n - 1 in the denominator), v_items that of the mean difference over resampled items,
which all runs share: another sample of documents would move it even if seeds did not. The degrees of freedom are
Welch and Satterthwaite's. Worked by hand, with items left out:

    A: 1.90, 1.92, 1.94      B: 1.80, 1.82, 1.84      s^2 = 0.0004 each, difference 0.10
    variance 0.0004 / 3 + 0.0004 / 3 = 0.000267, t = 0.10 / 0.0163 = 6.12, 4 degrees of freedom: p = 0.0036

Why not a bootstrap over seeds: three seeds resampled give intervals that are far too short. In simulation its 95%
interval covered the truth in 78% of the cases with three seeds a group and in 88% with six; the one here covered 97%
and 95% (docs/experiments.md). Why not a permutation of the seeds' labels: three against three can be split in 20 ways,
so its p-value is never below 0.1. It assumes nothing, though, and is given beside the other as `permutation_p` with the
smallest value it can take.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy.special import stdtr, stdtrit

from babyllama.comparison.paired_tests import Comparison


def label_permutation(scores_a: Sequence[float], scores_b: Sequence[float]) -> tuple[float, float]:
    """Two-sided p-value of the difference of means over the relabellings of the seeds, and the smallest possible one.

    All relabellings up to 50,000; else (1 + count) / (1 + 10,000) of random ones, which is never 0.

    >>> label_permutation([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    (0.1, 0.1)
    """
    pooled = np.array([*scores_a, *scores_b], dtype=np.float64)
    size, total = len(scores_a), len(pooled)
    observed = abs(np.mean(scores_a) - np.mean(scores_b)) * (1 - 1e-12)
    if math.comb(total, size) > 50_000:  # ten against ten: more than anyone trains; random relabellings do
        generator = np.random.Generator(np.random.PCG64(0))
        drawn = [generator.permutation(total)[:size] for _ in range(10_000)]
        chosen, smallest = np.array([range(size), *drawn]), 1 / (1 + len(drawn))  # the seeds as they are count as well
    else:
        smallest = None
        chosen = np.array(list(combinations(range(total), size)))
    sums = pooled[chosen].sum(axis=1)
    gaps = np.abs(sums / size - (pooled.sum() - sums) / (total - size))
    both_ways = 2 if size * 2 == total else 1  # swapping equal groups gives the same gap
    return float(np.mean(gaps >= observed)), smallest or both_ways / len(chosen)


def compare_seeds(
    scores_a: Sequence[float], scores_b: Sequence[float], item_variance: float = 0.0, items: int = 0
) -> tuple[Comparison, dict[str, float]]:
    """Return mean score of recipe A minus that of recipe B.

    Args:
        scores_a: One score a seed.
        scores_b: One score a seed. One of the two may have a single seed: its spread is then taken to be the other's.
        item_variance: Variance of the difference over resampled items.
        items: How many items that rests on.

    Returns:
        The comparison, and the label permutation's `permutation_p` and `smallest_permutation_p`.

    Raises:
        ValueError: Neither side has two seeds.
    """
    a, b = np.asarray(scores_a, dtype=np.float64), np.asarray(scores_b, dtype=np.float64)
    if max(len(a), len(b)) < 2:
        raise ValueError("one seed each: nothing is known of the seeds' spread")
    # The seeds' variance; a recipe with one seed takes the other's.
    spreads = [float(np.var(x, ddof=1)) if len(x) > 1 else None for x in (a, b)]
    known = [s for s in spreads if s is not None]
    parts = [(s if s is not None else known[0]) / len(x) for s, x in zip(spreads, (a, b), strict=True)]
    freedoms = [len(x) - 1 if len(x) > 1 else len(other) - 1 for x, other in ((a, b), (b, a))]
    variance = sum(parts) + item_variance
    difference = float(a.mean() - b.mean())
    # Welch's t with the items' variance, and what a permutation of labels says.
    df = _welch([*parts, item_variance], [*freedoms, max(items - 1, 1)])
    half = float(stdtrit(df, 0.975)) * math.sqrt(variance)
    p_value = 2 * float(stdtr(df, -abs(difference) / math.sqrt(variance))) if variance else float(difference == 0)
    permutation, floor = label_permutation(a.tolist(), b.tolist())
    pooled = math.sqrt(sum(known) / len(known))
    comparison = Comparison(
        difference=difference,
        low=difference - half,
        high=difference + half,
        p_value=p_value,
        smallest_p=0.0,
        effect_size=difference / pooled if pooled else None,
        effect="Cohen's d over seeds",
        units=len(a) + len(b),
        method=f"{len(a)} against {len(b)} seeds: Welch's t with the items' variance added",
    )
    return comparison, {"permutation_p": permutation, "smallest_permutation_p": floor}


def _welch(parts: Sequence[float], freedoms: Sequence[float]) -> float:
    """Welch and Satterthwaite's degrees of freedom of a sum of variances."""
    total = sum(parts)
    if not total:
        return float(max(freedoms))
    return total**2 / sum(part**2 / df for part, df in zip(parts, freedoms, strict=True))

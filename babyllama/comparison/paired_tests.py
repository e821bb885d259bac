"""Test whether the difference between two checkpoints on the same items is more than chance.

**Two checkpoints on the same items.** If A and B were equally good, the difference on each item could as well have had
the other sign. `sign_permutation` flips the signs at random and asks how often the total is as far from 0 as the one
observed. Three documents on which A needs 1, 2 and 3 bits more have 8 sign patterns; two of them (+++ and ---) are as
extreme as the observed one, so p = 2/8:

    >>> sign_permutation(np.array([1.0, 2.0, 3.0]))
    0.25

**Many comparisons.** Among 20 comparisons of equal models one has p < 0.05 by chance. `holm` (1979) corrects: the
smallest of m p-values is multiplied by m, the next by m - 1, and so on, never falling.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

What these tests answer: do *these two checkpoints* differ on this kind of text? Whether the recipes differ needs
several seeds of each: `babyllama.comparison.seed_tests`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from babyllama.evaluation.intervals import RESAMPLES, Z_95, bootstrap_ratio

PERMUTATIONS = 10_000
EXACT_UP_TO = 14  # units: 2^14 = 16,384 sign patterns are all tried, beyond that 10,000 random ones
PERMUTED_SHARES = 2_000  # items; beyond it the permutation's total is normal to the third digit of p
CHUNK = 4_000_000  # numbers drawn at once: bounds the memory of large permutations


@dataclass(frozen=True)
class Comparison:
    """A difference between two runs with its interval, p-value and effect size.

    Attributes:
        difference: Figure of A minus figure of B.
        low: Lower bound of its 95% interval.
        high: Upper bound.
        p_value: Two-sided, before any correction for many comparisons.
        smallest_p: The smallest p-value that so few units can give.
        effect_size: See `effect`.
        effect: What `effect_size` is.
        units: Items, or seeds, that the comparison rests on.
        method: How it was made, for the page.
    """

    difference: float
    low: float
    high: float
    p_value: float
    smallest_p: float
    effect_size: float | None
    effect: str
    units: int
    method: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def sign_permutation(differences: np.ndarray, *, permutations: int = PERMUTATIONS, seed: int = 0) -> float:
    """Return two-sided p-value of sum(differences) when each item's sign is a coin's (Fisher's randomisation test).

    Exact for up to 14 items that differ; else (1 + count) / (1 + permutations), which is never 0 (Phipson and Smyth
    2010).

    Args:
        differences: (N,) per item, A minus B; items without a difference decide nothing.
        permutations: Random sign patterns where not all are tried.
        seed: Seed of the random sign patterns.
    """
    values = np.asarray(differences, dtype=np.float64)
    values = values[values != 0]
    if not len(values):
        return 1.0
    observed = abs(values.sum()) * (1 - 1e-12)  # a pattern equal up to rounding is as extreme
    if len(values) <= EXACT_UP_TO:
        bits = (np.arange(2 ** len(values))[:, None] >> np.arange(len(values))) & 1
        return float(np.mean(np.abs((2.0 * bits - 1.0) @ values) >= observed))
    generator = np.random.Generator(np.random.PCG64(seed))
    extreme, done = 0, 0
    while done < permutations:
        rows = min(permutations - done, max(1, CHUNK // len(values)))
        signs = generator.integers(0, 2, (rows, len(values)), dtype=np.int8)
        extreme += int(np.count_nonzero(np.abs(2.0 * (signs @ values) - values.sum()) >= observed))
        done += rows
    return (1 + extreme) / (1 + permutations)


def smallest_sign_p(units: int, permutations: int = PERMUTATIONS) -> float:
    """Return the smallest p-value that `sign_permutation` can give for so many items that differ."""
    return min(1.0, 2.0 ** (1 - units)) if units <= EXACT_UP_TO else 1 / (1 + permutations)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p-values that hold for the whole family.

    Args:
        p_values: P-values of all comparisons made, in any order.

    Returns:
        Corrected values in the same order, at most 1.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = running
    return corrected


def compare_documents(
    nats_a: np.ndarray, nats_b: np.ndarray, sizes: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Return bits per byte of A minus those of B over the same documents.

    Paired bootstrap over documents for the interval, sign permutation for p. Effect size: Cohen's d_z of the
    documents' own differences (mean / standard deviation).

    Args:
        nats_a: (D,) negative log-likelihood of each document under A.
        nats_b: (D,) under B.
        sizes: (D,) UTF-8 bytes.
        resamples: Bootstrap draws.
        seed: Seed of the bootstrap draws.
    """
    bits = (np.asarray(nats_a, dtype=np.float64) - np.asarray(nats_b, dtype=np.float64)) / math.log(2)
    sizes = np.asarray(sizes, dtype=np.float64)
    low, high = bootstrap_ratio(bits, sizes, resamples=resamples, seed=seed)
    return Comparison(
        difference=float(bits.sum() / sizes.sum()),
        low=low,
        high=high,
        p_value=sign_permutation(bits, seed=seed),
        smallest_p=smallest_sign_p(int(np.count_nonzero(bits))),
        effect_size=_d_z(bits / np.maximum(sizes, 1)),
        effect="Cohen's d_z over documents",
        units=len(bits),
        method="paired bootstrap and sign permutation over documents",
    )


def _d_z(values: np.ndarray) -> float | None:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return float(np.mean(values) / spread) if spread else None


def compare_choices(
    right_a: np.ndarray,
    right_b: np.ndarray,
    strata: Sequence[str] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Return accuracy of A minus that of B over the same items, as the plain mean over strata (paradigms).

    Only items on which the two disagree carry a sign. Within a stratum of n items with m disagreements the flipped sum
    is 2 * Binomial(m, 1/2) - m, so a permutation is one draw a stratum however many items there are; the bootstrap
    draws, in the same way, how many items of each kind (A only, B only, the rest) a resample has. Effect size: the
    share of disagreements that A wins, minus 1/2 (Cohen's g).

    Args:
        right_a: (N,) whether A was right.
        right_b: (N,) whether B was.
        strata: Paradigm of each item; None: one stratum.
        resamples: Bootstrap draws.
        seed: Seed of the bootstrap draws.
    """
    right_a, right_b = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    # Disagreements of each stratum are all that the difference rests on.
    names, index = np.unique(strata if strata is not None else [""] * len(right_a), return_inverse=True)
    sizes = np.bincount(index, minlength=len(names))
    only_a = np.bincount(index[right_a & ~right_b], minlength=len(names))
    only_b = np.bincount(index[right_b & ~right_a], minlength=len(names))
    difference = float(np.mean((only_a - only_b) / sizes))
    # Resample items within their strata.
    generator = np.random.Generator(np.random.PCG64(seed))
    shares = np.stack([only_a, only_b, sizes - only_a - only_b], axis=1) / sizes[:, None]
    draws = np.stack([generator.multinomial(n, p, size=resamples) for n, p in zip(sizes, shares, strict=True)])
    low, high = np.percentile(((draws[..., 0] - draws[..., 1]) / sizes[:, None]).mean(axis=0), [2.5, 97.5])
    total = int(only_a.sum() + only_b.sum())
    return Comparison(
        difference=difference,
        low=float(low),
        high=float(high),
        p_value=_choice_p_value(only_a, only_b, sizes, generator),
        smallest_p=smallest_sign_p(total),
        effect_size=float(only_a.sum() / total - 0.5) if total else None,
        effect="Cohen's g: share of disagreements won, minus 1/2",
        units=len(right_a),
        method="paired bootstrap and sign permutation over items within paradigms",
    )


def compare_shares(
    values_a: np.ndarray, values_b: np.ndarray, strata: Sequence[str] | None = None, *, seed: int = 0
) -> Comparison:
    """Return mean of A minus mean of B over the same items, as the plain mean over strata (soft accuracy by paradigm).

    An item of a stratum of n weighs 1 / (n * strata). The interval is the normal one with the variances within strata
    added up; p is the sign permutation of the weighted differences, beyond 2,000 items by its normal limit. Effect
    size: Cohen's d_z of the items' differences.

    Args:
        values_a: (N,) value of each item under A, e.g. sigmoid of a pair's margin.
        values_b: (N,) under B.
        strata: Paradigm of each item; None: one stratum.
        seed: Seed of the permutations.
    """
    differences = np.asarray(values_a, dtype=np.float64) - np.asarray(values_b, dtype=np.float64)
    # The mean over strata and the spread inside each.
    names, index = np.unique(strata if strata is not None else [""] * len(differences), return_inverse=True)
    sizes = np.bincount(index, minlength=len(names))
    means = np.bincount(index, differences, len(names)) / sizes
    spread = np.bincount(index, (differences - means[index]) ** 2, len(names)) / np.maximum(sizes - 1, 1)
    half = Z_95 * math.sqrt(float(np.sum(spread / sizes))) / len(names)
    # Many items: the sum of signed differences is normal.
    weighted = differences / sizes[index] / len(names)
    if len(weighted) <= PERMUTED_SHARES:
        p_value, smallest = sign_permutation(weighted, seed=seed), smallest_sign_p(int(np.count_nonzero(weighted)))
    else:
        scale = math.sqrt(2 * float(weighted @ weighted))
        p_value, smallest = (math.erfc(abs(float(weighted.sum())) / scale) if scale else 1.0), 0.0
    return Comparison(
        difference=float(means.mean()),
        low=float(means.mean()) - half,
        high=float(means.mean()) + half,
        p_value=p_value,
        smallest_p=smallest,
        effect_size=_d_z(differences),
        effect="Cohen's d_z over items",
        units=len(differences),
        method="normal interval and sign permutation over items within paradigms",
    )


def _choice_p_value(only_a: np.ndarray, only_b: np.ndarray, sizes: np.ndarray, generator: np.random.Generator) -> float:
    """Sign permutation of items that are right or wrong."""
    differing = only_a + only_b
    if differing.sum() <= EXACT_UP_TO:
        weights = 1.0 / sizes
        return sign_permutation(np.concatenate([np.repeat(weights, only_a), -np.repeat(weights, only_b)]))
    observed = abs(float(np.sum((only_a - only_b) / sizes)))
    flipped = 2.0 * generator.binomial(differing, 0.5, size=(PERMUTATIONS, len(sizes))) - differing
    extreme = np.count_nonzero(np.abs((flipped / sizes).sum(axis=1)) >= observed * (1 - 1e-12))
    return (1 + int(extreme)) / (1 + PERMUTATIONS)

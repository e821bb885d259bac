"""Intervals and tests: worked examples, known answers, and by simulation the rates that they promise."""

from __future__ import annotations

import doctest
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from babyllama.comparison import differences, paired_tests, seed_tests
from babyllama.comparison.paired_tests import compare_choices, compare_documents, compare_shares, holm, sign_permutation
from babyllama.comparison.runs import named_folders
from babyllama.comparison.seed_tests import compare_seeds, label_permutation
from babyllama.evaluation import consistency
from babyllama.evaluation.intervals import bootstrap_ratio


@pytest.mark.parametrize("module", [paired_tests, seed_tests, differences, consistency], ids=lambda m: m.__name__)
def test_the_worked_examples(module: object) -> None:
    assert doctest.testmod(module).failed == 0


def test_runs_of_one_name_in_folders_of_one_name_are_all_compared(tmp_path: Path) -> None:
    folders = [tmp_path / place for place in ("a/models/llama", "b/models/llama", "models/gpt")]
    assert list(named_folders(folders)) == ["a/models/llama", "b/models/llama", "gpt"]
    assert list(named_folders(folders).values()) == [folder.resolve() for folder in folders]
    assert list(named_folders(folders[1:])) == ["llama", "gpt"]


def test_sign_permutation_random_and_exact_agree() -> None:
    values = np.random.default_rng(0).normal(0.4, 1, 14)
    exact = sign_permutation(values)
    drawn = sign_permutation(np.concatenate([values, np.zeros(5)]))  # zeros decide nothing
    assert exact == drawn
    wide = np.random.default_rng(1).normal(0.2, 1, 400)
    z = abs(wide.sum()) / math.sqrt((wide**2).sum())
    assert sign_permutation(wide) == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.01)


def test_no_p_value_is_zero() -> None:
    """The order that was seen is one of the orders: 60 of 60 is as rare as 1 in 10,001, and not impossible."""
    assert sign_permutation(np.arange(1.0, 61.0)) == pytest.approx(1 / (1 + paired_tests.PERMUTATIONS))
    found = compare_choices(np.ones(100, dtype=bool), np.arange(100) >= 60)
    assert found.p_value == pytest.approx(1 / (1 + paired_tests.PERMUTATIONS))


@pytest.mark.parametrize("lost", [3, 30])  # all orders, and drawn ones
def test_a_choice_of_a_small_paradigm_weighs_more_in_the_p_value_too(lost: int) -> None:
    """1 of 2 won and 3 (or 30) of 1,000 lost: 0.5 outweighs all of them, whichever way the signs fall."""
    right_a = np.array([True, True] + [False] * lost + [True] * (1000 - lost))
    right_b = np.array([False, True] + [True] * 1000)
    found = compare_choices(right_a, right_b, ["small"] * 2 + ["large"] * 1000)
    assert found.difference == pytest.approx((0.5 - lost / 1000) / 2)
    assert found.p_value == pytest.approx(1.0)


def test_the_interval_of_choices_is_the_normal_one_where_there_are_many() -> None:
    kinds = [(True, False)] * 600 + [(False, True)] * 400 + [(True, True)] * 3000
    found = compare_choices(*(np.array(column) for column in zip(*kinds, strict=True)))
    half = 1.96 * math.sqrt((0.15 + 0.10 - 0.05**2) / 4000)
    assert (found.low, found.high) == (pytest.approx(0.05 - half, abs=8e-4), pytest.approx(0.05 + half, abs=8e-4))


def test_effect_size_by_hand() -> None:
    found = compare_shares(np.array([1.0, 2.0, 4.0]), np.zeros(3))
    assert found.effect_size == pytest.approx((7 / 3) / math.sqrt(7 / 3))  # mean 7/3, variance (16 + 1 + 25) / 9 / 2


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.001, 0.03, 0.5]) == pytest.approx([0.09, 0.004, 0.09, 0.5])
    assert holm([]) == []


def test_choices_over_paradigms_of_unequal_size() -> None:
    """The mean over paradigms, not over pairs: 1 of 2 more in one, none in another of 100."""
    a = np.array([True, True] + [True] * 100)
    b = np.array([True, False] + [True] * 100)
    found = compare_choices(a, b, ["small"] * 2 + ["large"] * 100)
    assert found.difference == pytest.approx(0.25)
    assert found.p_value == 1.0  # a single disagreement can be no evidence
    assert found.smallest_p == 1.0


def test_choices_random_path_agrees_with_the_binomial() -> None:
    """One paradigm: the sign test's exact p is a binomial tail (30 of 40 disagreements won)."""
    a = np.array([True] * 30 + [False] * 10 + [True] * 60)
    b = np.array([False] * 30 + [True] * 10 + [True] * 60)
    tail = 2 * sum(math.comb(40, k) for k in range(30, 41)) / 2**40
    found = compare_choices(a, b)
    assert found.p_value == pytest.approx(tail, abs=0.001)
    assert found.effect_size == pytest.approx(0.25)


def test_documents_difference_is_in_bits_per_byte() -> None:
    nats = np.array([10.0, 30.0, 20.0])
    found = compare_documents(nats + math.log(2) * np.array([1, 2, 3]), nats, np.array([10, 20, 30]))
    assert found.difference == pytest.approx(0.1)
    assert (found.low, found.high) == (pytest.approx(0.1), pytest.approx(0.1))
    assert found.p_value == pytest.approx(0.25)


def test_seeds_by_hand() -> None:
    found, permutation = compare_seeds([1.90, 1.92, 1.94], [1.80, 1.82, 1.84])
    assert found.p_value == pytest.approx(0.0036, abs=0.0003)
    assert found.difference == pytest.approx(0.10)
    assert found.high - found.difference == pytest.approx(2.776 * 0.016330, rel=0.02)
    assert permutation == {"permutation_p": pytest.approx(0.1), "smallest_permutation_p": pytest.approx(0.1)}
    with pytest.raises(ValueError, match="one seed each"):
        compare_seeds([1.0], [2.0])


def test_items_widen_the_interval_of_seeds_and_one_seed_borrows_the_others_spread() -> None:
    narrow, _ = compare_seeds([1.90, 1.92, 1.94], [1.80, 1.82, 1.84])
    wide, _ = compare_seeds([1.90, 1.92, 1.94], [1.80, 1.82, 1.84], item_variance=0.01, items=50)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    single, _ = compare_seeds([1.90, 1.92, 1.94], [1.82])
    assert single.high - single.low > narrow.high - narrow.low


def test_random_relabellings_never_give_zero() -> None:
    """Of 10,000 drawn out of 2.7 million none was the seeds' own: p 0.0, below the smallest value told beside it."""
    p_value, smallest = label_permutation([1.0 + i / 100 for i in range(12)], [9.0 + i / 100 for i in range(12)])
    assert p_value == smallest == 1 / 10_001


def test_label_permutation_of_unequal_groups() -> None:
    assert label_permutation([5.0], [1.0, 2.0, 3.0]) == (0.25, 0.25)


def false_positives(simulations: int, units: int) -> tuple[float, float]:
    """Share of p < 0.05 and of intervals that cover, over documents that differ by symmetric noise around a truth."""
    generator = np.random.default_rng(units)
    wrong = covered = 0
    for number in range(simulations):
        sizes = generator.integers(200, 4000, units).astype(float)
        base = generator.gamma(3.0, 200.0, units)
        noise = generator.normal(0, 0.05, units) * sizes
        found = compare_documents(base + noise, base, sizes, resamples=400, seed=number)
        wrong += found.p_value < 0.05
        covered += found.low <= 0 <= found.high
    return wrong / simulations, covered / simulations


def test_rates_under_the_null_in_small() -> None:
    wrong, covered = false_positives(100, 60)
    assert wrong <= 0.12
    assert covered >= 0.86


@pytest.mark.slow
@pytest.mark.parametrize("units", [30, 200])
def test_false_positive_rate_and_coverage(units: int) -> None:
    wrong, covered = false_positives(1000, units)
    assert 0.03 <= wrong <= 0.07
    assert 0.93 <= covered <= 0.97 or units < 100  # a percentile bootstrap of 30 documents is a little short


@pytest.mark.slow
def test_false_positive_rate_of_swapped_labels_on_pairs() -> None:
    """Two real-looking models with the labels of each pair swapped at random: no difference is left to find."""
    generator = np.random.default_rng(5)
    strata = np.repeat([f"p{i}" for i in range(12)], 50)
    right_a, right_b = generator.random(600) < 0.7, generator.random(600) < 0.6
    wrong = 0
    for number in range(1000):
        swap = generator.random(600) < 0.5
        a, b = np.where(swap, right_b, right_a), np.where(swap, right_a, right_b)
        wrong += compare_choices(a, b, strata.tolist(), resamples=10, seed=number).p_value < 0.05
    assert 0.03 <= wrong / 1000 <= 0.07


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 6])
def test_seed_intervals_cover(seeds: int) -> None:
    generator = np.random.default_rng(seeds)
    found = [compare_seeds(generator.normal(0, 1, seeds), generator.normal(0, 1, seeds))[0] for _ in range(1000)]
    assert 0.93 <= sum(f.low <= 0 <= f.high for f in found) / 1000 <= 0.985
    assert sum(f.p_value < 0.05 for f in found) / 1000 <= 0.07


@pytest.mark.slow
def test_power_grows_with_the_effect() -> None:
    """100 documents whose differences have standard deviation 1: an effect of half of it is found nearly always."""
    generator = np.random.default_rng(3)
    power = {}
    for effect in (0.1, 0.3, 0.5):
        draws = [sign_permutation(generator.normal(effect, 1, 100), permutations=1000) < 0.05 for _ in range(300)]
        power[effect] = sum(draws) / 300
    assert power[0.1] < 0.35 < 0.75 < power[0.3] < power[0.5]
    assert power[0.5] > 0.97


def test_shares_by_hand_and_their_two_ways_to_p() -> None:
    values = np.array([0.9, 0.2, 0.6, 0.4]), np.array([0.5, 0.4, 0.5, 0.5])
    found = compare_shares(*values, ["a", "a", "b", "b"])
    assert found.difference == pytest.approx(((0.4 - 0.2) / 2 + (0.1 - 0.1) / 2) / 2)
    variance = (0.6**2 / 2) / 2 / 4 + (0.2**2 / 2) / 2 / 4
    assert found.high - found.difference == pytest.approx(1.959964 * math.sqrt(variance))
    assert found.p_value == sign_permutation(np.array([0.4, -0.2, 0.1, -0.1]))
    generator = np.random.default_rng(0)
    a = generator.random(2200)
    b = np.clip(a + generator.normal(-0.005, 0.1, 2200), 0, 1)
    many, few = compare_shares(a, b), sign_permutation(a - b)
    assert many.p_value == pytest.approx(few, abs=0.01)
    assert compare_shares(a, a).p_value == 1.0


def test_one_paraphrase_pair_has_no_unrelated_one(tiny_llama: Any, tiny_tokenizer: Any) -> None:
    pairs = [("The dog ran to the", "To the house the dog ran: the")]
    figures, items = consistency.consistency(tiny_llama, tiny_tokenizer, window=32, pairs=pairs)
    assert (figures["consistency"], figures["unrelated_divergence"], figures["num_pairs"]) == (None, None, 1)
    assert 0 < figures["paraphrase_divergence"] < 1
    assert len(items) == 1


def test_a_document_without_tokens_leaves_an_interval_a_number() -> None:
    """One of the draws may hold nothing but that document: it is left out, and so is no interval nan."""
    low, high = bootstrap_ratio(np.array([3.0, 0.0]), np.array([2.0, 0.0]))
    assert (low, high) == (1.5, 1.5)

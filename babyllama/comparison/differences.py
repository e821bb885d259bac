"""From per-item scores of several runs to the list of differences that hold.

A *group* is a recipe with its seeds, or a single run. Every two groups are compared in every metric that both have
items for: single runs item by item (`paired_tests`), recipes with seeds over seeds (`seed_tests`). Holm's correction
runs over all of these comparisons together, and a difference *holds* where the corrected p-value is below
0.05 and the interval does not contain 0.

Two of the metrics are *instruments*: isolated bits per byte (babyllama/evaluation/isolated_sentences.py) and soft
accuracy (babyllama/evaluation/minimal_pairs.py) choose between recipes and measure what two reported metrics measure,
with less noise. They are a family of their own in Holm's correction, so that they do not weaken the reported ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from babyllama.common.errors import ConfigError
from babyllama.comparison.paired_tests import Comparison, compare_choices, compare_documents, compare_shares, holm
from babyllama.comparison.seed_tests import compare_seeds
from babyllama.evaluation.intervals import bootstrap_draws
from babyllama.evaluation.minimal_pairs import soft_choice

ALPHA = 0.05
SEED_SUFFIX = re.compile(r"^(?P<recipe>.+?)[-_]seed[-_]?\d+$")
INSTRUMENTS = ("isolated_bits_per_byte", "soft_accuracy:")
ONE_SEED = "one seed each: the seeds' own noise is unknown"

ItemKey = int | tuple[Any, ...]  # what tells an item from the others of its metric


@dataclass
class ScoredRun:
    """A run's per-item scores by metric (see `Metric`), each item under its own key."""

    name: str
    items: dict[str, dict[ItemKey, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """What is compared.

    Attributes:
        name: `bits_per_byte`, `isolated_bits_per_byte`, `completion`, `minimal_pairs:<set>` or `soft_accuracy:<set>`.
        label: Name of the metric for people.
        higher_is_better: Which way is better.
    """

    name: str
    label: str
    higher_is_better: bool

    @property
    def is_instrument(self) -> bool:
        """Whether it chooses recipes and is corrected for many comparisons apart (see the module's head)."""
        return self.name.startswith(INSTRUMENTS)


@dataclass(frozen=True)
class Group:
    """A recipe with its seeds, or one run."""

    name: str
    runs: tuple[str, ...]


def items_of(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[ItemKey, Any]]:
    """Sort the evaluator's sidecar items by metric.

    Returns:
        bits_per_byte and isolated_bits_per_byte: {document number: (nats, bytes)}; completion: {(context, answer):
        correct}; minimal_pairs:<set>: {(paradigm, place): correct}; soft_accuracy:<set>: {(paradigm, place): sigmoid of
        the margin}. A pair is known by its place in the set: a pairID may repeat.
    """
    found: dict[str, dict[ItemKey, Any]] = {}

    def add(metric: str, key: ItemKey, value: object) -> None:
        items = found.setdefault(metric, {})
        assert key not in items, f"{metric}: two items under one identity: {key}"
        items[key] = value

    bits = {"perplexity": "bits_per_byte", "isolated_sentences": "isolated_bits_per_byte"}
    for record in records:
        if record["task"] in bits:
            add(bits[record["task"]], record["item"], (record["nll"], record["bytes"]))
        elif record["task"] == "completion":
            add("completion", (record["context"], record["answer"]), record["correct"])
        elif record["task"] == "minimal_pairs":
            pair = record["uid"], record["item"]
            add(f"minimal_pairs:{record['set']}", pair, record["correct"])
            if "good" in record:
                add(f"soft_accuracy:{record['set']}", pair, soft_choice(record["good"], record["bad"]))
    return found


def metrics_of(runs: Sequence[ScoredRun]) -> list[Metric]:
    """Return the metrics that at least two runs have items for."""
    names = [name for run in runs for name in run.items]
    labels = {"bits_per_byte": "bits per byte", "isolated_bits_per_byte": "bits per byte of lone sentences"}
    return [
        Metric(n, labels.get(n, n.replace("_", " ").replace(":", ", ", 1)), not _is_bits(n))
        for n in dict.fromkeys(names)
        if names.count(n) > 1
    ]


Recipe = Mapping[str, Any]  # what a run was trained with, the seed left out (runs.recipe_of)


def group_runs(
    names: Sequence[str],
    groups: Mapping[str, Sequence[str]] | None = None,
    recipes: Mapping[str, Recipe | None] | None = None,
) -> list[Group]:
    """Put runs into recipes: by `groups`, then by names that differ only in `-seed<N>`; others stand alone.

    Beside two or more `NAME-seed<N>` a run that is called NAME itself is one of the recipe's seeds. Runs that were
    trained otherwise than the others of their name are no seeds of it and stand alone (`not_seeds` says which).

    >>> [c.name for c in group_runs(["a-seed1", "a-seed2", "b", "c-seed1"])]
    ['a', 'b', 'c-seed1']
    >>> group_runs(["a", "a-seed1", "a-seed2"], recipes={"a": {"lr": 1}, "a-seed1": {"lr": 2}, "a-seed2": {"lr": 2}})
    [Group(name='a', runs=('a',)), Group(name='a-seed*', runs=('a-seed1', 'a-seed2'))]

    Args:
        names: Names of the runs.
        groups: Recipe -> names of its runs, as the user gives it.
        recipes: Run -> what it was trained with; a run that is not in it, or None, may be a seed of any.

    Raises:
        ConfigError: A run is in two groups, or a group names none of the runs, or has the name of a run outside it.
    """
    owner: dict[str, str] = {}
    for group, members in (groups or {}).items():
        if not members:
            raise ConfigError(f"--group {group}: none of the compared runs is in it")
        for member in members:
            if member in owner:
                raise ConfigError(f"--group {group}: {member} is also in {owner[member]}")
            owner[member] = group
    for name in names:
        if name in (groups or {}) and owner.get(name) != name:
            raise ConfigError(f"--group {name}: a run outside the group has this name: call the group otherwise")
    for stem, members in _by_name([name for name in names if name not in owner]).items():
        alike = _trained_alike(members, recipes or {})
        if sum(name != stem for name in alike) > 1:
            title = f"{stem}-seed*" if stem in names and stem not in alike else stem
            owner |= dict.fromkeys(alike, title)
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(owner.get(name, name), []).append(name)
    return [Group(name, tuple(runs)) for name, runs in found.items()]


def _by_name(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the names of two or more `NAME-seed<N>` and of NAME itself, by NAME."""
    stems = {name: match["recipe"] for name in names if (match := SEED_SUFFIX.match(name))}
    several = [stem for stem in dict.fromkeys(stems.values()) if list(stems.values()).count(stem) > 1]
    return {stem: [name for name in names if stem in (name, stems.get(name))] for stem in several}


def _trained_alike(names: Sequence[str], recipes: Mapping[str, Recipe | None]) -> list[str]:
    """Return the runs of the recipe that most of them have, the first one's where several are as frequent."""
    known = [recipe for name in names if (recipe := recipes.get(name)) is not None]
    most = max(known, key=known.count, default=None)
    return [name for name in names if recipes.get(name) in (None, most)]


def not_seeds(groups: Sequence[Group], names: Sequence[str], recipes: Mapping[str, Recipe | None]) -> list[str]:
    """Return a line for each run that its name makes a seed of a recipe and its training does not.

    Args:
        groups: Result of `group_runs`.
        names: Names of the runs that are in no group of the user's.
        recipes: Run -> what it was trained with.
    """
    lines = []
    owner = {run: group for group in groups for run in group.runs}
    for stem, members in _by_name(names).items():
        known = [name for name in members if recipes.get(name) is not None]
        first = next((name for name in _trained_alike(members, recipes) if name in known), None)
        for name in known if first else ():
            ours, theirs = recipes[first] or {}, recipes[name] or {}
            keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
            if owner[name] != owner[first] and keys:
                told = ", ".join(f"{key} {ours.get(key)} -> {theirs.get(key)}" for key in keys[:3])
                lines.append(f"{name} is no seed of {stem}: {first} was trained otherwise ({told}); --group decides")
    return lines


def score(items: Mapping[Any, Any], metric: str) -> float:
    """Return a run's figure from its items: bits per byte, or the mean over paradigms of the share right."""
    keys = list(items)
    if _is_bits(metric):
        return sum(items[k][0] for k in keys) / math.log(2) / sum(items[k][1] for k in keys)
    right = np.array([float(items[k]) for k in keys])
    return float(np.mean([right[chosen].mean() for chosen in _strata(keys, metric)]))


def _is_bits(metric: str) -> bool:
    return metric.endswith("bits_per_byte")


def _stratum(key: ItemKey, metric: str) -> str:
    return key[0] if metric.startswith(("minimal_pairs:", "soft_accuracy:")) else ""


def _strata(keys: Sequence[Any], metric: str) -> list[np.ndarray]:
    names = np.array([_stratum(key, metric) for key in keys])
    return [np.flatnonzero(names == name) for name in dict.fromkeys(names.tolist())]


def compare_all(
    runs: Sequence[ScoredRun], groups: Sequence[Group], metrics: Sequence[Metric], seed: int = 0
) -> list[dict[str, Any]]:
    """Compare every two groups of runs in every metric, with Holm's correction over each family of metrics.

    Returns:
        One dict a comparison: metric, a, b, the fields of `paired_tests.Comparison`, p_corrected, holds, better, note.
    """
    by_name = {run.name: run for run in runs}
    found = []
    for metric in metrics:
        for a, b in combinations(groups, 2):
            sides = [[by_name[name].items.get(metric.name, {}) for name in group.runs] for group in (a, b)]
            if all(items for side in sides for items in side):
                facts = {"metric": metric.name, "label": metric.label, "a": a.name, "b": b.name}
                found.append(facts | _compare(sides[0], sides[1], metric, seed))
    by_metric = {metric.name: metric for metric in metrics}
    for instruments in (False, True):
        family = [entry for entry in found if by_metric[entry["metric"]].is_instrument == instruments]
        for entry, corrected in zip(family, holm([entry["p_value"] for entry in family]), strict=True):
            holds = corrected < ALPHA and not entry["low"] <= 0 <= entry["high"]
            up = by_metric[entry["metric"]].higher_is_better
            better = entry["a"] if (entry["difference"] > 0) == up else entry["b"]
            entry |= {"p_corrected": corrected, "holds": holds, "better": better if holds else None}
    return found


def _compare(side_a: list[Any], side_b: list[Any], metric: Metric, seed: int) -> dict[str, Any]:
    common = set(side_a[0]).intersection(*side_a[1:], *side_b)
    keys = [key for key in side_a[0] if key in common]
    if len(side_a) == len(side_b) == 1:
        return _compare_two(side_a[0], side_b[0], keys, metric.name, seed).to_dict() | {"note": ONE_SEED}
    scores = [[score({k: items[k] for k in keys}, metric.name) for items in side] for side in (side_a, side_b)]
    variance = _item_variance(side_a, side_b, keys, metric.name, seed)
    comparison, permutation = compare_seeds(scores[0], scores[1], variance, len(keys))
    single = min(len(side_a), len(side_b)) == 1
    note = "one side has a single seed: its noise is taken to be the other side's" if single else ""
    return comparison.to_dict() | permutation | {"note": note}


def _compare_two(a: Mapping[Any, Any], b: Mapping[Any, Any], keys: list[Any], metric: str, seed: int) -> Comparison:
    if _is_bits(metric):
        nats = [np.array([items[k][0] for k in keys]) for items in (a, b)]
        return compare_documents(nats[0], nats[1], np.array([a[k][1] for k in keys]), seed=seed)
    strata = [_stratum(k, metric) for k in keys]
    if metric.startswith("soft_accuracy:"):
        return compare_shares(*[np.array([items[k] for k in keys]) for items in (a, b)], strata, seed=seed)
    right = [np.array([items[k] for k in keys], dtype=bool) for items in (a, b)]
    return compare_choices(right[0], right[1], strata, seed=seed)


def _item_variance(side_a: list[Any], side_b: list[Any], keys: list[Any], metric: str, seed: int) -> float:
    """Variance over resampled items of the difference between the two sides' mean scores."""

    def mean_of(side: list[Any], part: Callable[[Any], float]) -> np.ndarray:
        return np.mean([[part(items[k]) for k in keys] for items in side], axis=0)

    if _is_bits(metric):
        bits = (mean_of(side_a, lambda v: v[0]) - mean_of(side_b, lambda v: v[0])) / math.log(2)
        sizes = np.array([side_a[0][k][1] for k in keys], dtype=np.float64)
        return float(np.var(bootstrap_draws(bits, sizes, seed=seed)))
    differences = mean_of(side_a, float) - mean_of(side_b, float)
    strata = _strata(keys, metric)
    return sum(float(np.var(differences[s], ddof=1)) / len(s) for s in strata if len(s) > 1) / len(strata) ** 2


def ranking(
    groups: Sequence[Group], runs: Sequence[ScoredRun], metric: Metric, found: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Groups from best to worst in a metric, each with those it is better than where the difference holds."""
    by_name = {run.name: run for run in runs}
    rows = []
    for group in groups:
        values = [score(items, metric.name) for name in group.runs if (items := by_name[name].items.get(metric.name))]
        if values:
            beaten = [
                entry["b"] if entry["a"] == group.name else entry["a"]
                for entry in found
                if entry["metric"] == metric.name and entry["better"] == group.name
            ]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
            facts = {"name": group.name, "value": float(np.mean(values)), "seeds": len(values), "sd": spread}
            rows.append(facts | {"better_than": beaten})
    return sorted(rows, key=lambda row: row["value"], reverse=metric.higher_is_better)

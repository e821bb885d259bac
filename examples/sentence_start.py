r"""What stands before a minimal pair: is a model held back by how its lone sentences begin?

    python evaluate.py models/Llama-10M --plugin examples/sentence_start.py --tasks sentence_start \
        --minimal-pairs data/blimp --pairs-half even

Minimal pairs are sentences directly after `<s>`. A text that is cut to chunks shows few sentences there, so part of a
low score may be the unusual start and no lack of grammar. Each pair is scored again with the same text put before both
sentences: their margin then counts only what differs. Where a start scores better than the plain one, training on
segments (`data.segment_tokens`) is worth its hours; where it does not, it is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from babyllama.common.console import say
from babyllama.comparison.paired_tests import Comparison, compare_choices, compare_shares
from babyllama.evaluation.minimal_pairs import pair_scores, screened_scores, soft_choice
from babyllama.plugins import register_task

if TYPE_CHECKING:
    from evaluate import ModelEvaluator

STARTS = {
    "<s>": "",
    "line break": "\n",
    "blank": " ",
    "Yes.": "Yes.\n",
    "neutral sentence": "It was a day like any other. ",
}


def sentence_start(evaluator: ModelEvaluator, options: dict[str, Any]) -> dict[str, Any]:
    """Score every set of pairs after each start, with the paired difference to the plain one.

    Args:
        evaluator: The ModelEvaluator, with --minimal-pairs, --pair-ids and --pairs-half as given.
        options: Not used.
    """
    found: dict[str, Any] = {}
    scorer = screened_scores if evaluator.options.screen_pairs else pair_scores
    for name, pairs in evaluator._pair_sets().items():
        strata = [pair.uid for pair in pairs]
        soft: dict[str, np.ndarray] = {}
        right: dict[str, np.ndarray] = {}
        for label, start in STARTS.items():
            texts = [(start + pair.good, start + pair.bad) for pair in pairs]
            scores = scorer(evaluator.model, evaluator.tokenizer, texts, max_length=evaluator.max_positions)
            soft[label] = np.array([soft_choice(good, bad) for good, bad in scores])
            right[label] = np.array([good > bad for good, bad in scores])
            say(f"{name}, after {label}: {100 * right[label].mean():.2f}% of {len(pairs):,} pairs right")
        found[name] = {
            label: {
                "accuracy": _mean(right[label], strata),
                "soft_accuracy": _mean(soft[label], strata),
                "accuracy_difference": _shown(compare_choices(right[label], right["<s>"], strata)),
                "soft_accuracy_difference": _shown(compare_shares(soft[label], soft["<s>"], strata)),
            }
            for label in STARTS
        }
    return {"starts": list(STARTS.values()), **found}


def _mean(values: np.ndarray, strata: list[str]) -> float:
    """Mean over paradigms."""
    names, index = np.unique(strata, return_inverse=True)
    return float(np.mean(np.bincount(index, values, len(names)) / np.bincount(index)))


def _shown(comparison: Comparison) -> dict[str, float]:
    return {key: getattr(comparison, key) for key in ("difference", "low", "high", "p_value")}


register_task("sentence_start", sentence_start)

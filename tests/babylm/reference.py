"""The challenge's tasks once more, slow and straight from the written rules: one text at a time, all logits, loops.

Nothing of `babyllama.babylm` is imported here: a test that compares the two compares two readings of the same rules.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch


def log_probs(model: Any, ids: list[int]) -> torch.Tensor:
    """(T, V) log-probabilities of what follows each token."""
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].float(), dim=-1)


def score(model: Any, tokenizer: Any, sentence: str, end: str, mean: bool = False) -> float:
    """Sum (or mean) of the log-probabilities of the tokens that reach into the counted end."""
    encoded = tokenizer(sentence, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    table = log_probs(model, ids)
    start = len(sentence) - len(end) + offsets[0][0]
    parts = [table[i - 1, ids[i]].item() for i in range(1, len(ids)) if offsets[i][1] > start]
    return sum(parts) / max(len(parts), 1) if mean else sum(parts)


def candidates(kind: str, line: dict[str, Any], stem: str) -> tuple[str, list[tuple[str, str, str]], int]:
    """UID, (sentence, counted end, what predictions.json holds) of each candidate, and the right one."""
    if kind == "blimp":
        texts = [line["sentence_good"], line["sentence_bad"]]
        return (line["UID"] if "field" in line else stem), [(t, t, t) for t in texts], 0
    if kind == "ewok_2025":
        ends = [" " + line["Target1"], " " + line["Target2"]]
        return line["Domain"], [(line["Context1"] + e, e, e) for e in ends], 0
    if kind == "ewok_2026":
        texts = [line["Context1"] + " " + line["Target1"], line["Context2"] + " " + line["Target1"]]
        return line["Domain"], [(t, " " + line["Target1"], t) for t in texts], 0
    if kind == "entity":
        cell = stem + "_" + str(line["numops"]) + "_ops"
        return cell, [(line["input_prefix"] + o, o, o) for o in line["options"]], 0
    if kind == "comps":
        names = {"comps_base": "base", "comps_wugs": "wugs", "comps_wugs_dist-before": "wugs_dist_before"}
        end = line["property_phrase"]
        texts = [line["prefix_acceptable"] + " " + end, line["prefix_unacceptable"] + " " + end]
        return names.get(stem, "wugs_dist_in_between"), [(t, end, t) for t in texts], 0
    if kind == "piqa":
        ends = [" " + line[f"solution{i}"] for i in range(4) if f"solution{i}" in line]
        return line["example_id"], [(line["prompt"] + e, e, e) for e in ends], line["label"]
    texts = line["sentences"].split("\t")
    return ("wug_past" if "past" in stem else "wug_adj"), [(t, t, t) for t in texts], 0


def word_surprisal(model: Any, tokenizer: Any, context: str, word: str) -> float:
    """Minus the logarithm of the product of the pieces' probabilities, each after a context tokenized anew."""
    product = 1.0
    for number, piece in enumerate(tokenizer(word, add_special_tokens=False)["input_ids"]):
        text = tokenizer.decode(piece)
        target = piece if number == 0 else tokenizer(text, add_special_tokens=False)["input_ids"][0]
        product *= math.exp(log_probs(model, tokenizer(context)["input_ids"])[-1, target].item())
        context = context + text
    return -math.log(product)


def aoa_surprisal(model: Any, tokenizer: Any, context: str, word: str) -> float:
    """Surprisal of a word behind its context."""
    text = context.strip() + " " + word
    encoded = tokenizer(text, return_offsets_mapping=True)
    ids, border = encoded["input_ids"], len(text) - len(word)
    table = log_probs(model, ids)
    ends = [stop for _, stop in encoded["offset_mapping"]]
    return -sum(table[i - 1, ids[i]].item() for i in range(1, len(ids)) if ends[i] > border)


def r_squared(y: np.ndarray, columns: list[np.ndarray]) -> float:
    """R2 of least squares with an intercept by the normal equations on standardized columns."""
    rows = np.isfinite(y) & np.all([np.isfinite(c) for c in columns], axis=0)
    x = np.stack([(c[rows] - c[rows].mean()) / c[rows].std() for c in columns], axis=1)
    y = y[rows] - y[rows].mean()
    beta = np.linalg.solve(x.T @ x, x.T @ y)
    return 1 - float(((y - x @ beta) ** 2).sum() / (y**2).sum())


def gain(y: np.ndarray, base: list[np.ndarray], pred: np.ndarray) -> float:
    """Share of the unexplained variance that a further predictor explains."""
    columns = base + [a * b for a, b in itertools.combinations(base, 2)]
    before, after = r_squared(y, columns), r_squared(y, [*columns, pred])
    return (after - before) / (1 - before)

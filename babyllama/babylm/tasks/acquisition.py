"""Age of acquisition: does a model learn words in the order in which children do?

`cdi_childes.json` gives each word its contexts; at every checkpoint the surprisal of the word after each context is
stored (surprisal.json). `cdi_human.csv` gives the share of children who say the word at 16 to 30 months. Both are
fitted with a sigmoid a / (1 + exp(-b (x - c))) + d: a child's age of acquisition is where it passes 0.5, the model's is
the log10 of the words seen where it passes the middle between chance and its lowest surprisal. The figure is Pearson's
correlation of the two over the words that have both (Chang and Bergen 2022, TACL 10:1-16).

2026 ("means"): one point a checkpoint, the mean over contexts; chance k ln V for a word of k tokens in a vocabulary of
V; bounded fit; 0 where fewer than three words remain or p > 0.1. 2025 ("points"): every context is a point; chance
log2(300,000) although surprisals are in nats; unbounded fit. Both as the challenge's code computes them.
"""

from __future__ import annotations

import csv
import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from babyllama.babylm.tasks.forest import token_scores
from babyllama.babylm.tasks.ranking import check_lengths, encode_spans, require_fast
from babyllama.common.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

CONTEXTS, HUMAN = "cdi_childes.json", "cdi_human.csv"
AGES = range(16, 31)
VOCABULARY_2025 = 300_000
SIGNIFICANT = 0.1
MIN_WORDS = MIN_POINTS = 3


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A word in one of its contexts."""

    word: str
    number: int
    context: str


def read_contexts(path: Path) -> list[Occurrence]:
    """Read cdi_childes.json; words of one letter are left out.

    Raises:
        DataError: The file is missing or has another form.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return [
            Occurrence(word, number, str(entry["context"]))
            for word, entries in raw.items()
            if len(word) > 1
            for number, entry in enumerate(entries)
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not the contexts of the age-of-acquisition task: {error}") from None


def read_human(path: Path) -> dict[str, np.ndarray]:
    """Read cdi_human.csv: for each word (15,) shares of children at 16 to 30 months, NaN where one is missing.

    Raises:
        DataError: The file, a column or a number cannot be read.
    """
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle))
        found: dict[str, np.ndarray] = {}
        for row in rows:
            shares = np.array([float(row[str(age)] or "nan") for age in AGES])
            found.setdefault(row["word"], shares)
        return found
    except (OSError, ValueError, KeyError, TypeError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not the children's shares (columns word, 16 ... 30): {error}") from None


def surprisals(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    occurrences: Sequence[Occurrence],
    progress: Callable[..., Any] | None = None,
) -> list[float]:
    """Surprisal (nats) of each word after its context.

    Args:
        model: A causal language model in evaluation mode, float32.
        tokenizer: Fast tokenizer of the model.
        occurrences: Words in their contexts.
        progress: Wrapper of the list of batches.
    """
    require_fast(tokenizer)
    spans = [(f"{found.context.strip()} {found.word.strip()}", found.word.strip()) for found in occurrences]
    queries = encode_spans(tokenizer, spans)
    check_lengths(queries, model, "aoa")
    return [-float(values.sum()) for values in token_scores(model, queries, progress=progress)]


def entries(step: str, words: int, occurrences: Sequence[Occurrence], values: Sequence[float]) -> list[dict[str, Any]]:
    """Entries of surprisal.json for one checkpoint.

    Args:
        step: Name of the checkpoint.
        words: Words that the schedule names.
        occurrences: Words in their contexts.
        values: Surprisals of the words, in the same order.
    """
    return [
        {
            "step": step,
            "word_count": words,
            "target_word": found.word,
            "context_id": found.number,
            "context": found.context,
            "surprisal": value,
        }
        for found, value in zip(occurrences, values, strict=True)
    ]


def assemble(model_name: str, results: list[dict[str, Any]], total: int) -> dict[str, Any]:
    """Content of surprisal.json from the entries of all checkpoints, in the order of the schedule."""
    done = len({entry["step"] for entry in results})
    facts = {"model_name": model_name, "use_bos_only": False, "total_steps": total, "completed_steps": done}
    return {"metadata": facts, "results": results}


def sigmoid(x: np.ndarray, a: float, b: float, c: float, d: float) -> np.ndarray:
    """Return the curve a / (1 + exp(-b (x - c))) + d."""
    return a / (1 + np.exp(-b * (x - c))) + d


def _fit(x: np.ndarray, y: np.ndarray, start: Sequence[float], **options: Any) -> tuple[float, ...] | None:
    """Return parameters of the fitted sigmoid, None where the fit does not end."""
    from scipy.optimize import curve_fit

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # overflow on the way and a singular covariance change no parameter
        try:
            return tuple(float(value) for value in curve_fit(sigmoid, x, y, p0=start, **options)[0])
        except (RuntimeError, ValueError, TypeError):
            return None


def child_age(shares: np.ndarray) -> float | None:
    """Months at which half of the children say a word, None where the curve does not tell.

    Args:
        shares: (15,) shares at 16 to 30 months.
    """
    known = ~np.isnan(shares)
    ages, y = np.array(AGES)[known], shares[known]
    if len(y) < MIN_POINTS:
        return None
    bounds = ([0, 0, ages[0], -0.5], [2.0, 1.0, ages[-1], 0.5])
    found = _fit(ages, y, [1.0, 0.1, float(ages.mean()), 0.0], bounds=bounds, maxfev=1000)
    age = _crossing(found, 0.5, smallest=0.0)
    return age if age is not None and ages[0] <= age <= ages[-1] else None


def _crossing(parameters: tuple[float, ...] | None, level: float, smallest: float) -> float | None:
    """Return where a rising sigmoid passes a level; None where it does not rise or the level lies outside of it."""
    if parameters is None:
        return None
    a, b, c, d = parameters
    if a <= smallest or b <= smallest or not d < level < a + d:
        return None
    return c - math.log(a / (level - d) - 1) / b


def model_age(words: Sequence[float], values: Sequence[float], chance: float, bounded: bool) -> float | None:
    """Log10 of the words seen when a model has acquired a word, None where the curve does not tell.

    Args:
        words: Words seen at each point, ascending.
        values: Surprisal (nats) at each point; NaN is left out.
        chance: Surprisal of a guess.
        bounded: Whether the parameters are bounded (2026).
    """
    seen, found = np.asarray(words, dtype=np.float64), np.asarray(values, dtype=np.float64)
    known = ~np.isnan(found)
    if len(found) < MIN_POINTS or not known.any():
        return None
    seen, y = seen[known], -found[known]
    x = np.log10(seen + 1)
    spread = float(y.max() - y.min())
    start = [spread, 1.0, float(x.mean()), float(y.min())]
    options: dict[str, Any] = {"maxfev": 1000}
    if bounded:
        low = [0.0, 0.0, x.min() - 1, y.min() - 2 * spread - 1]
        high = [10 * spread + 1, 100.0, x.max() + 1, y.max() + 1]
        options = {"bounds": (low, high), "maxfev": 20_000}
    level = -(chance - 0.5 * (chance + y.max()))  # y.max() is minus the lowest surprisal
    age = _crossing(_fit(x, y, start, **options), level, smallest=1e-6 if bounded else 0.0)
    if age is None or age > 300 or not seen[0] <= 10**age - 1 <= seen[-1]:
        return None
    return age


def word_tokens(tokenizer: PreTrainedTokenizerFast, word: str) -> int:
    """Return tokens of a word inside a text, at least one."""
    before, after = (len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ("The", f"The {word}"))
    return max(1, after - before)


def figure(
    results: Sequence[dict[str, Any]], human: dict[str, np.ndarray], tokenizer: PreTrainedTokenizerFast, fit: str
) -> dict[str, Any]:
    """Correlation of the model's and the children's ages of acquisition.

    Args:
        results: Entries of surprisal.json.
        human: Result of `read_human`.
        tokenizer: The model's tokenizer; its vocabulary decides what chance is.
        fit: "means" (2026) or "points" (2025).

    Returns:
        aoa (the figure, a fraction), p_value (None where there is none) and num_words.
    """
    from scipy.stats import pearsonr

    own, children = [], []
    for word, points in _by_word(results).items():
        age = child_age(human[word]) if word in human else None
        if age is None:
            continue
        if fit == "means":
            points = _means(points)
            chance = word_tokens(tokenizer, word) * math.log(tokenizer.vocab_size)
        else:
            chance = math.log2(VOCABULARY_2025)
        acquired = model_age([p[0] for p in points], [p[1] for p in points], chance, bounded=fit == "means")
        if acquired is not None:
            own.append(acquired)
            children.append(age)
    if len(own) < MIN_WORDS or len(set(own)) == 1 or len(set(children)) == 1:
        return {"aoa": 0.0, "p_value": None, "num_words": len(own)}
    correlation, p_value = (float(value) for value in pearsonr(own, children))
    kept = 0.0 if fit == "means" and p_value > SIGNIFICANT else correlation
    return {"aoa": kept, "p_value": p_value, "num_words": len(own)}


def _by_word(results: Sequence[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """For each word (words seen, surprisal) in the order of the entries; null is NaN."""
    found: dict[str, list[tuple[float, float]]] = {}
    for entry in results:
        value = entry["surprisal"]
        point = (float(entry["word_count"]), math.nan if value is None else float(value))
        found.setdefault(entry["target_word"], []).append(point)
    return found


def _means(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return mean surprisal at each number of words, ascending; NaN where one context has none."""
    groups: dict[float, list[float]] = {}
    for words, value in points:
        groups.setdefault(words, []).append(value)
    return [(words, sum(values) / len(values)) for words, values in sorted(groups.items())]

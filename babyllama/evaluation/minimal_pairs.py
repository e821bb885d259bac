"""Minimal pairs (BLiMP, its supplement, Zorro, one's own): which of two sentences does the model find likelier?

A sentence's score is the sum of its tokens' log-probabilities after BOS, in float32, no end token, no length
normalisation (Warstadt et al. 2020, arXiv 1912.00582). A pair is right when good > bad; a tie is wrong and counted.
Accuracy is given by paradigm (UID, else the file's name); overall is the plain mean over paradigms, the field's
convention; by term and field it is weighted by pairs.

Soft accuracy is the mean of sigmoid(good - bad): the probability of the good sentence where it is one of these two. It
has no threshold, so that it moves with every pair and not only with those near a tie: between two runs its paired
difference is told from chance with far fewer pairs. It chooses recipes; the accuracy is what is reported. Grouped like
the accuracy. `half` keeps the pairs with an even or an odd pairID (where it is no number: the pair's place in its
paradigm, from 0), so that a recipe can be chosen on one half and reported on the other.

An item may have several bad sentences (data/formats/pairs.py): it is right when the good one is likelier than each, its
`bad` is the score of the likeliest, and guessing is right in 1/(1 + number of bad ones): `chance`.

Both sentences of a pair are scored in one pass (pair_scoring.py); one without a token scores 0 (`empty_sentences`).
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from babyllama.common.console import say
from babyllama.common.errors import DataError
from babyllama.data.formats.pairs import pair_files, pair_sets, parse_columns, read_items
from babyllama.evaluation.intervals import wilson
from babyllama.evaluation.log_probs import BATCH_TOKENS, sum_log_probs
from babyllama.evaluation.pair_scoring import score_pairs, supports_pairs
from babyllama.evaluation.perplexity import bos_id, encode_text
from babyllama.models.fused_loss import IGNORE
from babyllama.models.runtime import fast_low_precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CALIBRATION_PAIRS = 512
NARROW_SIGMAS, NARROW_AT_LEAST = 8.0, 0.1  # standard deviations of the error; nats
WHERE_TO_GET = "no minimal pairs: BLiMP (GitHub alexwarstadt/blimp, folder data/) can be given with --minimal-pairs DIR"


@dataclass(frozen=True, slots=True)
class Pair:
    """One pair. `uid` is the paradigm, `pair_id` its name inside it, `others` further bad sentences."""

    uid: str
    pair_id: str
    good: str
    bad: str
    field: str = ""
    term: str = ""
    others: tuple[str, ...] = ()


def _pair(item: dict[str, Any]) -> Pair:
    return Pair(
        uid=item["paradigm"],
        pair_id=item["id"],
        good=item["good"],
        bad=item["bad"][0],
        field=item["field"].replace("syntax/semantics", "syntax_semantics"),
        term=item["term"],
        others=tuple(item["bad"][1:]),
    )


def load_pairs(
    path: str | Path, ids: str | Path | None = None, half: str | None = None, columns: str | None = None
) -> list[Pair]:
    """Read the pairs of a folder, or of one file.

    Args:
        path: Folder or file (data/formats/pairs.py).
        ids: JSON file {UID: [pairID, ...]}: only these pairs (filtered BLiMP).
        half: `even` or `odd`: only these pairs (see the module's head).
        columns: Which columns hold what, as `--pair-columns` says it; None: the names of the common sets.

    Raises:
        DataError: Nothing is there, or a line cannot be used; names file and line.
    """
    path = Path(path).expanduser()
    pairs = [_pair(item) for item in read_items(path, parse_columns(columns))]
    if not pairs:
        raise DataError(f"--minimal-pairs: {path}: no pair in it")
    return choose_pairs({str(path): pairs}, ids, half)[str(path)]


def choose_pairs(sets: dict[str, list[Pair]], ids: str | Path | None, half: str | None) -> dict[str, list[Pair]]:
    """Return the pairs that a list of IDs names and that are in the half; halves are of whole paradigms.

    Args:
        sets: Name of a set -> its pairs.
        ids: A JSON file {UID: [pairID, ...]}; None: all.
        half: `even`, `odd` or None.

    Raises:
        DataError: An ID is in none of the sets, or a set has none of them.
    """
    halved = {name: {id(pair) for pair in keep_half(pairs, half)} for name, pairs in sets.items()}
    filtered = sets if ids is None else _filtered(sets, Path(ids))
    return {name: [pair for pair in pairs if id(pair) in halved[name]] for name, pairs in filtered.items()}


def load_pair_sets(
    given: Sequence[str], ids: str | None = None, half: str | None = None, columns: str | None = None
) -> dict[str, list[Pair]]:
    """Read the sets of `--minimal-pairs` by name, as `load_pairs` does; a list of IDs filters them together."""
    found = {name: load_pairs(path, columns=columns) for name, path in pair_sets(list(given)).items()}
    return choose_pairs(found, ids, half)


def keep_half(pairs: Sequence[Pair], half: str | None) -> list[Pair]:
    """Keep the pairs with an even or an odd pairID; where it is no number, the pair's place in its paradigm counts.

    Args:
        pairs: Whole paradigms, in their files' order.
        half: `even`, `odd`, or None for all.
    """
    if half is None:
        return list(pairs)
    places: dict[str, int] = {}
    kept = []
    for pair in pairs:
        place = places[pair.uid] = places.get(pair.uid, -1) + 1
        number = int(pair.pair_id) if pair.pair_id.isdecimal() else place
        if number % 2 == (half == "odd"):
            kept.append(pair)
    return kept


def _filtered(sets: dict[str, list[Pair]], ids: Path) -> dict[str, list[Pair]]:
    try:
        wanted = {
            (uid, str(item)) for uid, items in json.loads(ids.read_text(encoding="utf-8")).items() for item in items
        }
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{ids}: not a list of pairs {{UID: [pairID, ...]}}: {error}") from None
    missing = wanted - {(pair.uid, pair.pair_id) for found in sets.values() for pair in found}
    if missing:
        raise DataError(
            f"--pair-ids: {ids}: names {len(wanted):,} pairs, {len(wanted) - len(missing):,} of them are there; "
            f"the first that is not: {'/'.join(min(missing))}"
        )
    chosen = {name: [pair for pair in found if (pair.uid, pair.pair_id) in wanted] for name, found in sets.items()}
    for name in [name for name, found in chosen.items() if not found]:
        raise DataError(f"--pair-ids: {ids}: names no pair of {name}: leave that folder out")
    return chosen


def pairs_fingerprint(paths: Sequence[str], ids: str | Path | None = None, columns: str | None = None) -> str:
    """Return SHA-256 over the content of the pair files, the filter and the columns: what their scores depend on."""
    digest = hashlib.sha256((columns or "").encode())
    for name, path in pair_sets(list(paths)).items():
        digest.update(repr(name).encode() + b"\0")
        for file in pair_files(path):
            digest.update(repr(file.name).encode() + b"\0" + file.read_bytes())
    if ids is not None:
        digest.update(Path(ids).expanduser().read_bytes())
    return digest.hexdigest()


def pairs_from_records(records: Sequence[dict[str, Any]]) -> list[Pair]:
    """Return pairs from plain dicts (the embedded corpus's)."""
    return [
        Pair(
            uid=str(record["UID"]),
            pair_id=str(record.get("pairID", number)),
            good=record["sentence_good"],
            bad=record["sentence_bad"],
            field=str(record.get("field", "")),
            term=str(record.get("linguistics_term", "")),
        )
        for number, record in enumerate(records)
    ]


def score_sentences(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str],
    *,
    max_length: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Callable[..., Any] | None = None,
) -> list[float]:
    """Return sum of token log-probabilities of each sentence after BOS (nats, <= 0).

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Tokenizer of the model.
        sentences: Scored exactly as given.
        max_length: Positions the model has; a longer sentence is an error.
        batch_tokens: Tokens of one forward pass.
        progress: Wraps the batches.

    Raises:
        DataError: A sentence has more tokens than the model has positions.
    """
    first = bos_id(tokenizer)
    distinct = list(dict.fromkeys(sentences))
    encoded = encode_text(tokenizer, distinct)
    _check_lengths(distinct, encoded, max_length)
    filled = [i for i, tokens in enumerate(encoded) if tokens]
    inputs = [[first, *encoded[i][:-1]] for i in filled]
    targets = [encoded[i] for i in filled]
    assert all(IGNORE not in row for row in targets)
    sums = sum_log_probs(model, inputs, targets, batch_tokens=batch_tokens, progress=progress)
    scores = dict.fromkeys(distinct, 0.0) | {distinct[i]: value for i, value in zip(filled, sums, strict=True)}
    return [scores[sentence] for sentence in sentences]


def pair_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[tuple[str, str]],
    *,
    max_length: int | None = None,
    **options: Any,
) -> list[tuple[float, float]]:
    """Return scores of the good and the bad sentence of each pair; what a pair shares from the left is computed once.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Tokenizer of the model.
        texts: (good, bad).
        max_length: Positions the model has; a longer sentence is an error.
        **options: batch_tokens and progress, as for `score_sentences`.

    Raises:
        DataError: A sentence has more tokens than the model has positions.
    """
    first = bos_id(tokenizer)
    flat = [text for pair in texts for text in pair]
    if not supports_pairs(model, first):
        scores = score_sentences(model, tokenizer, flat, max_length=max_length, **options)
        return list(zip(scores[::2], scores[1::2], strict=True))
    encoded = encode_text(tokenizer, flat)
    _check_lengths(flat, encoded, max_length)
    return score_pairs(model, list(zip(encoded[::2], encoded[1::2], strict=True)), first, **options)


def _check_lengths(texts: Sequence[str], encoded: Sequence[Sequence[int]], max_length: int | None) -> None:
    longest = max(map(len, encoded), default=0)
    if max_length is not None and longest > max_length:
        text = texts[[len(tokens) for tokens in encoded].index(longest)]
        raise DataError(f"a sentence of {longest} tokens is longer than the model's {max_length}: {text[:60]!r}...")


def screened_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, str]], **options: Any
) -> list[tuple[float, float]]:
    """Return scores of pairs: bfloat16 where the margin is clear, float32 where it is narrow.

    How far bfloat16 moves a margin is measured first, on 512 pairs scored both ways; a margin is narrow below eight
    standard deviations of that error, and below twice the largest error seen. Narrow pairs are scored again in float32.

    Args:
        model: A causal language model in evaluation mode, float32.
        tokenizer: Tokenizer of the model.
        texts: (good, bad).
        **options: Options of `pair_scores`.
    """
    precision = fast_low_precision(next(model.parameters()).device)
    if precision == torch.float32:
        say("--screen-pairs: this device has no fast bfloat16, so every pair is scored in float32")
        return pair_scores(model, tokenizer, texts, **options)
    supports_pairs(model, bos_id(tokenizer))  # tried in float32: the copy inherits the answer
    low = copy.deepcopy(model).to(precision)
    scores = np.array(pair_scores(low, tokenizer, texts, **options)).reshape(-1, 2)
    exact: dict[int, tuple[float, float]] = {}

    def rescore(chosen: list[int]) -> None:
        exact.update(zip(chosen, pair_scores(model, tokenizer, [texts[i] for i in chosen], **options), strict=True))

    rescore(list(range(0, len(scores), max(1, len(scores) // CALIBRATION_PAIRS))))
    margins = scores[:, 0] - scores[:, 1]
    errors = np.array([margins[i] - (good - bad) for i, (good, bad) in exact.items()])
    narrow = max(NARROW_AT_LEAST, NARROW_SIGMAS * float(np.sqrt(np.mean(errors**2))), 2 * float(np.abs(errors).max()))
    rescore([i for i in np.flatnonzero(np.abs(margins) < narrow).tolist() if i not in exact])
    scores[list(exact)] = list(exact.values())
    return [(good, bad) for good, bad in scores.tolist()]


def evaluate_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    *,
    max_length: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    screen: bool = False,
    progress: Callable[..., Any] | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return accuracy over pairs, and the pairs' own scores.

    Args:
        model: A causal language model in evaluation mode, float32.
        tokenizer: Tokenizer of the model.
        pairs: At least one.
        max_length: Positions the model has.
        batch_tokens: Tokens of one forward pass.
        screen: Score in bfloat16 first and only narrow margins in float32 (see `screened_scores`): faster, the same
            choices, but the scores of clear pairs are rounded.
        progress: Wraps the batches.

    Returns:
        Figures (accuracy, accuracy_ci, soft_accuracy, num_pairs, ties, paradigms, terms, fields) and one dict a pair
        with item (its place, for a pairID may repeat), uid, pair_id, good, bad (nats) and correct.
    """
    texts = [(pair.good, bad) for pair in pairs for bad in (pair.bad, *pair.others)]
    scorer = screened_scores if screen else pair_scores
    scores = scorer(model, tokenizer, texts, max_length=max_length, batch_tokens=batch_tokens, progress=progress)
    if len(texts) > len(pairs):
        scores = _likeliest(scores, [1 + len(pair.others) for pair in pairs])
    items = [
        {"item": place, "uid": pair.uid, "pair_id": pair.pair_id, "good": good, "bad": bad, "correct": good > bad}
        for place, (pair, (good, bad)) in enumerate(zip(pairs, scores, strict=True))
    ]
    sentences = [text for pair in texts for text in pair]
    figures = summarize_pairs(pairs, items)
    figures["empty_sentences"] = sum(not tokens for tokens in encode_text(tokenizer, sentences))
    if len(texts) > len(pairs):
        figures["chance"] = sum(1 / (2 + len(pair.others)) for pair in pairs) / len(pairs)
    return figures, items


def _likeliest(scores: list[tuple[float, float]], counts: list[int]) -> list[tuple[float, float]]:
    """Of each item's scores the one whose bad sentence is the likeliest; the good sentence was scored with each.

    >>> _likeliest([(-5.0, -7.0), (-5.0, -4.0), (-1.0, -2.0)], [2, 1])
    [(-5.0, -4.0), (-1.0, -2.0)]
    """
    ends = np.cumsum(counts).tolist()
    return [max(scores[end - count : end], key=lambda s: s[1]) for end, count in zip(ends, counts, strict=True)]


def soft_choice(good: float, bad: float) -> float:
    """Compute sigmoid(good - bad) for two scores in nats.

    >>> soft_choice(-10.0, -10.0), round(soft_choice(-10.0, -12.0), 3), soft_choice(0.0, 5000.0)
    (0.5, 0.881, 0.0)
    """
    return 0.5 * (1.0 + math.tanh((good - bad) / 2))


def _accuracy(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    right = sum(item["correct"] for item in items)
    ties = sum(item["good"] == item["bad"] for item in items)
    return {
        "accuracy": right / len(items),
        "accuracy_ci": list(wilson(right, len(items))),
        "soft_accuracy": sum(soft_choice(item["good"], item["bad"]) for item in items) / len(items),
        "correct": right,
        "num_pairs": len(items),
        "ties": ties,
    }


def _grouped(pairs: Sequence[Pair], items: Sequence[dict[str, Any]], key: str) -> dict[str, Any]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for pair, item in zip(pairs, items, strict=True):
        name = getattr(pair, key)
        if name:
            groups.setdefault(name, []).append(item)
    return {name: _accuracy(found) for name, found in sorted(groups.items())}


def summarize_pairs(pairs: Sequence[Pair], items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Accuracies by paradigm, term and field; overall is the mean over paradigms with its own interval.

    The interval of the mean adds up the paradigms' binomial variances: paradigms are fixed, pairs are sampled.
    """
    paradigms = _grouped(pairs, items, "uid")
    facts = {pair.uid: (pair.field, pair.term) for pair in pairs}
    for uid, figures in paradigms.items():
        figures["field"], figures["term"] = facts[uid]
    shares = [figures["accuracy"] for figures in paradigms.values()]
    mean = sum(shares) / len(shares)
    variance = sum(f["accuracy"] * (1 - f["accuracy"]) / f["num_pairs"] for f in paradigms.values()) / len(shares) ** 2
    half = 1.959963984540054 * variance**0.5
    return {
        "accuracy": mean,
        "accuracy_ci": [max(0.0, mean - half), min(1.0, mean + half)],
        "soft_accuracy": sum(figures["soft_accuracy"] for figures in paradigms.values()) / len(paradigms),
        "num_pairs": len(items),
        "ties": sum(item["good"] == item["bad"] for item in items),
        "paradigms": paradigms,
        "terms": _grouped(pairs, items, "term"),
        "fields": _grouped(pairs, items, "field"),
    }

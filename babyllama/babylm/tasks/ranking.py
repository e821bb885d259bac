"""The choice among continuations: which of an item's texts does the model find likelier?

Each candidate is tokenized whole, with the special tokens that the tokenizer adds by itself and without truncation. A
token counts if its last character lies behind the start of the counted end; a token that straddles the border counts
whole, special tokens never count, and the first token of a text has nothing before it and is free. The score is the sum
of the counted tokens' natural-log probabilities (Global PIQA: their mean). Ties: 2025 the first candidate, 2026 one of
the tied at random (seeded here); NaN loses in 2026. Source: sentence_zero_shot of the challenge's pipelines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from babyllama.babylm.tasks.forest import Query, common_length, token_scores
from babyllama.babylm.tasks.items import Item
from babyllama.common.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ENCODE_AT_ONCE = 20_000


class TextTooLong(DataError):
    """A task holds a text that the model has no positions for; other tasks can still be scored."""


@dataclass(frozen=True)
class Choice:
    """What the model chose of an item.

    Attributes:
        index: Candidate chosen.
        scores: Score of each candidate, nats; a sum leaves out the tokens that all candidates of the item begin with,
            which add the same to each.
        tied: Whether another candidate has the same score as the best.
    """

    index: int
    scores: tuple[float, ...]
    tied: bool


def require_fast(tokenizer: PreTrainedTokenizerFast) -> None:
    """Refuse a tokenizer that cannot tell where its tokens stand.

    Raises:
        CheckpointError: It is not a fast tokenizer.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(
            "BabyLM's tasks need a fast tokenizer (tokenizer.json): this one has no character offsets"
        )


def encode_spans(tokenizer: PreTrainedTokenizerFast, spans: Sequence[tuple[str, str]]) -> list[Query]:
    """Tokenize texts and find the tokens of their counted ends.

    Args:
        tokenizer: A fast tokenizer.
        spans: (text, counted end of it).

    Raises:
        DataError: A text has no token at all.
    """
    places: dict[tuple[str, str], int] = {}
    order = [places.setdefault(span, len(places)) for span in spans]
    distinct = list(places)
    backend = tokenizer.backend_tokenizer
    before = backend.truncation, backend.padding
    backend.no_truncation()
    backend.no_padding()
    found: list[Query] = []
    try:
        for start in range(0, len(distinct), ENCODE_AT_ONCE):
            part = distinct[start : start + ENCODE_AT_ONCE]
            encodings = backend.encode_batch([text for text, _ in part])
            found += [_query(*span, encoding) for span, encoding in zip(part, encodings, strict=True)]
    finally:
        if before[0]:
            backend.enable_truncation(**before[0])
        if before[1]:
            backend.enable_padding(**before[1])
    return [found[place] for place in order]


def _query(text: str, end: str, encoding: Encoding) -> Query:
    ids, offsets = encoding.ids, encoding.offsets
    if not ids:
        raise DataError(f"the tokenizer makes no token of {text[:60]!r}: it cannot be scored")
    border = len(text) - len(end) + offsets[0][0]
    return Query(tuple(ids), tuple(index for index, (_, stop) in enumerate(offsets) if stop > border))


def check_lengths(queries: Sequence[Query], model: PreTrainedModel, name: str) -> int:
    """Look for texts that the model has no positions for.

    Args:
        queries: The texts.
        model: The model; one with rotary positions runs beyond its maximum, one with a table of positions cannot.
        name: What is scored, named in the message.

    Returns:
        Number of tokens of the longest text.

    Raises:
        TextTooLong: The table of positions is too short.
    """
    longest = max((len(query.ids) for query in queries), default=0)
    positions = getattr(model.config, "max_position_embeddings", None)
    learned = any("wpe" in key or "embed_positions" in key for key, _ in model.named_parameters())
    if learned and positions is not None and longest - 1 > positions:
        raise TextTooLong(
            f"{name}: its longest text has {longest:,} tokens, the model only {positions:,} positions: "
            "train with a larger model.max_position_embeddings"
        )
    return longest


def rank_items(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    items: Sequence[Item],
    *,
    ties: str,
    mean: bool = False,
    seed: int = 0,
    name: str = "",
    progress: Callable[..., Any] | None = None,
) -> list[Choice]:
    """Choose a candidate of every item.

    Args:
        model: A causal language model in evaluation mode, float32.
        tokenizer: Fast tokenizer of the model.
        items: The items.
        ties: "first" or "random".
        mean: Whether scores are divided by the number of counted tokens.
        seed: Seed of the choices among tied candidates.
        name: Name of the task in messages.
        progress: Wrapper of the list of batches.

    Returns:
        One choice an item, in the given order.

    Raises:
        CheckpointError: The tokenizer is not a fast one.
        DataError: A text cannot be tokenized or is too long for the model.
    """
    require_fast(tokenizer)
    spans = [span for item in items for span in zip(item.sentences, item.completions, strict=True)]
    queries = encode_spans(tokenizer, spans)
    check_lengths(queries, model, name)
    if not mean:
        queries = without_common(queries, [len(item.sentences) for item in items])
    values = token_scores(model, queries, progress=progress)
    if mean:
        flat = [float(v.sum()) / max(len(v), 1) for v in values]
    else:
        flat = [float(v.sum()) for v in values]
    draws = np.random.default_rng(seed)
    choices, start = [], 0
    for item in items:
        end = start + len(item.sentences)
        choices.append(choose(flat[start:end], ties, draws))
        start = end
    return choices


def without_common(queries: Sequence[Query], sizes: Sequence[int]) -> list[Query]:
    """Leave out of each item's candidates the counted tokens that all of them begin with: a fifth of BLiMP's.

    Args:
        queries: The candidates of all items.
        sizes: Number of candidates of each item.

    >>> a, b = without_common([Query((1, 5, 6), (0, 1, 2)), Query((1, 5, 7), (0, 1, 2))], [2])
    >>> a.counted, b.counted
    ((2,), (2,))
    """
    found: list[Query] = []
    start = 0
    for size in sizes:
        candidates = queries[start : start + size]
        first, last = min(query.ids for query in candidates), max(query.ids for query in candidates)
        shared = common_length(first, last)  # what the first and the last in order share, all share
        found += [Query(query.ids, tuple(i for i in query.counted if i >= shared)) for query in candidates]
        start += size
    return found


def choose(scores: Sequence[float], ties: str, draws: np.random.Generator) -> Choice:
    """Choose the best of several scores.

    Args:
        scores: Scores, nats.
        ties: "first": the first of the best, as torch.max does (a NaN is the best there). "random": one of the best,
            a NaN counting as minus infinity.
        draws: Random numbers for ties.

    >>> choose([-1.0, -2.0], "first", np.random.default_rng(0))
    Choice(index=0, scores=(-1.0, -2.0), tied=False)
    """
    values = np.asarray(scores, dtype=np.float64)
    if ties == "first":
        index = int(values.argmax())
        best = np.flatnonzero(values == values[index])
        return Choice(index, tuple(scores), len(best) > 1)
    values = np.where(np.isnan(values), -np.inf, values)
    best = np.flatnonzero(values == values.max())
    index = int(best[0]) if len(best) == 1 else int(draws.choice(best))
    return Choice(index, tuple(scores), len(best) > 1)

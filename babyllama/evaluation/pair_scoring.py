"""Both sentences of a minimal pair in one pass: what they begin with in common is computed once.

The sentences of a BLiMP pair share about half of their tokens from the left. A pair is laid out as one row

    <s> The dogs | have run | has run         (prefix | rest of the good one | rest of the bad one)

with the positions that each sentence would have alone, and an attention mask that hides the good rest from the bad one:
every token sees exactly what it would see in its own sentence. Scores equal those of the sentences alone up to float32
rounding, for a quarter less work. A model that cannot be given such a mask is found out by trying it on two short
sentences once; its pairs are then scored a sentence at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from babyllama.evaluation.log_probs import BATCH_TOKENS, batches_by_length, pad_right, sum_log_probs, target_log_probs
from babyllama.models.gpu import full_float32
from babyllama.models.structure import backbone_and_head

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import PreTrainedModel

PROBE_TOLERANCE = 1e-3  # nats; a mask or positions that are ignored move a score by far more


@dataclass
class PairRow:
    """One pair as a row.

    Attributes:
        ids: BOS, prefix, rest of the good sentence and of the bad one, each rest without its last token.
        positions: Position of each id in its own sentence.
        good_rest: Where the good rest stands in the row, [start, end).
        targets: (index in the row, token to predict there, counts for good, counts for bad).
    """

    ids: list[int]
    positions: list[int]
    good_rest: tuple[int, int]
    targets: list[tuple[int, int, bool, bool]]


def lay_out(good: Sequence[int], bad: Sequence[int], first: int) -> PairRow:
    """Return the row of a pair of token lists.

    >>> lay_out([5, 6, 7], [5, 8, 9], first=1)
    PairRow(ids=[1, 5, 6, 8], positions=[0, 1, 2, 2], good_rest=(2, 3), targets=[(0, 5, True, True), \
(1, 6, True, False), (2, 7, True, False), (1, 8, False, True), (3, 9, False, True)])
    """
    shared = 0
    while shared < min(len(good), len(bad)) and good[shared] == bad[shared]:
        shared += 1
    ids = [first, *good[:shared]]
    positions = list(range(len(ids)))
    targets = [(index, token, True, True) for index, token in enumerate(good[:shared])]
    start = len(ids)
    for rest, sides in ((good[shared:], (True, False)), (bad[shared:], (False, True))):
        begin = len(ids)
        for number, token in enumerate(rest):
            targets.append((shared if number == 0 else begin + number - 1, token, *sides))
        ids += rest[:-1]
        positions += range(shared + 1, shared + 1 + len(rest[:-1]))
    return PairRow(ids, positions, (start, start + max(len(good) - shared - 1, 0)), targets)


def _mask(rows: Sequence[PairRow], width: int, dtype: torch.dtype) -> Tensor:
    """(B, 1, T, T) additive mask: causal, and what follows the good rest does not see it."""
    allowed = torch.ones(width, width, dtype=torch.bool).tril().repeat(len(rows), 1, 1)
    for number, row in enumerate(rows):
        start, end = row.good_rest
        allowed[number, end:, start:end] = False
    mask = torch.zeros(len(rows), 1, width, width, dtype=dtype)
    return mask.masked_fill(~allowed.unsqueeze(1), torch.finfo(dtype).min)


@full_float32()
@torch.inference_mode()
def _batch_scores(backbone: Module, head: Module, rows: Sequence[PairRow]) -> Tensor:
    """(B, 2) float64 scores of good and bad."""
    device, dtype = head.weight.device, head.weight.dtype
    ids = pad_right([row.ids for row in rows], 0, device)
    positions = pad_right([row.positions for row in rows], 0, device)
    mask = _mask(rows, ids.shape[1], dtype).to(device)
    hidden = backbone(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)[0]  # (B, T, D)
    flat = hidden.reshape(-1, hidden.shape[-1])
    width = ids.shape[1]
    entries = [(n, n * width + i, t, g, b) for n, row in enumerate(rows) for i, t, g, b in row.targets]
    owner, index, target, good, bad = (torch.tensor(column) for column in zip(*entries, strict=True))
    values = target_log_probs(flat[index.to(device)], target.to(device), head).cpu().double()
    scores = torch.zeros(len(rows), 2, dtype=torch.float64)  # added on the CPU: on CUDA in another order each time
    for side, counts in enumerate((good, bad)):
        scores[:, side].index_add_(0, owner, values * counts)
    return scores


def honours_mask(model: PreTrainedModel, first: int) -> bool:
    """Score one short pair in a shared row and as two sentences, once per model, and compare.

    False where the model does not take the mask of a shared row, or ignores it.
    """
    cached = getattr(model, "_babyllama_pairs_ok", None)
    if cached is None:
        vocabulary = model.get_output_embeddings().weight.shape[0]
        good, bad = [number % vocabulary for number in (3, 4, 5, 6)], [number % vocabulary for number in (3, 7, 8, 9)]
        try:
            [found] = _batch_scores(*backbone_and_head(model), [lay_out(good, bad, first)]).tolist()
            plain = sum_log_probs(model, [[first, *good[:-1]], [first, *bad[:-1]]], [good, bad])
            cached = all(abs(a - b) < PROBE_TOLERANCE for a, b in zip(found, plain, strict=True))
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
            cached = False
        model._babyllama_pairs_ok = cached
    return cached


def supports_pairs(model: PreTrainedModel, first: int) -> bool:
    """Return whether pairs can be scored in one row: a backbone with a plain head that takes mask and positions."""
    return backbone_and_head(model) is not None and honours_mask(model, first)


def score_pairs(
    model: PreTrainedModel,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    first: int,
    *,
    batch_tokens: int = BATCH_TOKENS,
    progress: Callable[..., Any] | None = None,
) -> list[tuple[float, float]]:
    """Return scores of good and bad of each pair (nats, <= 0).

    Args:
        model: Model in evaluation mode for which `supports_pairs` holds.
        pairs: Token ids of good and bad without special tokens.
        first: BOS.
        batch_tokens: Tokens of one forward pass.
        progress: Wraps the batches.
    """
    backbone, head = backbone_and_head(model)
    rows = [lay_out(good, bad, first) for good, bad in pairs]
    scores: list[tuple[float, float]] = [(0.0, 0.0)] * len(rows)
    filled = [number for number, row in enumerate(rows) if row.targets]
    plan = list(batches_by_length([len(rows[number].ids) for number in filled], batch_tokens))
    for batch in progress(plan) if progress else plan:
        chosen = [filled[i] for i in batch]
        for number, pair in zip(chosen, _batch_scores(backbone, head, [rows[n] for n in chosen]).tolist(), strict=True):
            scores[number] = (pair[0], pair[1])
    return scores

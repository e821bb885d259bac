"""Log-probabilities of chosen tokens in many texts, with every shared beginning computed once.

The candidates of an item share a beginning (entity tracking: five answers after 150 tokens), and so do texts of
different items (EWoK asks for two targets after the same context, COMPS for 40 properties of one concept). The distinct
texts are sorted, neighbours are laid into one row as a tree, and an attention mask shows each token its own ancestors:

    <s> The blick | sings | can | fly          one row for "The blick sings", "The blick can", "The blick can fly"
    positions     |   3   |  3  |  4

A token is computed once for all texts that begin the same way, and only positions whose next token is counted go
through the head, each once. What texts share at their end cannot be saved in a causal model, but a text that occurs in
several items is scored once. A model that takes no such mask is found out by a probe and is scored text by text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from babyllama.evaluation.log_probs import (
    BATCH_TOKENS,
    IGNORE,
    batches_by_length,
    pad_right,
    shared_row_log_probs,
    token_log_probs,
)
from babyllama.models.structure import backbone_and_head

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import PreTrainedModel

ROW_TOKENS = 256  # nodes of a row that holds several texts; the mask is quadratic in it
SHARED_AT_LEAST = 2  # tokens that neighbours share to be laid into one row: BOS and one more
CPU_BATCH_TOKENS = 2048  # 2,000 pairs of BLiMP: 7.5 s of a core, 8.7 with 8,192, whose layers leave the caches
PROBE_TOLERANCE = 1e-3  # nats; an ignored mask or position moves a probe's score by far more


@dataclass(frozen=True, slots=True)
class Query:
    """One text whose tokens are to be scored.

    Attributes:
        ids: Token ids with the tokenizer's special tokens, at least one.
        counted: Ascending indices of the tokens asked for; index 0 has no position before it and is left out.
    """

    ids: tuple[int, ...]
    counted: tuple[int, ...]


@dataclass
class Row:
    """A tree of texts in one sequence.

    Attributes:
        ids: Token id of each node.
        positions: Position of each node in its text.
        segments: Runs of nodes (start, end, parent): each node's parent is the one before it, the first's is `parent`.
        sources: Node of each value asked for.
        targets: Token to be predicted there.
        wanted: Number of each query of the row and the indices of its values.
    """

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[tuple[int, int, int]] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    wanted: list[tuple[int, list[int]]] = field(default_factory=list)


def lay_out(queries: Sequence[Query], row_tokens: int = ROW_TOKENS) -> list[Row]:
    """Lay queries into rows that share their beginnings.

    Args:
        queries: The texts, in any order; equal ones share everything.
        row_tokens: Most nodes of a row of several texts.

    >>> [row] = lay_out([Query((1, 5, 6), (1, 2)), Query((1, 5, 7, 8), (3,))])
    >>> row.ids, row.positions, row.segments, row.sources, row.targets
    ([1, 5, 7], [0, 1, 2], [(0, 2, -1), (2, 3, 1)], [0, 1, 2], [5, 6, 8])
    """
    rows: list[Row] = []
    path: list[int] = []  # nodes of the last text
    known: dict[tuple[int, int], int] = {}
    last: tuple[int, ...] = ()
    for number in sorted(range(len(queries)), key=lambda n: queries[n].ids):
        ids = queries[number].ids
        shared = common_length(last, ids)
        inputs = len(ids) - 1  # the last token is only predicted
        new = inputs - min(shared, len(path), inputs)
        if not rows or shared < SHARED_AT_LEAST or len(rows[-1].ids) + new > row_tokens:
            rows.append(Row())
            path, known, shared = [], {}, 0
        row = rows[-1]
        kept = min(shared, len(path), inputs)
        _grow(row, path, ids, kept)
        row.wanted.append((number, _values(row, path, known, queries[number])))
        last = ids
    return rows


def common_length(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """Return number of leading tokens that two texts share."""
    length = min(len(first), len(second))
    if first[:length] == second[:length]:
        return length
    return next(i for i in range(length) if first[i] != second[i])


def _grow(row: Row, path: list[int], ids: tuple[int, ...], kept: int) -> None:
    """Add the nodes of a text behind the first `kept` of `path`, and make `path` the text's own."""
    del path[kept:]
    start = len(row.ids)
    end = start + len(ids) - 1 - kept
    if end > start:
        row.segments.append((start, end, path[-1] if path else -1))
    row.ids += ids[kept:-1]
    row.positions += range(kept, len(ids) - 1)
    path += range(start, end)


def _values(row: Row, path: list[int], known: dict[tuple[int, int], int], query: Query) -> list[int]:
    """Return indices of a query's values in its row; a value that another text asked for is shared."""
    found = []
    for index in query.counted:
        if index == 0:
            continue
        key = (path[index - 1], query.ids[index])
        if key not in known:
            known[key] = len(row.sources)
            row.sources.append(key[0])
            row.targets.append(key[1])
        found.append(known[key])
    return found


def _mask(rows: Sequence[Row], width: int, dtype: torch.dtype) -> Tensor:
    """(B, 1, T, T) additive mask: each node sees itself and its ancestors."""
    allowed = np.zeros((len(rows), width, width), dtype=bool)
    for number, row in enumerate(rows):
        for start, end, parent in row.segments:
            if parent >= 0:
                allowed[number, start:end] = allowed[number, parent]
            allowed[number, start:end, start:end] |= np.tri(end - start, dtype=bool)
    padding = np.arange(width)
    allowed[:, padding, padding] = True  # padding sees itself: a row without any gives NaN
    mask = torch.zeros(len(rows), 1, width, width, dtype=dtype)
    return mask.masked_fill(~torch.from_numpy(allowed).unsqueeze(1), torch.finfo(dtype).min)


@torch.inference_mode()
def _row_values(backbone: Module, head: Module, rows: Sequence[Row]) -> list[np.ndarray]:
    """Return log-probabilities (nats) of each row's values."""
    device, dtype = head.weight.device, head.weight.dtype
    ids = pad_right([row.ids for row in rows], 0, device)
    positions = pad_right([row.positions for row in rows], 0, device)
    width = ids.shape[1]
    mask = _mask(rows, width, dtype).to(device)
    hidden = backbone(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)[0]  # (B, T, D)
    sources = np.concatenate([number * width + np.array(row.sources) for number, row in enumerate(rows)])
    targets = np.array([target for row in rows for target in row.targets])
    # Positions that have a counted token behind them, each once, and which of them each value asks.
    nodes, owners = np.unique(sources, return_inverse=True)
    order = np.argsort(owners, kind="stable")
    chosen = hidden.reshape(-1, hidden.shape[-1])[torch.from_numpy(nodes).to(device)]
    asked = (torch.from_numpy(column[order]).to(device) for column in (owners, targets))
    values = np.empty(len(order))
    values[order] = shared_row_log_probs(chosen, *asked, head).cpu().double().numpy()
    return np.split(values, np.cumsum([len(row.sources) for row in rows])[:-1])


def supports_forest(model: PreTrainedModel) -> bool:
    """Return whether texts can share a row: tried once a model with three short texts, in a row and each alone."""
    cached = getattr(model, "_babyllama_forest_ok", None)
    if cached is not None:
        return cached
    cached = False
    parts = backbone_and_head(model)
    if parts is not None:
        size = parts[1].weight.shape[0]
        texts = [tuple(n % size for n in ids) for ids in ((1, 3, 4, 5, 2), (1, 3, 6, 7), (1, 3, 6, 8, 9))]
        queries = [Query(ids, tuple(range(1, len(ids)))) for ids in texts]
        try:
            together, alone = _forest(model, queries, BATCH_TOKENS, None), _one_by_one(model, queries, 64, None)
            pairs = zip(together, alone, strict=True)
            cached = all(np.allclose(a, b, rtol=0, atol=PROBE_TOLERANCE) for a, b in pairs)
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
            cached = False
    model._babyllama_forest_ok = cached
    return cached


def token_scores(
    model: PreTrainedModel,
    queries: Sequence[Query],
    *,
    batch_tokens: int | None = None,
    progress: Callable[..., Any] | None = None,
) -> list[np.ndarray]:
    """Natural-log probabilities of the counted tokens of each query.

    Args:
        model: A causal language model in evaluation mode.
        queries: The texts.
        batch_tokens: Tokens of one forward pass; unset: what the device computes fastest.
        progress: Wrapper of the list of batches (`console.progress`).

    Returns:
        For each query (counted tokens behind index 0,) float64, independent of batching up to float32 rounding.
    """
    places: dict[Query, int] = {}
    order = [places.setdefault(query, len(places)) for query in queries]
    distinct = list(places)
    if batch_tokens is None:
        on_cpu = next(model.parameters()).device.type == "cpu"
        batch_tokens = CPU_BATCH_TOKENS if on_cpu else BATCH_TOKENS
    score = _forest if supports_forest(model) else _one_by_one
    values = score(model, distinct, batch_tokens, progress)
    return [values[place] for place in order]


def _forest(
    model: PreTrainedModel, queries: Sequence[Query], batch_tokens: int, progress: Callable[..., Any] | None
) -> list[np.ndarray]:
    backbone, head = backbone_and_head(model)
    rows = [row for row in lay_out(queries) if row.sources]
    found = [np.zeros(0)] * len(queries)
    plan = list(batches_by_length([len(row.ids) for row in rows], batch_tokens))
    for batch in progress(plan) if progress else plan:
        chosen = [rows[number] for number in batch]
        for row, values in zip(chosen, _row_values(backbone, head, chosen), strict=True):
            for number, indices in row.wanted:
                found[number] = values[indices]
    return found


def _one_by_one(
    model: PreTrainedModel, queries: Sequence[Query], batch_tokens: int, progress: Callable[..., Any] | None
) -> list[np.ndarray]:
    device = next(model.parameters()).device
    found = [np.zeros(0)] * len(queries)
    filled = [number for number, query in enumerate(queries) if query.counted and query.counted[-1] > 0]
    plan = list(batches_by_length([len(queries[number].ids) - 1 for number in filled], batch_tokens))
    for batch in progress(plan) if progress else plan:
        chosen = [queries[filled[place]] for place in batch]
        wanted = [[t if i in query.counted else IGNORE for i, t in enumerate(query.ids)][1:] for query in chosen]
        ids = pad_right([query.ids[:-1] for query in chosen], 0, device)
        targets = pad_right(wanted, IGNORE, device)
        values = token_log_probs(model, ids, targets).cpu().double().numpy()
        for place, row, kept in zip(batch, values, (targets != IGNORE).cpu().numpy(), strict=True):
            found[filled[place]] = row[kept]
    return found

"""Attention by matrix products for short sequences on a CPU, under two names that Transformers then knows.

There torch's `scaled_dot_product_attention` is slow in its backward pass (50 ms a layer of 32 x 128 tokens against 13),
so the scores are stored and the softmax is ours to arrange. The arithmetic is that of Transformers' eager attention;
what differs is how it compiles and what is kept for the backward pass:

* `plain` keeps scores and probabilities, two (B, H, T, T) tensors a layer, as eager attention does.
* `recompute` keeps neither and computes them once more from query and key, one matrix product in five. For 97M
  parameters and 32 x 128 tokens that is 0.3 GB of 4.1 and no time that could be measured; for 10M it is 1.5% of a step.

Importing this module registers both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from babyllama.dropout import draw_seeds, drop

PLAIN, RECOMPUTE = "plain", "recompute"


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, dropout: float, seeds: Tensor | None
) -> Tensor:
    """Softmax attention, all scores at once.

    The softmax is over rows flattened to (B*H*T, S), of which the compiler makes one loop; over (B, H, T) it makes two
    and stores float32 numerators between them (1.7 ms a layer of 192 x 128 rows against 1.3).

    Args:
        query: (B, H, T, E).
        key: (B, K, S, E) with H a multiple of K (grouped heads share keys).
        value: (B, K, S, E).
        mask: (B or 1, 1, T, S), added to the scores.
        scaling: Factor of the scores.
        dropout: Probability with which a weight is dropped.
        seeds: Of the dropout's mask.

    Returns:
        (B, H, T, E).
    """
    batch, heads, length, width = query.shape
    shared = heads // key.shape[1]
    if shared > 1:
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    span = key.shape[2]
    scores = torch.bmm(query.reshape(-1, length, width), key.reshape(-1, span, width).transpose(1, 2))
    masked = scores.reshape(batch, heads, length, span).float() * scaling + mask
    weights = torch.softmax(masked.reshape(-1, span), dim=1).to(value.dtype)
    if seeds is not None:
        weights = drop(weights, dropout, seeds)
    attended = torch.bmm(weights.reshape(-1, length, span), value.reshape(-1, span, width))
    return attended.reshape(batch, heads, length, width)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None,
    dropout: float,
    recompute: bool,
) -> tuple[Tensor, None]:
    """`attend` on what Transformers passes; seeds are drawn outside, so that a second computation drops the same."""
    seeds = draw_seeds(query.device) if dropout else None
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    given = (query.to(value.dtype), key.to(value.dtype), value, attention_mask, factor, dropout, seeds)
    if recompute and torch.is_grad_enabled():
        attended = checkpoint(attend, *given, use_reentrant=False, preserve_rng_state=False)
    else:
        attended = attend(*given)
    return attended.transpose(1, 2).contiguous(), None  # (B, T, H, E); weights are not given out


def plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention that keeps its scores and probabilities; called by Transformers."""
    return _attention(query, key, value, attention_mask, scaling, dropout, recompute=False)


def recomputed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention that computes scores and probabilities again in the backward pass; called by Transformers."""
    return _attention(query, key, value, attention_mask, scaling, dropout, recompute=True)


for _name, _function in ((PLAIN, plain_attention), (RECOMPUTE, recomputed_attention)):
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, eager_mask)

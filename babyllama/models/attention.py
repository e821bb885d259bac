"""Three implementations of attention under names that Transformers then knows: two for a CPU, one for a GPU.

On a CPU torch's `scaled_dot_product_attention` is slow in its backward pass (50 ms a layer of 32 x 128 tokens against
13), so the scores are stored and the softmax is ours to arrange. The arithmetic is that of Transformers' eager
attention; what differs is how it compiles and what is kept for the backward pass:

* `plain` keeps scores and probabilities, two (B, H, T, T) tensors a layer, as eager attention does.
* `recompute` keeps neither and computes them once more from query and key, one matrix product in five. For 97M
  parameters and 32 x 128 tokens that is 0.3 GB of 4.1 and no time that could be measured; for 10M it is 1.5% of a step.

On a GPU `causal` is Transformers' SDPA without a mask function. With one, Transformers looks for packed sequences in
the positions in every forward pass: seven kernels and a `.all()` that Python waits for, so that the CPU never runs
ahead of the GPU. Without one it passes no mask at all, and SDPA takes its causal kernel: the same numbers. It sees no
padding mask either, which training has no use for: its padding stands behind the text.

Importing this module registers all three.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

from babyllama.models.hashed_dropout import draw_seeds, dropout_with_seeds, recompute_in_backward

PLAIN, RECOMPUTE, CAUSAL = "plain", "recompute", "causal"


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
        seeds: Seeds of the dropout's mask.

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
        weights = dropout_with_seeds(weights, dropout, seeds)
    attended = torch.bmm(weights.reshape(-1, length, span), value.reshape(-1, span, width))
    return attended.reshape(batch, heads, length, width)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    recompute: bool = False,
    **_: Any,
) -> tuple[Tensor, None]:
    """`attend` as Transformers calls it.

    Args:
        module: Whose attention it is; not looked at.
        query: (B, H, T, E).
        key: (B, K, S, E).
        value: (B, K, S, E).
        attention_mask: (B or 1, 1, T, S), added to the scores.
        scaling: Factor of the scores; None: one over the root of E.
        dropout: Probability with which a weight is dropped. Seeds are drawn outside of what may be computed twice, so
            that the second time drops the same weights.
        recompute: Compute scores and probabilities again in the backward pass instead of keeping them.

    Returns:
        (B, T, H, E), and None for the weights, which are not given out.
    """
    seeds = draw_seeds(query.device) if dropout else None
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    given = (query.to(value.dtype), key.to(value.dtype), value, attention_mask, factor, dropout, seeds)
    attended = recompute_in_backward(attend, *given) if recompute else attend(*given)
    return attended.transpose(1, 2).contiguous(), None


plain_attention, recomputed_attention = attention, partial(attention, recompute=True)

for _name, _function in ((PLAIN, plain_attention), (RECOMPUTE, recomputed_attention)):
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, eager_mask)
AttentionInterface.register(CAUSAL, sdpa_attention_forward)  # and no mask function under its name: that is the point

"""Dropout whose mask is a hash of the entry's position, for compiled layers on a CPU.

A compiled layer draws torch's random numbers one by one: 25 ms for the 6.3 million attention weights of one layer of
a 97M GPT-2 (384 x 128 x 128), 36 masks a step, where all other work on those weights takes a few milliseconds. A hash
of 32 bits is plain integer arithmetic, which the compiler turns into vector instructions: 1.6 ms for the same mask
(docs/experiments.md).

    x = position + seed1
    x = (x ^ x >> 16) * 0x7feb352d ^ seed2        # shifts and multipliers of C. Wellons' "lowbias32"
    x = (x ^ x >> 15) * 0x846ca68b
    kept where x, read as a number from 0 to 2^32 - 1, is at least p * 2^32

The two seeds of a mask come from torch's own generator, so that a run's seed decides all masks and a resumed run, which
restores that generator, draws the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - 2**32  # as signed numbers: int32 products wrap around


def hashed_dropout(values: Tensor, p: float) -> Tensor:
    """`values` with each entry zero with probability p, the others divided by 1 - p, by seeds drawn here.

    The mask is hashed again in the backward pass. That keeps it out of memory, and it makes the compiler store the
    seeds: otherwise it draws both of them anew for every 16 entries (5.1 ms instead of 0.9 for 16 x 128 x 768).
    """
    return recompute_in_backward(dropout_with_seeds, values, p, draw_seeds(values.device))


def recompute_in_backward(function: Callable[..., Tensor], *given: Any) -> Tensor:
    """Checkpoint `function(*given)`: compute it again in the backward pass instead of storing intermediates."""
    if not torch.is_grad_enabled():
        return function(*given)
    return checkpoint(function, *given, use_reentrant=False, preserve_rng_state=False)  # nothing random is drawn inside


def draw_seeds(device: torch.device) -> Tensor:
    """Return the two seeds of one mask, (2,) int32, from torch's default generator of the device."""
    return torch.randint(-(2**31), 2**31 - 1, (2,), dtype=torch.int32, device=device)


def keep_mask(rows: int, width: int, p: float, seeds: Tensor) -> Tensor:
    """Return which of `rows` x `width` entries stay, (rows, width) bool: each with probability 1 - p.

    The seed joins the row's number before the column does: masks of one shape then share nothing but a column and a row
    of numbers. Positions of all entries would be shared, and kept for the backward pass (151 MB for a 97M GPT-2).
    """
    row, column = (torch.arange(n, dtype=torch.int32, device=seeds.device) for n in (rows, width))
    x = (row * width + seeds[0]).unsqueeze(1) + column
    x = ((x ^ (x >> 16 & 0xFFFF)) * _FIRST) ^ seeds[1]  # >> keeps the sign: the mask after it makes the shift logical
    x = (x ^ (x >> 15 & 0x1FFFF)) * _SECOND
    return x >= round(p * 2**32) - 2**31


def dropout_with_seeds(values: Tensor, p: float, seeds: Tensor) -> Tensor:
    """`values` with each entry zero with probability p, the others divided by 1 - p, by given seeds.

    Args:
        values: (..., W).
        p: 0 <= p < 1.
        seeds: (2,) int32 of `draw_seeds`; the same seeds give the same mask.
    """
    width = values.shape[-1]
    mask = keep_mask(values.numel() // width, width, p, seeds).view(values.shape)
    return torch.where(mask, values * (1 / (1 - p)), 0.0)

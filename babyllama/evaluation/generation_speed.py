"""How fast a model generates: tokens per second at batch 1 and larger, the median of repeats after a warm-up.

What is timed is the loop that writes every text here (`decoding.loop.decode`), greedily. The device is synchronised
before the clock is read, and only tokens that were really made count.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import torch

from babyllama.models.decoding.decoder import Decoder, make_decoder
from babyllama.models.decoding.loop import decode
from babyllama.models.decoding.sampling import GREEDY
from babyllama.models.gpu import synchronizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

REPEATS = 5
NEW_TOKENS = 32


def _write(decoder: Decoder, batch: int, prompt_length: int, new_tokens: int) -> int:
    """Write greedily behind a fixed prompt; return the number of tokens made."""
    steps = decode(decoder, [[1] * prompt_length] * batch, GREEDY, new_tokens, torch.Generator())
    return sum(len(tokens) for tokens in steps)


def generation_speed(
    model: PreTrainedModel, *, window: int, batch_sizes: tuple[int, ...] = (1, 16), repeats: int = REPEATS
) -> dict[str, Any]:
    """Generation speed.

    Args:
        model: A causal language model in evaluation mode.
        window: Positions of the model; prompt and new tokens stay inside.
        batch_sizes: Texts written at once.
        repeats: Timed runs of each, after one warm-up.

    Returns:
        `batch_<n>_tokens_per_second` (median) for each size, new_tokens, repeats, device.
    """
    device = next(model.parameters()).device
    new_tokens = min(NEW_TOKENS, max(1, window // 2))
    prompt = min(8, max(1, window - new_tokens))
    figures: dict[str, Any] = {"new_tokens": new_tokens, "repeats": repeats, "device": str(device)}
    decoder, wait = make_decoder(model, window), synchronizer(str(device)) or (lambda: None)
    for batch in batch_sizes:
        _write(decoder, batch, prompt, new_tokens)
        rates = []
        for _ in range(repeats):
            wait()
            started = time.perf_counter()
            made = _write(decoder, batch, prompt, new_tokens)
            wait()
            rates.append(made / (time.perf_counter() - started))
        figures[f"batch_{batch}_tokens_per_second"] = statistics.median(rates)
    return figures

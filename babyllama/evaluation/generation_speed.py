"""How fast a model writes: tokens per second at batch 1 and larger, the median of repeats after a warm-up.

The device is synchronised before the clock is read, and only tokens that were really made count.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

REPEATS = 5
NEW_TOKENS = 32


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@torch.inference_mode()
def _write(model: Any, batch: int, prompt_length: int, new_tokens: int) -> int:
    """Greedy decoding with a key/value cache from a fixed prompt; number of tokens made."""
    device = next(model.parameters()).device
    ids = torch.ones(batch, prompt_length, dtype=torch.long, device=device)
    cache, made = None, 0
    for _ in range(new_tokens):
        output = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        ids = output.logits[:, -1:].argmax(dim=-1)
        made += batch
    return made


def generation_speed(
    model: Any, *, window: int, batch_sizes: tuple[int, ...] = (1, 16), repeats: int = REPEATS
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
    for batch in batch_sizes:
        _write(model, batch, prompt, new_tokens)
        rates = []
        for _ in range(repeats):
            _synchronize(device)
            started = time.perf_counter()
            made = _write(model, batch, prompt, new_tokens)
            _synchronize(device)
            rates.append(made / (time.perf_counter() - started))
        figures[f"batch_{batch}_tokens_per_second"] = statistics.median(rates)
    return figures

"""The loop that writes: a token of each text at a time, within the length that the model was trained at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from babyllama.models.decoding.decoder import Decoder
from babyllama.models.decoding.sampling import Sampling


def decode(
    decoder: Decoder,
    rows: Sequence[Sequence[int]],
    sampling: Sampling,
    max_new_tokens: int,
    generator: torch.Generator,
    end: int | None = None,
) -> Iterator[list[int | None]]:
    """Write on, a token of each text at a time: the one loop behind every text that is generated here.

    The cache is used until the context is full; then the newer half of it is read anew.

    Args:
        decoder: Decoder of the model; its context length is never exceeded.
        rows: Ids of the texts to continue; of one longer than the context, the end is read.
        sampling: How a token is chosen.
        max_new_tokens: Number of tokens to write at most.
        generator: Generator of the choice.
        end: Id of the token that ends a text, None for none.

    Yields:
        The new token of each text, None for one that has ended; until all have.
    """
    window = decoder.context_length
    contexts = [list(row) for row in rows]
    done = [False] * len(rows)
    chosen: list[int] = []
    for _ in range(max_new_tokens):
        if chosen and decoder.length < window:
            logits = decoder.extend(chosen)
        else:
            keep = max(1, window // 2) if chosen else window
            logits = decoder.begin([context[-keep:] for context in contexts])
        chosen = sampling.choose(logits, contexts, generator)
        for row, token in enumerate(chosen):
            contexts[row].append(token)
            done[row] = done[row] or token == end
        yield [None if ended else token for ended, token in zip(done, chosen, strict=True)]
        if all(done):
            return

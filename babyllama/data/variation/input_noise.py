"""Noise on the input tokens of a training: some are replaced, while the labels stay what the text says.

The model learns to predict the text from a damaged context and cannot lean on single tokens of it, which slows
overfitting where a small text is read many times (random masking of inputs explains most of the data efficiency of
diffusion language models, arXiv 2510.04071). Half of the replaced tokens become random tokens of the vocabulary, the
other half `<pad>`, which stands for a blank: attention is not masked. `<s>`, `</s>` and padding are never replaced.

Which tokens, and by what, is a hash of (seed, epoch, place in the epoch): splitmix64 (Steele, Lea and Flood 2014), the
same whatever the batch, the number of processes and where a run was resumed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_GOLDEN, _FIRST, _SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def splitmix(state: np.ndarray) -> np.ndarray:
    """Hash each number, uint64 to uint64.

    >>> hex(int(splitmix(np.array([0], dtype=np.uint64))[0]))
    '0xe220a8397b1dcdaf'
    """
    with np.errstate(over="ignore"):
        z = state + _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * _FIRST
        z = (z ^ (z >> np.uint64(27))) * _SECOND
        return z ^ (z >> np.uint64(31))


class InputNoise:
    """Replaces a share of a batch's input tokens.

    Args:
        share: Share of the tokens, 0 < share < 1.
        tokenizer: Tokenizer whose vocabulary the random tokens are of.
        seed: Seed of the draws.
    """

    def __init__(self, share: float, tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
        self.seed, self.pad = seed, tokenizer.pad_token_id
        self.bound = np.uint64(min(round(share * 2**64), 2**64 - 1))
        special = {number for number in tokenizer.all_special_ids if number < len(tokenizer)}
        self.kept = np.array([number in special for number in range(len(tokenizer))])
        self.others = np.flatnonzero(~self.kept)

    def of(self, ids: np.ndarray, epoch: int, places: np.ndarray) -> np.ndarray:
        """Return ids with some replaced.

        Args:
            ids: (B, T) int64.
            epoch: Number of the epoch, from 0.
            places: (B, T) place of each in its epoch.
        """
        key = int(splitmix(splitmix(np.array([self.seed], dtype=np.uint64)) ^ np.uint64(epoch))[0])
        drawn = splitmix(places.astype(np.uint64) ^ np.uint64(key))
        chosen = (drawn < self.bound) & ~self.kept[ids]
        what = splitmix(drawn)
        random = self.others[(what >> np.uint64(1)) % np.uint64(len(self.others))]
        return np.where(chosen, np.where(what & np.uint64(1), random, self.pad), ids)

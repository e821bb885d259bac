"""The order in which a training sees its chunks: a function of seed and epoch alone.

Everything that must be known ahead or repeated rests on it: a resume skips the batches that were trained, milestones
are planned by the words of the chunks that will be shown (milestones.py), a curriculum is another order
(curriculum.py). Several processes share one order: optimizer step t trains on chunks
`order[t * batch_size : (t + 1) * batch_size]`, whatever the number of devices and of accumulated parts.

The plain order is the permutation that accelerate's `SeedableRandomSampler` draws (seed + epoch), drawn here, so that
a version of accelerate cannot change it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import Sampler


class ChunkSet(Protocol):
    """A training set whose epochs are told apart: a PackedDataset, or one that brings `order(epoch)`."""

    epoch: int

    def __len__(self) -> int: ...

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch."""


def shuffled(chunks: int, seed: int, epoch: int) -> np.ndarray:
    """(chunks,) a permutation of the chunks' numbers."""
    generator = torch.Generator().manual_seed(seed + epoch)
    return torch.randperm(chunks, generator=generator).numpy()


def epoch_order(dataset: ChunkSet, seed: int, epoch: int) -> np.ndarray:
    """(len(dataset),) numbers of the chunks that an epoch shows, in order: the dataset's own where it has one.

    Args:
        dataset: A PackedDataset, or one that brings `order(epoch)`.
        seed: `training.seed`.
        epoch: Number of the epoch, from 0.
    """
    if hasattr(dataset, "order"):
        return dataset.order(epoch)
    return shuffled(len(dataset), seed, epoch)


class EpochSampler(Sampler[int]):
    """A torch Sampler whose order depends on the seed and `dataset.epoch` only.

    So a resume, and every rank, draws the same order.

    Args:
        dataset: The training set.
        seed: `training.seed`.
    """

    def __init__(self, dataset: ChunkSet, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __iter__(self) -> Iterator[int]:
        yield from epoch_order(self.dataset, self.seed, self.dataset.epoch).tolist()

    def __len__(self) -> int:
        return len(self.dataset)

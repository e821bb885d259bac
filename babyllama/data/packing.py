"""Documents joined and cut to chunks of one length, without writing the chunks anywhere.

The tokens of all documents lie in one memory-mapped array. A chunk is a place in the *stream*: the documents in a
seeded order, read from position `o` on and around to it again. So an epoch shows every token exactly once, `o` moves
the cut points anew in each epoch, the number of chunks never changes, and only the last chunk is padded.

    documents  <s> a b </s>   <s> c </s>          N = 7 tokens, chunks of T = 3, o = 2
    stream     b </s> <s> | c </s> <s> | a . .     '.' is padding, its label -100

A batch is gathered by NumPy in one go (no Python per row): 8 to 20 million tokens a second, so the loader never holds
up a training (`python -m tests.speed.data_speed`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from babyllama.data.token_store import TokenSplit

if TYPE_CHECKING:
    from babyllama.config.schema import Config
    from babyllama.data.prepared import PreparedData

IGNORE = -100


class PackedDataset(Dataset):  # type: ignore[type-arg]
    """Chunks of `seq_length` tokens over a split.

    Args:
        split: The memory-mapped tokens.
        seq_length: Tokens of a chunk (T).
        pad_id: Token that fills the last chunk; its labels are -100.
        seed: Seed of the documents' order and of the moving cut points.
        shuffle: Read the documents in a seeded order (the same in every epoch).
        random_offset: Move the cut points with each epoch.
        multiple_of: Fill up with all-padding chunks to a multiple of this (a full last batch keeps shapes static).
    """

    def __init__(
        self,
        split: TokenSplit,
        seq_length: int,
        *,
        pad_id: int,
        seed: int = 0,
        shuffle: bool = False,
        random_offset: bool = False,
        multiple_of: int = 1,
    ) -> None:
        self.tokens = split.tokens
        self.total = len(split.tokens)
        self.seq_length = seq_length
        self.pad_id = pad_id
        self.seed = seed
        self.random_offset = random_offset
        chunks = -(-self.total // seq_length)
        self.chunks = -(-chunks // multiple_of) * multiple_of
        self._arrange(split.starts, shuffle)
        self.offset = self.epoch = 0
        self.set_epoch(0)

    def _arrange(self, starts: np.ndarray, shuffle: bool) -> None:
        """Where each document of the stream's order begins in the stream and on disk."""
        lengths = np.diff(starts)
        order = np.arange(len(lengths))
        if shuffle:
            np.random.Generator(np.random.PCG64(self.seed)).shuffle(order)
        self.documents = order  # on disk, in the stream's order
        self._ends = np.cumsum(lengths[order])  # stream position behind each document
        self._shift = starts[:-1][order] - (self._ends - lengths[order])  # disk position minus stream position

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's first position, a function of seed and epoch alone."""
        self.epoch, self.offset = epoch, self.offset_of(epoch)

    def offset_of(self, epoch: int) -> int:
        """Return position in the stream at which an epoch begins."""
        if not self.random_offset:
            return 0
        return int(np.random.Generator(np.random.PCG64([self.seed, epoch])).integers(self.seq_length))

    def disk_places(self, stream: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where positions of the stream lie on disk, and the numbers of their documents; both of `stream`'s shape."""
        found = np.searchsorted(self._ends, stream, side="right")
        return stream + self._shift[found], self.documents[found]

    def __len__(self) -> int:
        """Return chunks of an epoch, the all-padding ones included."""
        return self.chunks

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return one chunk: input_ids (T,), labels (T,)."""
        if not 0 <= index < self.chunks:
            raise IndexError(index)
        return {name: batch[0] for name, batch in self.__getitems__([index]).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """Return a batch at once: input_ids (B, T) and labels (B, T), int64."""
        places = np.asarray(indices, dtype=np.int64)[:, None] * self.seq_length + np.arange(self.seq_length)  # (B, T)
        real = places < self.total
        stream = (places + self.offset) % self.total
        documents = np.searchsorted(self._ends, stream, side="right")
        ids = self.tokens[stream + self._shift[documents]].astype(np.int64)
        if real.all():
            tokens = torch.from_numpy(ids)
            return {"input_ids": tokens, "labels": tokens.clone()}
        labels = np.where(real, ids, IGNORE)
        return {
            "input_ids": torch.from_numpy(np.where(real, ids, self.pad_id)),
            "labels": torch.from_numpy(labels),
        }


def as_dataset(split: TokenSplit, seq_length: int, *, pad_id: int) -> Dataset[Any]:
    """Return the chunks of a split, documents in order and cut points fixed, as a `datasets.Dataset`.

    All of them are held in memory: for a loop of your own on a corpus that allows it.
    """
    from datasets import Dataset as HubDataset
    from datasets import Features, Sequence, Value

    packed = PackedDataset(split, seq_length, pad_id=pad_id)
    features = Features({name: Sequence(Value("int32")) for name in ("input_ids", "labels")})

    def rows() -> Iterator[dict[str, Any]]:
        for start in range(0, len(packed), 1024):
            batch = packed.__getitems__(list(range(start, min(start + 1024, len(packed)))))
            ids, labels = batch["input_ids"].numpy(), batch["labels"].numpy()
            yield from ({"input_ids": i, "labels": j} for i, j in zip(ids, labels, strict=True))

    return HubDataset.from_list(list(rows()), features=features)


def packed_datasets(config: Config, data: PreparedData) -> tuple[Any, Any]:
    """Training chunks (shuffled documents, moving cut points, full batches) and the held-out chunks of the curve."""
    length, pad = config.data.seq_length, data.tokenizer.pad_token_id
    train_set = PackedDataset(
        data.train,
        length,
        pad_id=pad,
        seed=config.training.seed,
        shuffle=True,
        random_offset=config.data.random_offset,
        multiple_of=config.training.batch_size,
    )
    return train_set, PackedDataset(data.valid, length, pad_id=pad)

"""Documents joined and cut to chunks of one length, without writing the chunks anywhere.

The tokens of all documents lie in one memory-mapped array. A chunk is a place in the *stream*: the documents in a
seeded order, read from position `o` on and around to it again. So an epoch shows every token exactly once, `o` moves
the cut points anew in each epoch, the number of chunks never changes, and only the last chunk is padded.

    documents  <s> a b </s>   <s> c </s>          N = 7 tokens, chunks of T = 3, o = 2
    stream     b </s> <s> | c </s> <s> | a . .     '.' is padding, its label -100

Off by default, and each in babyllama/data/variation: another order of the documents in each epoch, documents cut at
sentence ends into segments (then an epoch's stream has other tokens than the stored ones and its end is padded to the
number of chunks of the first epoch), chunks that begin at a line, and noise on the input tokens.

A batch is gathered by NumPy in one go (no Python per row): 8 to 20 million tokens a second, so the loader never holds
up a training (`python -m tests.speed.data_speed`).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from babyllama.data.token_store import TokenSplit
from babyllama.data.variation.input_noise import InputNoise
from babyllama.data.variation.layout import Layout, whole_documents
from babyllama.data.variation.line_starts import LineStarts
from babyllama.data.variation.mixing import mix_weights, mixed
from babyllama.data.variation.segments import Segmenter
from babyllama.models.fused_loss import IGNORE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from babyllama.config.schema import Config
    from babyllama.data.prepared import PreparedData

_ORDER = 2  # keeps the draws of an epoch's order apart from those of its offset


class _TokenFile(NamedTuple):
    """Where a memory map of tokens comes from."""

    path: str
    dtype: np.dtype[Any]


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
        reshuffle: Read the documents in another seeded order in each epoch from the second on.
        segments: Cuts the documents anew in each epoch; its pieces have an order of their own.
        lines: Lets chunks begin at lines, each behind a `<s>`.
        noise: Replaces some of the input tokens.
        documents: Numbers of the documents to pack; None: all.
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
        reshuffle: bool = False,
        segments: Segmenter | None = None,
        lines: LineStarts | None = None,
        noise: InputNoise | None = None,
        documents: np.ndarray | None = None,
    ) -> None:
        self.tokens, self.starts = split.tokens, split.starts
        self.documents = np.arange(len(split.starts) - 1) if documents is None else documents
        self.seq_length = seq_length
        self.pad_id = pad_id
        self.seed = seed
        self.random_offset = random_offset
        self.shuffle, self.reshuffle, self.segments, self.noise = shuffle, reshuffle, segments, noise
        self.line_starts = lines
        self._layouts: dict[int, Layout] = {}
        self._bounds: dict[tuple[int, int], np.ndarray] = {}
        self._room: int | None = None  # tokens of all chunks, once the first epoch has told their number
        if lines is None:
            chunks = -(-self.layout(0).total // seq_length)
        else:
            chunks = lines.with_spare(len(lines.chunks(self.layout(0), self.offset_of(0))))
        self.chunks = -(-chunks // multiple_of) * multiple_of
        self._room = self.chunks * seq_length
        self.set_epoch(0)

    def layout(self, epoch: int) -> Layout:
        """The stream of an epoch; the two used last are kept."""
        number = epoch if self.reshuffle or self.segments is not None else 0
        if number not in self._layouts:
            kept = list(self._layouts.items())[-1:]
            self._layouts = dict([*kept, (number, self._arrange(number))])
        return self._layouts[number]

    def _arrange(self, epoch: int) -> Layout:
        if self.segments is not None:
            return Layout(self.segments.pieces(epoch, self._room), self.starts)
        order = self.documents.copy()
        if self.shuffle:
            seed = [self.seed, epoch, _ORDER] if epoch else self.seed  # the first epoch's order is the one of all
            np.random.Generator(np.random.PCG64(seed)).shuffle(order)
        return Layout(whole_documents(self.starts, order), self.starts)

    @property
    def total(self) -> int:
        """Tokens of the current epoch's stream."""
        return self.current.total

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's first position, a function of seed and epoch alone."""
        self.epoch, self.offset, self.current = epoch, self.offset_of(epoch), self.layout(epoch)

    def bounds(self, epoch: int) -> np.ndarray:
        """(chunks, 3) of an epoch whose chunks begin at lines: first position in the stream, tokens, `<s>` in front."""
        key = self.layout_key(epoch)
        if key not in self._bounds:
            found = self.line_starts.chunks(self.layout(epoch), self.offset_of(epoch), self.chunks)
            empty = np.zeros((self.chunks - len(found), 3), dtype=np.int64)
            self._bounds = dict([*list(self._bounds.items())[-1:], (key, np.concatenate([found, empty]))])
        return self._bounds[key]

    def offset_of(self, epoch: int) -> int:
        """Return position in the stream at which an epoch begins."""
        if not self.random_offset:
            return 0
        return int(np.random.Generator(np.random.PCG64([self.seed, epoch])).integers(self.seq_length))

    def layout_key(self, epoch: int) -> tuple[int, int]:
        """What decides which tokens the chunks of an epoch hold: equal for epochs whose chunks are equal."""
        return self.offset_of(epoch), epoch if self.reshuffle or self.segments is not None else 0

    def __getstate__(self) -> dict[str, Any]:
        """Name the file of the tokens: a spawned loader process maps it, where a pickled map would copy all of it."""
        state = self.__dict__.copy()
        if isinstance(self.tokens, np.memmap) and isinstance(self.tokens.base, mmap.mmap):  # the whole, not a part
            state["tokens"] = _TokenFile(str(self.tokens.filename), self.tokens.dtype)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the tokens again."""
        tokens = state["tokens"]
        if isinstance(tokens, _TokenFile):
            state["tokens"] = np.memmap(tokens.path, dtype=tokens.dtype, mode="r")
        self.__dict__.update(state)

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
        # Which token of the stream stands at each place of the batch.
        places = np.asarray(indices, dtype=np.int64)[:, None] * self.seq_length + np.arange(self.seq_length)  # (B, T)
        if self.line_starts is None:
            real, inside = places < self.total, None
            stream = (places + self.offset) % self.total
        else:
            first, count, opened = self.bounds(self.epoch)[indices].T[:, :, None]  # each (B, 1)
            inside = np.arange(self.seq_length) - opened
            real = inside < count
            stream = (first + np.maximum(inside, 0)) % self.total
        # Tokens as they are stored, then what the layout and the noise change.
        on_disk, _, begins = self.current.places(stream)
        ids = self.tokens[on_disk].astype(np.int64)
        if begins is not None:
            ids = np.where(begins, self.segments.twins[ids], ids)
        if inside is not None:
            ids = np.where(inside < 0, self.line_starts.bos, ids)
        given = ids if self.noise is None else self.noise.of(ids, self.epoch, places)
        # The last chunk is filled up; what is filled counts for nothing.
        if real.all():
            return {"input_ids": torch.from_numpy(given), "labels": torch.from_numpy(ids.copy())}
        return {
            "input_ids": torch.from_numpy(np.where(real, given, self.pad_id)),
            "labels": torch.from_numpy(np.where(real, ids, IGNORE)),
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


def filler(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id that fills the last chunk: padding, else the end token, else 0; no label ever counts it."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token
    return 0


def packed_datasets(config: Config, data: PreparedData) -> tuple[Any, Any]:
    """Training chunks (shuffled documents, moving cut points, full batches) and the held-out chunks of the curve."""
    length, pad, keys, seed = config.data.seq_length, filler(data.tokenizer), config.data, config.training.seed
    # Parts of documents instead of whole ones, where the recipe asks for it.
    segments = None
    if keys.segment_tokens is not None:
        shortest, longest = keys.segment_tokens
        sizes = {"shortest": shortest, "longest": longest, "share": keys.segment_share}
        segments = Segmenter(data.train, data.tokenizer, **sizes, seed=seed)
    lines = LineStarts(data.train, data.tokenizer, length) if keys.chunk_start == "line" else None
    packed = partial(
        PackedDataset,
        data.train,
        length,
        pad_id=pad,
        seed=seed,
        shuffle=True,
        random_offset=keys.random_offset,
        reshuffle=keys.reshuffle_documents,
        segments=segments,
        lines=lines,
        noise=InputNoise(keys.input_noise, data.tokenizer, seed) if keys.input_noise else None,
    )
    # One stream of all domains, or a mixture by weight.
    weights = mix_weights(keys, data.train)
    if weights is None:
        train_set = packed(multiple_of=config.training.batch_size)
    else:
        train_set = mixed(data.train, weights, packed, seed=seed, multiple_of=config.training.batch_size)
    return train_set, PackedDataset(data.valid, length, pad_id=pad)

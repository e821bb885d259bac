r"""Words seen, counted exactly: which tokens of the store begin a word.

A word is what stands between white space, in a script without spaces a grapheme cluster (`data/words.py`). It counts in
the chunk that shows its first token; so a document that is cut between two chunks is counted once, and an epoch that
shows every chunk once counts exactly the words of the text. Whether a token begins a word is a matter of its letters
and of the token before it:

    tokens   <s>  A  _dog  _ran  .  \n  It  's  </s>          '_' is a space
    begins        1  1     1     0  0   1   0                  "A dog ran.\nIt's": 4 words

Byte-level tokens tell their bytes, so a table over the vocabulary answers for the whole text at about 100M tokens/s.
Where the table's sum over a document is not the document's stored number of words (a script without spaces, white space
of two or three bytes split over tokens), its text is put together again and each word counts with the token that holds
its first byte; where that is not possible either (a tokenizer that hides spaces), its words are laid evenly over its
tokens. The sum stays exact.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from babyllama.data.packing import PackedDataset
from babyllama.data.token_store import BLOCK_TOKENS, TokenSplit
from babyllama.data.tokenizer import token_bytes
from babyllama.data.variation.mixing import MixedDataset
from babyllama.data.words import word_starts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from babyllama.data.epoch_order import ChunkSet


def word_begins(split: TokenSplit, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """(N,) uint8: words that begin at each stored token; over a document they add up to its number of words.

    Args:
        split: The tokens.
        tokenizer: Tokenizer that made the tokens.
    """
    pieces = token_bytes(tokenizer)
    texts = [piece.decode("utf-8", errors="replace") for piece in pieces]
    inside = np.array([sum(a.isspace() and not b.isspace() for a, b in pairwise(t)) for t in texts])
    opens = np.array([bool(text) and not text[0].isspace() for text in texts])
    closes = np.array([not text or text[-1].isspace() for text in texts])
    begins = np.zeros(len(split.tokens), dtype=np.uint8)
    for start in range(0, len(begins), BLOCK_TOKENS):
        tokens = split.tokens[start : start + BLOCK_TOKENS]
        after_space = np.ones(len(tokens), dtype=bool)
        after_space[1:] = closes[tokens[:-1]]
        if start:
            after_space[0] = closes[split.tokens[start - 1]]
        begins[start : start + len(tokens)] = inside[tokens] + (opens[tokens] & after_space)
    counted = np.add.reduceat(begins, split.starts[:-1], dtype=np.int64) if len(split.words) else split.words
    for document in np.flatnonzero(counted != split.words):
        first, end = int(split.starts[document]), int(split.starts[document + 1])
        if not _by_text(begins, first, split.tokens[first:end], pieces, int(split.words[document])):
            _lay_evenly(begins, first, end, int(split.words[document]))
    return begins


def _by_text(begins: np.ndarray, first: int, tokens: np.ndarray, pieces: list[bytes], words: int) -> bool:
    """Place a document's words at the tokens that hold their first bytes; False where its text has another number."""
    lengths = np.array([len(pieces[token]) for token in tokens.tolist()], dtype=np.int64)
    stored = b"".join(pieces[token] for token in tokens.tolist())
    try:
        starts = word_starts(stored.decode())
    except UnicodeDecodeError:
        return False
    if len(starts) != words:
        return False
    # Where each character begins among the bytes: those that do not continue another one.
    characters = np.flatnonzero((np.frombuffer(stored, dtype=np.uint8) & 0xC0) != 0x80)
    places = np.searchsorted(np.cumsum(lengths), characters[starts], side="right")
    begins[first : first + len(tokens)] = np.bincount(places, minlength=len(tokens))
    return True


def _lay_evenly(begins: np.ndarray, first: int, end: int, words: int) -> None:
    """Word k of a document of L text tokens begins at its token floor(k L / words)."""
    begins[first:end] = 0
    tokens = max(end - first - 2, 1)
    np.add.at(begins, first + 1 + np.arange(words) * tokens // max(words, 1), 1)


class WordCounter:
    """Words of the chunks of a packed set.

    Args:
        dataset: The chunks.
        split: Tokens whose words are counted.
        tokenizer: Tokenizer that made the tokens.
        begins: Result of `word_begins`, where it is there already.
    """

    def __init__(
        self,
        dataset: PackedDataset,
        split: TokenSplit,
        tokenizer: PreTrainedTokenizerBase,
        begins: np.ndarray | None = None,
    ) -> None:
        self.dataset, self.split = dataset, split
        self.begins = word_begins(split, tokenizer) if begins is None else begins
        self._stream: tuple[int, np.ndarray, np.ndarray] | None = None  # of the layout used last

    def of_chunks(self, epoch: int) -> np.ndarray:
        """(chunks,) int64: words that begin in each chunk of an epoch."""
        return self._turned(epoch, self._of_layout(epoch)[0]).reshape(-1, self.dataset.seq_length).sum(1, np.int64)

    def by_domain(self, epoch: int) -> np.ndarray:
        """(chunks, domains) int64: the same, told apart by domain."""
        words, domains = (self._turned(epoch, values) for values in self._of_layout(epoch))
        chunks = np.arange(len(words)) // self.dataset.seq_length
        count = len(self.split.domains)
        places = chunks * count + domains
        found = np.bincount(places, weights=words, minlength=len(self.dataset) * count)
        return found.astype(np.int64).reshape(-1, count)

    def _turned(self, epoch: int, stream: np.ndarray) -> np.ndarray:
        """A stream's values as an epoch's chunks have them: from its offset on and around, padded with 0."""
        if self.dataset.line_starts is not None:
            return self._in_lines(epoch, stream)
        offset, _ = self.dataset.layout_key(epoch)
        padding = np.zeros(len(self.dataset) * self.dataset.seq_length - len(stream), dtype=stream.dtype)
        return np.concatenate([stream[offset:], stream[:offset], padding])

    def _in_lines(self, epoch: int, stream: np.ndarray) -> np.ndarray:
        """The same where chunks begin at lines: each holds a run of the stream, behind a `<s>` or not."""
        first, count, opened = self.dataset.bounds(epoch).T
        place = np.arange(len(first)) * self.dataset.seq_length + opened
        found = np.zeros(len(self.dataset) * self.dataset.seq_length, dtype=stream.dtype)
        found[np.repeat(place - np.cumsum(count) + count, count) + np.arange(len(stream))] = np.roll(stream, -first[0])
        return found

    def _of_layout(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Words that begin at each position of an epoch's stream (none at a `<s>` or `</s>`), and its domain."""
        _, key = self.dataset.layout_key(epoch)
        if self._stream is None or self._stream[0] != key:
            layout = self.dataset.layout(epoch)
            words = np.empty(layout.total, dtype=self.begins.dtype)
            domains = np.empty(layout.total, dtype=np.int16)
            for start in range(0, layout.total, BLOCK_TOKENS):
                part = np.arange(start, min(start + BLOCK_TOKENS, layout.total))
                places, documents, _ = layout.places(part)
                words[start : start + len(part)] = self.begins[places]
                domains[start : start + len(part)] = self.split.domain_ids[documents]
            self._stream = key, words, domains
        return self._stream[1], self._stream[2]


class MixedWordCounter:
    """Words of the places of a mixture: those of the chunks that stand there.

    Args:
        dataset: The mixture.
        split: Tokens whose words are counted.
        tokenizer: Tokenizer that made the tokens.
    """

    def __init__(self, dataset: MixedDataset, split: TokenSplit, tokenizer: PreTrainedTokenizerBase) -> None:
        begins = word_begins(split, tokenizer)
        self.dataset, self.split = dataset, split
        self.counters = [WordCounter(part, split, tokenizer, begins) for part in dataset.parts]

    def of_chunks(self, epoch: int) -> np.ndarray:
        """(chunks,) int64: words at each place of an epoch."""
        parts, passes, chunks = self.dataset.places(epoch)
        found = np.zeros(len(parts), dtype=np.int64)
        for part, number in sorted(set(zip(parts.tolist(), passes.tolist(), strict=True))):
            here = (parts == part) & (passes == number)
            found[here] = self.counters[part].of_chunks(number)[chunks[here]]
        return found

    def by_domain(self, epoch: int) -> np.ndarray:
        """(chunks, domains) int64: the same; a place has words of one domain."""
        parts, words = self.dataset.places(epoch)[0], self.of_chunks(epoch)
        found = np.zeros((len(parts), len(self.split.domains)), dtype=np.int64)
        numbers = np.array([self.split.domains.index(name) for name in self.dataset.names])
        found[np.arange(len(parts)), numbers[parts]] = words
        return found


def counter_of(
    train_set: ChunkSet, split: TokenSplit, tokenizer: PreTrainedTokenizerBase
) -> WordCounter | MixedWordCounter:
    """The counter of a training set as the Trainer gets it: packed chunks, a mixture, or a curriculum over chunks."""
    dataset = getattr(train_set, "dataset", train_set)
    kind = MixedWordCounter if isinstance(dataset, MixedDataset) else WordCounter
    return kind(dataset, split, tokenizer)

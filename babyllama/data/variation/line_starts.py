r"""Chunks that begin at a line, each behind a `<s>` (`data.chunk_start: line`).

Plain chunks begin wherever the one before ended, mostly inside a sentence, and few show what a text may begin with.
Here a chunk ends behind the last line that still fits, the next one begins with a `<s>` and the next line, and what is
left of the chunk is padding (babylm_like at 128 tokens: 10% more chunks, 87% of them begin at a line). Each token is
shown once an epoch.

    stream      <s> a b \n c d \n e f \n g </s>         chunks of T = 6
    chunks      <s> a b \n . . | <s> c d \n . . | <s> e f \n g </s>          '.' is padding

A line that would leave more than half of a chunk empty is cut where the chunk is full and goes on in the next, without
a `<s>`. Cut points move with the epoch as those of plain chunks do: the first chunk begins at the first line behind the
epoch's offset. The number of chunks is that of the first epoch with half a per cent to spare; an epoch that needs more
cuts more lines, in the end all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from babyllama.data.token_store import BLOCK_TOKENS, TokenSplit
from babyllama.data.tokenizer import token_bytes
from babyllama.data.variation.layout import Layout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FILLED = (0.5, 0.6, 0.7, 0.8, 0.9)  # least share of a chunk that is filled where it ends at a line; then lines are cut
SPARE = 0.005


class LineStarts:
    """Where the chunks of an epoch begin and end.

    Args:
        split: The tokens.
        tokenizer: Tokenizer that made them.
        length: Tokens of a chunk (T).
    """

    def __init__(self, split: TokenSplit, tokenizer: PreTrainedTokenizerFast, length: int) -> None:
        self.length, self.bos = length, tokenizer.bos_token_id
        ends_line = np.array([piece.endswith(b"\n") for piece in token_bytes(tokenizer)])
        self.begins = np.zeros(len(split.tokens), dtype=bool)  # on disk: a line begins here
        for start in range(0, len(self.begins), BLOCK_TOKENS):
            part = ends_line[split.tokens[start : start + BLOCK_TOKENS]]
            self.begins[start + 1 : start + 1 + len(part)] = part[: len(self.begins) - start - 1]
        self.begins[split.starts[1:-1] - 1] = False  # a lone `</s>` is no line
        self.begins[split.starts[:-1]] = True
        self.document = np.zeros(len(self.begins), dtype=bool)
        self.document[split.starts[:-1]] = True

    def chunks(self, layout: Layout, offset: int, most: int | None = None) -> np.ndarray:
        """(C, 3) int64: first position in the stream, number of tokens, and whether a `<s>` is put in front.

        Positions run on behind the stream's end (its total is to be taken off); together they cover it once.

        Args:
            layout: The epoch's stream.
            offset: Position behind which the first chunk begins.
            most: Most chunks there may be; unset: as many as come out of the fullest rule.
        """
        place, total = np.arange(layout.total), layout.total
        on_disk = np.concatenate([layout.places(part)[0] for part in np.array_split(place, total // BLOCK_TOKENS + 1)])
        begins, document = self.begins[on_disk], self.document[on_disk]
        first = int(np.argmax(np.roll(begins, -offset))) + offset
        begins, document = np.roll(begins, -first), np.roll(document, -first)
        latest = np.maximum.accumulate(np.where(begins, place, 0))  # the last line's begin up to each position
        latest = np.append(latest, total)
        for filled in (*FILLED, None):
            found = self._cut(begins, document, latest, filled)
            if most is None or len(found) <= most:
                break
        return found + np.array([first % total, 0, 0])

    def _cut(self, begins: np.ndarray, document: np.ndarray, latest: np.ndarray, filled: float | None) -> np.ndarray:
        """Cut the turned stream from its begin to its end, chunk after chunk."""
        starts, position, total = [], 0, len(begins)
        while position < total:
            # A document brings its own `<s>`; where every line is cut, all chunks are plain ones.
            opened = filled is not None and bool(begins[position]) and not document[position]
            end = min(position + self.length - opened, total)
            line = int(latest[end])
            if filled is not None and end < total and line - position >= filled * self.length:
                end = line
            starts.append((position, end - position, opened))
            position = end
        return np.array(starts, dtype=np.int64)

    def with_spare(self, count: int) -> int:
        """Return the number of chunks that every epoch has, given the first one's."""
        return count + int(SPARE * count)

r"""Documents to token ids, each distinct word looked up instead of tokenized again.

GPT-2's rule, which our tokenizers use, cuts a text into words before any merge, and a word's ids do not depend on its
neighbours. So a table from word to ids gives what the library gives, at 20 MB/s in one Python process where the
library does 3.6 MB/s a core (33 MB of English hold 7.5M pieces, 147,000 distinct ones).

`PIECES` need not cut wherever GPT-2's rule does, but only where that rule always cuts, whatever stands around: behind
a character that is no white space and before one that is; between ASCII letters and digits or punctuation. A piece
that begins with `'` and letters stays whole (the rule parts `'s` and `'sup` by what stands in front), and so does
everything up to the next white space where another character than ASCII or a common quote or dash comes in (it may be
a letter).

    rule    '(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
    text    I can't see "Zoë" .
    pieces  I | can|'t| see| "|Zoë"| .

Tokenizers with another rule, a normalizer or added words go through the library. tests/data/test_fast_encoding.py
compares the two on hostile strings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from babyllama.data.tokenizer import encode_documents, without_prefix

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # Unicode's White_Space
_MARKS = "\u2018\u2019\u201c\u201d\u2013\u2014\u2026"  # quotes, dashes, ellipsis: punctuation for the rule
_ENDS = rf"(?![^\x00-\x7f{_MARKS}])"  # what follows is certainly no letter that the run could go on with
PIECES = re.compile(
    rf"[{_SPACE}]*+(?:"
    rf"'?[A-Za-z]++{_ENDS}"
    rf"|[0-9]++{_ENDS}"
    rf"|(?!'[A-Za-z])[!-/:-@\[-`{{-~{_MARKS}]++(?=[A-Za-z0-9{_SPACE}]|\Z)"
    rf"|[^{_SPACE}]++"
    rf")|[{_SPACE}]++"
)
_JOINABLE = re.compile(rf" ?[^{_SPACE}]")  # behind a line feed such a piece is cut as it is alone
JOINED = 500  # pieces tokenized as one text of lines: 2 us each, one by one 11
GROUP_CHARACTERS = 100_000
"""Of text whose pieces are in memory at a time: they stay in the processor's cache, and what the table keeps is copied,
so that it does not lie scattered among them. Without both, two processes on 2 GB slowed down from 28 to 15 MB/s; with
them they keep 26.5 MB/s to the end. How much either gives alone was not told apart.
"""
KNOWN_BYTES = 64_000_000  # of the table, in each process; then it starts anew. 147,000 words take 27 MB
ENTRY_BYTES = 150  # of the dictionary and two objects, beside their content


def token_dtype(vocab_size: int) -> type[np.unsignedinteger]:  # type: ignore[type-arg]
    """Return the smallest unsigned type that holds every id."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


class DocumentEncoder:
    """Documents to the bytes of their ids, `<s> ... </s>`, as they are stored.

    Args:
        tokenizer: Tokenizer with its BOS and EOS (one stands for the other where there is only one).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        tokenizer, self.prefix = without_prefix(tokenizer)
        self.tokenizer = tokenizer
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.dtype = token_dtype(len(tokenizer))
        self.itemsize = np.dtype(self.dtype).itemsize
        self.bos = self._stored([eos if bos is None else bos])
        self.eos = self._stored([bos if eos is None else eos])
        self.by_pieces = cuts_like_gpt2(tokenizer)
        self.line_feed = self._line_feed()
        self._known: dict[str, bytes] = {}
        self._size = 0

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """Return each text's ids in the stored type, with BOS and EOS."""
        if self.prefix:
            texts = [self.prefix + text if text else text for text in texts]
        if not self.by_pieces:
            return [self.bos + self._stored(ids) + self.eos for ids in encode_documents(self.tokenizer, texts)]
        found: list[bytes] = []
        start = size = 0
        for place, text in enumerate(texts, start=1):
            size += len(text)
            if size >= GROUP_CHARACTERS or place == len(texts):
                found += self._encode_group(texts[start:place])
                start, size = place, 0
        return found

    def _encode_group(self, texts: Sequence[str]) -> list[bytes]:
        pieces = [PIECES.findall(text) for text in texts]
        self._learn(set(chain.from_iterable(pieces)))
        ids_of = self._known.__getitem__
        return [b"".join([self.bos, *map(ids_of, found), self.eos]) for found in pieces]

    def _learn(self, pieces: set[str]) -> None:
        if self._size > KNOWN_BYTES:
            self._known.clear()
            self._size = 0
        missing = pieces.difference(self._known)
        joinable = [piece for piece in missing if self.line_feed is not None and _JOINABLE.match(piece)]
        joinable = "\n".join(joinable).split("\n") if joinable else []  # copies, see GROUP_CHARACTERS
        rest = [piece.encode().decode() for piece in missing.difference(joinable)]
        found = chain(
            zip(joinable, self._in_lines(joinable), strict=True),
            zip(rest, map(self._stored, encode_documents(self.tokenizer, rest)), strict=True),
        )
        for piece, stored in found:
            self._known[piece] = stored
            self._size += ENTRY_BYTES + len(piece) + len(stored)

    def _line_feed(self) -> int | None:
        """Return the id that stands for a line feed and nothing else; None where there is no such id."""
        ids = encode_documents(self.tokenizer, ["\n"])[0]
        return ids[0] if len(ids) == 1 else None

    def _in_lines(self, pieces: list[str]) -> Iterator[bytes]:
        """Yield each piece's ids, from texts of many pieces parted by line feeds (none has one inside)."""
        texts = ["\n".join(pieces[start : start + JOINED]) for start in range(0, len(pieces), JOINED)]
        for ids in encode_documents(self.tokenizer, texts):
            array = np.array(ids, dtype=self.dtype)
            ends = np.flatnonzero(array == self.line_feed).tolist()
            for start, end in zip([0, *(place + 1 for place in ends)], [*ends, len(array)], strict=True):
                yield array[start:end].tobytes()

    def _stored(self, ids: Sequence[int]) -> bytes:
        return np.array(ids, dtype=self.dtype).tobytes()


def cuts_like_gpt2(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Return whether a text's ids are those of its words by GPT-2's rule, and nothing else has a say."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    cut = rules["pre_tokenizer"] or {}
    return (
        rules["normalizer"] is None
        and rules["truncation"] is None
        and rules["padding"] is None
        and rules["model"]["type"] == "BPE"
        and not rules["model"].get("dropout")
        and all(token["special"] for token in rules["added_tokens"])
        and (cut.get("type"), cut.get("add_prefix_space"), cut.get("use_regex")) == ("ByteLevel", False, True)
    )

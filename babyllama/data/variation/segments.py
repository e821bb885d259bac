"""Documents cut at sentence ends into segments, anew in each epoch, each a document of its own: `<s> ... </s>`.

Minimal pairs ask for sentences that begin a text; in most corpora few do. Cut like this, a text shows thousands of
sentences directly after `<s>`, others in each epoch, and the segments are shuffled, so that no context stands before
them. What a segment begins with loses the blank or the line break in front of it: a token with a leading blank is
replaced by its twin without one (` The` -> `The`), white space between two segments is left out. A place where the
vocabulary has no such twin is no place to cut. The words shown are those of the text, each once an epoch.

A cut stands behind a sentence's terminator (with closing quotes) that white space follows, or before a blank line.
Wanted lengths are drawn from a geometric distribution between the shortest and the longest (mean of the excess: a third
of the range) and laid along the text; each cut falls on the next sentence end behind its wanted place. So a segment may
be as short as a sentence at a document's begin or end, and as long as the sentence that the wanted place fell into.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import regex

from babyllama.data.token_store import BLOCK_TOKENS, TokenSplit
from babyllama.data.tokenizer import token_bytes
from babyllama.data.variation.layout import Pieces
from babyllama.data.words import TERMINATORS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ENDS = regex.compile(rf"[{TERMINATORS}][\p{{Pe}}\p{{Pf}}\"'*_]*$")
_PURPOSE = 3  # keeps these draws apart from the order's and the offset's, which have the same seed and epoch


class Segmenter:
    """Cuts the documents of a split into segments.

    Args:
        split: The tokens.
        tokenizer: Tokenizer that made them.
        shortest: Least wanted tokens of a segment.
        longest: Most wanted tokens.
        share: Share of the documents that are cut.
        seed: Seed of all draws.
    """

    def __init__(
        self,
        split: TokenSplit,
        tokenizer: PreTrainedTokenizerBase,
        *,
        shortest: int,
        longest: int,
        share: float,
        seed: int,
    ) -> None:
        self.starts = split.starts
        self.shortest, self.longest, self.share, self.seed = shortest, longest, share, seed
        texts = [piece.decode("utf-8", errors="replace") for piece in token_bytes(tokenizer)]
        special = set(tokenizer.all_special_ids)
        self.twins = _twins(texts, special)
        self.ends, self.nexts = _cut_places(split, texts, special, self.twins)

    def pieces(self, epoch: int, most_tokens: int | None = None) -> Pieces:
        """The segments of an epoch, in an order of their own.

        Args:
            epoch: Number of the epoch, from 0.
            most_tokens: Tokens that the stream may have at most; as many random cuts as that takes are left out.
        """
        generator = np.random.Generator(np.random.PCG64([self.seed, epoch, _PURPOSE]))
        cuts = self._cuts(generator)
        gains = 2 - (self.nexts[cuts] - self.ends[cuts])  # a `</s>` and a `<s>` more, the white space less
        excess = 0 if most_tokens is None else int(self.starts[-1] + gains.sum()) - most_tokens
        if excess > 0:
            undone = generator.permutation(np.flatnonzero(gains > 0))
            undone = undone[: int(np.searchsorted(np.cumsum(gains[undone]), excess)) + 1]
            cuts = np.delete(cuts, undone)
        opened = np.concatenate([np.zeros(len(self.starts) - 1, dtype=bool), np.ones(len(cuts), dtype=bool)])
        starts = np.concatenate([self.starts[:-1], self.nexts[cuts]])
        ends = np.concatenate([self.starts[1:], self.ends[cuts]])
        by_start, by_end = np.argsort(starts), np.argsort(ends)  # a piece's begin and end have the same rank
        documents = np.searchsorted(self.starts, starts[by_start], side="right") - 1
        made = Pieces(starts[by_start], ends[by_end], opened[by_start], opened[by_end], documents)
        return made.in_order(generator.permutation(len(starts)))

    def _cuts(self, generator: np.random.Generator) -> np.ndarray:
        """(K,) numbers of the places that are cut, in the order of the text."""
        total, width = int(self.starts[-1]), self.longest - self.shortest
        count = total // self.shortest + 1
        scale = max(width / 3, 1e-9)
        excess = -scale * np.log1p(-generator.random(count) * -np.expm1(-width / scale))  # exponential, cut at width
        wanted = np.cumsum(self.shortest + np.floor(excess).astype(np.int64))
        cuts = np.unique(np.searchsorted(self.ends, wanted[wanted < total]))
        cuts = cuts[cuts < len(self.ends)]
        if self.share < 1:
            chosen = generator.random(len(self.starts) - 1) < self.share
            cuts = cuts[chosen[np.searchsorted(self.starts, self.ends[cuts], side="right") - 1]]
        return cuts


def _twins(texts: list[str], special: set[int]) -> np.ndarray:
    """(V,) each token's twin without the leading blank, itself where it has none, -1 where it may begin no segment."""
    numbers = {text: number for number, text in enumerate(texts) if number not in special}
    found = np.full(len(texts), -1, dtype=np.int64)
    for number, text in enumerate(texts):
        if number in special or not text.strip() or "\ufffd" in text:
            continue
        if not text[0].isspace():
            found[number] = number
        elif text[0] == " " and not text[1].isspace():
            found[number] = numbers.get(text[1:], -1)
    return found


def _cut_places(
    split: TokenSplit, texts: list[str], special: set[int], twins: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where documents may be cut: (B,) places behind a segment and (B,) where the next one begins, sorted."""
    ends_sentence = np.array([bool(_ENDS.search(text)) for text in texts])
    gap = np.array([bool(text) and not text.strip() for text in texts])
    spaced = np.array([text[:1].isspace() for text in texts])
    lines = np.array([text.count("\n") for text in texts])
    inner = np.array([number not in special for number in range(len(texts))])
    ends, nexts = [], []
    for first, end in _blocks(split.starts):
        tokens = np.asarray(split.tokens[first:end])
        is_gap, place = gap[tokens], np.arange(len(tokens))
        behind = np.minimum.accumulate(np.where(is_gap, len(tokens), place)[::-1])[::-1]  # the next that is no gap
        here = place[:-1][~is_gap[:-1] & inner[tokens[:-1]]]
        follows = behind[here + 1]
        here, follows = here[follows < len(tokens)], follows[follows < len(tokens)]
        breaks = np.concatenate([[0], np.cumsum(lines[tokens] * is_gap)])
        parted = ends_sentence[tokens[here]] | (breaks[follows] - breaks[here] > 1)
        space = (follows > here + 1) | spaced[tokens[follows]]
        good = parted & space & (twins[tokens[follows]] >= 0)
        ends.append(first + here[good] + 1)
        nexts.append(first + follows[good])
    return np.concatenate(ends), np.concatenate(nexts)


def _blocks(starts: np.ndarray) -> list[tuple[int, int]]:
    """Runs of whole documents of about BLOCK_TOKENS tokens."""
    edges = np.arange(BLOCK_TOKENS, int(starts[-1]), BLOCK_TOKENS)
    cuts = np.unique(np.concatenate([[0, len(starts) - 1], np.searchsorted(starts, edges)]))
    return [(int(starts[a]), int(starts[b])) for a, b in pairwise(cuts)]

"""Text of tokens that arrive one by one: only what no later token can change is given out.

Two things are held back: bytes of a character whose other bytes are still to come (a byte-level tokenizer cuts inside
letters), and a beginning of one of the texts that end the writing. What was given out, joined, is the whole text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"
MOST_UNFINISHED = 3  # bytes of a character of UTF-8 that can stand without its last one


class TextStream:
    """The text of one continuation as it grows."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        """Begin an empty text.

        Args:
            tokenizer: Tokenizer of the model.
            stop: Texts that end the writing; neither they nor what follows is given out.
        """
        self.tokenizer, self.stop = tokenizer, [text for text in stop if text]
        self.tokens: list[int] = []
        self.stopped = False
        self._given = 0
        # As `decode_behind`, with its first half done once: 200 tokens are decoded 200 times.
        self._anchor = tokenizer("a", add_special_tokens=False)["input_ids"]
        self._before = len(tokenizer.decode(self._anchor, skip_special_tokens=True))

    def push(self, token: int) -> str:
        """Take the next token; return the text that has become certain."""
        self.tokens.append(token)
        text = self._text()
        end = len(text)
        while end > 0 and text[end - 1] == UNFINISHED and len(text) - end < MOST_UNFINISHED:
            end -= 1
        return self._give(text[:end], final=False)

    def finish(self) -> str:
        """Return what was still held back."""
        return self._give(self._text(), final=True)

    def _text(self) -> str:
        return self.tokenizer.decode([*self._anchor, *self.tokens], skip_special_tokens=True)[self._before :]

    def _give(self, text: str, final: bool) -> str:
        if self.stopped:
            return ""
        found = [place for stop in self.stop if (place := text.find(stop)) >= 0]
        self.stopped = bool(found)
        end = min(found, default=len(text) if final else len(text) - self._held(text))
        piece = text[self._given : max(end, self._given)]
        self._given += len(piece)
        return piece

    def _held(self, text: str) -> int:
        """Return how many last characters may be the beginning of a text that ends the writing."""
        longest = max(map(len, self.stop), default=1) - 1
        for count in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-count:]) for stop in self.stop):
                return count
        return 0

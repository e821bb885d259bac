r"""Surprisal of words, regions and whole texts in bits: -log2 p(unit | what stands before it).

A token's surprisal is -log2 p(token | BOS, the tokens before it); a unit's is the sum over its tokens, so that words
add up to their text. Words are those of `data/words.py`: white space belongs to the word behind it, punctuation to the
word before it, and every character is in exactly one word. A token that covers several words (a common pair of
Chinese characters) makes one word of them.

**The word boundary.** In tokenizers that put the blank at the front of a word (" dog"), what a model says before it is
"a word ends here and `dog` begins", and p(dog) holds the end of the word *before* it, not its own. With B(c), the
probability that a token with a blank in front follows context c, the probability of a word w between blanks is

    p'(w | c) = p(w | c) B(c w) / B(c)        (Pimentel and Meister 2024, arXiv 2406.14561; Oh and Schuler 2024,
                                               arXiv 2406.10851); the first word of all has no B(c)

Over a text the factors cancel but for the last B. There is no such correction for a tokenizer without blanks at the
front, nor in a script without spaces.

A text longer than the window is rolled through in windows that overlap by half, so that every token sees all that
stands before it, or at least half a window of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from babyllama.common.errors import ConfigError
from babyllama.data.words import word_spans, writes_unspaced
from babyllama.evaluation.log_probs import BATCH_TOKENS, BLOCK_ROWS, batches_by_length, pad_right
from babyllama.evaluation.perplexity import bos_id, rolling_windows
from babyllama.models.fused_loss import IGNORE
from babyllama.models.gpu import full_float32
from babyllama.models.structure import backbone_and_head

if TYPE_CHECKING:
    from tokenizers import Encoding
    from torch.nn import Module
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BITS = 1 / math.log(2)


@dataclass(frozen=True)
class Unit:
    """A stretch of a text with its surprisal.

    Attributes:
        start: First character.
        end: Behind the last character.
        tokens: Number of tokens.
        bits: Surprisal.
        corrected: Surprisal with the word-boundary correction; None where there is none.
    """

    start: int
    end: int
    tokens: int
    bits: float
    corrected: float | None = None


@dataclass(frozen=True)
class TextSurprisal:
    """The T tokens of one text.

    Attributes:
        text: The text.
        spans: First character and the place behind the last one of each token, in the text.
        pieces: The tokens as the tokenizer spells them.
        bits: (T,) float64, surprisal of each token.
        boundary: (T + 1,) float64, -log2 B before each token and behind the last; None where there is no correction.
        has_context: Whether something was read before the first token, whose word then has a B before it.
    """

    text: str
    spans: list[tuple[int, int]]
    pieces: list[str]
    bits: np.ndarray
    boundary: np.ndarray | None
    has_context: bool = False

    def unit(self, start: int, end: int, first: int, last: int) -> Unit:
        """Return tokens `first` to `last` (not included) as one unit of the characters `start` to `end`."""
        bits = float(self.bits[first:last].sum())
        corrected = None
        if self.boundary is not None and last > first:
            before = float(self.boundary[first]) if first or self.has_context else 0.0
            corrected = bits + float(self.boundary[last]) - before
        return Unit(start, end, last - first, bits, corrected)

    def tokens(self) -> list[Unit]:
        """Return each token by itself; without correction, which is a matter of words."""
        return [Unit(start, end, 1, float(bits)) for (start, end), bits in zip(self.spans, self.bits, strict=True)]

    def words(self) -> list[Unit]:
        """Return words: they add up to the text."""
        return self.units([start for start, _ in word_spans(self.text)])

    def whole(self) -> Unit:
        """Return the whole text."""
        return self.unit(0, len(self.text), 0, len(self.bits))

    def units(self, starts: Sequence[int]) -> list[Unit]:
        """Units that begin at the given characters; a token belongs to the unit in which its first letter stands.

        Args:
            starts: Where units begin, in order, the first at 0. A unit that no token begins in joins the one before it.
        """
        firsts = np.array([self._first_letter(span) for span in self.spans], dtype=np.int64)
        lasts = np.array([self._last_letter(span) for span in self.spans], dtype=np.int64)
        begins: list[tuple[int, int]] = []  # character and token at which each unit begins
        for start, behind in pairwise([*starts, len(self.text)]):
            token = int(np.searchsorted(firsts, start))
            inside = token > 0 and lasts[token - 1] >= start
            begun = token < len(firsts) and firsts[token] < behind
            if not begins:
                begins.append((0, 0))
            elif begun and not inside and begins[-1][1] < token:
                begins.append((start, token))
        ends = [*begins[1:], (len(self.text), len(self.bits))] if begins else []
        return [self.unit(a, b, i, j) for (a, i), (b, j) in zip(begins, ends, strict=True)]

    def _first_letter(self, span: tuple[int, int]) -> int:
        """Return the first character of a token that is no white space (its first one where all are)."""
        return next((place for place in range(*span) if not self.text[place].isspace()), span[0])

    def _last_letter(self, span: tuple[int, int]) -> int:
        return next((place for place in reversed(range(*span)) if not self.text[place].isspace()), span[0])


def boundary_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return ids of the tokens that have a blank in front; none where the tokenizer puts no blanks there.

    The sign for a blank is what a text of one blank is spelled with (Ġ, ▁); special tokens have none.
    """
    blank = tokenizer.tokenize(" ") if len(tokenizer.encode(" ", add_special_tokens=False)) else []
    sign = blank[0][0] if blank else ""
    if not sign or blank[0] in tokenizer.all_special_tokens:
        return []
    return sorted(number for piece, number in tokenizer.get_vocab().items() if piece[:1] == sign)


def score_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    contexts: Sequence[str] | None = None,
    *,
    window: int,
    batch_tokens: int = BATCH_TOKENS,
    progress: Callable[..., Any] | None = None,
) -> list[TextSurprisal]:
    """Surprisal of every token of each text.

    Args:
        model: A causal language model in evaluation mode, float32.
        tokenizer: Tokenizer of the model, one of the tokenizers library.
        texts: Scored exactly as given.
        contexts: What stands before each text and is not scored; a blank parts them, but in a script without spaces.
        window: Tokens the model sees at once.
        batch_tokens: Tokens of one forward pass.
        progress: Wraps the batches.

    Raises:
        ConfigError: The tokenizer does not tell which characters its tokens cover.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError("surprisal: this tokenizer does not tell which characters a token covers (no tokenizer.json)")
    befores = [_joined(context, text) for context, text in zip(contexts or [""] * len(texts), texts, strict=True)]
    encodings = encode_exactly(tokenizer, [before + text for before, text in zip(befores, texts, strict=True)])
    first, boundary = bos_id(tokenizer), boundary_tokens(tokenizer)
    # Windows over each text's tokens and one place more, for what may follow the last token.
    owners, inputs, targets = [], [], []
    for number, encoding in enumerate(encodings):
        for ids, wanted in rolling_windows([*encoding.ids, 0], first, window, max(1, window // 2)):
            owners.append(number)
            inputs.append(ids)
            targets.append(wanted)
    rows = _token_bits(model, inputs, targets, boundary, batch_tokens, progress)
    found: list[list[np.ndarray]] = [[] for _ in texts]
    for owner, row in zip(owners, rows, strict=True):
        found[owner].append(row)
    return [
        _of_text(text, len(before), encoding, np.concatenate(parts, axis=1), bool(boundary))
        for text, before, encoding, parts in zip(texts, befores, encodings, found, strict=True)
    ]


def _joined(context: str, text: str) -> str:
    """Return the context with what parts it from the text."""
    if not context or context[-1:].isspace() or text[:1].isspace() or writes_unspaced(context[-20:] + text[:20]):
        return context
    return context + " "


def encode_exactly(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Encoding]:
    """Encodings without special tokens; one that is spelled out in a text is text."""
    backend = tokenizer.backend_tokenizer
    before = backend.encode_special_tokens
    backend.encode_special_tokens = True
    try:
        return backend.encode_batch(list(texts), add_special_tokens=False)
    finally:
        backend.encode_special_tokens = before


def _of_text(text: str, before: int, encoding: Encoding, values: np.ndarray, has_boundary: bool) -> TextSurprisal:
    """The tokens of a text behind `before` characters of context; a token that reaches into the text is the text's."""
    ends = [end for _, end in encoding.offsets]
    # The blank that parts context and text (before - 1) belongs to the text's first token.
    skip = next((number for number, end in enumerate(ends) if end > before), len(ends))
    spans = [(max(0, start - before), max(0, end - before)) for start, end in encoding.offsets[skip:]]
    correct = has_boundary and not writes_unspaced(text)
    bits, boundary = values[0, skip:-1], values[1, skip:]
    return TextSurprisal(text, spans, encoding.tokens[skip:], bits, boundary if correct else None, has_context=skip > 0)


@full_float32()
@torch.inference_mode()
def _token_bits(
    model: PreTrainedModel,
    inputs: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    boundary: list[int],
    batch_tokens: int,
    progress: Callable[..., Any] | None,
) -> list[np.ndarray]:
    """Of each window's asked-for positions: (2, number) float64, -log2 p(target) and -log2 B, in order."""
    device = next(model.parameters()).device
    split = backbone_and_head(model)
    chosen = torch.tensor(boundary, dtype=torch.long, device=device)
    found: list[np.ndarray] = [np.zeros((2, 0))] * len(inputs)
    plan = list(batches_by_length([len(row) for row in inputs], batch_tokens))
    for batch in progress(plan) if progress else plan:
        ids = pad_right([inputs[i] for i in batch], 0, device)
        wanted = pad_right([targets[i] for i in batch], IGNORE, device)
        asked = wanted != IGNORE  # (B, T)
        if split is None:
            rows, head = model(input_ids=ids, use_cache=False).logits[asked], None
        else:
            rows, head = split[0](input_ids=ids, use_cache=False)[0][asked], split[1]
        values = _in_blocks(rows, wanted[asked], head, chosen)
        for index, part in zip(batch, np.split(values, np.cumsum(asked.sum(dim=1).tolist())[:-1], axis=1), strict=True):
            found[index] = part
    return found


def _in_blocks(rows: Tensor, targets: Tensor, head: Module, boundary: Tensor) -> np.ndarray:
    """(2, N): the head is applied to a block of rows at a time, so that its logits stay small."""
    parts = []
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS]
        logits = (block if head is None else head(block)).float()  # (N, V)
        total = logits.logsumexp(dim=1)
        target = total - logits.gather(1, targets[start : start + BLOCK_ROWS, None]).squeeze(1)
        blank = total - logits[:, boundary].logsumexp(dim=1) if len(boundary) else torch.zeros_like(target)
        parts.append(torch.stack([target, blank]))
    return (torch.cat(parts, dim=1).cpu().double() * BITS).numpy()

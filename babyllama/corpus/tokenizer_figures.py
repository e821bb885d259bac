"""What a tokenizer does with text, in figures that can be counted by hand.

    fertility        tokens / words (`data/words.py`)
    bytes a token    UTF-8 bytes of the text / tokens
    used share       different tokens that occur in the text / tokens of the vocabulary, special ones left out of both
    single-byte share   tokens of the text that stand for one byte / tokens: how often a text falls apart into bytes
                        or letters
    boundaries       of words cut into morphemes by hand (`un-happi-ness`): precision, recall and F1 of the cuts inside
                     words (Creutz and Lindén 2004); words that are one token, and words as such where they are not cut
    model share      parameters of embedding and head / all parameters, of a model with this vocabulary

Text goes through in batches: a corpus is never in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from babyllama.data.documents import Document, batches_of
from babyllama.data.tokenizer import encode_documents, token_bytes
from babyllama.data.words import count_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from babyllama.config.schema import Config

BATCH_CHARACTERS = 1_000_000


@dataclass
class Counts:
    """What is added up over text.

    Attributes:
        words: Words.
        bytes: UTF-8 bytes.
        tokens: (V,) how often each token occurs.
    """

    tokens: np.ndarray
    words: int = 0
    bytes: int = 0

    def add(self, text: str, ids: Sequence[int]) -> None:
        """Add a text and its tokens."""
        self.words += count_words(text)
        self.bytes += len(text.encode("utf-8", "replace"))
        np.add.at(self.tokens, np.asarray(ids, dtype=np.int64), 1)


@dataclass(frozen=True)
class Piece:
    """One token of a sentence that is shown.

    Attributes:
        text: Characters of the token; empty where it holds only a part of one.
        bytes: Bytes in hexadecimal where the token holds only a part of a character, else empty.
    """

    text: str
    bytes: str = ""


@dataclass
class Boundaries:
    """How cuts agree with morphemes.

    Attributes:
        words: Words that were looked at.
        whole: Number of these that are one token.
        right: Cuts that stand at a boundary of morphemes.
        cuts: Cuts inside words.
        expected: Boundaries of morphemes.
    """

    words: int = 0
    whole: int = 0
    right: int = 0
    cuts: int = 0
    expected: int = field(default=0)

    def figures(self) -> dict[str, Any]:
        """Shares; None where nothing was to be divided by, precision and recall only where words were cut by hand."""
        precision = self.right / self.cuts if self.cuts and self.expected else None
        recall = self.right / self.expected if self.expected else None
        total = (precision or 0) + (recall or 0)
        f1 = 2 * (precision or 0) * (recall or 0) / total if total else None
        whole = self.whole / self.words if self.words else None
        return {"words": self.words, "one_token": whole, "precision": precision, "recall": recall, "f1": f1}


def count_text(tokenizer: PreTrainedTokenizerBase, documents: Iterable[Document]) -> dict[str, Counts]:
    """Counts by domain.

    Args:
        tokenizer: A fast tokenizer.
        documents: Text, read once.
    """
    found: dict[str, Counts] = {}
    for batch in batches_of(documents, BATCH_CHARACTERS):
        for document, ids in zip(batch, encode_documents(tokenizer, [d.text for d in batch]), strict=True):
            counts = found.get(document.domain)
            if counts is None:
                counts = found[document.domain] = Counts(np.zeros(len(tokenizer), dtype=np.int64))
            counts.add(document.text, ids)
    return dict(sorted(found.items()))


def text_figures(tokenizer: PreTrainedTokenizerBase, counts: Counts, lengths: np.ndarray) -> dict[str, Any]:
    """Return figures of one domain or of all text.

    Args:
        tokenizer: The tokenizer.
        counts: Result of `count_text`.
        lengths: (V,) bytes of each token, 0 for special ones.
    """
    tokens = int(counts.tokens.sum())
    plain = lengths > 0
    return {
        "words": counts.words,
        "bytes": counts.bytes,
        "tokens": tokens,
        "fertility": tokens / counts.words if counts.words else None,
        "bytes_per_token": counts.bytes / tokens if tokens else None,
        "used_share": int(((counts.tokens > 0) & plain).sum()) / max(int(plain.sum()), 1),
        "single_byte_share": int(counts.tokens[lengths == 1].sum()) / tokens if tokens else None,
    }


def inspect(
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[Document],
    words: Sequence[Sequence[str]] = (),
    config: Config | None = None,
) -> dict[str, Any]:
    """Return all figures of a tokenizer.

    Args:
        tokenizer: A fast tokenizer.
        documents: Text; read once, may be empty.
        words: Words, each as its morphemes (one: the word is not cut).
        config: Configuration of the model whose parameters are shared out; None: left out.

    Returns:
        vocabulary, total, domains; boundaries where there are words; model where there is a configuration.
    """
    # The vocabulary itself.
    bytes_of = token_bytes(tokenizer)
    lengths = np.array([len(found) for found in bytes_of], dtype=np.int64)
    domains = count_text(tokenizer, documents)
    found: dict[str, Any] = {
        "vocabulary": {
            "tokens": len(tokenizer),
            "special": int((lengths == 0).sum()),
            "single_byte": int((lengths == 1).sum()),
            "mean_bytes": float(lengths[lengths > 0].mean()) if (lengths > 0).any() else None,
            "longest": max(bytes_of, key=len).decode("utf-8", "replace"),
        }
    }
    # The text in total and by domain, then words with known morphemes and the model's share.
    if domains:
        every = Counts(sum(counts.tokens for counts in domains.values()))  # type: ignore[arg-type]
        every.words = sum(counts.words for counts in domains.values())
        every.bytes = sum(counts.bytes for counts in domains.values())
        found["total"] = text_figures(tokenizer, every, lengths)
        found["domains"] = {name: text_figures(tokenizer, counts, lengths) for name, counts in domains.items()}
    if words:
        found["boundaries"] = boundaries(tokenizer, words).figures()
    if config is not None:
        found["model"] = model_share(config, len(tokenizer))
    return found


def boundaries(tokenizer: PreTrainedTokenizerBase, words: Sequence[Sequence[str]]) -> Boundaries:
    """Compare a tokenizer's cuts with morphemes; each word is cut as it is in running text, behind a blank.

    Args:
        tokenizer: A fast tokenizer.
        words: Morphemes of each word.
    """
    found = Boundaries()
    backend = tokenizer.backend_tokenizer
    texts = [" " + "".join(parts) for parts in words]
    for parts, text, encoding in zip(words, texts, backend.encode_batch(texts, add_special_tokens=False), strict=True):
        ends = np.cumsum([len(part) for part in parts]) + 1
        expected = set(ends[:-1].tolist())
        # A cut stands where a token begins inside the word; the blank before it is no letter of it.
        begins = {max(start, 1) for start, end in encoding.offsets if end > 1 or start >= 1}
        cuts = begins - {1}
        found.words += 1
        found.whole += not cuts and text.strip() != ""
        found.right += len(cuts & expected)
        found.cuts += len(cuts)
        found.expected += len(expected)
    return found


def cut_sentence(tokenizer: PreTrainedTokenizerBase, sentence: str) -> list[Piece]:
    """Return the tokens of a sentence, in order; characters that are spread over several tokens come as bytes.

    >>> from babyllama.data.tokenizer import train_tokenizer
    >>> [piece.bytes or piece.text for piece in cut_sentence(train_tokenizer(["an an"], 260), "an é")]
    ['an', ' ', 'c3', 'a9']
    """
    bytes_of = token_bytes(tokenizer)
    pieces = []
    for number in encode_documents(tokenizer, [sentence])[0]:
        try:
            pieces.append(Piece(bytes_of[number].decode("utf-8")))
        except UnicodeDecodeError:
            pieces.append(Piece("", bytes_of[number].hex(" ")))
    return pieces


def model_share(config: Config, vocab_size: int) -> dict[str, Any]:
    """Return parameters of a model with such a vocabulary, and what share embedding and head have."""
    from babyllama.models.architectures import count_parameters

    total = count_parameters(config, vocab_size)
    # Every parameter is the same at any vocabulary but those that have a row a token: a difference tells them.
    per_token = count_parameters(config, vocab_size + 1) - total
    return {
        "type": config.model.type,
        "parameters": total,
        "vocabulary_parameters": per_token * vocab_size,
        "vocabulary_share": per_token * vocab_size / total,
    }

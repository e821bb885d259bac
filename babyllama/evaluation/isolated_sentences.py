r"""Bits per byte of sentences that stand alone: held-out text in the condition in which minimal pairs are scored.

    isolated bits per byte = sum of -ln p(token | <s> and the sentence so far) / ln 2 / UTF-8 bytes of the sentences

Each held-out document is cut into sentences, and each of them is scored by itself after BOS, with no other context and
no end token counted. BLiMP and its like ask a model for lone sentences, while a document's bits per byte hardly depend
on how a text begins; this figure does, it has no threshold, and it moves by less between two seeds than an accuracy on
1,000 pairs. It is never below the document's figure by right: context is taken away.

A sentence ends where a terminator (of any script, with the closing quotes and brackets behind it) stands before white
space, at a blank line, and at the end of a line. A line that ends without a terminator goes on with the next one, as
in hard-wrapped books, unless that one begins with a speaker label (`A:`, `*MOT:`). White space around a sentence is not
scored and its bytes are not counted; nothing else is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import regex

from babyllama.data.documents import Document
from babyllama.data.words import TERMINATORS, is_unspaced, sentences
from babyllama.evaluation.intervals import bootstrap_ratio
from babyllama.evaluation.log_probs import BATCH_TOKENS
from babyllama.evaluation.perplexity import score_documents

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_CLOSING = r"[\p{Pe}\p{Pf}\"'*_]*"
_END = regex.compile(rf"(?<=[{TERMINATORS}]{_CLOSING})\s+")
_ENDS = regex.compile(rf"[{TERMINATORS}]{_CLOSING}\s*$")
_LABEL = regex.compile(r"\s*\*?\p{Lu}[\p{L}\p{N}]{0,12}:\s")


def lone_sentences(text: str) -> list[str]:
    r"""Cut a text into sentences so that every character but the white space between them is in one.

    >>> lone_sentences("It was\nlate. \"Go!\" he said.\n\nA:\tuh,\nB:\twell . ")
    ['It was late.', '"Go!"', 'he said.', 'A:\tuh,', 'B:\twell .']
    """
    found: list[str] = []
    for block in regex.split(r"\n[^\S\n]*\n", text):
        for line in _unwrapped(block.split("\n")):
            whole = sentences(line) if is_unspaced(line) else []
            parts = whole if "".join("".join(whole).split()) == "".join(line.split()) else _END.split(line)
            found += [part.strip() for part in parts if part.strip()]
    return found


def _unwrapped(lines: Sequence[str]) -> list[str]:
    """Return lines that end without a terminator joined with the next one, where that begins no turn."""
    joined: list[str] = []
    for line in lines:
        if joined and joined[-1].strip() and not _ENDS.search(joined[-1]) and not _LABEL.match(line):
            joined[-1] = f"{joined[-1].rstrip()} {line.strip()}"
        else:
            joined.append(line)
    return joined


def isolated_sentences(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Document],
    *,
    window: int,
    batch_tokens: int = BATCH_TOKENS,
    seed: int = 0,
    progress: Callable[..., Any] | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Score each sentence of the documents alone after BOS.

    Args:
        model: A causal language model in evaluation mode, float32.
        tokenizer: Tokenizer of the model.
        documents: At least one with a token.
        window: Tokens the model sees at once; a longer sentence is rolled through.
        batch_tokens: Tokens of one forward pass (changes no figure).
        seed: Seed of the bootstrap draws.
        progress: Wraps the batches.

    Returns:
        Figures (isolated_bits_per_byte with its 95% bootstrap interval over documents, isolated_sentences,
        isolated_bytes, isolated_domains) and one dict a document with its number, domain, nll (nats) and bytes.

    Raises:
        DataError: No document has a token.
    """
    # Sentences, each with the document that it is from.
    owners, alone = [], []
    for number, document in enumerate(documents):
        found = lone_sentences(document.text)
        owners += [number] * len(found)
        alone += [Document(sentence, document.domain) for sentence in found]
    scores = score_documents(model, tokenizer, alone, window=window, batch_tokens=batch_tokens, progress=progress)
    # Sums by document: the interval resamples documents.
    nll = np.bincount(owners, scores.nll, len(documents))
    sizes = np.bincount(owners, scores.bytes, len(documents))
    low, high = bootstrap_ratio(nll / math.log(2), sizes, seed=seed)
    figures = {
        "isolated_bits_per_byte": _bits(nll, sizes),
        "isolated_bits_per_byte_ci": [low, high],
        "isolated_sentences": len(alone),
        "isolated_bytes": int(sizes.sum()),
        "isolated_domains": {
            name: _bits(nll[chosen], sizes[chosen])
            for name in sorted({document.domain for document in documents})
            for chosen in [[number for number, document in enumerate(documents) if document.domain == name]]
        },
    }
    items = [
        {"item": number, "domain": document.domain, "nll": float(nll[number]), "bytes": int(sizes[number])}
        for number, document in enumerate(documents)
    ]
    return figures, items


def _bits(nll: np.ndarray, sizes: np.ndarray) -> float | None:
    return float(nll.sum() / math.log(2) / sizes.sum()) if sizes.sum() else None

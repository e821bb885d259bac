"""Perplexity and bits per byte, exactly.

    perplexity    = exp(sum of -ln p(token | context) / number of predicted tokens)
    bits per byte = sum of -ln p / ln 2 / UTF-8 bytes of the documents

over all documents. Each document stands alone: BOS (else EOS) is the first context, every token of its text is
predicted once, no end token is counted, padding never is. Never a mean of batch means: sums are taken over tokens, in
float64, and divided once. Bits per byte compare models with different tokenizers, perplexity does not.

A document longer than the window is rolled through in disjoint windows (EleutherAI's lm-evaluation-harness,
`loglikelihood_rolling`): each predicts up to `window` tokens from one token of context before them; the last window is
moved back so that it is full, its earlier tokens being context only. With `stride` below the window, windows overlap:
each predicts `stride` new tokens and has the rest as context.

    window 3, tokens a b c d e      input  <s> a b | b c d      target  a b c | . d e
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from babyllama.common.console import say
from babyllama.common.errors import DataError
from babyllama.config.schema import Config
from babyllama.data.documents import Document
from babyllama.evaluation.intervals import RESAMPLES, bootstrap_ratio
from babyllama.evaluation.log_probs import BATCH_TOKENS, sum_log_probs
from babyllama.models.fused_loss import IGNORE
from babyllama.models.gpu import free_gpu_memory, is_out_of_memory
from babyllama.models.loading import load_model, tell_once

TRIED_DOCUMENTS, TRIED_CHARACTERS = 200, 2_000  # by which a tokenizer is known that loses text
SMALLER_PASSES = 8  # how much less a GPU computes at once where its memory is short

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast


@dataclass
class DocumentScores:
    """Per document: what every figure is made of.

    Attributes:
        nll: (D,) float64, negative log-likelihood in nats.
        tokens: (D,) predicted tokens.
        bytes: (D,) UTF-8 bytes of the text.
        domains: Domain of each document.
    """

    nll: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray
    domains: list[str]


def rolling_windows(
    tokens: Sequence[int], first: int, window: int, stride: int | None = None
) -> Iterator[tuple[list[int], list[int]]]:
    """Inputs and targets that predict every token exactly once.

    Args:
        tokens: The document's ids without special tokens.
        first: The id that stands before the first token (BOS).
        window: Positions of one forward pass.
        stride: New tokens per window after the first; None: disjoint windows.

    Yields:
        (input ids, targets) of equal length at most `window`; target -100 where the token was predicted before.

    Example:
        >>> for window in rolling_windows([11, 12, 13, 14, 15], first=1, window=3): print(window)
        ([1, 11, 12], [11, 12, 13])
        ([12, 13, 14], [-100, 14, 15])
    """
    stride = window if stride is None else stride
    stream = [first, *tokens]
    done = 0
    while done < len(tokens):
        new = min(window if done == 0 else stride, len(tokens) - done)
        end = done + new  # tokens[:end] are predicted after this window
        start = max(0, end - window)
        targets = list(tokens[start:end])
        targets[: done - start] = [IGNORE] * (done - start)
        yield stream[start:end], targets
        done = end


def bos_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id before a text's first token: BOS, else EOS.

    Raises:
        DataError: The tokenizer has neither.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token
    raise DataError("the tokenizer has neither a BOS nor an EOS token: nothing can stand before a text's first token")


def encode_text(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text without special tokens; a spelled-out special token in a text is text where we can help it."""
    if getattr(tokenizer, "is_fast", False):
        from babyllama.data.tokenizer import encode_documents

        return encode_documents(tokenizer, texts)
    return [tokenizer.encode(text, add_special_tokens=False) for text in texts]


def tell_lost_text(tokenizer: PreTrainedTokenizerBase, documents: Sequence[Document]) -> int:
    """Count documents that a tokenizer does not give back but for blanks, with a line: their figure is of other text.

    A tokenizer that writes all in lower case, takes accents away or knows an unknown token has less to predict: bits
    per byte of what it left over, divided by the bytes of what was there, are too few.

    Args:
        tokenizer: Any tokenizer.
        documents: Documents that are scored; the first ones are tried.
    """
    tried = [document.text[:TRIED_CHARACTERS] for document in documents[:TRIED_DOCUMENTS]]
    given = [tokenizer.decode(ids, skip_special_tokens=False) for ids in encode_text(tokenizer, tried)]
    lost = sum("".join(text.split()) != "".join(back.split()) for text, back in zip(tried, given, strict=True))
    if lost:
        tell_once(
            f"the tokenizer does not give back {lost:,} of {len(tried):,} documents (capitals, accents or unknown "
            "signs are lost): figures by token and byte are of other text than other tokenizers' are"
        )
    return lost


def score_documents(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Document],
    *,
    window: int,
    stride: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Callable[..., Any] | None = None,
) -> DocumentScores:
    """Negative log-likelihood of each document.

    Args:
        model: A causal language model, evaluation mode, float32.
        tokenizer: Tokenizer of the model.
        documents: At least one with a token.
        window: Tokens the model sees at once: the length it was trained at.
        stride: Overlap the windows: new tokens per window; None: disjoint.
        batch_tokens: Tokens of one forward pass (changes no figure).
        progress: Wraps the list of batches.

    Raises:
        DataError: No document has a token.
    """
    if window < 1 or (stride is not None and not 1 <= stride <= window):
        raise DataError(f"window {window}, stride {stride}: the window is at least 1, the stride from 1 to the window")
    encoded = encode_text(tokenizer, [document.text for document in documents])
    if not any(encoded):
        raise DataError("the evaluation text is empty: no document has a token that this tokenizer knows")
    tell_lost_text(tokenizer, documents)
    # Every document in windows; each token is a target once.
    first = bos_id(tokenizer)
    owners, inputs, targets = [], [], []
    for number, tokens in enumerate(encoded):
        for ids, wanted in rolling_windows(tokens, first, window, stride):
            owners.append(number)
            inputs.append(ids)
            targets.append(wanted)
    # Windows in any order and batch; their sums go back to their documents.
    sums = sum_log_probs(model, inputs, targets, batch_tokens=batch_tokens, progress=progress)
    nll = np.zeros(len(documents))
    np.subtract.at(nll, owners, sums)
    return DocumentScores(
        nll=nll,
        tokens=np.array([len(tokens) for tokens in encoded], dtype=np.int64),
        bytes=np.array([len(document.text.encode()) for document in documents], dtype=np.int64),
        domains=[document.domain for document in documents],
    )


def summarize(scores: DocumentScores, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Return perplexity, loss and bits per byte with 95% bootstrap intervals over documents, in total and per domain.

    Args:
        scores: Result of `score_documents`.
        resamples: Bootstrap draws.
        seed: Seed of the bootstrap draws.

    Returns:
        perplexity, average_loss, bits_per_byte, each with a `*_ci`; num_documents, total_tokens, total_bytes; domains.
    """
    total = _figures(scores, np.ones(len(scores.domains), dtype=bool), resamples, seed)
    names = np.array(scores.domains)
    domains = {name: _figures(scores, names == name, resamples, seed) for name in sorted(set(scores.domains))}
    return {**total, "domains": domains}


def _figures(scores: DocumentScores, chosen: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    nll, tokens, sizes = scores.nll[chosen], scores.tokens[chosen], scores.bytes[chosen]
    if not tokens.sum():
        return {"perplexity": None, "average_loss": None, "bits_per_byte": None, "num_documents": int(chosen.sum())}
    loss = nll.sum() / tokens.sum()
    loss_ci = bootstrap_ratio(nll, tokens, resamples=resamples, seed=seed)
    bits_ci = bootstrap_ratio(nll / math.log(2), sizes, resamples=resamples, seed=seed)
    return {
        "perplexity": math.exp(min(loss, 700.0)),
        "perplexity_ci": [math.exp(min(bound, 700.0)) for bound in loss_ci],
        "average_loss": float(loss),
        "average_loss_ci": list(loss_ci),
        "bits_per_byte": float(nll.sum() / math.log(2) / sizes.sum()),
        "bits_per_byte_ci": list(bits_ci),
        "num_documents": int(chosen.sum()),
        "total_tokens": int(tokens.sum()),
        "total_bytes": int(sizes.sum()),
    }


def score_held_out(
    config: Config,
    tokenizer: PreTrainedTokenizerFast,
    documents: list[Document],
    model: PreTrainedModel,
    batch_tokens: int = BATCH_TOKENS,
) -> dict[str, Any]:
    """The held-out documents by the definition of `evaluate.py` (babyllama.evaluation.perplexity), in float32."""
    from babyllama.data.documents import documents_fingerprint

    window = config.data.seq_length
    scores = score_documents(model.eval(), tokenizer, documents, window=window, batch_tokens=batch_tokens)
    return summarize(scores) | {"held_out_fingerprint": documents_fingerprint(documents)}


def score_checkpoint(
    config: Config, tokenizer: PreTrainedTokenizerFast, documents: list[Document], folder: Path | str, *, device: str
) -> dict[str, Any]:
    """Score a saved model on the device it was trained on; where memory is short, in smaller passes, then on the CPU.

    A 97M model's 0.43M held-out tokens are over a minute on 16 CPU cores and a second on a GPU.

    Args:
        config: Run configuration.
        tokenizer: The run's.
        documents: Held-out documents.
        folder: Folder of the saved model.
        device: Where to compute.
    """
    tries = [(device, BATCH_TOKENS)]
    if device != "cpu":
        tries += [(device, BATCH_TOKENS // SMALLER_PASSES), ("cpu", BATCH_TOKENS)]
    for number, (place, tokens) in enumerate(tries):
        try:
            return score_held_out(config, tokenizer, documents, load_model(folder, place), tokens)
        except Exception as error:
            if number == len(tries) - 1 or not is_out_of_memory(error):
                raise
        free_gpu_memory()
        following = tries[number + 1]
        say(f"out of memory on {place} in scoring: going on with {following[1]:,} tokens at once on {following[0]}")
    raise AssertionError("the last try returns or raises")

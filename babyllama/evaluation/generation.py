"""Text from a model, and what can be counted of it.

Prompts are batched with padding on the left, sampled by a seed of their own, and roll within the length the model was
trained at: positions beyond it are untrained. distinct-n (Li et al. 2016, arXiv 1510.03055) is the share of different
n-grams among all n-grams of the samples; repetition is the share of 4-grams of a sample that stood in it before. Words
are those of `data/words.py`: in a script without spaces, grapheme clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from babyllama.common.errors import DataError
from babyllama.data.documents import Document
from babyllama.data.tokenizer import decode_behind
from babyllama.data.words import word_starts, writes_unspaced
from babyllama.data.words import words as split_words
from babyllama.evaluation.perplexity import bos_id, encode_text
from babyllama.models.gpu import full_float32

DEFAULT_PROMPTS = ("Once upon a time", "The little girl", "One day", "He said that", "There was a")
TEMPERATURE, TOP_K = 0.8, 50


@dataclass(frozen=True)
class Sample:
    """A prompt and what the model wrote after it."""

    prompt: str
    completion: str
    new_tokens: int


@full_float32()
@torch.inference_mode()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    window: int,
    max_new_tokens: int = 100,
    temperature: float = TEMPERATURE,
    top_k: int = TOP_K,
    seed: int = 0,
    batch_size: int = 16,
) -> list[Sample]:
    """Continue each prompt.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Tokenizer of the model.
        prompts: Texts; BOS is put in front; one longer than the window keeps its end.
        window: Positions the model was trained at: the context never exceeds it.
        max_new_tokens: Tokens to write at most; an end token ends a text.
        temperature: 0 is greedy.
        top_k: Sample among so many likeliest tokens.
        seed: Same seed, same text.
        batch_size: Prompts of one forward pass.
    """
    if max_new_tokens < 1:
        raise DataError(f"max_new_tokens {max_new_tokens}: at least 1")
    first = bos_id(tokenizer)
    encoded = [[first, *tokens] for tokens in encode_text(tokenizer, list(prompts))]
    generator = torch.Generator().manual_seed(seed)
    samples: list[Sample] = []
    for start in range(0, len(encoded), batch_size):
        rows = [row[-window:] for row in encoded[start : start + batch_size]]
        written = _continue(model, tokenizer, rows, window, max_new_tokens, temperature, top_k, generator)
        for prompt, tokens in zip(prompts[start : start + batch_size], written, strict=True):
            samples.append(Sample(prompt, decode_behind(tokenizer, tokens), len(tokens)))
    return samples


def _continue(
    model: Any,
    tokenizer: Any,
    rows: list[list[int]],
    window: int,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    generator: torch.Generator,
) -> list[list[int]]:
    """New ids of each row, up to its end token. The cache is used until the window is full, then rebuilt in halves."""
    device = next(model.parameters()).device
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)
    end = tokenizer.eos_token_id
    contexts = [list(row) for row in rows]
    written: list[list[int]] = [[] for _ in rows]
    done = [False] * len(rows)
    cache: Any = None
    length = 0
    for _ in range(max_new_tokens):
        if cache is None or length >= window:
            keep = window if cache is None else max(1, window // 2)
            contexts = [context[-keep:] for context in contexts]
            ids, mask = _pad_left(contexts, pad, device)
            cache, length = None, ids.shape[1]
        else:
            ids = torch.tensor([[context[-1]] for context in contexts], device=device)
            mask = torch.cat([mask, torch.ones(len(rows), 1, dtype=torch.long, device=device)], dim=1)
            length += 1
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        cache = output.past_key_values
        chosen = _choose(output.logits[:, -1].float().cpu(), temperature, top_k, generator)
        for row, token in enumerate(chosen):
            contexts[row].append(token)
            done[row] = done[row] or token == end
            if not done[row]:
                written[row].append(token)
        if all(done):
            break
    return written


def _pad_left(rows: list[list[int]], pad: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def _choose(logits: torch.Tensor, temperature: float, top_k: int, generator: torch.Generator) -> list[int]:
    """Return one token a row: the likeliest at temperature 0, else sampled among the top k."""
    if temperature <= 0:
        return logits.argmax(dim=1).tolist()
    values, tokens = logits.topk(min(top_k, logits.shape[1]), dim=1)
    picks = torch.multinomial(torch.softmax(values / temperature, dim=1), 1, generator=generator)
    return tokens.gather(1, picks).squeeze(1).tolist()


def distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    """Return share of different n-grams among all n-grams of the texts' words, 0 where there is none.

    >>> distinct([["a", "b", "a", "b"]], 2)
    0.6666666666666666
    """
    grams = [tuple(words[i : i + n]) for words in texts for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(words: Sequence[str], n: int = 4) -> float:
    """Return share of a text's n-grams that stood in it before.

    >>> repetition("a b c a b c a".split(), n=2)
    0.5
    """
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def generation_figures(samples: Sequence[Sample]) -> dict[str, Any]:
    """distinct_1..3, repetition, mean length in words and tokens, and the samples."""
    words = [split_words(sample.completion) for sample in samples]
    count = max(len(samples), 1)
    return {
        **{f"distinct_{n}": distinct(words, n) for n in (1, 2, 3)},
        "repetition": sum(map(repetition, words)) / count,
        "mean_words": sum(map(len, words)) / count,
        "mean_tokens": sum(sample.new_tokens for sample in samples) / count,
        "num_samples": len(samples),
        "samples": [{"prompt": sample.prompt, "completion": sample.completion} for sample in samples],
    }


def beginnings(documents: Sequence[Document], count: int) -> list[str]:
    """First six words of about `count` documents, evenly spaced: prompts in the manner of the text.

    In a script without spaces, the first twelve grapheme clusters.
    """
    starts = [_beginning(document.text) for document in documents]
    return starts[:: max(1, len(starts) // count)]


def _beginning(text: str) -> str:
    if not writes_unspaced(text[:500]):
        return " ".join(text.split()[:6])
    starts = word_starts(text[:500])
    return text[: starts[12] if len(starts) > 12 else len(text)].strip()


def read_prompts(path: str | None) -> list[str] | None:
    """Return prompts of a file, one a line; None for no file.

    Raises:
        DataError: It cannot be read, or has none.
    """
    if path is None:
        return None
    try:
        prompts = [line for line in Path(path).read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--custom-prompts: {path}: cannot be read: {error}") from None
    if not prompts:
        raise DataError(f"--custom-prompts: {path}: no prompt in it")
    return prompts

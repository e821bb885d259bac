"""Text from a model, and what can be counted of it.

Prompts are batched with padding on the left, sampled by a seed of their own, and roll within the length the model was
trained at: positions beyond it are untrained. What computes a step and what chooses a token is in `models/decoding`.
distinct-n (Li et al. 2016, arXiv 1510.03055) is the share of different n-grams among all n-grams of the samples;
repetition is the share of 4-grams of a sample that stood in it before. Words are those of `data/words.py`: in a script
without spaces, grapheme clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from babyllama.common.console import say
from babyllama.common.errors import DataError
from babyllama.data.documents import Document
from babyllama.data.tokenizer import decode_behind
from babyllama.data.words import beginning
from babyllama.data.words import words as split_words
from babyllama.evaluation.perplexity import bos_id, encode_text
from babyllama.models.decoding.decoder import make_decoder
from babyllama.models.decoding.loop import decode
from babyllama.models.decoding.sampling import Sampling
from babyllama.models.gpu import full_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_PROMPTS = ("Once upon a time", "The little girl", "One day", "He said that", "There was a")
SAMPLES = 10  # texts, where neither their number nor prompts are given
TEMPERATURE, TOP_K = 0.8, 50


@dataclass(frozen=True)
class Sample:
    """A prompt and what the model wrote after it."""

    prompt: str
    completion: str
    new_tokens: int


@full_float32()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    window: int,
    max_new_tokens: int = 100,
    temperature: float = TEMPERATURE,
    top_k: int = TOP_K,
    sampling: Sampling | None = None,
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
        temperature: Divisor of the logits; 0 is greedy.
        top_k: Number of likeliest tokens to choose among.
        sampling: All settings of the choice, in place of `temperature` and `top_k`.
        seed: Seed of the choice: the same texts for the same seed, prompts and batch_size.
        batch_size: Number of prompts of one forward pass.
    """
    if max_new_tokens < 1:
        raise DataError(f"max_new_tokens {max_new_tokens}: at least 1")
    sampling = sampling or Sampling(temperature, top_k)
    decoder = make_decoder(model, window)
    encoded = encode_prompts(tokenizer, prompts)
    generator = torch.Generator().manual_seed(seed)
    samples: list[Sample] = []
    for start in range(0, len(encoded), batch_size):
        rows = encoded[start : start + batch_size]
        written: list[list[int]] = [[] for _ in rows]
        for chosen in decode(decoder, rows, sampling, max_new_tokens, generator, tokenizer.eos_token_id):
            for tokens, token in zip(written, chosen, strict=True):
                tokens += [] if token is None else [token]
        for prompt, tokens in zip(prompts[start : start + batch_size], written, strict=True):
            samples.append(Sample(prompt, decode_behind(tokenizer, tokens), len(tokens)))
    return samples


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    """Return the ids of prompts, BOS in front."""
    first = bos_id(tokenizer)
    return [[first, *tokens] for tokens in encode_text(tokenizer, list(prompts))]


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
    starts = [beginning(document.text) for document in documents]
    return spread(starts, min(count, len(starts)))


def choose_prompts(given: list[str] | Callable[[], list[str]], count: int) -> list[str]:
    """Choose as many prompts as texts are wanted, and say where some are left out or are not of the text.

    Args:
        given: The user's prompts, or a function that makes some of the held-out text.
        count: Texts that are wanted.
    """
    prompts = given if isinstance(given, list) else []
    if callable(given):
        try:
            prompts = given()
        except DataError as error:
            say(f"generation: from plain prompts of ours: {error}")
    elif len(prompts) > count:
        say(f"generation: {count} of {len(prompts)} prompts, evenly spaced (--num-samples)")
    return spread(prompts or list(DEFAULT_PROMPTS), count)


def spread(prompts: Sequence[str], count: int) -> list[str]:
    """Take `count` prompts, evenly spaced; where there are fewer, they come again in turn.

    >>> spread(["a", "b", "c", "d", "e"], 2), spread(["a", "b"], 3)
    (['a', 'c'], ['a', 'b', 'a'])
    """
    if len(prompts) > count:
        return [prompts[number * len(prompts) // count] for number in range(count)]
    return [prompts[number % len(prompts)] for number in range(count)] if prompts else []


def read_prompts(path: str | None) -> list[str] | None:
    """Return prompts of a file, one a line; None for no file.

    Raises:
        DataError: It cannot be read, or has none.
    """
    if path is None:
        return None
    try:
        prompts = [line for line in Path(path).read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--custom-prompts: {path}: cannot be read: {error}") from None
    if not prompts:
        raise DataError(f"--custom-prompts: {path}: no prompt in it")
    return prompts

"""Does the model complete a held-out sentence with its last word?

An item is a sentence of a held-out document (4 to 40 words, ending in . ! or ?): the context is BOS, the sentence up
to its last word, the answer that word. The model is right when it predicts every token of the word and then of the
punctuation mark, each as the likeliest one: the exact word, not a part of it and not a longer one. This is LAMBADA's
rule (Paperno et al. 2016, arXiv 1606.06031) applied to the user's own text.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

import torch

from babyllama.data.documents import Document
from babyllama.evaluation.intervals import wilson
from babyllama.evaluation.log_probs import IGNORE, batches_by_length, pad_right
from babyllama.evaluation.perplexity import bos_id, encode_text
from babyllama.models.structure import backbone_and_head

_SENTENCE = re.compile(r"(?<![^\s])[^.!?\n]+[.!?](?=\s|$)")
_LAST_WORD = re.compile(r"^(.*\S)( [A-Za-z'’-]+[.!?])$")
SHORTEST, LONGEST = 4, 40


def completion_items(documents: Sequence[Document], count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Contexts and answers drawn from held-out documents.

    Args:
        documents: Held-out documents.
        count: Items wanted; fewer come where the text has fewer sentences.
        seed: Of the draw.

    Returns:
        (context, answer) with the answer's leading space and closing mark, e.g. ("The dog sat on the", " mat.").
    """
    items = []
    for document in documents:
        for sentence in _SENTENCE.findall(document.text):
            match = _LAST_WORD.match(sentence.strip())
            if match and SHORTEST <= len(sentence.split()) <= LONGEST:
                items.append((match[1], match[2]))
    items = list(dict.fromkeys(items))
    random.Random(seed).shuffle(items)
    return items[:count]


@torch.inference_mode()
def completion_accuracy(
    model: Any, tokenizer: Any, items: Sequence[tuple[str, str]], *, window: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Share of items whose last word is predicted exactly.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        items: From `completion_items`.
        window: Positions of the model; longer items are left out.

    Returns:
        Figures (accuracy, accuracy_ci, num_items) and one dict an item.
    """
    first = bos_id(tokenizer)
    rows: list[tuple[list[int], list[int]]] = []
    kept: list[tuple[str, str]] = []
    contexts = encode_text(tokenizer, [context for context, _ in items])
    whole = encode_text(tokenizer, [context + answer for context, answer in items])
    for item, context, tokens in zip(items, contexts, whole, strict=True):
        start = len(context)
        if tokens[:start] == context and start < len(tokens) <= window:
            rows.append(([first, *tokens[:-1]], [*[IGNORE] * start, *tokens[start:]]))
            kept.append(item)
    right = [False] * len(rows)
    for batch in batches_by_length([len(ids) for ids, _ in rows], 4096):
        for index, hit in zip(batch, _all_argmax(model, [rows[i] for i in batch]), strict=True):
            right[index] = hit
    figures = {
        "accuracy": sum(right) / len(right) if right else None,
        "accuracy_ci": list(wilson(sum(right), len(right))) if right else None,
        "num_items": len(right),
    }
    details = [{"context": c, "answer": a, "correct": hit} for (c, a), hit in zip(kept, right, strict=True)]
    return figures, details


def _all_argmax(model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> list[bool]:
    """Per row, whether every target is the likeliest token."""
    device = next(model.parameters()).device
    ids = pad_right([row[0] for row in rows], 0, device)
    targets = pad_right([row[1] for row in rows], IGNORE, device)
    wanted = targets != IGNORE
    split = backbone_and_head(model)
    if split is None:
        best = model(input_ids=ids, use_cache=False).logits[wanted].argmax(dim=1)
    else:
        best = split[1](split[0](input_ids=ids, use_cache=False)[0][wanted]).argmax(dim=1)
    hits = torch.ones_like(wanted)
    hits[wanted] = best == targets[wanted]
    return hits.all(dim=1).tolist()

"""Does the model complete a held-out sentence with its last word?

An item is a sentence of a held-out document (4 to 40 words, ending with a sentence terminator of any script): the
context is BOS, the sentence up to its last word, the answer that word. The model is right when it predicts every token
of the word and then of the punctuation mark, each as the likeliest one: the exact word, not a part of it and not a
longer one. This is LAMBADA's rule (Paperno et al. 2016, arXiv 1606.06031) applied to the user's own text.

In a script without spaces (`data/words.py`) the answer is the last grapheme cluster of a sentence of 8 to 80, with the
mark behind it where there is one (Thai and Lao have none). A sentence whose last cluster is a part of a longer token is
left out, since nothing of it can be predicted by itself; so more sentences are drawn there than are wanted.

Where at least 99 in 100 answers are spelled in ASCII, as in English, the others are left out: the items are those of
the rule `[A-Za-z'’-]+[.!?]`, by which all earlier figures of English were made.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import regex
import torch

from babyllama.data.documents import Document
from babyllama.data.words import TERMINATORS, sentences, word_starts, writes_unspaced
from babyllama.evaluation.intervals import wilson
from babyllama.evaluation.log_probs import batches_by_length, pad_right
from babyllama.evaluation.perplexity import bos_id, encode_text
from babyllama.models.fused_loss import IGNORE
from babyllama.models.gpu import full_float32
from babyllama.models.structure import backbone_and_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# The last word and its mark; marks beyond ASCII may stand behind a blank, as the danda often does.
_LAST_WORD = regex.compile(rf"^(.*\S)( [\p{{L}}\p{{M}}'’\u200c\u200d-]+(?:[.!?]|\s?(?=[^\x00-\x7f])[{TERMINATORS}]))$")
_PLAIN = re.compile(r"^ [A-Za-z'’-]+[.!?]$")
PLAIN_SHARE = 0.99
SHORTEST, LONGEST = 4, 40
SHORTEST_UNSPACED, LONGEST_UNSPACED = 8, 80  # clusters
OVERDRAWN = 4  # times as many sentences are drawn where some are left out for their tokens
FEWEST = 10  # items below which no share is given


def completion_items(documents: Sequence[Document], count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Contexts and answers drawn from held-out documents.

    Args:
        documents: Held-out documents.
        count: Items wanted; fewer come where the text has fewer sentences.
        seed: Seed of the draw.

    Returns:
        (context, answer) with the answer's leading space and closing mark, e.g. ("The dog sat on the", " mat."); in
        scripts without spaces up to four times as many as were wanted.
    """
    items = [item for document in documents for item in map(_item, sentences(document.text)) if item]
    plain = [item for item in items if _PLAIN.match(item[1])]
    if len(plain) >= PLAIN_SHARE * len(items):
        items = plain
    unspaced = len(plain) < len(items) and any(writes_unspaced(context) for context, _ in items)
    items = list(dict.fromkeys(items))
    random.Random(seed).shuffle(items)
    return items[: count * OVERDRAWN if unspaced else count]


def _item(sentence: str) -> tuple[str, str] | None:
    """Context and answer of a sentence; None where it is too short, too long or ends otherwise.

    >>> _item("यह एक छोटा घर है।"), _item("小狗今天跑到河边去了。"), _item("He left.")
    (('यह एक छोटा घर', ' है।'), ('小狗今天跑到河边去', '了。'), None)
    """
    if writes_unspaced(sentence):
        starts = word_starts(sentence)
        answer = sentence[starts[-1] :]
        wanted = SHORTEST_UNSPACED <= len(starts) <= LONGEST_UNSPACED and writes_unspaced(answer[0])
        return (sentence[: starts[-1]], answer) if wanted else None
    found = _LAST_WORD.match(sentence)
    wanted = found is not None and SHORTEST <= len(sentence.split()) <= LONGEST
    return (found[1], found[2]) if found and wanted else None


def too_few(figures: dict[str, Any]) -> dict[str, Any]:
    """Return figures whose share is taken out, with the reason, where it is of fewer than ten items."""
    if figures["num_items"] >= FEWEST:
        return figures
    found = f"{figures['num_items']} sentences of the held-out text can be completed, at least {FEWEST} are needed"
    return {**figures, "accuracy": None, "accuracy_ci": None, "reason": found}


@full_float32()
@torch.inference_mode()
def completion_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[tuple[str, str]],
    *,
    window: int,
    limit: int | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return share of items whose last word is predicted exactly.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Tokenizer of the model.
        items: Result of `completion_items`.
        window: Positions of the model; longer items are left out.
        limit: Items at most; None: all.

    Returns:
        Figures (accuracy, accuracy_ci, num_items) and one dict an item.
    """
    first = bos_id(tokenizer)
    rows: list[tuple[list[int], list[int]]] = []
    kept: list[tuple[str, str]] = []
    # Keep items whose context is the same tokens with and without its answer.
    contexts = encode_text(tokenizer, [context for context, _ in items])
    whole = encode_text(tokenizer, [context + answer for context, answer in items])
    for item, context, tokens in zip(items, contexts, whole, strict=True):
        start = len(context)
        if limit is not None and len(rows) >= limit:
            break
        if tokens[:start] == context and start < len(tokens) <= window:
            rows.append(([first, *tokens[:-1]], [*[IGNORE] * start, *tokens[start:]]))
            kept.append(item)
    # Right is an item whose every token of the answer is the likeliest.
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


def _all_argmax(model: PreTrainedModel, rows: Sequence[tuple[list[int], list[int]]]) -> list[bool]:
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

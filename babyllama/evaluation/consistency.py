"""Does a model expect the same next word after two prompts that mean the same?

For each pair of paraphrased prompts, the Jensen-Shannon divergence (Lin 1991) between the two next-token
distributions, in bits: 0 where they are equal, 1 where they share nothing.

    m = (p + q) / 2        JS = (KL(p || m) + KL(q || m)) / 2

A model that expects the same after every prompt would look perfectly consistent. So the same is measured between
prompts that have nothing to do with each other, and

    consistency = 1 - mean JS of paraphrases / mean JS of unrelated prompts

is 1 where paraphrases make no difference and 0 where they matter as much as another subject. The distributions are
over the model's own tokens: between models with different tokenizers the ratio compares, the divergences do not.

    >>> import torch
    >>> one, two = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> float(jensen_shannon(one, one)[0]), float(jensen_shannon(one, two)[0])
    (0.0, 1.0)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from babyllama.evaluation.log_probs import pad_right
from babyllama.evaluation.perplexity import bos_id, encode_text
from babyllama.models.gpu import full_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Plain, child-directed English; the two prompts of a pair ask for the same word. Where the text is in another language,
# benchmark.py takes only prompts that its user gives.
PARAPHRASES: tuple[tuple[str, str], ...] = (
    ("The dog was hungry, so it wanted to", "Because the dog was hungry, it wanted to"),
    ("She opened the door and saw a", "When she opened the door, she saw a"),
    ("In the morning he drinks a cup of", "He drinks, in the morning, a cup of"),
    ("It was raining, so they took an", "They took, because it was raining, an"),
    ("The baby is tired and goes to", "The baby goes, because it is tired, to"),
    ("We went to the beach to swim in the", "To swim, we went to the beach and into the"),
    ("The sun is hot and the snow is", "Snow is, while the sun is hot, very"),
    ("The bird can fly but the fish can", "Birds can fly, but a fish can"),
    ("My mother is a teacher who works at a", "My mum works as a teacher at a"),
    ("He put on his shoes and went out to", "After he put on his shoes, he went out to"),
    ("The cat climbed up the", "Up climbed the cat, up the"),
    ("They were happy because they won the", "Winning made them happy: they won the"),
    ("The king lived in a big", "In a big house lived the king, in a big"),
    ("The boy fell down and began to", "When the boy fell down, he began to"),
    ("I would like to eat an", "What I would like to eat is an"),
    ("The farmer has cows, pigs and", "Cows, pigs: the farmer has these and"),
    ("At night we can see the moon and the", "We can see, at night, the moon and the"),
    ("The train was late, so we had to", "Because the train was late, we had to"),
    ("She read a story to the", "To whom did she read a story? To the"),
    ("Once upon a time there was a", "A long time ago there was a"),
    ("The water is too cold to", "It is too cold, this water, to"),
    ("He was sad because he lost his", "Because he lost it, he was sad: his"),
    ("You should say thank you when you get a", "When you get one, say thank you: a"),
    ("The children played in the", "Where did the children play? In the"),
)


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Divergence of distributions row by row, in bits.

    Args:
        p: (N, V) probabilities.
        q: (N, V) probabilities.

    Returns:
        (N,) from 0 to 1.
    """
    middle = (p + q) / 2
    parts = [torch.special.xlogy(x, x / middle).nan_to_num(0.0).sum(dim=1) for x in (p, q)]
    return (sum(parts) / 2 / math.log(2)).clamp(0.0, 1.0)


@full_float32()
@torch.inference_mode()
def next_token_distributions(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], *, window: int
) -> Tensor:
    """(N, V) float64 next-token probabilities after each prompt (BOS in front, the end kept where it is too long)."""
    device = next(model.parameters()).device
    first = bos_id(tokenizer)
    rows = [[first, *tokens][-window:] for tokens in encode_text(tokenizer, list(prompts))]
    logits = model(input_ids=pad_right(rows, 0, device), use_cache=False).logits  # (N, T, V)
    last = torch.tensor([len(row) - 1 for row in rows], device=device)
    return logits[torch.arange(len(rows), device=device), last].cpu().double().softmax(dim=1)


def consistency(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    window: int,
    pairs: Sequence[tuple[str, str]] = PARAPHRASES,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Agreement between paraphrased prompts.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Tokenizer of the model.
        window: Positions of the model.
        pairs: Prompts of the same meaning; of one pair there is no unrelated one, and `consistency` is None.

    Returns:
        Figures (consistency, paraphrase_divergence, unrelated_divergence in bits, num_pairs) and one dict a pair.
    """
    one = next_token_distributions(model, tokenizer, [a for a, _ in pairs], window=window)
    two = next_token_distributions(model, tokenizer, [b for _, b in pairs], window=window)
    same = jensen_shannon(one, two)
    shifted = [jensen_shannon(one, two.roll(shift, dims=0)).mean() for shift in range(1, len(pairs))]
    baseline = float(torch.stack(shifted).mean()) if shifted else None
    figures = {
        "consistency": 1 - float(same.mean()) / baseline if baseline else None,
        "paraphrase_divergence": float(same.mean()),
        "unrelated_divergence": baseline,
        "num_pairs": len(pairs),
    }
    items = [{"first": a, "second": b, "divergence": float(d)} for (a, b), d in zip(pairs, same, strict=True)]
    return figures, items

"""What a model expected at each token of a text: the token's surprisal, its rank, the likeliest tokens in its place.

Surprisal and windows are those of `scores.py`. The rank of a token is one more than the number of tokens that are
likelier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from babyllama.common.errors import ConfigError
from babyllama.evaluation.log_probs import BLOCK_ROWS
from babyllama.evaluation.perplexity import bos_id, rolling_windows
from babyllama.evaluation.surprisal.scores import BITS, encode_exactly
from babyllama.models.fused_loss import IGNORE
from babyllama.models.gpu import full_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LIKELIEST = 5


@dataclass(frozen=True)
class TokenChoice:
    """One token of a text and what else could have stood there.

    Attributes:
        start: First character in the text.
        end: Place behind the last character.
        token: Id of the token.
        bits: Surprisal, -log2 p(token | what stands before it).
        rank: 1 for the likeliest token of the vocabulary.
        likeliest: Ids and probabilities of the likeliest tokens, best first.
    """

    start: int
    end: int
    token: int
    bits: float
    rank: int
    likeliest: list[tuple[int, float]]


@full_float32()
@torch.inference_mode()
def token_choices(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, window: int, count: int = LIKELIEST
) -> list[TokenChoice]:
    """Score each token of a text and find the likeliest ones in its place.

    Args:
        model: A causal language model in evaluation mode, float32.
        tokenizer: Tokenizer of the model, one of the tokenizers library.
        text: Text, scored exactly as given, behind BOS.
        window: Number of tokens that the model sees at once; a longer text is rolled through in halves.
        count: Number of likeliest tokens to give.

    Raises:
        ConfigError: The tokenizer does not tell which characters its tokens cover.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError("surprisal: this tokenizer does not tell which characters a token covers (no tokenizer.json)")
    [encoding] = encode_exactly(tokenizer, [text])
    device = next(model.parameters()).device
    found: list[TokenChoice] = []
    # One place more than there are tokens, as `score_texts` has it: the same windows, and so the same figures.
    for ids, targets in rolling_windows([*encoding.ids, 0], bos_id(tokenizer), window, max(1, window // 2)):
        asked = [place for place, target in enumerate(targets) if target != IGNORE]
        logits = model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits[0, asked]
        wanted = torch.tensor([targets[place] for place in asked], device=device)
        for start in range(0, len(asked), BLOCK_ROWS):
            found += _choices(logits[start : start + BLOCK_ROWS].float(), wanted[start : start + BLOCK_ROWS], count)
    spans = encoding.offsets
    return [
        TokenChoice(start, end, choice.token, choice.bits, choice.rank, choice.likeliest)
        for (start, end), choice in zip(spans, found[: len(spans)], strict=True)
    ]


def _choices(logits: Tensor, targets: Tensor, count: int) -> list[TokenChoice]:
    """Return choices of (N, V) logits and (N,) targets, without their places."""
    log_probs = torch.log_softmax(logits, dim=1)
    own = log_probs.gather(1, targets[:, None])
    ranks = (log_probs > own).sum(dim=1) + 1
    values, tokens = log_probs.topk(min(count, logits.shape[1]), dim=1)
    rows = zip(targets.tolist(), (-own[:, 0].cpu().double() * BITS).tolist(), ranks.tolist(), strict=True)
    best = zip(tokens.tolist(), values.exp().tolist(), strict=True)
    return [
        TokenChoice(0, 0, token, bits, rank, list(zip(ids, shares, strict=True)))
        for (token, bits, rank), (ids, shares) in zip(rows, best, strict=True)
    ]

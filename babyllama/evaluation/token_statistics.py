"""How sure the model is, and whether it is right to be.

Over the predicted tokens of held-out documents (real tokens only, BOS as first context): entropy of the predicted
distribution (nats), probability of the likeliest token, share of positions where it is the true one, and calibration:
positions are binned by the likeliest token's probability, and in each bin that confidence is compared with how often
it was right. The expected calibration error (Guo et al. 2017, arXiv 1706.04599) is the mean gap, weighted by count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from babyllama.data.documents import Document
from babyllama.evaluation.log_probs import batches_by_length, pad_right
from babyllama.evaluation.perplexity import bos_id, encode_text, rolling_windows
from babyllama.models.fused_loss import IGNORE
from babyllama.models.gpu import full_float32
from babyllama.models.structure import backbone_and_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BINS = 15
MAX_TOKENS = 50_000  # positions looked at; the standard error of a share is then below 0.0025


@full_float32()
@torch.inference_mode()
def token_statistics(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Document],
    *,
    window: int,
    max_tokens: int = MAX_TOKENS,
) -> dict[str, Any]:
    """Return the figures over the first documents that make up `max_tokens` tokens.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Tokenizer of the model.
        documents: Held-out documents.
        window: Positions of one forward pass.
        max_tokens: Bound on positions.

    Returns:
        mean_entropy (nats), mean_top1_probability, top1_accuracy, expected_calibration_error, num_tokens, calibration
        (a list of {confidence, accuracy, count}).
    """
    first = bos_id(tokenizer)
    # Windows of the first documents.
    windows: list[tuple[list[int], list[int]]] = []
    seen = 0
    for tokens in encode_text(tokenizer, [document.text for document in documents]):
        windows += rolling_windows(tokens, first, window)
        seen += len(tokens)
        if seen >= max_tokens:
            break
    parts = [_batch_figures(model, windows, batch) for batch in batches_by_length([len(w[0]) for w in windows], 2048)]
    if not parts:
        return {"num_tokens": 0}
    # Figures of all tokens, whatever batch they were in.
    entropy, confidence, right = (torch.cat(column) for column in zip(*parts, strict=True))
    curve = calibration_curve(confidence, right)
    gaps = sum(abs(point["confidence"] - point["accuracy"]) * point["count"] for point in curve)
    return {
        "mean_entropy": float(entropy.double().mean()),
        "mean_top1_probability": float(confidence.double().mean()),
        "top1_accuracy": float(right.double().mean()),
        "expected_calibration_error": gaps / len(right),
        "num_tokens": len(right),
        "calibration": curve,
    }


def _batch_figures(
    model: PreTrainedModel, windows: Sequence[tuple[list[int], list[int]]], batch: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return entropy, likeliest token's probability and whether it is right, per predicted token of a batch."""
    device = next(model.parameters()).device
    ids = pad_right([windows[i][0] for i in batch], 0, device)
    targets = pad_right([windows[i][1] for i in batch], IGNORE, device)
    wanted = targets != IGNORE
    split = backbone_and_head(model)
    if split is None:
        logits = model(input_ids=ids, use_cache=False).logits[wanted]
    else:
        logits = split[1](split[0](input_ids=ids, use_cache=False)[0][wanted])
    log_probs = torch.log_softmax(logits.float(), dim=1)
    top, token = log_probs.max(dim=1)
    entropy = -(log_probs.exp() * log_probs).sum(dim=1)
    return entropy.cpu(), top.exp().cpu(), (token == targets[wanted]).cpu()


def calibration_curve(confidence: torch.Tensor, right: torch.Tensor, bins: int = BINS) -> list[dict[str, float]]:
    """Mean confidence and accuracy of the positions in each of `bins` equal ranges of confidence, empty ones left out.

    >>> calibration_curve(torch.tensor([0.95, 0.85]), torch.tensor([True, False]), bins=2)
    [{'confidence': 0.9, 'accuracy': 0.5, 'count': 2}]
    """
    place = (confidence * bins).long().clamp(max=bins - 1)
    curve = []
    for number in range(bins):
        inside = place == number
        count = int(inside.sum())
        if count:
            sure = round(float(confidence[inside].double().mean()), 6)
            curve.append({"confidence": sure, "accuracy": float(right[inside].double().mean()), "count": count})
    return curve

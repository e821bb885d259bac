"""The parts of a model: its backbone, its head, its decoder layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def backbone_and_head(model: nn.Module) -> tuple[nn.Module, nn.Linear] | None:
    """Return the model's backbone and linear head, where head(backbone(x)) is what the model computes, else None."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    backbone = getattr(model, "base_model", model)
    if not isinstance(head, nn.Linear) or backbone is model:
        return None
    cached = getattr(model, "_babyllama_split_ok", None)
    if cached is None:
        cached = _split_is_exact(model, backbone, head)
        model._babyllama_split_ok = cached
    return (backbone, head) if cached else None


def is_backbone_and_head(model: nn.Module) -> bool:
    """Return whether the model is its backbone and a linear head and nothing else, tried in evaluation mode."""
    training = model.training
    found = backbone_and_head(model.eval()) is not None
    model.train(training)
    return found


@torch.inference_mode()
def _split_is_exact(model: nn.Module, backbone: nn.Module, head: nn.Linear) -> bool:
    """Try it on two tokens: scaled or capped logits (some architectures) make it false."""
    ids = torch.zeros(1, 2, dtype=torch.long, device=head.weight.device)
    try:
        whole = model(input_ids=ids, use_cache=False).logits
        parts = head(backbone(input_ids=ids, use_cache=False)[0])
    except (TypeError, AttributeError, IndexError):
        return False
    return bool(torch.allclose(whole.float(), parts.float(), atol=1e-4, rtol=1e-4))


def decoder_layers(model: Any) -> list[Any]:
    """Return the model's equal layers (`model.layers` or `transformer.h`), empty where none is recognised."""
    backbone = getattr(model, "base_model", model)
    for name in ("layers", "h"):
        layers = getattr(backbone, name, None)
        if layers is not None:
            return list(layers)
    return []

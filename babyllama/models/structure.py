"""The parts of a model: its backbone, its head, its decoder layers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from babyllama.common.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TRIED_TOKENS = 8
LEAK = 2e-5  # of the logits' range: how far a prediction may move with the tokens after it, by rounding


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


@torch.inference_mode()
def sees_later_tokens(model: nn.Module) -> bool:
    """Try whether a prediction changes with the tokens after it, as that of a masked language model does.

    Two texts of eight tokens that differ in the last four are computed: the logits of the first four must be the same.
    The ids are fixed, so that no random number is drawn.

    Args:
        model: Causal or other language model in evaluation mode.

    Returns:
        True where they differ; False where they agree, or where the model cannot be tried like that.
    """
    table = model.get_input_embeddings().weight
    first = torch.arange(TRIED_TOKENS, device=table.device).mul(13).add(5).remainder(table.shape[0])[None]  # (1, T)
    half = TRIED_TOKENS // 2
    second = torch.cat([first[:, :half], (first[:, half:] + 1).remainder(table.shape[0])], dim=1)
    try:
        one, other = (model(input_ids=ids).logits[:, :half].float() for ids in (first, second))
    except (TypeError, AttributeError, IndexError, ValueError, RuntimeError):
        return False
    # A causal model gives the same bits here; a small untrained BERT differs by a thousandth of its logits' range.
    spread = float(one.max() - one.min())
    if not math.isfinite(spread):  # weights that are no numbers are told by who loads them
        return False
    return not torch.allclose(one, other, atol=LEAK * spread, rtol=0.0, equal_nan=True)


def require_causal(model: nn.Module) -> nn.Module:
    """Return a plugin's model in evaluation mode where it is a causal one.

    Raises:
        ConfigError: Its prediction at a position changes with the tokens after it.
    """
    if sees_later_tokens(model.eval()):
        raise ConfigError(
            f"model.type: {type(model).__name__} of a plugin: its prediction at a position changes with the tokens "
            "after it: it needs a causal mask"
        )
    return model


def positions_of(model: PreTrainedModel) -> int | None:
    """Return how many positions a model has by its config, under whatever name; None where it does not say.

    XLNet says -1, which stands for no limit.
    """
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
    found = (getattr(model.config, name, None) for name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), None)


def decoder_layers(model: PreTrainedModel) -> list[Any]:
    """Return the model's equal layers (`model.layers` or `transformer.h`), empty where none is recognised."""
    backbone = getattr(model, "base_model", model)
    for name in ("layers", "h"):
        layers = getattr(backbone, name, None)
        if layers is not None:
            return list(layers)
    return []


def weights_are_finite(model: nn.Module) -> bool:
    """Return whether every weight is a finite number; one wait for the device, 3 ms for 10M parameters on 2 cores."""
    weights = [p.to_local() if hasattr(p, "to_local") else p for p in (q.detach() for q in model.parameters())]
    weights = [w for w in weights if w.numel() and w.is_floating_point()]
    if not weights:
        return True
    largest = torch.stack([norm.float() for norm in torch._foreach_norm(weights, float("inf"))])  # NaN stays NaN
    return bool(torch.isfinite(largest).all())


def spare_the_walks(model: nn.Module) -> None:
    """Spare a training two walks over all modules in each step: switching to training mode and clearing gradients.

    The Trainer asks for both every time: 0.7 ms of Python at 6 layers and 4 ms at 24, more than a step of a small model
    takes on a GPU. A model that trains already is left as it is, and gradients are dropped from a list made once.

    Args:
        model: Model whose own `train` and `zero_grad` are replaced; what they do stays the same.
    """
    plain_train, plain_zero = model.train, model.zero_grad
    trained: list[nn.Parameter] = []  # filled late: FSDP replaces the parameters when the training begins

    def train(mode: bool = True) -> nn.Module:
        return model if mode == model.training else plain_train(mode)

    def zero_grad(set_to_none: bool = True) -> None:
        if not set_to_none:
            return plain_zero(set_to_none)
        if not trained:
            trained.extend(p for p in model.parameters() if p.requires_grad)
        for parameter in trained:
            parameter.grad = None

    model.train, model.zero_grad = train, zero_grad  # type: ignore[method-assign]

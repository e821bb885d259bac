"""Layers that share their matrices in training and are saved as copies (`model.unique_layers`).

With k unique layers of n, layer i computes with the matrices of layer i mod k (Universal Transformers, arXiv
1807.03819; ALBERT, arXiv 1909.11942): k layers' weights and momenta for n layers of depth. Norms and biases stay each
layer's own, so that a repeated layer can tell where it stands. In what is saved (checkpoints, milestones, averages, the
model) each layer has a copy, so any reader of a plain Llama, GPT-2 or GPT-J loads it; a resume puts the copies back
into one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from babyllama.common.errors import ConfigError
from babyllama.models.structure import decoder_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def share_layers(model: PreTrainedModel, unique: int | None) -> PreTrainedModel:
    """Let the layers of a model take turns with the matrices of the first ones.

    Args:
        model: A causal language model, changed in place.
        unique: Number of layers with matrices of their own; None, or all of them: nothing is shared.

    Returns:
        The model.

    Raises:
        ConfigError: The layers of a model that is trained on differ, so that sharing would throw weights away.
    """
    layers = decoder_layers(model)
    if unique is None or unique >= len(layers):
        return model
    names = {id(module): name for name, module in model.named_modules()}
    copies: list[str] = []
    for number, layer in enumerate(layers[unique:], start=unique):
        owners = dict(layers[number % unique].named_modules())
        for path, module in layer.named_modules():
            for name in [n for n, p in module.named_parameters(recurse=False) if p.ndim >= 2]:
                setattr(module, name, getattr(owners[path], name))
                copies.append(f"{names[id(module)]}.{name}")
    model._babyllama_copies = copies
    model.register_state_dict_post_hook(_copy_out)
    return model


def require_equal_layers(model: PreTrainedModel, unique: int | None, place: str) -> None:
    """Check that a loaded model's layers repeat, matrix by matrix, as `unique_layers` says.

    Raises:
        ConfigError: They do not.
    """
    layers = decoder_layers(model)
    if unique is None:
        return
    for number, layer in enumerate(layers[unique:], start=unique):
        owners = dict(layers[number % unique].named_parameters())
        if not all(torch.equal(p, owners[name]) for name, p in layer.named_parameters() if p.ndim >= 2):
            raise ConfigError(
                f"model.unique_layers: {unique}: layer {number} of {place} has other matrices than layer "
                f"{number % unique}: it was not trained with that number of unique layers"
            )


def _copy_out(module: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
    """Put copies into a state dict where layers share a tensor: files of weights know no sharing."""
    for name in module._babyllama_copies:
        if prefix + name in state:
            state[prefix + name] = state[prefix + name].clone()


def saved_parameters(model: nn.Module) -> int:
    """Return the parameters of a model as it is saved, the copies of shared layers included."""
    return sum(parameter.numel() for parameter in model.parameters()) + copied_parameters(model)


def copied_parameters(model: nn.Module) -> int:
    """Return the parameters that a saved model has beyond those that are trained: the copies of shared layers."""
    return sum(model.get_parameter(name).numel() for name in getattr(model, "_babyllama_copies", ()))

"""Dropout after attention and feed-forward for Llama, which has none: hooks of the training, not part of the model.

    x <- x + dropout(attention(norm(x)))        x <- x + dropout(feed_forward(norm(x)))

as GPT-2 has it under the same key (`model.resid_pdrop`). A hook on the last product of each branch adds it while the
model is in training mode. Config, names and weights stay a plain Llama's, so what is saved loads anywhere and computes
without it. Masks come from torch's generator, which a checkpoint holds: a resumed run draws the same ones. The hooks
are there before layers are compiled and become part of the layers' one graph; on a CPU compiled layers take the hashed
masks (hashed_dropout.py), which compile to vector code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from babyllama.models.hashed_dropout import hashed_dropout
from babyllama.models.structure import decoder_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from babyllama.models.runtime import Runtime


def add_residual_dropout(model: PreTrainedModel, p: float, runtime: Runtime) -> None:
    """Let a Llama in training mode drop entries of what attention and feed-forward add to the residual stream.

    Args:
        model: Changed in place where it is a Llama and p above 0; else left alone.
        p: Share that is dropped (`model.resid_pdrop`).
        runtime: How the run computes.
    """
    if model.config.model_type != "llama" or not p:
        return
    drop = hashed_dropout if runtime.compile == "layers" and runtime.device == "cpu" else F.dropout
    for layer in decoder_layers(model):
        for product in (layer.self_attn.o_proj, layer.mlp.down_proj):
            product.register_forward_hook(_hook(p, drop))


def _hook(p: float, drop: Callable[[Tensor, float], Tensor]) -> Callable[..., Tensor | None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        return drop(output, p) if module.training else None

    return hook

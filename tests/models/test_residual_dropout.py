"""Dropout that training lays over a Llama: what it drops, that it compiles, that the checkpoint stays plain."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from babyllama.models.compiled_layers import prepare_layers
from babyllama.models.residual_dropout import add_residual_dropout
from babyllama.models.runtime import Runtime
from tests.models.test_compiled_layers import _runtime


def _logits(model: Any, seed: int = 0) -> torch.Tensor:
    ids = torch.arange(3, 35).reshape(2, 16)
    torch.manual_seed(seed)
    return model(input_ids=ids).logits.detach()


def _plain() -> Runtime:
    return _runtime("eager")


def test_it_drops_in_training_only_by_the_seed(tiny_llama: Any) -> None:
    model = copy.deepcopy(tiny_llama).train()
    without = _logits(model)
    add_residual_dropout(model, 0.5, _plain())
    assert torch.equal(_logits(model, 1), _logits(model, 1))
    assert not torch.equal(_logits(model, 1), _logits(model, 2))
    assert torch.equal(_logits(model.eval()), without)


def test_entries_of_both_branches_are_dropped_at_their_rate(tiny_llama: Any) -> None:
    model = copy.deepcopy(tiny_llama).train()
    add_residual_dropout(model, 0.25, _plain())
    layer = model.model.layers[0]
    for product in (layer.self_attn.o_proj, layer.mlp.down_proj):
        inputs = torch.randn(64, product.in_features)
        dropped = product(inputs)
        whole = nn.functional.linear(inputs, product.weight)
        zero = dropped == 0
        assert zero.float().mean().item() == pytest.approx(0.25, abs=0.03)
        assert torch.allclose(dropped[~zero], whole[~zero] / 0.75, atol=1e-5)


def test_other_architectures_keep_their_own(tiny_gpt2: Any) -> None:
    model = copy.deepcopy(tiny_gpt2)
    add_residual_dropout(model, 0.5, _plain())
    assert not any(module._forward_hooks for module in model.modules())


def test_what_is_saved_is_a_plain_llama(tiny_llama: Any, tmp_path: Path) -> None:
    from babyllama.models.loading import load_model

    model = copy.deepcopy(tiny_llama).train()
    add_residual_dropout(model, 0.5, _plain())
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path).train()
    assert not any(module._forward_hooks for module in loaded.modules())
    assert loaded.state_dict().keys() == tiny_llama.state_dict().keys()


@pytest.mark.integration
def test_compiled_layers_drop_too_and_gradients_flow(tiny_llama: Any) -> None:
    model = copy.deepcopy(tiny_llama).train()
    runtime = _runtime("eager", "layers")
    add_residual_dropout(model, 0.5, runtime)
    prepare_layers(model, runtime)
    assert torch.equal(_logits(model, 1), _logits(model, 1))
    assert not torch.allclose(_logits(model, 1), _logits(model, 2), atol=1e-4)
    ids = torch.arange(3, 35).reshape(2, 16)
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert torch.allclose(_logits(model.eval()), _logits(copy.deepcopy(tiny_llama)), atol=1e-5)

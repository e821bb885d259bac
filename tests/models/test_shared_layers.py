"""Layers that share matrices: as many numbers as are unique are trained, and what is saved is a plain model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from babyllama.common.errors import ConfigError
from babyllama.config.schema import Config
from babyllama.models.architectures import build_model
from babyllama.models.flops import multiplying_parameters
from babyllama.models.shared_layers import copied_parameters, require_equal_layers, saved_parameters, share_layers
from babyllama.models.structure import decoder_layers
from babyllama.training.optim import build_optimizer


def small(kind: str, unique: int | None, tokenizer: object) -> torch.nn.Module:
    torch.manual_seed(0)
    config = Config(model={"type": kind, "hidden_size": 16, "n_layer": 5, "n_head": 2, "unique_layers": unique})
    return build_model(config, tokenizer)


@pytest.mark.parametrize("kind", ["Llama", "GPT2", "GPTJ"])
def test_the_saved_model_is_a_plain_one_that_computes_the_same(
    kind: str, tiny_tokenizer: object, tmp_path: Path
) -> None:
    model, plain = small(kind, 2, tiny_tokenizer), small(kind, None, tiny_tokenizer)
    ids = torch.arange(12).view(1, -1)
    labels = {"labels": ids}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(input_ids=ids, **labels).loss.backward()
    optimizer.step()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(model.eval()(input_ids=ids).logits, loaded.eval()(input_ids=ids).logits)
    saved = sum(p.numel() for p in loaded.parameters())
    assert saved == sum(p.numel() for p in plain.parameters())
    assert saved == sum(p.numel() for p in model.parameters()) + copied_parameters(model)
    assert saved == saved_parameters(model)
    assert multiplying_parameters(model) == multiplying_parameters(plain)
    first, second, third = (dict(layer.named_parameters()) for layer in decoder_layers(loaded)[:3])
    matrices = [name for name, p in first.items() if p.ndim >= 2]
    assert all(torch.equal(first[name], third[name]) for name in matrices)
    assert not any(torch.equal(first[name], second[name]) for name in matrices)
    assert not all(torch.equal(first[name], third[name]) for name in first), "norms are each layer's own"
    require_equal_layers(loaded, 2, "there")
    with pytest.raises(ConfigError, match="layer 3 of there has other matrices than layer 0"):
        require_equal_layers(loaded, 3, "there")


def test_the_gradient_is_the_sum_over_the_layers_that_share(tiny_tokenizer: object) -> None:
    shared, plain = small("Llama", 1, tiny_tokenizer), small("Llama", None, tiny_tokenizer)
    plain.load_state_dict(shared.state_dict())
    ids = torch.arange(9).view(1, -1)
    for model in (shared, plain):
        model(input_ids=ids, labels=ids).loss.backward()
    name = "mlp.up_proj.weight"
    summed = sum(dict(layer.named_parameters())[name].grad for layer in decoder_layers(plain))
    assert torch.allclose(dict(decoder_layers(shared)[0].named_parameters())[name].grad, summed, atol=1e-6)


def test_each_shared_matrix_is_in_the_optimizer_once(tiny_tokenizer: object) -> None:
    model = small("Llama", 1, tiny_tokenizer)
    from babyllama.config.schema import TrainingConfig

    optimizer = build_optimizer(model, TrainingConfig(optimizer="muon"))
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(held)) == len(list(model.parameters()))


def test_all_layers_unique_is_nothing_shared(tiny_tokenizer: object) -> None:
    model = small("Llama", 5, tiny_tokenizer)
    assert share_layers(model, None) is model
    assert copied_parameters(model) == 0

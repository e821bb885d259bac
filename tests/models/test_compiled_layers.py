"""What the layers compute on a CPU instead of the library's forms: attention, dropout, GELU and GPT-J's rotation."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.activations import NewGELUActivation
from transformers.models.gptj import modeling_gptj

from babyllama.models import attention, runtime
from babyllama.models.compiled_layers import gelu_by_sigmoid, install_vector_forms, prepare_layers, rotate_pairs
from babyllama.models.hashed_dropout import draw_seeds, dropout_with_seeds, hashed_dropout, keep_mask

OURS = [attention.PLAIN, attention.RECOMPUTE]
LIBRARY_ROTATION = modeling_gptj.apply_rotary_pos_emb


def _runtime(name: str, compiled: str = "off") -> runtime.Runtime:
    return runtime.Runtime("cpu", "fp32", name, compiled, 1)


def _grouped() -> Any:
    """A Llama whose four heads share two keys."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 60}
    return LlamaForCausalLM(LlamaConfig(num_attention_heads=4, num_key_value_heads=2, **sizes))


def _gradients(model: Any, name: str, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    model = copy.deepcopy(model).train()
    prepare_layers(model, _runtime(name))
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    (logits.log_softmax(-1)[..., 3] * mask).sum().backward()
    return {"logits": (logits * mask.unsqueeze(-1)).detach()} | {n: p.grad for n, p in model.named_parameters()}


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("kind", ["tiny_llama", "tiny_gpt2", "tiny_gptj", "grouped"])
def test_attention_and_its_gradients_are_the_eager_ones(kind: str, name: str, request: pytest.FixtureRequest) -> None:
    model = _grouped() if kind == "grouped" else request.getfixturevalue(kind)
    ids = torch.randint(5, 60, (3, 11), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0  # a row padded in front
    expected = _gradients(model, "eager", ids, mask)
    for key, value in _gradients(model, name, ids, mask).items():
        torch.testing.assert_close(
            value, expected[key], rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("name", OURS)
def test_generation_with_a_cache_is_the_eager_one(tiny_llama: Any, name: str) -> None:
    texts = []
    for each in ("eager", name):
        model = copy.deepcopy(tiny_llama).eval()
        prepare_layers(model, _runtime(each))
        texts.append(model.generate(torch.tensor([[5, 9, 14]]), max_new_tokens=12, do_sample=False, pad_token_id=0))
    assert texts[0].tolist() == texts[1].tolist()


def _kept_for_backward(model: Any, name: str) -> int:
    """Bytes of (heads, T, T) tensors that a forward pass keeps."""
    model = copy.deepcopy(model).train()
    prepare_layers(model, _runtime(name))
    found = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal found
        found += tensor.nbytes if tensor.ndim == 3 and tensor.shape[1:] == (24, 24) else 0
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=torch.randint(5, 60, (3, 24)), use_cache=False)
    return found


def test_recomputing_keeps_no_scores(tiny_llama: Any) -> None:
    assert _kept_for_backward(tiny_llama, attention.PLAIN) >= 2 * 6 * 24 * 24 * 4  # two layers, six heads in all
    assert _kept_for_backward(tiny_llama, attention.RECOMPUTE) == 0


def test_recomputed_weights_are_dropped_as_in_the_forward_pass() -> None:
    query, key, value = (torch.randn(2, 3, 8, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    module, gradients = torch.nn.Module(), []
    for function in (attention.plain_attention, attention.recomputed_attention):
        torch.manual_seed(3)
        out, _ = function(module, query, key, value, mask, dropout=0.4)
        gradients.append([out, *torch.autograd.grad(out.square().sum(), [query, key, value])])
    for got, want in zip(*gradients, strict=True):
        torch.testing.assert_close(got, want)
    undropped, _ = attention.plain_attention(module, query, key, value, mask)
    assert not torch.allclose(gradients[0][0], undropped)


def test_a_model_that_takes_no_attention_from_outside_stays_eager(tiny_llama: Any) -> None:
    model = copy.deepcopy(tiny_llama)
    model._supports_attention_backend = False
    prepare_layers(model, _runtime(attention.PLAIN))
    assert model.config._attn_implementation == "eager"


def test_a_saved_model_does_not_name_our_attention(tiny_llama: Any, tmp_path: Path) -> None:
    model = copy.deepcopy(tiny_llama)
    prepare_layers(model, _runtime(attention.RECOMPUTE))
    model.save_pretrained(tmp_path)
    assert attention.RECOMPUTE not in (tmp_path / "config.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_masks_are_fair_and_independent_of_each_other(p: float) -> None:
    side = 512
    torch.manual_seed(0)
    seeds = [draw_seeds(torch.device("cpu")) for _ in range(4)]
    seeds += [seeds[0] + torch.tensor([shift, 0], dtype=torch.int32) for shift in (1, side)]  # the same, moved
    noise = [(keep_mask(side, side, p, each).double() - (1 - p)).flatten() for each in seeds]
    deviation = (side * side * p * (1 - p)) ** 0.5  # of a sum of independent entries
    bound = 4.5  # 100 comparisons: the largest of so many normal numbers is above 4.5 once in 1,500 trials
    for number, mask in enumerate(noise):
        assert abs(mask.sum()) < bound * deviation
        by_column, by_row = mask.view(side, side).sum(0), mask.view(side, side).sum(1)
        assert max(by_column.abs().max(), by_row.abs().max()) < 5 * (side * p * (1 - p)) ** 0.5
        for lag in (1, 2, 3, 4, 8, 32, 128, side - 1, side, side + 1, 8 * side):
            assert abs((mask[:-lag] * mask[lag:]).sum()) < bound * deviation * (p * (1 - p)) ** 0.5, (number, lag)
        for other in noise[number + 1 :]:
            assert abs((mask * other).sum()) < bound * deviation * (p * (1 - p)) ** 0.5


def test_dropout_keeps_the_mean_and_its_gradient_is_the_mask() -> None:
    values = torch.ones(300, 70, requires_grad=True)
    torch.manual_seed(5)
    out = hashed_dropout(values, 0.25)
    out.sum().backward()
    assert sorted(set(out.tolist()[0])) == pytest.approx([0.0, 4 / 3])
    assert out.mean().item() == pytest.approx(1.0, abs=0.02)
    torch.testing.assert_close(values.grad, out.detach())
    torch.manual_seed(5)
    assert torch.equal(hashed_dropout(values, 0.25), out)
    assert not torch.equal(hashed_dropout(values, 0.25), out)
    torch.manual_seed(5)
    assert torch.equal(dropout_with_seeds(values, 0.25, draw_seeds(values.device)), out)


def test_nothing_is_dropped_outside_training() -> None:
    layer = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Dropout(0.0))
    install_vector_forms(layer)
    values = torch.randn(4, 9)
    assert torch.equal(layer.eval()(values), values)
    assert not torch.equal(layer.train()(values), values)
    assert torch.equal(layer[1](values), values)


def test_gelu_by_sigmoid_is_the_librarys() -> None:
    values = torch.tensor([*torch.linspace(-12, 12, 2001).tolist(), -1e4, 1e4], dtype=torch.float64, requires_grad=True)
    outputs = [function(values) for function in (gelu_by_sigmoid, NewGELUActivation())]
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-14)
    gradients = [torch.autograd.grad(out.sum(), values)[0] for out in outputs]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)
    low = values.detach().bfloat16()
    assert (gelu_by_sigmoid(low).double() - gelu_by_sigmoid(low.double())).abs().max() <= 2**-8 * 1e4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_by_products_has_the_bits_of_the_librarys(dtype: torch.dtype) -> None:
    tensor = torch.randn(2, 7, 3, 16).to(dtype)
    sin, cos = torch.randn(2, 1, 7, 8).unbind()
    assert torch.equal(rotate_pairs(tensor, sin, cos), LIBRARY_ROTATION(tensor, sin, cos))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(rotate_pairs(tensor, sin, cos), LIBRARY_ROTATION(tensor, sin, cos))


@pytest.mark.integration
@pytest.mark.skipif(not runtime.has_cpp_compiler(), reason="no C++ compiler")
def test_compiled_layers_drop_by_the_seed_and_agree_with_plain_ones(tiny_gpt2: Any) -> None:
    model = copy.deepcopy(tiny_gpt2)
    ids = torch.randint(5, 60, (2, 16))
    expected = model(input_ids=ids, labels=ids, use_cache=False).loss.item()
    dropouts = [module for module in model.transformer.h.modules() if isinstance(module, torch.nn.Dropout)]
    for module in dropouts:
        module.p = 0.2
    prepare_layers(model, _runtime(attention.RECOMPUTE, "layers"))
    torch._dynamo.reset()
    counters.clear()
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model.zero_grad()
        loss = model.train()(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        runs.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    assert not torch.equal(runs[0][0], runs[2][0])
    assert counters["stats"]["unique_graphs"] >= 1, "layers were compiled"
    for module in dropouts:
        module.p = 0.0
    assert model(input_ids=ids, labels=ids, use_cache=False).loss.item() == pytest.approx(expected, rel=1e-5)

"""The fused head against the plain way, in float64, float32 and bf16, for every architecture."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters

from babyllama.models.fused_loss import (
    BLOCK_ROWS,
    fused_linear_cross_entropy,
    install_fused_loss,
    shift_labels,
)
from babyllama.models.structure import is_backbone_and_head


def _case(rows: int, width: int, vocabulary: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    bias = torch.randn(vocabulary, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    labels = torch.randint(0, vocabulary, (rows,), generator=generator)
    labels[::5] = -100
    return hidden, weight, bias, labels


@pytest.mark.parametrize("rows", [7, BLOCK_ROWS, BLOCK_ROWS + 3])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_loss_and_gradients_equal_the_plain_formula(
    rows: int, with_bias: bool, dtype: torch.dtype, close: float
) -> None:
    hidden, weight, bias, labels = _case(rows, 12, 31, dtype)
    used = bias if with_bias else None
    loss = fused_linear_cross_entropy(hidden, weight, labels, used) / 3
    grads = torch.autograd.grad(loss, [hidden, weight] + ([bias] if with_bias else []))
    h, w, b = (t.detach().double().requires_grad_() for t in (hidden, weight, bias))
    expected = F.cross_entropy(F.linear(h, w, b if with_bias else None), labels, reduction="sum", ignore_index=-100) / 3
    reference = torch.autograd.grad(expected, [h, w] + ([b] if with_bias else []))
    assert loss.item() == pytest.approx(expected.item(), rel=close)
    for got, want in zip(grads, reference, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=100 * close, atol=10 * close)


def test_labels_that_do_not_count_give_no_loss_and_no_gradient() -> None:
    hidden, weight, _, labels = _case(9, 4, 11, torch.float32)
    loss = fused_linear_cross_entropy(hidden, weight, torch.full_like(labels, -100))
    loss.backward()
    assert loss.item() == 0.0
    assert hidden.grad is not None
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_without_gradients_the_loss_is_the_same() -> None:
    hidden, weight, bias, labels = _case(1500, 8, 17, torch.float32)
    with torch.no_grad():
        quiet = fused_linear_cross_entropy(hidden, weight, labels, bias)
    assert quiet.item() == pytest.approx(fused_linear_cross_entropy(hidden, weight, labels, bias).item(), rel=1e-6)


def test_autocast_computes_in_bf16_and_keeps_gradients_in_float32() -> None:
    hidden, weight, _, labels = _case(64, 32, 101, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = fused_linear_cross_entropy(hidden, weight, labels)
    loss.backward()
    exact = F.cross_entropy(hidden @ weight.T, labels, reduction="sum")
    assert loss.dtype == hidden.grad.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)


def test_a_loss_scale_multiplies_the_gradients_and_nothing_overflows_before() -> None:
    hidden, weight, _, labels = _case(16, 8, 19, torch.float32)
    plain = torch.autograd.grad(fused_linear_cross_entropy(hidden, weight, labels), hidden)[0]
    scaled = torch.autograd.grad(fused_linear_cross_entropy(hidden, weight, labels) * 65536.0, hidden)[0]
    torch.testing.assert_close(scaled, plain * 65536.0)


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2", "tiny_gptj"])
def test_every_architecture_gives_the_unfused_loss_and_gradients(name: str, request: pytest.FixtureRequest) -> None:
    plain = copy.deepcopy(request.getfixturevalue(name))
    plain.loss_type = "ForCausalLM"  # GPT-2's default divides by T instead of T - 1
    fused = copy.deepcopy(plain)
    assert is_backbone_and_head(fused)
    install_fused_loss(fused)
    ids = torch.randint(3, 200, (3, 20), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[0, 12:] = -100
    expected, got = plain(input_ids=ids, labels=labels).loss, fused(input_ids=ids, labels=labels).loss
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    got.backward()
    for (key, p), q in zip(plain.named_parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-6, msg=key)


def test_num_items_in_batch_makes_accumulated_parts_equal_the_whole(tiny_llama: Any) -> None:
    model = copy.deepcopy(tiny_llama)
    install_fused_loss(model)
    ids = torch.randint(3, 200, (4, 16), generator=torch.Generator().manual_seed(2))
    labels = ids.clone()
    labels[0, 4:] = -100
    whole = model(input_ids=ids, labels=labels).loss
    count = int((shift_labels(labels) != -100).sum())
    parts = sum(
        model(input_ids=ids[i : i + 2], labels=labels[i : i + 2], num_items_in_batch=count).loss for i in (0, 2)
    )
    assert whole.item() == pytest.approx(parts.item(), rel=1e-6)


def test_without_labels_the_model_answers_as_before(tiny_gpt2: Any) -> None:
    model = copy.deepcopy(tiny_gpt2)
    install_fused_loss(model)
    ids = torch.tensor([[1, 50, 60]])
    torch.testing.assert_close(model(input_ids=ids).logits, tiny_gpt2(input_ids=ids).logits)


def test_the_compiled_block_gives_the_same_numbers() -> None:
    from babyllama.models.runtime import has_cpp_compiler

    if not has_cpp_compiler():
        pytest.skip("no C++ compiler: nothing can be compiled")
    hidden, weight, bias, labels = _case(BLOCK_ROWS, 16, 64, torch.float32)
    plain = torch.autograd.grad(fused_linear_cross_entropy(hidden, weight, labels, bias), [hidden, weight, bias])
    torch._dynamo.reset()
    counters.clear()
    fast = fused_linear_cross_entropy(hidden, weight, labels, bias, compiled=True)
    assert counters["stats"]["unique_graphs"] == 1, "it was compiled"
    for got, want in zip(torch.autograd.grad(fast, [hidden, weight, bias]), plain, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("vocabulary", [61, 64])
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_weight_filled_up_for_a_gpu_changes_nothing(
    vocabulary: int, with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside the head the weight gets rows that are no tokens; loss and gradients are those of the weight as it is."""
    from babyllama.models import fused_loss

    hidden, weight, bias, labels = _case(40, 16, vocabulary, torch.float32)
    inputs = [hidden, weight, bias] if with_bias else [hidden, weight]
    plain = fused_linear_cross_entropy(hidden, weight, labels, bias if with_bias else None)
    wanted = torch.autograd.grad(plain, inputs)
    seen: list[tuple[int, ...]] = []
    block = fused_loss._block
    monkeypatch.setattr(fused_loss, "vocabulary_multiple", lambda device: fused_loss.CUDA_MULTIPLE)
    monkeypatch.setattr(fused_loss, "_block", lambda h, w, *rest: seen.append(tuple(w.shape)) or block(h, w, *rest))
    filled = fused_linear_cross_entropy(hidden, weight, labels, bias if with_bias else None)
    assert seen == [(64, 16)]
    assert filled.item() == pytest.approx(plain.item(), rel=1e-6)
    for got, want in zip(torch.autograd.grad(filled, inputs), wanted, strict=True):
        assert got.shape == want.shape
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_on_a_cpu_nothing_is_filled_up_and_on_cuda_it_is() -> None:
    from babyllama.models.fused_loss import vocabulary_multiple

    assert vocabulary_multiple(torch.device("cpu")) == 1
    assert vocabulary_multiple(torch.device("cuda", 0)) == 64


def test_fp16_keeps_the_small_gradients_of_the_head() -> None:
    """softmax - onehot is mostly below fp16's normal range; lifted before the cast, rows of dW are within 0.2%."""
    source = torch.Generator().manual_seed(0)
    hidden = torch.randn(512, 64, generator=source)
    weight = (torch.randn(4096, 64, generator=source) * 0.02).requires_grad_()
    labels = torch.randint(0, 64, (512,), generator=source)  # most rows of dW have small entries only
    exact = weight.detach().double().requires_grad_()
    F.cross_entropy(hidden.double() @ exact.T, labels, reduction="sum").backward()
    with torch.autocast("cpu", torch.float16):
        fused_linear_cross_entropy(hidden, weight, labels).backward()
    error = (weight.grad.double() - exact.grad).norm(dim=1) / exact.grad.norm(dim=1)
    assert error.median() < 2e-3
    assert error.max() < 1e-2


def test_many_lifted_rows_do_not_overflow_fp16() -> None:
    hidden = torch.full((1024, 8), 4.0)
    weight = torch.zeros(16, 8).requires_grad_()
    with torch.autocast("cpu", torch.float16):
        fused_linear_cross_entropy(hidden, weight, torch.zeros(1024, dtype=torch.long)).backward()
    assert weight.grad[0, 0].item() == pytest.approx(
        -1024 * 4 * 15 / 16, rel=1e-3
    )  # lifted, 8 million: fp16 ends at 65,504
